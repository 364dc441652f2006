/** The wire messages that the Python tests assert too. */

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';

import type { Budget, Row, Snapshot } from '../src/protocol';
import { parseMessage } from '../src/protocol';

export function wire(name: string): any {
  const path = resolve(__dirname, '../../tests/fixtures/wire', `${name}.json`);
  return JSON.parse(readFileSync(path, 'utf8'));
}

export function snapshot(change: object = {}, name = 'streaming'): Snapshot {
  return parseMessage({ ...wire(name), ...change }) as Snapshot;
}

/** The streaming fixture's row with some wire fields changed. */
export function wireRow(change: object = {}): any {
  return { ...wire('streaming').rows[0], ...change };
}

export function rowOf(message: Snapshot): Row {
  return message.rows[0]!;
}

/** A budget in which nothing was used, with some fields changed. */
export function budgetOf(change: Partial<Budget> = {}): Budget {
  return {
    scope: 'day',
    capUsd: null,
    usedUsd: '0',
    capTokens: null,
    usedTokens: 0,
    warnAt: 0.8,
    unpricedRuns: 0,
    ...change
  };
}
