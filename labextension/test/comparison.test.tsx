// @vitest-environment jsdom

import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { renderToStaticMarkup } from 'react-dom/server';
import { describe, expect, it } from 'vitest';

import { CellRows } from '../src/cells';
import { OpenedComparison } from '../src/compared';
import { parseComparison, progressOf, shapeOf } from '../src/comparison';
import { Details } from '../src/details';
import { exported } from '../src/exports';
import { duration } from '../src/format';
import { Readings } from '../src/model';
import type { Row } from '../src/protocol';
import { ProtocolError, parseRow } from '../src/protocol';
import { Rows } from '../src/rows';
import { snapshot, wire } from './fixtures';

const trans = nullTranslator.load('tokmagic');

function wireComparison(change: object = {}, of: object = {}): any {
  const row = wire('comparison').rows[0];
  return { ...row, ...change, comparison: { ...row.comparison, ...of } };
}

function comparisonRow(change: object = {}, of: object = {}): Row {
  return parseRow(wireComparison(change, of));
}

function told(row: Row, isOutdated = false): string {
  return progressOf(row, row.comparison!, isOutdated, trans);
}

function show(element: React.ReactElement): HTMLElement {
  const node = document.createElement('div');
  node.innerHTML = renderToStaticMarkup(element);
  return node;
}

const nothing = () => undefined;
const ACTIONS = {
  goTo: nothing,
  stop: nothing,
  toggle: nothing,
  choose: nothing,
  run: nothing,
  pin: nothing,
  copy: nothing
};
/** As the ledger tells of it. */
const FROM_LEDGER = { items: null, repeat: null, to_come: null };

describe('the message of a comparison', () => {
  it('is a row with parts', () => {
    const row = snapshot({}, 'comparison').rows[0]!;
    expect(row.runId).toBe('5f0c');
    expect(row.costUsd).toBe('0.0814');
    expect(row.comparison).toMatchObject({
      variants: 2,
      items: 200,
      runs: 400,
      done: 75,
      passes: true,
      judgeUsd: '0.002',
      toCome: { usd: '0.36', low: '0.35', high: '0.37', seconds: 95.5 }
    });
    expect(row.comparison!.parts.map(it => it.label)).toEqual([
      'terse',
      'reasoned'
    ]);
    expect(parseRow(wire('streaming').rows[0]).comparison).toBeNull();
  });

  it.each([
    3,
    [],
    { tags: 'x' },
    { ...wireComparison().comparison, runs: 'x' }
  ])('is refused where it is %j', data => {
    expect(() => parseComparison(data)).toThrow(ProtocolError);
  });
});

describe('the line below the numbers', () => {
  it('says how far it is, what is to come and what went wrong', () => {
    expect(told(comparisonRow())).toBe(
      '2 variants × 200 items · 75 of 400 runs · ' +
        'about $0.3600 ($0.3500 – $0.3700), 1m 36s to come · ' +
        '2 runs failed, 1 run was refused; the first: EndpointError: the server answered 500'
    );
    const few = {
      to_come: { usd: '0.5', low_usd: null, high_usd: null, seconds: null }
    };
    expect(told(comparisonRow({ error: null }, few))).toContain(
      ' · about $0.5000 to come'
    );
    const nothingYet = {
      usd: null,
      low_usd: null,
      high_usd: null,
      seconds: null
    };
    expect(told(comparisonRow({ error: null }, { to_come: nothingYet }))).toBe(
      '2 variants × 200 items · 75 of 400 runs'
    );
  });

  it.each([
    ['ok', null, null, ''],
    ['interrupted', 'interrupted', null, ' · interrupted'],
    [
      'interrupted',
      'budget',
      'it ended early: spent',
      ' · it ended early: spent'
    ],
    ['refused', 'error', 'too small', ' · refused: too small'],
    ['failed', 'error', null, ' · failed: no reason known']
  ])('says of %s %s how it ended', (status, finish_reason, error, says) => {
    const row = comparisonRow({ status, finish_reason, error });
    expect(told(row)).toBe(`2 variants × 200 items · 75 of 400 runs${says}`);
    expect(told(row, true)).toContain('these numbers are of an earlier text');
  });

  it('leaves out what is one, or not known', () => {
    const shape = (of: object) =>
      shapeOf(comparisonRow({}, of).comparison!, trans);
    expect(shape({ variants: 1, models: 3, items: 1, repeat: 4 })).toBe(
      '1 variant × 3 models × 1 item × 4 repeats'
    );
    expect(shape(FROM_LEDGER)).toBe('2 variants');
  });

  it.each([
    [0.2, '1s'],
    [59.4, '59s'],
    [95.5, '1m 36s'],
    [600, '10m'],
    [3599, '1h 0m'],
    [7500, '2h 5m']
  ])('says %d seconds as %s', (value, says) => {
    expect(duration(value)).toBe(says);
  });
});

describe('an open comparison', () => {
  it('has a line for each variant, and what failed of it', () => {
    const row = comparisonRow(
      {},
      { beside: wireComparison().comparison.parts.slice(0, 1) }
    );
    const node = show(
      <OpenedComparison
        cellId="c"
        row={row}
        comparison={row.comparison!}
        isPinned={false}
        actions={ACTIONS}
        trans={trans}
      />
    );
    const lines = [...node.querySelectorAll('[data-part]')].map(it =>
      it.textContent!.replace(/\u00a0/g, ' ')
    );
    expect(lines).toEqual([
      'terse37 of 20015.2k + 4366$0.040775.0 %1.50s',
      'reasoned · 2 failed, 1 refused35 of 20014.4k + 4130$0.0385—1.50s',
      'terse37 of 20015.2k + 4366$0.040775.0 %1.50s'
    ]);
    expect(node.textContent).toContain('of which the judge: $0.0020');
  });

  it.each([
    ['measured', 'at_least', '≥$0.0407'],
    ['measured', 'at_most', '≤$0.0407'],
    ['estimated', 'exact', '~$0.0407'],
    ['estimated', 'at_least', '~≥$0.0407']
  ])('marks a cost that is %s and %s', (cost_source, cost_bound, says) => {
    const [part] = wireComparison().comparison.parts;
    const parts = [{ ...part, cost_source, cost_bound }];
    const judge_estimated = cost_source === 'estimated';
    const row = comparisonRow(
      {},
      { parts, judge_estimated, judge_bound: cost_bound }
    );
    const node = show(
      <OpenedComparison
        cellId="c"
        row={row}
        comparison={row.comparison!}
        isPinned={false}
        actions={ACTIONS}
        trans={trans}
      />
    );
    expect(node.querySelector('[data-field=cost]')!.textContent).toBe(says);
    expect(node.textContent).toContain(
      `of which the judge: ${says.replace('0.0407', '0.0020')}`
    );
  });

  it('shows a count that is known of none of its runs as unknown', () => {
    const [part] = wireComparison().comparison.parts;
    const of = (said: object) =>
      parseComparison({
        ...wireComparison().comparison,
        parts: [{ ...part, ...said }]
      })!.parts[0]!;
    expect(of({}).inputTokens).toBe(15244);
    expect(of({ input_known: false })).toMatchObject({
      inputTokens: null,
      outputTokens: 4366
    });
    expect(of({ output_known: false }).outputTokens).toBeNull();
  });

  it('asks the kernel nothing', () => {
    const sent: unknown[] = [];
    const details = new Details(message => sent.push(message) > 0);
    const row = comparisonRow();
    details.toggle('c-compare', row);
    details.follow(() => row);
    details.follow(() => ({ ...row, status: 'ok' }));
    expect(details.of('c-compare')).toEqual({
      detail: null,
      telling: 'told',
      runId: null
    });
    expect(sent).toEqual([]);
  });
});

describe('the row of a comparison', () => {
  function rows(row: Row): HTMLElement {
    const readings = new Readings();
    readings.apply(snapshot({ rows: [] }, 'comparison'));
    readings.place(row);
    const cell = {
      id: 'c-compare',
      isCode: true,
      label: '3',
      source: () => '%%compare'
    };
    const found = new CellRows().of([cell], {
      row: () => row,
      before: () => null
    });
    expect(exported(found, 'jsonl')).toContain('"cost_usd":"0.0814"');
    return show(<Rows rows={found} actions={ACTIONS} trans={trans} />);
  }

  it('shows its progress and can be stopped while it runs', () => {
    const node = rows(comparisonRow());
    const progress = node.querySelector('progress')!;
    expect([progress.getAttribute('value'), progress.max]).toEqual(['75', 400]);
    expect(node.querySelector('.tm-Stop')).not.toBeNull();
    expect(node.querySelector('[data-field=cost]')!.textContent).toBe(
      '$0.0814'
    );
  });

  it('takes two lines of the table, running or not', () => {
    for (const status of ['running', 'ok', 'refused']) {
      const row = comparisonRow({ status, source_sha256: null });
      const table = rows(row).querySelector('table')!;
      expect(table.getAttribute('aria-rowcount')).toBe('3');
      expect(table.querySelectorAll('tr')).toHaveLength(3);
    }
  });

  it('has neither when it is over', () => {
    const node = rows(comparisonRow({ status: 'ok' }));
    expect(node.querySelector('progress')).toBeNull();
    expect(node.querySelector('.tm-Stop')).toBeNull();
    expect(node.querySelector('.tm-Note')!.textContent).toContain(
      '75 of 400 runs'
    );
  });

  it('keeps what it knows where the ledger knows less', () => {
    const readings = new Readings();
    readings.seed([comparisonRow({ status: 'ok' })]);
    const restored = (of: object, change: object = {}) =>
      snapshot(
        {
          rows: [
            wireComparison(
              { run_id: 'restored', status: 'interrupted', ...change },
              { ...FROM_LEDGER, ...of }
            )
          ]
        },
        'comparison'
      );
    const shown = () => readings.row('c-compare')!;
    readings.apply(restored({}));
    expect(shown().runId).toBe('5f0c');
    expect(shown().comparison!.parts[0]!.score).toBe(0.75);
    // More runs ended than the notebook's file knows.
    readings.apply(restored({ done: 76 }));
    expect(shown().runId).toBe('restored');
    const later = {
      run_id: 'later',
      started_at: '2026-11-25T09:15:02.120000Z'
    };
    readings.apply(
      restored({ tags: ['compare:1', 'data:2/3'], done: 1 }, later)
    );
    expect(shown().runId).toBe('later');
  });

  it('is interrupted when its kernel goes', () => {
    const readings = new Readings();
    readings.apply(snapshot({}, 'comparison'));
    expect(readings.running).toHaveLength(1);
    readings.interruptRunning();
    expect(told(readings.row('c-compare')!)).not.toContain('to come');
    expect(told(readings.row('c-compare')!)).toContain(
      ' · interrupted · 2 runs'
    );
  });
});
