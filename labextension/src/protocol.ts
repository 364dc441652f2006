/**
 * The wire messages between kernel and sidebar, parsed from `unknown`.
 *
 * Money stays the decimal string it came as: a float could not hold it. Unknown is null, never 0.
 */

import type { Draft } from './draftmessage';
import { parseDraft } from './draftmessage';
import type { Fields } from './fields';
import { ProtocolError, isObject, list, number, object, text } from './fields';
import type { ModelState } from './modelstate';
import { parseModel } from './modelstate';
import type { Before, Row } from './row';
import { parseBefore, parseRow } from './row';
import type { Budget, Totals } from './sums';
import { parseBudgets, parseTotals } from './sums';

export type { Draft, Likely } from './draftmessage';
export { parseLikely } from './draftmessage';
export { ProtocolError } from './fields';
export type { GpuState, ModelState, SharedState } from './modelstate';
export type { Before, Bound, Row, Run, Source, Status } from './row';
export { BOUNDS, SOURCES, STATUSES, parseRow, parseRun } from './row';
export type { Budget, Scope, Totals } from './sums';
export { SCOPES, parseTotals } from './sums';

export const VERSION = 1;
export const DATA_TARGET = 'tokmagic.data';
export const CONTROL_TARGET = 'tokmagic.control';

const ANSWERS: readonly string[] = ['draft', 'detail', 'forecast', 'totals'];

export interface Snapshot {
  readonly type: 'snapshot';
  readonly complete: boolean;
  readonly session: string;
  readonly seq: number;
  readonly model: ModelState | null;
  readonly totals: {
    readonly notebook: Totals | null;
    readonly day: Totals | null;
  };
  readonly budgets: readonly Budget[];
  readonly rows: readonly Row[];
  /** Of cells in `rows` the last complete run before that one; only in a complete snapshot. */
  readonly previous: readonly Before[];
}

export interface KernelError {
  readonly type: 'error';
  readonly message: string;
  /** The type of the question that it answers; null where it answers none about one thing. */
  readonly to: string | null;
}

export type KernelMessage = Snapshot | KernelError | Draft;

export type ControlMessage =
  | { v: number; type: 'hello'; path: string | null; widgets: boolean }
  | { v: number; type: 'stop'; run_id: string }
  | ({ v: number; type: 'draft' } & DraftEdit)
  | {
      v: number;
      type: 'detail';
      cell_id: string;
      seq: number;
      run_id: string | null;
    }
  | {
      v: number;
      type: 'totals';
      seq: number;
      by: string;
    }
  | {
      v: number;
      type: 'forecast';
      seq: number;
      cells: { id: string; source: string }[];
    };

/** In the text of request `base`, or in none, `deleted` code units at `offset` were replaced by `text`. */
export type DraftEdit = {
  readonly cell_id: string;
  readonly seq: number;
  readonly base: number | null;
  readonly offset: number;
  readonly deleted: number;
  readonly text: string;
};

/** A message of the version that is spoken here. Raises ProtocolError. */
export function versioned(data: unknown, what: string): Fields {
  const message = object(data, what);
  if (message.v !== VERSION) {
    throw new ProtocolError(`version ${String(message.v)} is not ${VERSION}`);
  }
  return message;
}

/** Whether data looks like ours, so that other people's comm messages are left alone. */
export function isOurs(data: unknown): boolean {
  return (
    isObject(data) &&
    typeof data.v === 'number' &&
    ['snapshot', 'error', ...ANSWERS].includes(String(data.type))
  );
}

/** Which question a message of ours answers: it means something only to the page that asked. Null for others. */
export function answerTo(data: unknown): string | null {
  const type = isObject(data) ? String(data.type) : '';
  return ANSWERS.includes(type) ? type : null;
}

/** Parse a message of the kernel. Raises ProtocolError. */
export function parseMessage(data: unknown): KernelMessage {
  const message = versioned(data, 'message');
  if (message.type === 'error') {
    const to = typeof message.to === 'string' ? message.to : null;
    return { type: 'error', message: text(message, 'message'), to };
  }
  if (message.type === 'draft') {
    return parseDraft(message);
  }
  if (message.type !== 'snapshot') {
    throw new ProtocolError(`type ${String(message.type)} is unknown`);
  }
  const totals = object(message.totals, 'totals');
  return {
    type: 'snapshot',
    complete: message.complete === true,
    session: text(message, 'session'),
    seq: number(message, 'seq'),
    model: message.model === null ? null : parseModel(message.model),
    totals: {
      notebook: totals.notebook === null ? null : parseTotals(totals.notebook),
      day: totals.day === null ? null : parseTotals(totals.day)
    },
    budgets: parseBudgets(message.budgets),
    rows: list(message.rows, 'rows').map(parseRow),
    // Kernels of earlier versions do not say.
    previous: Array.isArray(message.previous)
      ? message.previous.map(parseBefore)
      : []
  };
}

/** `path` is the notebook's, null where a page does not know it. */
export function hello(path: string | null, widgets: boolean): ControlMessage {
  return { v: VERSION, type: 'hello', path, widgets };
}

export function stop(runId: string): ControlMessage {
  return { v: VERSION, type: 'stop', run_id: runId };
}

export function draft(edit: DraftEdit): ControlMessage {
  return { v: VERSION, type: 'draft', ...edit };
}
