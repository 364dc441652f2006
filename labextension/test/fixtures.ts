/** The wire messages that the Python tests assert too. */

import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';

import type { Row, Snapshot } from '../src/protocol';
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
