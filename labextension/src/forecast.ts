/** The answer about *Run All*, parsed from `unknown`: what each prompt cell will cost, and the budgets. */

import type { Fields } from './fields';
import {
  list,
  money,
  moneyOrNull,
  number,
  numberOrNull,
  object,
  text,
  textOrNull,
  word
} from './fields';
import type { ControlMessage, Likely, Scope, Source } from './protocol';
import { SCOPES, SOURCES, VERSION, parseLikely, versioned } from './protocol';

const FATES = ['runs', 'cached', 'free', 'unknown'] as const;
const VERDICTS = ['fits', 'may-exceed', 'exceeds'] as const;

/** One cell. */
export interface Foreseen {
  readonly cellId: string;
  /** Whether it runs, the cache has its answer, it runs no prompt, or nothing can be told. */
  readonly fate: (typeof FATES)[number];
  readonly model: string | null;
  readonly inputTokens: number | null;
  readonly inputSource: Source;
  readonly maxOutputTokens: number | null;
  readonly likely: Likely;
  readonly reason: string | null;
}

export interface Against {
  readonly scope: Scope;
  readonly capUsd: string;
  readonly leftUsd: string;
  readonly verdict: (typeof VERDICTS)[number];
  /** The first cell that may be refused. */
  readonly cellId: string | null;
}

export interface Forecast {
  readonly seq: number;
  /** Whether all is counted; else another answer is to come. */
  readonly isDone: boolean;
  readonly cells: readonly Foreseen[];
  readonly total: {
    readonly likelyUsd: string | null;
    readonly lowUsd: string | null;
    readonly highUsd: string | null;
    readonly cached: number;
    readonly withoutHistory: number;
    readonly unpriced: number;
    readonly unknown: number;
  };
  readonly budgets: readonly Against[];
}

/** A prompt cell as the notebook has it. */
export type PromptCell = { id: string; source: string };

/** Ask what the cells will cost that are run in this order. */
export function askForecast(
  seq: number,
  cells: readonly PromptCell[]
): ControlMessage {
  return { v: VERSION, type: 'forecast', seq, cells: [...cells] };
}

/** Parse an answer. Raises ProtocolError. */
export function parseForecast(data: unknown): Forecast {
  const message = versioned(data, 'forecast');
  const total = object(message.total, 'total');
  return {
    seq: number(message, 'seq'),
    isDone: message.done === true,
    cells: list(message.cells, 'cells').map(parseCell),
    total: {
      likelyUsd: moneyOrNull(total, 'likely_usd'),
      lowUsd: moneyOrNull(total, 'low_usd'),
      highUsd: moneyOrNull(total, 'high_usd'),
      cached: number(total, 'cached'),
      withoutHistory: number(total, 'without_history'),
      unpriced: number(total, 'unpriced'),
      unknown: number(total, 'unknown')
    },
    budgets: list(message.budgets, 'budgets').map(budget =>
      parseAgainst(object(budget, 'budget'))
    )
  };
}

function parseCell(data: unknown): Foreseen {
  const cell = object(data, 'cell');
  return {
    cellId: text(cell, 'cell_id'),
    fate: word(cell, 'fate', FATES),
    model: textOrNull(cell, 'model'),
    inputTokens: numberOrNull(cell, 'input_tokens'),
    inputSource: word(cell, 'input_source', SOURCES),
    maxOutputTokens: numberOrNull(cell, 'max_output_tokens'),
    likely: parseLikely(cell),
    reason: textOrNull(cell, 'reason')
  };
}

function parseAgainst(budget: Fields): Against {
  return {
    scope: word(budget, 'scope', SCOPES),
    capUsd: money(budget, 'cap_usd'),
    leftUsd: money(budget, 'left_usd'),
    verdict: word(budget, 'verdict', VERDICTS),
    cellId: textOrNull(budget, 'cell_id')
  };
}
