import { describe, expect, it } from 'vitest';

import type { CellRow } from '../src/cells';
import { exported } from '../src/exports';
import { parseRow } from '../src/protocol';
import { wireRow } from './fixtures';

function rowOf(change: object): CellRow {
  return {
    cellId: 'c',
    label: '3',
    row: parseRow(wireRow({ status: 'ok', ...change })),
    isOutdated: false,
    before: null,
    isPinned: false,
    opened: null
  };
}

describe('the rows as a file', () => {
  it('are JSON lines with money as text and unknown as null', () => {
    const [line, ...rest] = exported(
      [rowOf({ cost_usd: '0.00110', ttft_s: null })],
      'jsonl'
    ).split('\n');
    expect(rest).toEqual(['']);
    expect(JSON.parse(line!)).toMatchObject({
      cell: '3',
      cell_id: 'c',
      status: 'ok',
      cost_usd: '0.00110',
      ttft_s: null,
      outdated: false
    });
  });

  it('are CSV with a line of names; what is unknown is empty', () => {
    const rows = [rowOf({ ttft_s: null }), rowOf({ run_id: 'r2' })];
    const lines = exported(rows, 'csv');
    const [names, first] = lines.split('\n').map(line => line.split(','));
    expect(names![0]).toBe('cell');
    expect(first![names!.indexOf('ttft_s')]).toBe('');
    expect(lines.split('\n')).toHaveLength(4);
    expect(exported([], 'csv')).toBe('\n');
  });

  it('have each run once, though copied cells show it too', () => {
    const copy = { ...rowOf({}), cellId: 'copy', label: '#4' };
    const rows = [rowOf({}), copy, rowOf({ run_id: 'r2' }), copy];
    const lines = exported(rows, 'jsonl').trim().split('\n');
    expect(lines.map(line => JSON.parse(line).run_id)).toEqual([
      rowOf({}).row.runId,
      'r2'
    ]);
    expect(exported(rows, 'csv').trim().split('\n')).toHaveLength(3);
  });

  it('never hold a formula, and keep quotes, commas and line ends in their field', () => {
    const error = '=HYPERLINK("http://x","a"),\nb';
    const text = exported([rowOf({ status: 'failed', error })], 'csv');
    expect(text).toContain(`"'=HYPERLINK(""http://x"",""a""),\nb"`);
    for (const start of ['=', '+', '-', '@', '\t', '\r']) {
      expect(exported([rowOf({ model: `${start}1` })], 'csv')).toContain(
        `'${start}1`
      );
    }
  });
});
