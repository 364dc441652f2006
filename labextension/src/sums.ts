/** Sums over runs, and the budgets that cap them, parsed from `unknown`. */

import type { Fields } from './fields';
import {
  ProtocolError,
  money,
  moneyOrNull,
  number,
  numberOrNull,
  object,
  word
} from './fields';
import type { Bound } from './row';
import { BOUNDS } from './row';

export const SCOPES = ['cell', 'notebook', 'day', 'month'] as const;

export type Scope = (typeof SCOPES)[number];

export interface Totals {
  readonly costUsd: string | null;
  /** Null where no count of any run is known. */
  readonly inputTokens: number | null;
  readonly outputTokens: number | null;
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

/** The tokens of a sum. Kernels of earlier versions tell 0 where no count is known, and do not say so. */
export function parseTokens(
  sum: Fields
): Pick<Totals, 'inputTokens' | 'outputTokens'> {
  const [input, output] = [
    number(sum, 'input_tokens'),
    number(sum, 'output_tokens')
  ];
  return {
    inputTokens: sum.input_known === false ? null : input,
    outputTokens: sum.output_known === false ? null : output
  };
}

/** Parse a sum. Raises ProtocolError. */
export function parseTotals(data: unknown): Totals {
  const totals = object(data, 'totals');
  const unpricedRuns = number(totals, 'unpriced_runs');
  return {
    costUsd: moneyOrNull(totals, 'cost_usd'),
    ...parseTokens(totals),
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
export function parseBudgets(data: unknown): readonly Budget[] {
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
