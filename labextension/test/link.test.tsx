// @vitest-environment jsdom

import { renderToStaticMarkup } from 'react-dom/server';
import * as React from 'react';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { catalogue } from '../src/catalogue';
import { InlinePanel, actionsOf } from '../src/inline';
import { Link } from '../src/link';
import { wire, wireRow } from './fixtures';

/** A widget's model as anywidget gives it to a view. */
class FakeModel {
  readonly sent: any[] = [];
  isClosed = false;
  private readonly _callbacks = new Map<string, Set<(it: unknown) => void>>();

  constructor(
    readonly first: unknown = {},
    readonly magics = true
  ) {}

  get(name: string): unknown {
    return { first: this.first, magics: this.magics }[name];
  }

  send(content: unknown): void {
    if (this.isClosed) {
      throw new Error('Cannot send');
    }
    this.sent.push(content);
  }

  on(event: string, callback: (it: unknown) => void): void {
    const callbacks = this._callbacks.get(event) ?? new Set();
    this._callbacks.set(event, callbacks.add(callback));
  }

  off(event: string, callback: (it: unknown) => void): void {
    this._callbacks.get(event)?.delete(callback);
  }

  emit(event: string, data?: unknown): void {
    this._callbacks.get(event)?.forEach(callback => callback(data));
  }

  says(data: object, page?: string): void {
    this.emit('msg:custom', page === undefined ? data : { ...data, page });
  }

  get listeners(): number {
    return [...this._callbacks.values()].reduce((n, it) => n + it.size, 0);
  }

  get last(): any {
    return this.sent.at(-1);
  }
}

const trans = catalogue({});

function shown(link: Link): HTMLElement {
  const node = document.createElement('div');
  node.innerHTML = renderToStaticMarkup(
    <InlinePanel link={link} actions={actionsOf(link)} trans={trans} />
  );
  return node;
}

const snapshot = (change: object = {}) => ({ ...wire('streaming'), ...change });
const row = (name: string, change: object = {}) =>
  wireRow({ run_id: `run of ${name}`, cell_id: name, ...change });

let model: FakeModel;
let link: Link;

beforeEach(() => {
  model = new FakeModel(snapshot());
  link = new Link(model);
});

afterEach(() => {
  link.close();
  vi.useRealTimers();
});

describe('a panel in an output', () => {
  it('shows what was known when it was made, before the kernel answers', () => {
    expect(link.readings.running).toHaveLength(1);
    expect(shown(link).querySelector('tr[data-status="running"]')).not.toBe(
      null
    );
  });

  it('says hello without a path, which it does not know', () => {
    const { page, ...hello } = model.last;
    expect(hello).toEqual({ v: 1, type: 'hello', path: null, widgets: true });
    expect(page).toMatch(/^\w+$/);
  });

  it('has rows in the order in which they began, pinned ones first', () => {
    const rows = [
      row('late', { started_at: '2026-11-24T09:15:04.000000Z' }),
      row('early', { started_at: '2026-11-24T09:15:01.000000Z' })
    ];
    model.says(snapshot({ seq: 13, rows }));
    const ids = () => link.rows().map(it => it.cellId);
    expect(ids().filter(it => /late|early/.test(it))).toEqual([
      'early',
      'late'
    ]);
    link.pin('late');
    expect(ids()[0]).toBe('late');
    link.pin('late');
    expect(ids().at(-1)).toBe('late');
  });

  it('calls a cell by the number of its execution, or by none', () => {
    const rows = [row('a', { execution_count: 7 }), row('b')];
    model.says(snapshot({ seq: 13, rows }));
    expect([link.label('a'), link.label('b')]).toEqual(['7', '\u2014']);
  });

  it('offers neither to go to a cell nor to run one', () => {
    const { cellId } = link.rows()[0]!;
    link.toggle(cellId);
    const node = shown(link);
    expect(node.querySelector('.tm-Opened')).not.toBe(null);
    expect(node.querySelector('button.tm-Cell')).toBe(null);
    expect(node.textContent).not.toContain('Run again');
    expect(node.textContent).toContain('place in the notebook');
  });

  it('takes answers to its own questions alone', () => {
    const { cellId } = link.rows()[0]!;
    link.toggle(cellId);
    const { type, seq, page } = model.last;
    expect(type).toBe('detail');
    const answer = {
      ...wire('detail').answers[0],
      cell_id: cellId,
      seq
    };
    model.says(answer, 'another page');
    expect(link.details.of(cellId)?.telling).toBe('asked');
    model.says(answer, page);
    expect(link.details.of(cellId)?.telling).toBe('told');
  });

  it('says where a kernel does not hear a stop, until it does', () => {
    vi.useFakeTimers();
    const { runId } = link.rows()[0]!.row;
    link.stop(runId);
    expect(model.sent.at(-2)).toMatchObject({ type: 'stop', run_id: runId });
    vi.advanceTimersByTime(1000);
    expect(link.isUnheard).toBe(false);
    vi.advanceTimersByTime(2000);
    expect(shown(link).textContent).toContain('only when its cell has ended');
    model.says(snapshot({ seq: 20, complete: true }), model.last.page);
    expect(link.isUnheard).toBe(false);
    link.stop(runId);
    model.says(snapshot({ seq: 21, complete: true }), model.last.page);
    vi.advanceTimersByTime(5000);
    expect(link.isUnheard).toBe(false);
  });

  it('marks what ran as interrupted when its kernel goes, and revives it', () => {
    model.emit('comm_live_update');
    expect(link.rows()[0]!.row.status).toBe('interrupted');
    expect(shown(link).textContent).toContain('lost its kernel');
    model.says(snapshot({ seq: 30, complete: true }), model.last.page);
    expect(link.rows()[0]!.row.status).toBe('running');
    expect(shown(link).textContent).not.toContain('lost its kernel');
  });

  it('finds that its kernel is gone where it is not told, as in VS Code', () => {
    model.isClosed = true;
    const { runId } = link.rows()[0]!.row;
    vi.useFakeTimers();
    link.stop(runId);
    expect(link.rows()[0]!.row.status).toBe('interrupted');
    expect(shown(link).textContent).toContain('lost its kernel');
    vi.advanceTimersByTime(5000);
    expect(shown(link).textContent).not.toContain('only when its cell');
    link.close();
  });

  it('asks after a silence while something runs', () => {
    vi.useFakeTimers();
    const silent = new Link(model);
    const before = model.sent.length;
    vi.advanceTimersByTime(9000);
    model.says(snapshot({ seq: 50 }));
    vi.advanceTimersByTime(9000);
    expect(model.sent).toHaveLength(before);
    vi.advanceTimersByTime(2000);
    expect(model.last).toMatchObject({ type: 'hello' });
    model.isClosed = true;
    vi.advanceTimersByTime(10_000);
    expect(shown(silent).textContent).toContain('lost its kernel');
    expect(vi.getTimerCount()).toBe(0);
    silent.close();
  });

  it('says goodbye once, and leaves no listener behind', () => {
    const { page } = model.last;
    expect(model.listeners).toBe(2);
    link.close();
    link.close();
    expect(model.sent.filter(it => it.type === 'goodbye')).toEqual([
      { type: 'goodbye', page }
    ]);
    expect(model.listeners).toBe(0);
  });

  it('bears a widget that was closed, and messages that are none', () => {
    for (const data of [null, 7, 'x', {}, { v: 1, type: 'x' }]) {
      model.emit('msg:custom', data);
    }
    expect(link.readings.error).toBe(null);
    model.says({ v: 2, type: 'snapshot' });
    expect(link.readings.error).toContain('version 2 is not 1');
    model.isClosed = true;
    link.stop('x');
    link.close();
    expect(model.listeners).toBe(0);
  });

  it('shows nothing but text of what a model wrote', () => {
    const evil = '<img src=x onerror=alert(1)><style>*{display:none}</style>';
    const rows = [
      row('a', { status: 'failed', error: evil, model: evil, cost_usd: null })
    ];
    model.says(snapshot({ seq: 40, rows }));
    const node = shown(link);
    expect(node.querySelector('img, style, script')).toBe(null);
    expect(node.textContent).toContain('<img src=x');
  });

  it('is ready for a kernel where nothing has run', () => {
    const empty = new Link(new FakeModel(wire('empty')));
    expect(shown(empty).textContent).toContain('No prompt has run yet');
    expect(shown(empty).textContent).toContain('%%generate');
    empty.close();
  });

  it('advises no magic where there are none', () => {
    const empty = new Link(new FakeModel(wire('empty'), false));
    expect(shown(empty).querySelector('pre')!.textContent).toBe(
      "tokmagic.generate('…')"
    );
    empty.close();
    const first = snapshot();
    first.totals.notebook.unpriced_runs = 2;
    first.budgets = [];
    const unpriced = new Link(new FakeModel(first, false));
    expect(shown(unpriced).textContent).toContain(
      '2 runs have no price; set one with TOKMAGIC_PRICES'
    );
    unpriced.close();
  });

  it('says where the runs are that have no cell, as in marimo', () => {
    const first = snapshot({ rows: [row('a', { cell_id: null })] });
    const outside = new Link(new FakeModel(first));
    expect(shown(outside).textContent).toContain('are in the sums');
    expect(shown(outside).textContent).not.toContain('No prompt has run');
    outside.close();
  });
});
