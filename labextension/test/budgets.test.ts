import { describe, expect, it } from 'vitest';

import { mostUsed, ofEachRun, uncounted } from '../src/budgets';
import { budgetOf } from './fixtures';

function use(usedUsd: string, capUsd: string, warnAt = 0.8) {
  return mostUsed([budgetOf({ usedUsd, capUsd, warnAt })], 'day');
}

describe('mostUsed', () => {
  it.each([
    ['0', '5', 0, 'ok'],
    ['0.4', '5', 0.08, 'ok'],
    ['3.999999999999', '5', 0.7999999999998, 'ok'],
    ['4', '5.00', 0.8, 'warning'],
    ['0.072', '0.09', 0.8, 'warning'],
    ['4.999999999999', '5', 0.9999999999998, 'warning'],
    ['5.000', '5', 1, 'used-up'],
    ['6', '5', 1.2, 'used-up'],
    ['0.000000000001', '0.000000000002', 0.5, 'ok'],
    ['123456789012345678', '123456789012345678', 1, 'used-up']
  ])('%s of %s is %d: %s', (used, cap, share, level) => {
    expect(use(used, cap)).toMatchObject({ unit: 'usd', share, level });
  });

  it('warns where the budget says', () => {
    expect(use('2.5', '5', 0.5)?.level).toBe('warning');
    expect(use('4.9', '5', 1)?.level).toBe('ok');
  });

  it('knows its own scope alone', () => {
    const budgets = [budgetOf({ scope: 'month', capUsd: '5' })];
    expect(mostUsed(budgets, 'day')).toBeNull();
    expect(mostUsed(budgets, 'month')?.budget).toBe(budgets[0]);
  });

  it('takes, of one’s own and everybody’s, the one that is used more', () => {
    const own = budgetOf({ capUsd: '5', usedUsd: '1' });
    const everyones = budgetOf({ capUsd: '50', usedUsd: '40' });
    expect(mostUsed([own, everyones], 'day')?.budget).toBe(everyones);
    expect(mostUsed([everyones, own], 'day')?.budget).toBe(everyones);
  });

  it('compares budgets by their fuller cap', () => {
    const money = budgetOf({ capUsd: '5', usedUsd: '3' });
    const both = budgetOf({ capUsd: '5', capTokens: 100, usedTokens: 70 });
    const shown = mostUsed([money, both], 'day');
    expect(shown).toMatchObject({ budget: both, unit: 'usd', share: 0 });
  });

  it('shows USD before tokens', () => {
    const both = { capUsd: '5', usedUsd: '1', capTokens: 100, usedTokens: 79 };
    expect(mostUsed([budgetOf(both)], 'day')).toMatchObject({
      unit: 'usd',
      share: 0.2
    });
  });

  it('shows tokens where they alone call for attention, or more of it', () => {
    const both = { capUsd: '5', usedUsd: '1', capTokens: 100, usedTokens: 80 };
    expect(mostUsed([budgetOf(both)], 'day')).toMatchObject({
      unit: 'tokens',
      share: 0.8,
      level: 'warning'
    });
    const full = { ...both, usedUsd: '4.5', usedTokens: 101 };
    expect(mostUsed([budgetOf(full)], 'day')).toMatchObject({
      unit: 'tokens',
      level: 'used-up'
    });
  });

  it('shows tokens where there is no cap in USD', () => {
    const tokens = budgetOf({ capTokens: 20000, usedTokens: 5000 });
    expect(mostUsed([tokens], 'day')).toEqual({
      budget: tokens,
      unit: 'tokens',
      share: 0.25,
      level: 'ok'
    });
  });
});

describe('ofEachRun', () => {
  it('is the tightest of each kind', () => {
    const budgets = [
      budgetOf({ scope: 'cell', capUsd: '0.5' }),
      budgetOf({ scope: 'cell', capUsd: '0.050', capTokens: 4000 }),
      budgetOf({ scope: 'cell', capUsd: '10', capTokens: 2000 }),
      budgetOf({ scope: 'day', capUsd: '0.01', capTokens: 10 })
    ];
    expect(ofEachRun(budgets)).toEqual({ usd: '0.050', tokens: 2000 });
  });

  it('is nothing without a budget of the cell', () => {
    expect(ofEachRun([budgetOf({ capUsd: '5' })])).toEqual({
      usd: null,
      tokens: null
    });
  });
});

describe('uncounted', () => {
  it('is the most that any sum in USD misses', () => {
    const budgets = [
      budgetOf({ capUsd: '5', unpricedRuns: 2 }),
      budgetOf({ scope: 'month', capUsd: '50', unpricedRuns: 7 }),
      budgetOf({ scope: 'notebook', capTokens: 500, unpricedRuns: 9 }),
      budgetOf({ scope: 'cell', capUsd: '1', unpricedRuns: 11 })
    ];
    expect(uncounted(budgets)).toBe(7);
    expect(uncounted([])).toBe(0);
  });
});
