/** The answer about an opened row, parsed from `unknown`: a cell's runs, and one of them in full. */

import type { Fields } from './fields';
import {
  ProtocolError,
  list,
  number,
  object,
  text,
  textOrNull
} from './fields';
import type { ControlMessage, Run } from './protocol';
import { VERSION, parseRun, versioned } from './protocol';

const MISSING = [
  'texts',
  'times',
  'tokenizer',
  'server',
  'length',
  'refused',
  'nothing'
] as const;

/** Why something is not there. */
export type Missing = (typeof MISSING)[number];

/** A run as the plots show it. */
export type PastRun = Run;

/** A piece of an answer, and what it is shaded by: milliseconds a token, or the log of its probability. */
export interface Piece {
  readonly text: string;
  readonly value: number | null;
}

export interface Answer {
  /** Whether each piece is one token; else it is what a server sent at once. */
  readonly byToken: boolean;
  readonly pieces: readonly Piece[];
  readonly logprobs: readonly Piece[];
  readonly isCut: boolean;
}

export interface Changes {
  /** The run that it is compared with. */
  readonly since: string;
  readonly settings: readonly {
    readonly name: string;
    readonly before: unknown;
    readonly after: unknown;
  }[];
  /** Lines after their signs `-`, `+`, blank and `…`; null where the prompts are too long or were not kept. */
  readonly prompt: readonly (readonly [string, string])[] | null;
  readonly isSameAnswer: boolean | null;
}

/** One run in full. */
export interface RunDetail {
  readonly runId: string;
  readonly params: Fields;
  readonly info: Fields;
  readonly rates: string;
  readonly messages:
    | readonly {
        readonly role: string;
        readonly text: string;
        readonly isCut: boolean;
      }[]
    | null;
  readonly parts: readonly (readonly [string, number])[] | null;
  readonly answer: Answer | null;
  readonly changes: Changes | null;
  readonly python: string | null;
  readonly curl: string | null;
  readonly missing: Readonly<Record<string, Missing>>;
}

export interface Detail {
  readonly cellId: string;
  readonly seq: number;
  /** The latest, oldest first. */
  readonly runs: readonly PastRun[];
  /** Whether there are older ones. */
  readonly more: boolean;
  readonly run: RunDetail | null;
}

/** Ask for a cell's runs and one of them in full, the latest where none is named. */
export function askDetail(
  cellId: string,
  seq: number,
  runId: string | null
): ControlMessage {
  return { v: VERSION, type: 'detail', cell_id: cellId, seq, run_id: runId };
}

/** Parse an answer. Raises ProtocolError. */
export function parseDetail(data: unknown): Detail {
  const message = versioned(data, 'detail');
  return {
    cellId: text(message, 'cell_id'),
    seq: number(message, 'seq'),
    runs: list(message.runs, 'runs').map(parseRun),
    more: message.more === true,
    run: message.run === null ? null : parseRunDetail(message.run)
  };
}

function parseRunDetail(data: unknown): RunDetail {
  const run = object(data, 'run');
  return {
    runId: text(run, 'run_id'),
    params: object(run.params, 'params'),
    info: object(run.info, 'info'),
    rates: text(run, 'rates'),
    messages:
      run.messages === null
        ? null
        : list(run.messages, 'messages').map(parseChatMessage),
    parts:
      run.parts === null
        ? null
        : list(run.parts, 'parts').map(part => {
            const [name, tokens] = pair(part, 'parts');
            if (typeof name !== 'string' || typeof tokens !== 'number') {
              throw new ProtocolError('a part is no name with its tokens');
            }
            return [name, tokens] as const;
          }),
    answer: run.answer === null ? null : parseAnswer(run.answer),
    changes: run.changes === null ? null : parseChanges(run.changes),
    python: textOrNull(run, 'python'),
    curl: textOrNull(run, 'curl'),
    missing: parseMissing(run.missing)
  };
}

function parseChatMessage(data: unknown): {
  role: string;
  text: string;
  isCut: boolean;
} {
  const message = object(data, 'message');
  return {
    role: text(message, 'role'),
    text: text(message, 'text'),
    isCut: message.cut === true
  };
}

function parseAnswer(data: unknown): Answer {
  const answer = object(data, 'answer');
  return {
    byToken: answer.by_token === true,
    pieces: list(answer.pieces, 'pieces').map(parsePiece),
    logprobs: list(answer.logprobs, 'logprobs').map(parsePiece),
    isCut: answer.cut === true
  };
}

function parsePiece(data: unknown): Piece {
  const [piece, value] = pair(data, 'piece');
  if (
    typeof piece !== 'string' ||
    (value !== null && typeof value !== 'number')
  ) {
    throw new ProtocolError('a piece is no text with a number');
  }
  return { text: piece, value };
}

function parseChanges(data: unknown): Changes {
  const changes = object(data, 'changes');
  return {
    since: text(changes, 'since'),
    settings: list(changes.settings, 'settings').map(setting => {
      const fields = object(setting, 'setting');
      return {
        name: text(fields, 'name'),
        before: fields.before,
        after: fields.after
      };
    }),
    prompt:
      changes.prompt === null
        ? null
        : list(changes.prompt, 'prompt').map(line => {
            const [sign, said] = pair(line, 'line');
            return [String(sign), String(said)] as const;
          }),
    isSameAnswer:
      typeof changes.same_answer === 'boolean' ? changes.same_answer : null
  };
}

/** Reasons that are known here; another one, of a newer kernel, leaves a gap without a word. */
function parseMissing(data: unknown): Record<string, Missing> {
  const found: Record<string, Missing> = {};
  for (const [field, why] of Object.entries(object(data, 'missing'))) {
    const known = MISSING.find(it => it === why);
    if (known !== undefined) {
      found[field] = known;
    }
  }
  return found;
}

function pair(data: unknown, what: string): readonly [unknown, unknown] {
  const [one, other, ...rest] = list(data, what);
  if (other === undefined || rest.length > 0) {
    throw new ProtocolError(`${what} is not a pair`);
  }
  return [one, other];
}
