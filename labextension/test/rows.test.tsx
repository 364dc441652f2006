// @vitest-environment jsdom

import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { act } from 'react';
import { createRoot } from 'react-dom/client';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { CellRows } from '../src/cells';
import { Readings } from '../src/model';
import { parseRow } from '../src/protocol';
import { Rows } from '../src/rows';
import { FIRST } from '../src/span';
import { snapshot, wireRow } from './fixtures';

const trans = nullTranslator.load('tokmagic');
const cells = Array.from({ length: 1000 }, (_, index) => ({
  id: `c${index}`,
  isCode: true,
  label: String(index + 1),
  source: () => ''
}));

const nothing = () => undefined;
const actions = {
  goTo: nothing,
  stop: nothing,
  toggle: nothing,
  choose: nothing,
  run: nothing,
  pin: nothing,
  copy: nothing
};

function row(index: number, change: object = {}) {
  return parseRow(
    wireRow({ cell_id: `c${index}`, run_id: `r${index}`, ...change })
  );
}

/** A table of a thousand rows, and how it is drawn anew. */
function thousand() {
  const readings = new Readings();
  readings.seed(cells.map((_, index) => row(index, { status: 'ok' })));
  const of = new CellRows();
  const node = document.body.appendChild(document.createElement('div'));
  const root = createRoot(node);
  const draw = () =>
    act(() =>
      root.render(
        <Rows rows={of.of(cells, readings)} actions={actions} trans={trans} />
      )
    );
  draw();
  const indices = () =>
    [...node.querySelectorAll('tr[data-cell-id]')].map(line =>
      Number(line.getAttribute('aria-rowindex'))
    );
  return { node, readings, draw, indices };
}

function press(node: Element, key: string): void {
  act(() => {
    node.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
  });
}

describe('a thousand rows', () => {
  beforeEach(() => {
    vi.stubGlobal('IS_REACT_ACT_ENVIRONMENT', true);
    vi.stubGlobal(
      'IntersectionObserver',
      class {
        observe = nothing;
        disconnect = nothing;
      }
    );
  });

  afterEach(() => {
    vi.unstubAllGlobals();
    document.body.replaceChildren();
  });

  it('are told to a screen reader, though only some are drawn', () => {
    const { node, indices } = thousand();
    const table = node.querySelector('table')!;
    expect(table.getAttribute('aria-rowcount')).toBe('1001');
    expect(indices()).toEqual(
      Array.from({ length: FIRST.to }, (_, it) => it + 2)
    );
    const gap = node.querySelector('[aria-hidden] > tr')!;
    expect(gap.textContent).toBe('');
  });

  it('number the lines below a row, too', () => {
    const { node, readings, draw, indices } = thousand();
    readings.place(row(1, { status: 'failed', error: 'no' }));
    draw();
    const note = node.querySelector('[data-note-for=r1][aria-rowindex]')!;
    expect(note.getAttribute('aria-rowindex')).toBe('4');
    expect(indices().slice(0, 4)).toEqual([2, 3, 5, 6]);
    expect(node.querySelector('table')!.ariaRowCount ?? '1002').toBe('1002');
  });

  it('stay as they are when another one changes', () => {
    const { node, readings, draw } = thousand();
    const changed = new Set<string | undefined>();
    const observer = new MutationObserver(nothing);
    observer.observe(node, {
      attributes: true,
      characterData: true,
      childList: true,
      subtree: true
    });
    readings.place(row(7, { status: 'ok', output_tokens: 999 }));
    draw();
    for (const { target } of observer.takeRecords()) {
      const body = (
        target instanceof Element ? target : target.parentElement
      )?.closest('tbody');
      changed.add(
        body?.querySelector<HTMLElement>('[data-cell-id]')?.dataset.cellId
      );
    }
    expect([...changed]).toEqual(['c7']);
    expect(
      node.querySelector('[data-cell-id=c7] [data-field=output]')!.textContent
    ).toBe('999');
  });

  it('keep room for a number that counts, changed when it gets longer alone', () => {
    const { node, readings, draw } = thousand();
    let seq = 0;
    const told = (status: string, output_tokens: number) => {
      const run = { run_id: 'new', started_at: '2026-12-01T00:00:00.000000Z' };
      const rows = [wireRow({ cell_id: 'c7', ...run, status, output_tokens })];
      readings.apply(snapshot({ seq: ++seq, rows }));
      draw();
      const cell = node.querySelector('[data-cell-id=c7] [data-field=output]')!;
      const room = cell.querySelector<HTMLElement>('.tm-Live')?.dataset.room;
      return [cell.textContent, room];
    };
    expect(told('running', 98)).toEqual(['98', '00']);
    expect(told('running', 99)).toEqual(['99', '00']);
    expect(told('running', 100)).toEqual(['100', '000']);
    expect(told('running', 99)).toEqual(['99', '000']);
    expect(told('ok', 101)).toEqual(['101', undefined]);
  });

  it('are each reached by keyboard', () => {
    const { node } = thousand();
    const name = () => document.activeElement?.getAttribute('aria-label');
    const first = node.querySelector<HTMLElement>('.tm-Open')!;
    act(() => first.focus());
    const pressed = (key: string) => press(document.activeElement!, key);
    pressed('ArrowDown');
    expect(name()).toBe('Runs of cell 2');
    pressed('End');
    expect(name()).toBe('Runs of cell 1000');
    pressed('PageUp');
    expect(name()).toBe('Runs of cell 990');
    pressed('ArrowUp');
    expect(name()).toBe('Runs of cell 989');
    pressed('x');
    pressed('Home');
    expect(name()).toBe('Runs of cell 1');
    pressed('ArrowUp');
    expect(name()).toBe('Runs of cell 1');
    const go = node.querySelectorAll<HTMLElement>('.tm-Cell')[1]!;
    act(() => go.focus());
    pressed('End');
    expect(name()).toContain('Go to cell 1000');
  });
});
