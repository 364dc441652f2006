import type { CellList, Notebook } from '@jupyterlab/notebook';
import { Signal } from '@lumino/signaling';
import { describe, expect, it } from 'vitest';

import { NotebookCells } from '../src/notebookcells';

/** A cell of a notebook, and how often its text was read. */
class FakeCell {
  constructor(
    readonly id: string,
    public text: string,
    public executionCount: number | null = null,
    readonly type = 'code'
  ) {}

  reads = 0;
  readonly editor = null;
  readonly contentChanged = new Signal<this, void>(this);
  readonly sharedModel = {
    getSource: () => {
      this.reads++;
      return this.text;
    }
  };

  get model() {
    return this;
  }

  write(text: string): void {
    this.text = text;
    this.contentChanged.emit();
  }
}

function notebookOf(...widgets: FakeCell[]) {
  const list = { changed: new Signal<object, void>({}) };
  const cells = new NotebookCells({ widgets } as unknown as Notebook);
  cells.follow(list as unknown as CellList);
  return { cells, widgets, list };
}

const GENERATE = '%%generate\nHi';

describe('the cells of a notebook', () => {
  it('are read once, and anew when their text changes', () => {
    const one = new FakeCell('a', GENERATE);
    const other = new FakeCell('b', 'x = 1');
    const { cells } = notebookOf(one, other);
    const sources = () => cells.all.map(cell => cell.source());
    expect(sources()).toEqual([GENERATE, 'x = 1']);
    sources();
    other.write('x = 2');
    expect(sources()).toEqual([GENERATE, 'x = 2']);
    expect([one.reads, other.reads]).toEqual([1, 2]);
  });

  it('have the number that the notebook shows, or their place', () => {
    const one = new FakeCell('a', GENERATE, 7);
    const { cells, widgets, list } = notebookOf(one, new FakeCell('b', ''));
    const before = cells.label;
    expect(['a', 'b', 'gone'].map(before)).toEqual(['7', '#2', '…']);
    one.write('%%generate\nHo');
    expect(cells.label).toBe(before);
    one.executionCount = 8;
    one.contentChanged.emit();
    expect(cells.label).not.toBe(before);
    expect(cells.label('a')).toBe('8');
    widgets.unshift(new FakeCell('c', ''));
    list.changed.emit();
    expect(cells.label('b')).toBe('#3');
    expect(cells.has('c')).toBe(true);
    widgets.shift();
    list.changed.emit();
    expect(cells.has('c')).toBe(false);
  });

  it('that a forecast tells of are code cells with such a magic', () => {
    const wanted = new FakeCell('a', '\n  \n%%generate -m x\nHi');
    const others = [
      new FakeCell('b', '%%tokens\nHi'),
      new FakeCell('c', GENERATE, null, 'markdown'),
      new FakeCell('d', 'x\n%%generate')
    ];
    const { cells } = notebookOf(...others, wanted);
    expect(cells.foreseen(() => false)).toEqual([
      { id: 'a', source: wanted.text }
    ]);
    expect(cells.hasPrompts).toBe(true);
    wanted.write('x = 1');
    expect(cells.foreseen(() => false)).toEqual([]);
    expect(cells.hasPrompts).toBe(false);
    others[2]!.write('%%compare\n');
    expect(cells.foreseen(() => false).map(it => it.id)).toEqual(['d']);
  });

  it('that ran prompts by their own code are foreseen, too', () => {
    const code = new FakeCell('a', 'ask("Hi")');
    const words = new FakeCell('b', 'words', null, 'markdown');
    const calls = new FakeCell('d', 'x = tokmagic.generate_many(\n  prompts)');
    const { cells } = notebookOf(code, words, new FakeCell('c', 'x'), calls);
    const ran = (cellId: string) => cellId !== 'c';
    expect(cells.foreseen(ran)).toEqual(
      [code, calls].map(({ model: { id }, text }) => ({ id, source: text }))
    );
    expect(cells.foreseen(() => false).map(it => it.id)).toEqual(['d']);
  });
});
