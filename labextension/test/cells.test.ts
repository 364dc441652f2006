import { describe, expect, it } from 'vitest';

import type { CellNow } from '../src/cells';
import { CellRows } from '../src/cells';
import { Readings } from '../src/model';
import { parseRow } from '../src/protocol';
import { sourceSha256 } from '../src/source';
import { wireRow } from './fixtures';

const PROMPT = '%%generate\nHi';

function readingsOf(...cells: [string, string | null | undefined][]): Readings {
  const readings = new Readings();
  readings.seed(
    cells.map(([cell_id, text]) => {
      const ran = text == null ? text : sourceSha256(text);
      const of = ran === undefined ? {} : { source_sha256: ran };
      return parseRow(wireRow({ cell_id, status: 'ok', ...of }));
    })
  );
  return readings;
}

function cell(id: string, text = PROMPT, isCode = true): CellNow {
  return { id, isCode, label: id, source: () => text };
}

describe('the rows of the cells', () => {
  it('stand in the order of the notebook, where there was a run', () => {
    const readings = readingsOf(['b', PROMPT], ['a', PROMPT], ['gone', PROMPT]);
    const rows = new CellRows().of([cell('a'), cell('x'), cell('b')], readings);
    expect(rows.map(it => it.cellId)).toEqual(['a', 'b']);
  });

  it('end where a cell became Markdown', () => {
    const cells = [cell('a', PROMPT, false), cell('b')];
    const rows = new CellRows().of(
      cells,
      readingsOf(['a', PROMPT], ['b', PROMPT])
    );
    expect(rows.map(it => it.cellId)).toEqual(['b']);
  });

  it.each([
    [PROMPT, false],
    [`${PROMPT}\n`, false],
    [`${PROMPT}!`, true],
    ['', true]
  ])(
    'are of what the cell says or of an earlier text: %j',
    (text, outdated) => {
      const rows = new CellRows().of(
        [cell('a', text)],
        readingsOf(['a', PROMPT])
      );
      expect(rows[0]!.isOutdated).toBe(outdated);
    }
  );

  it.each([undefined, null])('are not judged without a digest: %s', text => {
    const rows = new CellRows().of([cell('a')], readingsOf(['a', text]));
    expect(rows[0]!.isOutdated).toBe(false);
  });

  it('follow the text while it is edited', () => {
    const readings = readingsOf(['a', PROMPT]);
    const rows = new CellRows();
    const outdated = (text: string) =>
      rows.of([cell('a', text)], readings)[0]!.isOutdated;
    expect([PROMPT, `${PROMPT}!`, PROMPT].map(outdated)).toEqual([
      false,
      true,
      false
    ]);
  });

  it('are the same objects where nothing changed', () => {
    const readings = readingsOf(['a', PROMPT], ['b', PROMPT]);
    const rows = new CellRows();
    const before = rows.of([cell('a'), cell('b')], readings);
    readings.place({ ...readings.row('b')!, outputTokens: 99 });
    const [a, b] = rows.of([cell('a'), cell('b')], readings);
    expect(a).toBe(before[0]);
    expect(b).not.toBe(before[1]);
    expect(b!.row.outputTokens).toBe(99);
  });

  it('ask nothing of a cell whose text and readings are the same', () => {
    const readings = readingsOf(['a', PROMPT], ['b', PROMPT]);
    const rows = new CellRows();
    const asked: string[] = [];
    const cells = ['a', 'b'].map(id => ({
      ...cell(id),
      source: () => {
        asked.push(id);
        return PROMPT;
      }
    }));
    rows.of(cells, readings);
    readings.place({ ...readings.row('b')!, outputTokens: 99 });
    const [, b] = rows.of(cells, readings);
    expect(b!.row.outputTokens).toBe(99);
    expect(asked).toEqual(['a', 'b', 'b']);
  });

  it('stand above the others where they are pinned', () => {
    const readings = readingsOf(['a', PROMPT], ['b', PROMPT], ['c', PROMPT]);
    const rows = new CellRows().of(
      [cell('a'), cell('b'), cell('c')],
      readings,
      { opened: () => null, isPinned: id => id === 'c' }
    );
    expect(rows.map(it => it.cellId)).toEqual(['c', 'a', 'b']);
  });
});
