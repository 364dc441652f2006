// @vitest-environment jsdom

import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { renderToStaticMarkup } from 'react-dom/server';
import { beforeEach, describe, expect, it } from 'vitest';

import type { PromptCell } from '../src/forecast';
import { parseForecast } from '../src/forecast';
import { Forecasts } from '../src/forecasts';
import type { ForecastView } from '../src/foreseen';
import { ForecastSection } from '../src/foreseen';
import { ProtocolError } from '../src/protocol';
import { wire } from './fixtures';

const { request, answer } = wire('forecast');
const trans = nullTranslator.load('tokmagic');

describe('a forecast', () => {
  let sent: any[];
  let isHeard: boolean;
  let cells: PromptCell[];
  let forecasts: Forecasts;

  beforeEach(() => {
    [sent, isHeard] = [[], true];
    cells = request.cells;
    forecasts = new Forecasts(
      () => cells,
      message => {
        sent.push(message);
        return isHeard;
      }
    );
  });

  it('asks about all prompt cells at once, and takes the answer', () => {
    expect(forecasts.asking).toBeNull();
    forecasts.ask();
    expect(sent).toEqual([{ ...request, seq: 1 }]);
    expect(forecasts.asking).toBe('asked');
    forecasts.receive({ ...answer, seq: 1 });
    expect(forecasts.asking).toBe('told');
    expect(forecasts.told?.cells.map(cell => cell.fate)).toEqual([
      'runs',
      'unknown'
    ]);
    expect(forecasts.told?.total.likelyUsd).toBe('0.022');
  });

  it('leaves answers to earlier questions alone, and those that come when it is closed', () => {
    forecasts.ask();
    forecasts.ask();
    forecasts.receive({ ...answer, seq: 1 });
    expect(forecasts.told).toBeNull();
    forecasts.close();
    forecasts.receive({ ...answer, seq: 2 });
    expect(forecasts.asking).toBeNull();
  });

  it('says that the notebook was changed since', () => {
    forecasts.ask();
    expect(forecasts.isOutdated).toBe(false);
    cells = [...cells].reverse();
    expect(forecasts.isOutdated).toBe(true);
  });

  it('says that there is no kernel, or an older one', () => {
    isHeard = false;
    forecasts.ask();
    expect(forecasts.asking).toBe('no-kernel');
    isHeard = true;
    forecasts.ask();
    forecasts.refuse();
    expect(forecasts.asking).toBe('unknown');
    forecasts.ask();
    forecasts.reset();
    expect(forecasts.asking).toBe('no-kernel');
  });

  it.each([
    { v: 2 },
    { cells: null },
    { cells: [{ ...answer.cells[0], fate: 'flies' }] },
    { total: { ...answer.total, likely_usd: 0.1 } },
    { budgets: [{ ...answer.budgets[0], verdict: 'maybe' }] }
  ])('with %j is none', change => {
    expect(() => parseForecast({ ...answer, ...change })).toThrow(
      ProtocolError
    );
  });
});

describe('the forecast that is shown', () => {
  function show(change: object = {}, view: Partial<ForecastView> = {}) {
    const told = parseForecast({ ...answer, ...change });
    const node = document.createElement('div');
    const nothing = () => undefined;
    node.innerHTML = renderToStaticMarkup(
      <ForecastSection
        view={{
          asking: 'told',
          told,
          isOutdated: false,
          label: cellId => cellId.replace('c', ''),
          ...view
        }}
        actions={{ ask: nothing, close: nothing, goTo: nothing }}
        trans={trans}
      />
    );
    return node;
  }

  const textOf = (node: ParentNode, selector: string) =>
    node.querySelector(selector)?.textContent?.replace(/\u00a0/g, ' ');

  it('has its sum with the interval by name, and a line for each cell', () => {
    const node = show();
    expect(textOf(node, '.tm-ForecastTotal')).toBe(
      '~≥$0.0220 95 %: $0.0220 – —'
    );
    expect(
      node.querySelector('[data-field=interval]')!.getAttribute('title')
    ).toContain("Student's t");
    expect(textOf(node, '[data-forecast=c0]')).toBe(
      '012 in · from 2 runs~$0.0220'
    );
    expect(textOf(node, '[data-forecast=c1]')).toContain("model 'nobody'");
    expect(textOf(node, '.tm-Told')).toBe('1 cell is unknown');
    expect(textOf(node, '[data-verdict]')).toBe(
      'Month budget: $0.0500 of $0.05 left: it may not fit'
    );
  });

  it('says which cell may be refused', () => {
    const budgets = [
      { ...answer.budgets[0], verdict: 'exceeds', cell_id: 'c1' }
    ];
    expect(textOf(show({ budgets }), '[data-verdict=exceeds]')).toBe(
      'Month budget: $0.0500 of $0.05 left: it does not fit · cell 1 may be refused'
    );
  });

  it('says what its sum leaves out', () => {
    const total = {
      ...answer.total,
      high_usd: null,
      cached: 2,
      without_history: 3,
      unpriced: 1,
      unknown: 2
    };
    const node = show({ total });
    expect(textOf(node, '.tm-ForecastTotal')).toBe(
      '~≥$0.0220 95 %: $0.0220 – —'
    );
    expect(textOf(node, '.tm-Told')).toBe(
      '2 from the cache · 3 cells never ran: their least is counted · 1 cell has no price · 2 cells are unknown'
    );
  });

  it.each([
    [{}, '~$0.0220'],
    [{ cached: 1 }, '~$0.0220'],
    [{ without_history: 1 }, '~≥$0.0220'],
    [{ unpriced: 1 }, '~≥$0.0220'],
    [{ unknown: 1 }, '~≥$0.0220'],
    [{ unknown: 1, likely_usd: null, low_usd: null }, '—']
  ])('marks its sum where costs are missing from it: %j', (of, says) => {
    const none = { cached: 0, without_history: 0, unpriced: 0, unknown: 0 };
    const node = show({ total: { ...answer.total, ...none, ...of } });
    expect(textOf(node, '[data-field=likely]')).toBe(says);
  });

  it('shows cached cells, cells of an earlier text and those that never ran in words', () => {
    const [cell] = answer.cells;
    const cells = [
      { ...cell, fate: 'cached', likely_usd: '0' },
      { ...cell, cell_id: 'c1', edited: true, predicted: false },
      {
        ...cell,
        cell_id: 'c2',
        likely_usd: null,
        likely_runs: 0,
        likely_high_usd: '0.5'
      }
    ];
    const node = show({ cells });
    expect(textOf(node, '[data-forecast=c0]')).toBe('0from the cache$0');
    expect(textOf(node, '[data-forecast=c1]')).toContain(
      'from 2 runs of an earlier text'
    );
    expect(textOf(node, '[data-forecast=c2]')).toBe(
      '212 in · never ran$0.0220 – $0.5000'
    );
  });

  it('says what it waits for', () => {
    expect(textOf(show({ done: false }), '[role=status]')).toBe(
      'reading a tokenizer…'
    );
    expect(textOf(show({}, { isOutdated: true }), '[role=status]')).toContain(
      'ask again'
    );
  });
});
