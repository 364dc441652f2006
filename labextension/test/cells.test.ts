import { describe, expect, it } from 'vitest';

import type { CellNow } from '../src/cells';
import { CellRows } from '../src/cells';
import { Readings } from '../src/model';
import { parseRow } from '../src/protocol';
import { sourceSha256 } from '../src/source';
import { snapshot, wireRow } from './fixtures';

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

  it('are what they would be made anew, where only those that were touched are looked at', () => {
    // A fixed sequence that looks random: numbers of a linear congruential generator.
    let state = 7;
    const random = (below: number) => {
      state = (state * 1103515245 + 12345) % 2 ** 31;
      return Math.floor((state / 2 ** 31) * below);
    };
    const names = Array.from({ length: 30 }, (_, at) => `cell-${at}`);
    const readings = readingsOf(...names.slice(0, 20).map(made));
    const cells = names.map(id => cell(id));
    const pinned = new Set<string>();
    const handled = {
      opened: () => null,
      isPinned: (id: string) => pinned.has(id)
    };
    const rows = new CellRows();
    let last = rows.of(cells, readings, handled);
    readings.takeTouched();
    let seq = 0;
    for (let step = 0; step < 400; step++) {
      let isStanding = true;
      for (let times = random(4); times > 0; times--) {
        const cell_id = names[random(step % 50 === 0 ? 30 : 20)]!;
        readings.apply(
          snapshot({
            seq: ++seq,
            rows: [
              wireRow({
                cell_id,
                run_id: `run-${random(3)}`,
                status: random(2) === 0 ? 'ok' : 'running',
                output_tokens: seq
              })
            ]
          })
        );
      }
      if (random(10) === 0) {
        const id = names[random(30)]!;
        if (!pinned.delete(id)) {
          pinned.add(id);
        }
        isStanding = false;
      }
      const touched = readings.takeTouched();
      const now = rows.of(
        cells,
        readings,
        handled,
        isStanding ? touched : null
      );
      expect(now).toEqual(new CellRows().of(cells, readings, handled));
      const before = new Map(last.map(it => [it.cellId, it]));
      for (const it of isStanding ? now : []) {
        if (!touched.has(it.cellId)) {
          expect(it).toBe(before.get(it.cellId));
        }
      }
      if (isStanding && touched.size === 0) {
        expect(now).toBe(last);
      }
      last = now;
    }
    expect(last.length).toBeGreaterThan(20);
  });

  it('are all looked at where many were touched, or one that had no row', () => {
    const names = Array.from({ length: 40 }, (_, at) => `cell-${at}`);
    const readings = readingsOf(...names.slice(0, 39).map(made));
    const cells = names.map(id => cell(id));
    const rows = new CellRows();
    rows.of(cells, readings);
    readings.takeTouched();
    readings.seed([parseRow(wireRow({ cell_id: 'cell-39', status: 'ok' }))]);
    const one = readings.takeTouched();
    expect([...one]).toEqual(['cell-39']);
    expect(rows.of(cells, readings, undefined, one)).toHaveLength(40);
    expect(rows.of(cells, readings, undefined, new Set(names))).toHaveLength(
      40
    );
  });
});

function made(id: string): [string, string] {
  return [id, PROMPT];
}
