/** A run, as the wire and the outputs of a notebook's file have it, parsed from `unknown`. */

import type { Comparison } from './comparison';
import { parseComparison } from './comparison';
import {
  ProtocolError,
  list,
  moneyOrNull,
  number,
  numberOrNull,
  object,
  text,
  textOrNull,
  word
} from './fields';

export const STATUSES = [
  'running',
  'ok',
  'cached',
  'interrupted',
  'failed',
  'refused'
] as const;
export const SOURCES = [
  'measured',
  'reported',
  'counted',
  'estimated',
  'unknown'
] as const;
export const BOUNDS = ['exact', 'at_least', 'at_most'] as const;
export type Status = (typeof STATUSES)[number];
export type Source = (typeof SOURCES)[number];
export type Bound = (typeof BOUNDS)[number];

/** What every run has, wherever it is told of. */
export interface Run {
  readonly runId: string;
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
  readonly ttftS: number | null;
  readonly itlMeanS: number | null;
  readonly latencyS: number | null;
}

/** One run of one cell; every snapshot of it is cumulative. */
export interface Row extends Run {
  readonly cellId: string | null;
  /** What the same tokens would cost at `shadowModel`; part of no sum. */
  readonly shadowUsd: string | null;
  readonly shadowModel: string | null;
  /** The device's list price that the cost, or what was saved, is calculated at; null if another price was used. */
  readonly listPrice: string | null;
  readonly sparkMs: readonly number[];
  /** Of each of its answers. */
  readonly maxTokens: number | null;
  /** How many answers it was asked for. */
  readonly choices: number;
  readonly finishReason: string | null;
  readonly error: string | null;
  /** Whether it waits for its turn at a model of this machine. */
  readonly isQueued: boolean;
  /** A digest of the cell's text as it ran; null where that is not known. */
  readonly sourceSha256: string | null;
  /** What the row is, where it stands for all runs of a comparison. */
  readonly comparison: Comparison | null;
  /** The number that the notebook shows for the execution; null where that is not known. */
  readonly executionCount: number | null;
}

/** What a cell's run is compared with. */
export interface Before {
  readonly runId: string;
  readonly cellId: string | null;
  readonly inputTokens: number | null;
  readonly outputTokens: number | null;
  readonly costUsd: string | null;
}

/** Parse a run. Raises ProtocolError. */
export function parseRun(data: unknown): Run {
  const run = object(data, 'run');
  return {
    runId: text(run, 'run_id'),
    status: word(run, 'status', STATUSES),
    model: text(run, 'model'),
    startedAt: text(run, 'started_at'),
    inputTokens: numberOrNull(run, 'input_tokens'),
    inputSource: word(run, 'input_source', SOURCES),
    outputTokens: numberOrNull(run, 'output_tokens'),
    outputSource: word(run, 'output_source', SOURCES),
    costUsd: moneyOrNull(run, 'cost_usd'),
    costSource: word(run, 'cost_source', SOURCES),
    costBound: word(run, 'cost_bound', BOUNDS),
    savedUsd: moneyOrNull(run, 'saved_usd'),
    ttftS: numberOrNull(run, 'ttft_s'),
    itlMeanS: numberOrNull(run, 'itl_mean_s'),
    latencyS: numberOrNull(run, 'latency_s')
  };
}

/** Parse a row, as it comes on the wire and as an output's metadata holds it. Raises ProtocolError. */
export function parseRow(data: unknown): Row {
  const row = object(data, 'row');
  return {
    ...parseRun(row),
    cellId: textOrNull(row, 'cell_id'),
    // Rows that were saved by earlier versions have no shadow price and no list price.
    shadowUsd: 'shadow_usd' in row ? moneyOrNull(row, 'shadow_usd') : null,
    shadowModel: 'shadow_model' in row ? textOrNull(row, 'shadow_model') : null,
    listPrice: 'list_price' in row ? textOrNull(row, 'list_price') : null,
    sparkMs: list(row.spark_ms, 'spark_ms').map(value => {
      if (typeof value !== 'number') {
        throw new ProtocolError('spark_ms has a value that is not a number');
      }
      return value;
    }),
    maxTokens: numberOrNull(row, 'max_tokens'),
    choices: 'choices' in row ? number(row, 'choices') : 1,
    finishReason: textOrNull(row, 'finish_reason'),
    error: textOrNull(row, 'error'),
    isQueued: row.queued === true,
    sourceSha256:
      'source_sha256' in row ? textOrNull(row, 'source_sha256') : null,
    comparison: parseComparison(row.comparison),
    executionCount:
      'execution_count' in row ? numberOrNull(row, 'execution_count') : null
  };
}

/** Parse what a run is compared with. Raises ProtocolError. */
export function parseBefore(data: unknown): Before {
  const run = object(data, 'previous');
  return {
    runId: text(run, 'run_id'),
    cellId: textOrNull(run, 'cell_id'),
    inputTokens: numberOrNull(run, 'input_tokens'),
    outputTokens: numberOrNull(run, 'output_tokens'),
    costUsd: moneyOrNull(run, 'cost_usd')
  };
}
