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
    const lines = exported([rowOf({ ttft_s: null }), rowOf({})], 'csv');
    const [names, first] = lines.split('\n').map(line => line.split(','));
    expect(names![0]).toBe('cell');
    expect(first![names!.indexOf('ttft_s')]).toBe('');
    expect(lines.split('\n')).toHaveLength(4);
    expect(exported([], 'csv')).toBe('\n');
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
