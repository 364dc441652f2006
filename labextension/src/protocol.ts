/**
 * The wire messages between kernel and sidebar, parsed from `unknown`.
 *
 * Money stays the decimal string it came as: a float could not hold it. Unknown is null, never 0.
 */

import type { Fields } from './fields';
import {
  ProtocolError,
  isObject,
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

export { ProtocolError } from './fields';

export const VERSION = 1;
export const DATA_TARGET = 'tokmagic.data';
export const CONTROL_TARGET = 'tokmagic.control';

const STATUSES = [
  'running',
  'ok',
  'cached',
  'interrupted',
  'failed',
  'refused'
] as const;
const SOURCES = [
  'measured',
  'reported',
  'counted',
  'estimated',
  'unknown'
] as const;
const BOUNDS = ['exact', 'at_least', 'at_most'] as const;
const STATES = ['counted', 'counting', 'lost'] as const;
const SCOPES = ['cell', 'notebook', 'day', 'month'] as const;

export type Status = (typeof STATUSES)[number];
export type Source = (typeof SOURCES)[number];
export type Bound = (typeof BOUNDS)[number];
export type Scope = (typeof SCOPES)[number];

/** One run of one cell; every snapshot of it is cumulative. */
export interface Row {
  readonly runId: string;
  readonly cellId: string | null;
  readonly status: Status;
  readonly model: string;
  readonly startedAt: string;
  readonly inputTokens: number | null;
  readonly inputSource: Source;
  readonly outputTokens: number | null;
  readonly outputSource: Source;
  readonly costUsd: string | null;
  readonly costSource: Source;
  readonly costBound: Bound;
  readonly savedUsd: string | null;
  /** What the same tokens would cost at `shadowModel`; part of no sum. */
  readonly shadowUsd: string | null;
  readonly shadowModel: string | null;
  /** The device's list price that the cost, or what was saved, is calculated at; null if another price was used. */
  readonly listPrice: string | null;
  readonly ttftS: number | null;
  readonly itlMeanS: number | null;
  readonly latencyS: number | null;
  readonly sparkMs: readonly number[];
  readonly maxTokens: number | null;
  readonly finishReason: string | null;
  readonly error: string | null;
  /** A digest of the cell's text as it ran; null where that is not known. */
  readonly sourceSha256: string | null;
}

export interface Totals {
  readonly costUsd: string | null;
  readonly inputTokens: number;
  readonly outputTokens: number;
  readonly runs: number;
  readonly unpricedRuns: number;
  /** Whether the cost is only an estimate. */
  readonly costEstimated: boolean;
  /** What the cost is of the whole. */
  readonly costBound: Bound;
}

/** A cap on what runs may use; of its two caps at least one is set. Used is what was spent and what is held. */
export interface Budget {
  readonly scope: Scope;
  readonly capUsd: string | null;
  readonly usedUsd: string;
  readonly capTokens: number | null;
  readonly usedTokens: number;
  /** The share of the cap from which on it is worth a warning, 0 to 1. */
  readonly warnAt: number;
  /** Runs without a price, which `usedUsd` cannot count. */
  readonly unpricedRuns: number;
}

export interface ModelState {
  readonly name: string;
  readonly engine: string;
  readonly device: string | null;
  readonly dtype: string | null;
  readonly quant: string | null;
  readonly state: string;
  readonly detail: string | null;
  readonly progress: number | null;
  /** A problem with the model, in one line; null if there is none. */
  readonly notice: string | null;
}

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
}

export interface KernelError {
  readonly type: 'error';
  readonly message: string;
}

/** What the prompt in a cell would take, as it stands; the answer to the request of the same number. */
export interface Draft {
  readonly type: 'draft';
  readonly cellId: string;
  readonly seq: number;
  /** While `counting` another answer is to come; what is `lost` must be told from the beginning. */
  readonly state: (typeof STATES)[number];
  readonly model: string | null;
  readonly inputTokens: number | null;
  readonly inputSource: Source;
  readonly maxOutputTokens: number | null;
  readonly contextTokens: number | null;
  /** The input alone. */
  readonly lowUsd: string | null;
  /** The input and the longest answer. */
  readonly highUsd: string | null;
  readonly costSource: Source;
  /** What an hour of the model's device costs, where that is its price. */
  readonly deviceHourUsd: string | null;
  /** Whose price that is, where nobody set one. */
  readonly listPrice: string | null;
  /** Why there is no count, or only an estimate. */
  readonly reason: string | null;
  /** Each count is worth waiting for a pause in typing. */
  readonly costly: boolean;
}

export type KernelMessage = Snapshot | KernelError | Draft;

export type ControlMessage =
  | { v: number; type: 'hello'; path: string; widgets: boolean }
  | { v: number; type: 'stop'; run_id: string }
  | ({ v: number; type: 'draft' } & DraftEdit);

/** In the text of request `base`, or in none, `deleted` code units at `offset` were replaced by `text`. */
export type DraftEdit = {
  readonly cell_id: string;
  readonly seq: number;
  readonly base: number | null;
  readonly offset: number;
  readonly deleted: number;
  readonly text: string;
};

/** Whether data looks like ours, so that other people's comm messages are left alone. */
export function isOurs(data: unknown): boolean {
  return (
    isObject(data) &&
    typeof data.v === 'number' &&
    ['snapshot', 'error', 'draft'].includes(String(data.type))
  );
}

/** Whether a message of ours is about a prompt that is being written. */
export function isDraft(data: unknown): boolean {
  return isObject(data) && data.type === 'draft';
}

/** Parse a message of the kernel. Raises ProtocolError. */
export function parseMessage(data: unknown): KernelMessage {
  const message = object(data, 'message');
  if (message.v !== VERSION) {
    throw new ProtocolError(`version ${String(message.v)} is not ${VERSION}`);
  }
  if (message.type === 'error') {
    return { type: 'error', message: text(message, 'message') };
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
    rows: list(message.rows, 'rows').map(parseRow)
  };
}

/** Parse a row, as it comes on the wire and as an output's metadata holds it. Raises ProtocolError. */
export function parseRow(data: unknown): Row {
  const row = object(data, 'row');
  return {
    runId: text(row, 'run_id'),
    cellId: textOrNull(row, 'cell_id'),
    status: word(row, 'status', STATUSES),
    model: text(row, 'model'),
    startedAt: text(row, 'started_at'),
    inputTokens: numberOrNull(row, 'input_tokens'),
    inputSource: word(row, 'input_source', SOURCES),
    outputTokens: numberOrNull(row, 'output_tokens'),
    outputSource: word(row, 'output_source', SOURCES),
    costUsd: moneyOrNull(row, 'cost_usd'),
    costSource: word(row, 'cost_source', SOURCES),
    costBound: word(row, 'cost_bound', BOUNDS),
    savedUsd: moneyOrNull(row, 'saved_usd'),
    // Rows that were saved by earlier versions have no shadow price and no list price.
    shadowUsd: 'shadow_usd' in row ? moneyOrNull(row, 'shadow_usd') : null,
    shadowModel: 'shadow_model' in row ? textOrNull(row, 'shadow_model') : null,
    listPrice: 'list_price' in row ? textOrNull(row, 'list_price') : null,
    ttftS: numberOrNull(row, 'ttft_s'),
    itlMeanS: numberOrNull(row, 'itl_mean_s'),
    latencyS: numberOrNull(row, 'latency_s'),
    sparkMs: list(row.spark_ms, 'spark_ms').map(value => {
      if (typeof value !== 'number') {
        throw new ProtocolError('spark_ms has a value that is not a number');
      }
      return value;
    }),
    maxTokens: numberOrNull(row, 'max_tokens'),
    finishReason: textOrNull(row, 'finish_reason'),
    error: textOrNull(row, 'error'),
    sourceSha256:
      'source_sha256' in row ? textOrNull(row, 'source_sha256') : null
  };
}

export function hello(path: string, widgets: boolean): ControlMessage {
  return { v: VERSION, type: 'hello', path, widgets };
}

export function stop(runId: string): ControlMessage {
  return { v: VERSION, type: 'stop', run_id: runId };
}

export function draft(edit: DraftEdit): ControlMessage {
  return { v: VERSION, type: 'draft', ...edit };
}

function parseDraft(message: Fields): Draft {
  return {
    type: 'draft',
    cellId: text(message, 'cell_id'),
    seq: number(message, 'seq'),
    state: word(message, 'state', STATES),
    model: textOrNull(message, 'model'),
    inputTokens: numberOrNull(message, 'input_tokens'),
    inputSource: word(message, 'input_source', SOURCES),
    maxOutputTokens: numberOrNull(message, 'max_output_tokens'),
    contextTokens: numberOrNull(message, 'context_tokens'),
    lowUsd: moneyOrNull(message, 'low_usd'),
    highUsd: moneyOrNull(message, 'high_usd'),
    costSource: word(message, 'cost_source', SOURCES),
    // Kernels of earlier versions price no device.
    deviceHourUsd:
      'device_hour_usd' in message
        ? moneyOrNull(message, 'device_hour_usd')
        : null,
    listPrice:
      'list_price' in message ? textOrNull(message, 'list_price') : null,
    reason: textOrNull(message, 'reason'),
    costly: message.costly === true
  };
}

function parseTotals(data: unknown): Totals {
  const totals = object(data, 'totals');
  const unpricedRuns = number(totals, 'unpriced_runs');
  return {
    costUsd: moneyOrNull(totals, 'cost_usd'),
    inputTokens: number(totals, 'input_tokens'),
    outputTokens: number(totals, 'output_tokens'),
    runs: number(totals, 'runs'),
    unpricedRuns,
    costEstimated: totals.cost_estimated === true,
    // Kernels of earlier versions tell only that runs without a price are missing from the sum.
    costBound:
      'cost_bound' in totals
        ? word(totals, 'cost_bound', BOUNDS)
        : unpricedRuns > 0
          ? 'at_least'
          : 'exact'
  };
}

/** Those that can be read: a kernel may be older, and have none, or newer, and have other kinds. */
function parseBudgets(data: unknown): readonly Budget[] {
  return Array.isArray(data)
    ? data.map(parseBudget).filter(budget => budget !== null)
    : [];
}

function parseBudget(data: unknown): Budget | null {
  try {
    const fields = object(data, 'budget');
    const budget: Budget = {
      scope: word(fields, 'scope', SCOPES),
      capUsd: moneyOrNull(fields, 'cap_usd'),
      usedUsd: money(fields, 'used_usd'),
      capTokens: numberOrNull(fields, 'cap_tokens'),
      usedTokens: number(fields, 'used_tokens'),
      warnAt: number(fields, 'warn_at'),
      unpricedRuns: number(fields, 'unpriced_runs')
    };
    return isSound(budget) ? budget : null;
  } catch (error) {
    if (error instanceof ProtocolError) {
      return null;
    }
    throw error;
  }
}

/** Whether a share of its caps can be told. */
function isSound(budget: Budget): boolean {
  const { capUsd, usedUsd, capTokens, usedTokens, warnAt } = budget;
  return (
    (capUsd !== null || capTokens !== null) &&
    (capUsd === null || (/[1-9]/.test(capUsd) && !capUsd.startsWith('-'))) &&
    (capTokens === null || capTokens > 0) &&
    !usedUsd.startsWith('-') &&
    usedTokens >= 0 &&
    warnAt >= 0 &&
    warnAt <= 1
  );
}

function parseModel(data: unknown): ModelState {
  const model = object(data, 'model');
  return {
    name: text(model, 'name'),
    engine: text(model, 'engine'),
    device: textOrNull(model, 'device'),
    dtype: textOrNull(model, 'dtype'),
    quant: textOrNull(model, 'quant'),
    state: text(model, 'state'),
    detail: textOrNull(model, 'detail'),
    progress: numberOrNull(model, 'progress'),
    // Kernels of earlier versions have none.
    notice: 'notice' in model ? textOrNull(model, 'notice') : null
  };
}
