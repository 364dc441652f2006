/** What only the row of a comparison has: how far it is, and a part for each variant at a model. No DOM. */

import type { TranslationBundle } from '@jupyterlab/translation';

import type { Fields } from './fields';
import {
  list,
  moneyOrNull,
  number,
  numberOrNull,
  object,
  text,
  word
} from './fields';
import { duration, usd, visible } from './format';
import type { Bound, Row } from './protocol';
import { BOUNDS } from './protocol';
import { parseTokens } from './sums';

/** What the rest is likely to take: dollars with the ends of the 95 % interval, and seconds. */
export interface ToCome {
  readonly usd: string | null;
  readonly low: string | null;
  readonly high: string | null;
  readonly seconds: number | null;
}

/** A variant at a model. Latency and score are means. */
export interface Part {
  readonly label: string;
  /** How many runs are wanted of it; null where only the ledger tells. */
  readonly runs: number | null;
  readonly done: number;
  readonly failed: number;
  readonly refused: number;
  readonly inputTokens: number | null;
  readonly outputTokens: number | null;
  readonly costUsd: string | null;
  readonly isEstimated: boolean;
  /** What the cost is of the whole. */
  readonly costBound: Bound;
  readonly latencyS: number | null;
  readonly score: number | null;
}

export interface Comparison {
  /** By which tags the ledger knows it. */
  readonly tags: readonly string[];
  readonly variants: number;
  readonly models: number;
  /** Null where it was put together from the ledger. */
  readonly items: number | null;
  readonly repeat: number | null;
  readonly runs: number;
  readonly done: number;
  /** Whether scores are pass or fail. */
  readonly passes: boolean;
  readonly judgeUsd: string | null;
  readonly isJudgeEstimated: boolean;
  readonly judgeBound: Bound;
  readonly toCome: ToCome | null;
  readonly parts: readonly Part[];
  /** Variants that were run in addition: the prompt without one of its parts. */
  readonly beside: readonly Part[];
}

/** Parse what a row says of its comparison; null for a row of a single run. Raises ProtocolError. */
export function parseComparison(data: unknown): Comparison | null {
  if (data === undefined || data === null) {
    return null;
  }
  const it = object(data, 'comparison');
  return {
    tags: list(it.tags, 'tags').map(String),
    variants: number(it, 'variants'),
    models: number(it, 'models'),
    items: numberOrNull(it, 'items'),
    repeat: numberOrNull(it, 'repeat'),
    runs: number(it, 'runs'),
    done: number(it, 'done'),
    passes: it.passes === true,
    judgeUsd: moneyOrNull(it, 'judge_usd'),
    // Kernels of earlier versions do not say.
    isJudgeEstimated: it.judge_estimated === true,
    judgeBound: 'judge_bound' in it ? word(it, 'judge_bound', BOUNDS) : 'exact',
    toCome: it.to_come === null ? null : parseToCome(it.to_come),
    parts: list(it.parts, 'parts').map(parsePart),
    beside: list(it.beside, 'beside').map(parsePart)
  };
}

function parseToCome(data: unknown): ToCome {
  const it = object(data, 'to_come');
  return {
    usd: moneyOrNull(it, 'usd'),
    low: moneyOrNull(it, 'low_usd'),
    high: moneyOrNull(it, 'high_usd'),
    seconds: numberOrNull(it, 'seconds')
  };
}

function parsePart(data: unknown): Part {
  const it: Fields = object(data, 'part');
  return {
    label: text(it, 'label'),
    runs: numberOrNull(it, 'runs'),
    done: number(it, 'done'),
    failed: number(it, 'failed'),
    refused: number(it, 'refused'),
    ...parseTokens(it),
    costUsd: moneyOrNull(it, 'cost_usd'),
    isEstimated: it.cost_source === 'estimated',
    costBound: word(it, 'cost_bound', BOUNDS),
    latencyS: numberOrNull(it, 'latency_s'),
    score: numberOrNull(it, 'score')
  };
}

/** Whether a row that the ledger tells says no more of a comparison than is known of it: it has no scores. */
export function tellsLess(row: Row, known: Row | undefined): boolean {
  const [one, other] = [row.comparison, known?.comparison ?? null];
  return (
    one !== null &&
    other !== null &&
    one.items === null &&
    one.tags.join() === other.tags.join() &&
    one.done <= other.done
  );
}

/** What is compared: `2 variants × 3 models × 200 items × 3`. */
export function shapeOf(it: Comparison, trans: TranslationBundle): string {
  const parts = [
    trans._n('%1 variant', '%1 variants', it.variants),
    it.models > 1 ? trans._n('%1 model', '%1 models', it.models) : null,
    it.items === null ? null : trans._n('%1 item', '%1 items', it.items),
    it.repeat !== null && it.repeat > 1
      ? trans._n('%1 repeat', '%1 repeats', it.repeat)
      : null
  ];
  return parts.filter(part => part !== null).join(' × ');
}

/** The line below the row's numbers: how far it is, what is still to come, and what went wrong. */
export function progressOf(
  row: Row,
  it: Comparison,
  isOutdated: boolean,
  trans: TranslationBundle
): string {
  const parts = [
    shapeOf(it, trans),
    trans.__('%1 of %2 runs', String(it.done), String(it.runs)),
    row.status === 'running' ? restOf(it.toCome, trans) : null,
    endOf(row, trans),
    isOutdated ? trans.__('these numbers are of an earlier text') : null
  ];
  return parts.filter(part => part !== null).join(' · ');
}

function restOf(
  toCome: ToCome | null,
  trans: TranslationBundle
): string | null {
  const parts = [
    toCome?.usd == null ? null : `${usd(toCome.usd)}${spreadOf(toCome)}`,
    toCome?.seconds == null ? null : duration(toCome.seconds)
  ].filter(part => part !== null);
  return parts.length === 0
    ? null
    : trans.__('about %1 to come', parts.join(', '));
}

function spreadOf({ low, high }: ToCome): string {
  return low === null ? '' : ` (${usd(low)} – ${usd(high)})`;
}

function endOf(row: Row, trans: TranslationBundle): string | null {
  const says = row.error === null ? null : visible(row.error);
  switch (row.status) {
    case 'interrupted':
      return [
        row.finishReason === 'budget' ? null : trans.__('interrupted'),
        says
      ]
        .filter(part => part !== null)
        .join(' · ');
    case 'failed':
      return trans.__('failed: %1', says ?? trans.__('no reason known'));
    case 'refused':
      return trans.__('refused: %1', says ?? trans.__('no reason known'));
    default:
      return says;
  }
}
