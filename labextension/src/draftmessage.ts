/** What the kernel tells of a prompt before it runs, parsed from `unknown`. */

import type { Fields } from './fields';
import {
  moneyOrNull,
  number,
  numberOrNull,
  text,
  textOrNull,
  word
} from './fields';
import type { Source } from './row';
import { SOURCES } from './row';

const STATES = ['counted', 'counting', 'lost'] as const;

/** What a run is likely to cost, from the cell's earlier runs. */
export interface Likely {
  /** Their mean; null where there are none. */
  readonly usd: string | null;
  readonly low: string | null;
  readonly high: string | null;
  readonly runs: number;
  /** Whether low and high are a 95 % prediction interval; else the least and the most that it can cost. */
  readonly predicted: boolean;
  /** Whether the runs were all of an earlier text. */
  readonly edited: boolean;
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
  readonly likely: Likely;
  /** Why there is no count, or only an estimate. */
  readonly reason: string | null;
  /** Each count is worth waiting for a pause in typing. */
  readonly costly: boolean;
}

/** Parse a draft. Raises ProtocolError. */
export function parseDraft(message: Fields): Draft {
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
    likely: parseLikely(message),
    reason: textOrNull(message, 'reason'),
    costly: message.costly === true
  };
}

/** What a draft, or a cell of a forecast, is likely to cost. Kernels of earlier versions do not say. */
export function parseLikely(fields: Fields): Likely {
  const amount = (name: string) =>
    name in fields ? moneyOrNull(fields, name) : null;
  return {
    usd: amount('likely_usd'),
    low: amount('likely_low_usd'),
    high: amount('likely_high_usd'),
    runs: 'likely_runs' in fields ? number(fields, 'likely_runs') : 0,
    predicted: fields.predicted === true,
    edited: fields.edited === true
  };
}
