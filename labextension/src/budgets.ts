/** Which budget a line shows, and how far it is used. Pure. */

import type { Budget, Scope } from './protocol';

export type Level = 'ok' | 'warning' | 'used-up';

const RANKS: Record<Level, number> = { ok: 0, warning: 1, 'used-up': 2 };
const SHARE_DECIMALS = 15;

/** How far one cap of a budget is used. */
export interface Use {
  readonly budget: Budget;
  readonly unit: 'usd' | 'tokens';
  /** 1 is all of it; more where a cap was lowered. */
  readonly share: number;
  readonly level: Level;
}

/**
 * The budget of a scope that is used the most, by its cap in USD; by its cap in tokens where it has no
 * other, or where only that one calls for attention. Null where no budget has this scope.
 */
export function mostUsed(budgets: readonly Budget[], scope: Scope): Use | null {
  const [most] = budgets
    .filter(budget => budget.scope === scope)
    .map(uses)
    .sort((a, b) => highest(b) - highest(a));
  const [use] = [...(most ?? [])].sort(
    (a, b) => RANKS[b.level] - RANKS[a.level]
  );
  return use ?? null;
}

/** The tightest caps on each single run: USD, and the prompt's tokens above which a person is asked. */
export function ofEachRun(budgets: readonly Budget[]): {
  readonly usd: string | null;
  readonly tokens: number | null;
} {
  const cells = budgets.filter(budget => budget.scope === 'cell');
  const usd = cells
    .map(budget => budget.capUsd)
    .filter(cap => cap !== null)
    .sort((a, b) => ratio(a, b) - 1);
  const tokens = cells
    .map(budget => budget.capTokens)
    .filter(cap => cap !== null)
    .sort((a, b) => a - b);
  return { usd: usd[0] ?? null, tokens: tokens[0] ?? null };
}

/** How many runs have no price, so that a cap in USD cannot count them. */
export function uncounted(budgets: readonly Budget[]): number {
  const capped = budgets.filter(
    budget => budget.capUsd !== null && budget.scope !== 'cell'
  );
  return Math.max(0, ...capped.map(budget => budget.unpricedRuns));
}

/** A budget by each of its caps, USD first. */
function uses(budget: Budget): readonly Use[] {
  const { capUsd, usedUsd, capTokens, usedTokens, warnAt } = budget;
  const found: Use[] = [];
  if (capUsd !== null) {
    const share = ratio(usedUsd, capUsd);
    found.push({ budget, unit: 'usd', share, level: levelOf(share, warnAt) });
  }
  if (capTokens !== null) {
    const share = usedTokens / capTokens;
    const level = levelOf(share, warnAt);
    found.push({ budget, unit: 'tokens', share, level });
  }
  return found;
}

function highest(uses: readonly Use[]): number {
  return Math.max(...uses.map(use => use.share));
}

function levelOf(share: number, warnAt: number): Level {
  return share >= 1 ? 'used-up' : share >= warnAt ? 'warning' : 'ok';
}

/** One amount as a share of another, rounded down, from their digits: as floats 0.072 is not 80 % of 0.09. */
function ratio(part: string, whole: string): number {
  const decimals = Math.max(decimalsOf(part), decimalsOf(whole));
  const unit = 10n ** BigInt(SHARE_DECIMALS);
  const share = (scaled(part, decimals) * unit) / scaled(whole, decimals);
  return Number(share) / Number(unit);
}

function decimalsOf(amount: string): number {
  return amount.split('.')[1]?.length ?? 0;
}

function scaled(amount: string, decimals: number): bigint {
  const [whole = '0', fraction = ''] = amount.split('.');
  return BigInt(whole + fraction.padEnd(decimals, '0'));
}
