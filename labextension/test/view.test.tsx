// @vitest-environment jsdom

import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { renderToStaticMarkup } from 'react-dom/server';
import { describe, expect, it } from 'vitest';

import type { CellRow } from '../src/cells';
import { DraftSection } from '../src/draft';
import type { Budget, Draft, Row, Totals } from '../src/protocol';
import { parseMessage, parseRow, parseTotals } from '../src/protocol';
import type { Actions } from '../src/rows';
import { Rows } from '../src/rows';
import { Head, TotalsTable } from '../src/summary';
import { budgetOf, snapshot, wire, wireRow } from './fixtures';

const trans = nullTranslator.load('tokmagic');

function show(element: React.ReactElement): HTMLElement {
  const node = document.createElement('div');
  node.innerHTML = renderToStaticMarkup(element);
  return node;
}

function textOf(node: ParentNode, selector: string): string | undefined {
  const text = node.querySelector(selector)?.textContent;
  return text?.replace(/\u00a0/g, ' ');
}

const nothing = () => undefined;
const ACTIONS: Actions = {
  goTo: nothing,
  stop: nothing,
  toggle: nothing,
  choose: nothing,
  run: nothing,
  pin: nothing,
  copy: nothing
};

function rowOf(row: Row, change: Partial<CellRow> = {}): CellRow {
  return {
    cellId: 'c',
    label: '3',
    row,
    isOutdated: false,
    before: null,
    isPinned: false,
    opened: null,
    ...change
  };
}

describe('the head', () => {
  it('says what is amiss with the model, and nothing where nothing is', () => {
    const { model } = snapshot();
    const notice = show(<Head model={model} trans={trans} />);
    expect(textOf(notice, '[role="note"]')).toContain('2 tokens more');
    const fine = show(
      <Head model={{ ...model!, notice: null }} trans={trans} />
    );
    expect(fine.querySelector('[role="note"]')).toBeNull();
  });
});

describe('the GPU in the head', () => {
  const [full, scant] = wire('gpu').map(
    (model: object) => snapshot({ model }).model
  );

  function head(model: typeof full, isRunning = true): HTMLElement {
    return show(<Head model={model} isRunning={isRunning} trans={trans} />);
  }

  it('says how busy it is, what it draws and what runs took', () => {
    const node = head(full);
    expect(textOf(node, '.tm-Gpu > span')).toBe('GPU 0 · 38 %');
    expect(textOf(node, '[data-field=power]')).toBe('412 W of 700 W');
    expect(textOf(node, '[data-field=energy]')).toBe('≤1.23 kJ');
    expect(textOf(node, '[data-field=memory]')).toBe('30.0 of 140 GiB');
  });

  it('shows who holds its memory, to eyes and to screen readers', () => {
    const node = head(full);
    const widths = [
      ...node.querySelectorAll<HTMLElement>('.tm-Memory > div')
    ].map(it => [it.dataset.share, Math.round(parseFloat(it.style.width))]);
    expect(widths).toEqual([
      ['weights', 9],
      ['cache', 1],
      ['reserve', 3],
      ['others', 8]
    ]);
    expect(node.querySelector('[role=img]')!.getAttribute('aria-label')).toBe(
      'Memory: 30.0 of 140 GiB, weights 13.0 GiB, KV cache 2.0 GiB, reserve 4.0 GiB, others 11.0 GiB'
    );
  });

  it('says how old the reading is where no prompt runs', () => {
    expect(head(full).querySelector('[data-field=age]')).toBeNull();
    expect(textOf(head(full, false), '[data-field=age]')).toContain('as of ');
  });

  it('leaves out what NVML does not tell', () => {
    const node = head(scant);
    expect(textOf(node, '.tm-Gpu > span')).toBe('GPU 0');
    expect(node.querySelectorAll('[data-field]')).toHaveLength(1);
    expect(node.querySelectorAll('.tm-Memory > div')).toHaveLength(1);
  });

  it.each([undefined, 7, { label: '0' }])('is hidden where it is %j', gpu => {
    const { model } = snapshot({ model: { ...wire('gpu')[0], gpu } });
    expect(head(model).querySelector('.tm-Gpu')).toBeNull();
  });
});

describe('the shared engine in the head', () => {
  const [full, scant] = wire('shared').map(
    (model: object) => snapshot({ model }).model
  );

  function head(model: typeof full, isRunning = true): HTMLElement {
    return show(<Head model={model} isRunning={isRunning} trans={trans} />);
  }

  it('says who uses it, with which key, and what is left', () => {
    const node = head(full);
    expect(textOf(node, '[data-field=requests]')).toBe(
      'Shared engine · ready · 2 requests run · 1 waits'
    );
    expect(textOf(node, '[data-field=users]')).toBe('in use: ada 2, ben 1');
    expect(textOf(node, '[data-field=key]')).toBe(
      'key notebooks · team research'
    );
    expect(textOf(node, '[data-field=left]')).toBe(
      '$12.34 of $20.00 left · 2500 of 100.0k tokens left'
    );
    expect(node.querySelector('[data-field=age]')).toBeNull();
  });

  it('leaves out what the server does not say', () => {
    const node = head(scant, false);
    expect(textOf(node, '[data-field=requests]')).toBe(
      'Shared engine · not loaded'
    );
    expect(textOf(node, '[data-field=age]')).toContain('as of ');
    expect(node.querySelectorAll('.tm-Share > span')).toHaveLength(2);
  });

  it('shows names of others as they are, whatever they hold', () => {
    const shared = { ...wire('shared')[0].shared, key: '<b>k\u202e' };
    const { model } = snapshot({ model: { ...wire('shared')[0], shared } });
    const node = head(model);
    expect(textOf(node, '[data-field=key]')).toContain('key <b>k⟨202E⟩');
    expect(node.querySelector('b')).toBeNull();
  });

  it.each([undefined, 7, { state: 'ready' }])(
    'is hidden where it is %j',
    shared => {
      const { model } = snapshot({ model: { ...wire('shared')[0], shared } });
      expect(head(model).querySelector('.tm-Share')).toBeNull();
    }
  );
});

describe('the sums', () => {
  const totals: Totals = {
    costUsd: '0.0312',
    inputTokens: 12400,
    outputTokens: 3100,
    runs: 3,
    unpricedRuns: 0,
    costEstimated: false,
    costBound: 'exact'
  };

  function sums(
    budgets: readonly Budget[],
    notebook: Totals | null = totals,
    day: Totals | null = null
  ): HTMLElement {
    return show(
      <TotalsTable
        notebook={notebook}
        day={day}
        budgets={budgets}
        hasMagics={true}
        trans={trans}
      />
    );
  }

  it('show no bar without a budget', () => {
    const node = sums([]);
    expect(textOf(node, '[data-total=notebook]')).toBe(
      'Notebook$0.031212.4k in3100 out'
    );
    expect(node.querySelector('[role=meter]')).toBeNull();
    expect(node.querySelectorAll('tr')).toHaveLength(1);
  });

  it('show how far a budget is used, for eyes and for screen readers', () => {
    const node = sums([
      budgetOf({ scope: 'notebook', capUsd: '5', usedUsd: '0.412' })
    ]);
    expect(textOf(node, '[data-budget=notebook]')).toBe('$0.4120 of $5.008 %');
    const bar = node.querySelector('[role=meter]')!;
    expect(bar.getAttribute('aria-label')).toBe('Budget: Notebook');
    expect(bar.getAttribute('aria-valuemin')).toBe('0');
    expect(bar.getAttribute('aria-valuemax')).toBe('100');
    expect(bar.getAttribute('aria-valuenow')).toBe('8');
    expect(bar.getAttribute('aria-valuetext')).toBe('8\u00a0%');
    expect(bar.querySelector<HTMLElement>('*')!.style.width).toBe('8.24%');
  });

  it.each([
    ['4', 'warning', '$4.00 of $5.0080 %⚠\ufe0e warning', '80'],
    ['5', 'used-up', '$5.00 of $5.00100 %⚠\ufe0e used up', '100'],
    ['6', 'used-up', '$6.00 of $5.00120 %⚠\ufe0e used up', '100']
  ])('say at %s of 5: %s', (usedUsd, level, text, now) => {
    const node = sums([budgetOf({ capUsd: '5', usedUsd })], null, totals);
    expect(textOf(node, '[data-budget=day]')).toBe(text);
    expect(textOf(node, '[role=status]')).toMatch(level.replace('-', ' '));
    const bar = node.querySelector('[role=meter]')!;
    expect(bar.closest('[data-level]')!.getAttribute('data-level')).toBe(level);
    expect(bar.getAttribute('aria-valuenow')).toBe(now);
  });

  it('show tokens', () => {
    const node = sums([
      budgetOf({ scope: 'notebook', capTokens: 50000, usedTokens: 12500 })
    ]);
    expect(textOf(node, '[data-budget=notebook]')).toBe(
      '12.5k of 50.0k tokens25 %'
    );
  });

  it('give a month a line of its own, and a run a small one', () => {
    const node = sums([
      budgetOf({ scope: 'month', capUsd: '20', usedUsd: '2.1' }),
      budgetOf({ scope: 'cell', capUsd: '0.05', capTokens: 2000 })
    ]);
    expect(textOf(node, '[data-budget=month]')).toBe(
      'Month$2.10 of $20.0010 %'
    );
    expect(textOf(node, '.tm-Note')).toBe(
      'each run up to $0.05 · asks above 2000 prompt tokens'
    );
  });

  it('show budgets before there are sums', () => {
    const node = sums([budgetOf({ capUsd: '5' })], null, null);
    expect(textOf(node, '[data-budget=day]')).toBe('Today$0 of $5.000 %');
  });

  it.each([
    [{}, '10 in4 out'],
    [{ input_known: false }, '— in4 out'],
    [{ output_known: false }, '10 in— out'],
    [{ input_known: false, output_known: false }, '— in— out']
  ])('show a count that is known of no run as unknown: %j', (said, shown) => {
    const told = { ...wire('totals').answer.groups[1], ...said };
    const node = sums([], parseTotals(told));
    expect(textOf(node, '[data-total=notebook]')).toBe(`Notebook—${shown}`);
    const input = node.querySelector('[data-field=input]')!;
    expect(input.getAttribute('data-value')).toBe(
      'input_known' in said ? '' : '10'
    );
  });

  it('are as sure as what they add up', () => {
    const shown = (change: Partial<Totals>) =>
      textOf(
        sums([], { ...totals, ...change }),
        '[data-total=notebook] [data-field=cost]'
      );
    expect(shown({})).toBe('$0.0312');
    expect(shown({ costEstimated: true })).toBe('~$0.0312');
    expect(shown({ costBound: 'at_most' })).toBe('≤$0.0312');
    expect(shown({ costEstimated: true, costBound: 'at_least' })).toBe(
      '~≥$0.0312'
    );
    expect(shown({ costUsd: null, costBound: 'at_least' })).toBe('—');
  });

  it('say once what has no price', () => {
    const unpriced = { ...totals, unpricedRuns: 2 };
    const without = sums([], unpriced);
    expect(textOf(without, '.tm-Note')).toBe(
      '2 runs have no price; set one with %price'
    );
    const capped = budgetOf({
      scope: 'notebook',
      capUsd: '5',
      usedUsd: '0.412',
      unpricedRuns: 2
    });
    const node = sums([capped], unpriced);
    expect(textOf(node, '[data-budget]')).toBe('≥$0.4120 of $5.008 %');
    expect(node.querySelectorAll('.tm-Note')).toHaveLength(1);
    expect(textOf(node, '.tm-Note')).toBe(
      '2 runs have no price and are not counted; set one with %price'
    );
  });

  it('count every run where the cap is in tokens', () => {
    const node = sums([budgetOf({ capTokens: 9000, unpricedRuns: 1 })]);
    expect(node.querySelector('.tm-Note')).toBeNull();
  });

  it('show what the wire brings', () => {
    const { totals, budgets } = snapshot({}, 'state');
    const node = sums(budgets, totals.notebook, totals.day);
    const lines = [...node.querySelectorAll('tr')].map(line =>
      line.textContent!.replace(/\u00a0/g, ' ')
    );
    expect(lines).toEqual([
      'Notebook—0 in0 out',
      '942 of 20.0k tokens4 %',
      'Today~≥$0.0011824 in118 out',
      '≥$0.0016 of $0.00280 %⚠\ufe0e warning',
      'Month≥$0.0016 of $5.00<1 %',
      'each run up to $0.05',
      '1 run has no price and is not counted; set one with %price'
    ]);
  });
});

describe('a row', () => {
  function line(change: object): HTMLElement {
    const row: Row = parseRow(wireRow(change));
    return show(<Rows rows={[rowOf(row)]} actions={ACTIONS} trans={trans} />);
  }

  it('says which budget stopped it', () => {
    const node = line({
      status: 'interrupted',
      finish_reason: 'budget',
      error: 'stopped at $0.05: a budget is used up (day $0.05)'
    });
    expect(textOf(node, '.tm-Note')).toBe(
      'stopped by a budget: stopped at $0.05: a budget is used up (day $0.05)'
    );
  });

  it('tells a stop by a budget from one by hand', () => {
    const node = line({ status: 'interrupted', finish_reason: 'stop' });
    expect(textOf(node, '.tm-Note')).toBe('interrupted');
  });

  it('says why it was refused', () => {
    const node = line({ status: 'refused', error: 'it does not fit' });
    expect(textOf(node, '.tm-Message')).toBe('refused: it does not fit');
    expect(node.querySelector('.tm-Note')).toBeNull();
  });

  it('from the cache says what was saved, in place of cost and latency', () => {
    const cached = { status: 'cached', cost_usd: '0', saved_usd: '0.0011' };
    const node = line(cached);
    expect(textOf(node, '.tm-Row')).toBe('▸↺341237saved $0.0011');
    expect(node.querySelector('.tm-Note')).toBeNull();
    expect(
      node.querySelector('[data-field=saved]')!.getAttribute('data-value')
    ).toBe('0.0011');
  });

  it('marks what was saved where that is not sure', () => {
    const cached = { status: 'cached', cost_usd: '0', saved_usd: '0.0011' };
    const unsure = { cost_source: 'estimated', cost_bound: 'at_least' };
    const node = line({ ...cached, ...unsure });
    expect(textOf(node, '[data-field=saved]')).toBe('saved ~≥$0.0011');
  });

  it('from the cache whose saving is unknown says where it is from', () => {
    const node = line({ status: 'cached', cost_usd: '0' });
    expect(textOf(node, '[data-field=cost]')).toBe('$0');
    expect(textOf(node, '.tm-Note')).toBe('from the cache');
  });

  it('shows what the same tokens would cost elsewhere', () => {
    const shadow = { shadow_usd: '0.0003', shadow_model: 'openai/gpt-5-mini' };
    const ended = line({ ...shadow, status: 'ok' });
    expect(textOf(ended, '.tm-Note')).toBe('openai/gpt-5-mini: $0.0003');
    const running = line({ ...shadow, output_source: 'estimated' });
    expect(textOf(running, '.tm-Note td')).toBe(
      'generating, up to 256 tokens · openai/gpt-5-mini: ~$0.0003■'
    );
    // Each of them may be so long, and all of them are counted.
    expect(textOf(line({ choices: 3 }), '.tm-Note td')).toContain(
      'generating, up to 768 tokens'
    );
  });

  it('in prefill says that it waits for its first token', () => {
    const note = textOf(
      line({ ttft_s: null, output_tokens: 0 }),
      '.tm-Note td'
    );
    expect(note).toBe('prefill: waiting for the first token■');
  });

  it('says of a cost at list price whose price that is', () => {
    const listed = {
      status: 'ok',
      list_price: 'list price: an L4, by the hour'
    };
    const title = (change: object, field: string) =>
      line(change)
        .querySelector(`[data-field=${field}]`)!
        .getAttribute('title');
    expect(title(listed, 'cost')).toBe('at list price: an L4, by the hour');
    expect(
      title({ ...listed, status: 'cached', saved_usd: '0.0011' }, 'saved')
    ).toBe('at list price: an L4, by the hour');
    expect(title({ status: 'ok' }, 'cost')).toBeNull();
  });

  it('waits for its turn at the model', () => {
    const waiting = { ttft_s: null, input_tokens: null, queued: true };
    expect(textOf(line(waiting), '.tm-Note td')).toBe(
      'waiting for its turn at the model■'
    );
  });

  it.each([
    ['0.0009', 'up', '+$0.0002 and +14 tokens against the run before'],
    ['0.0014', 'down', '−$0.0003 and +14 tokens against the run before'],
    ['0.00110', undefined, undefined],
    [null, undefined, undefined]
  ])('marks its change against a run of %s', (costUsd, direction, label) => {
    const row = parseRow(
      wireRow({ status: 'ok', cost_usd: '0.0011', output_tokens: 37 })
    );
    const before = {
      runId: 'before',
      cellId: 'c',
      inputTokens: row.inputTokens,
      outputTokens: 23,
      costUsd
    };
    const shown = (change: Partial<Row>) =>
      show(
        <Rows
          rows={[rowOf({ ...row, ...change }, { before })]}
          actions={ACTIONS}
          trans={trans}
        />
      ).querySelector('.tm-Change');
    expect(shown({})?.getAttribute('data-direction')).toBe(direction);
    expect(shown({})?.getAttribute('aria-label')).toBe(label);
    expect(shown({ status: 'running' })).toBeNull();
    // Where a count is not known, neither is the difference.
    for (const unknown of [{ inputTokens: null }, { outputTokens: null }]) {
      expect(shown(unknown)?.getAttribute('aria-label')).toBe(
        label?.replace('+14', '—')
      );
    }
  });

  it('says that its numbers are of an earlier text', () => {
    const row = parseRow(wireRow({ status: 'ok' }));
    const rows = (isOutdated: boolean) =>
      show(
        <Rows
          rows={[rowOf(row, { isOutdated })]}
          actions={ACTIONS}
          trans={trans}
        />
      );
    expect(textOf(rows(true), '.tm-Note')).toBe(
      'these numbers are of an earlier text'
    );
    expect(rows(true).querySelector('[data-outdated=true]')).not.toBeNull();
    expect(rows(false).querySelector('.tm-Note')).toBeNull();
    expect(rows(false).querySelector('[data-outdated]')).toBeNull();
  });

  it('shows no shadow price that is unknown', () => {
    const shadow = { shadow_usd: null, shadow_model: 'openai/gpt-5-mini' };
    const node = line({ ...shadow, status: 'ok' });
    expect(node.querySelector('.tm-Note')).toBeNull();
  });
});

describe('the draft', () => {
  function section(change: object = {}): HTMLElement {
    const draft = parseMessage({ ...wire('drafts')[1], ...change }) as Draft;
    return show(<DraftSection cell={{ label: '7', draft }} trans={trans} />);
  }

  const shown = (change: object, field: string) =>
    textOf(section(change), `[data-field=${field}]`);

  it('shows tokens, context and the span of its cost', () => {
    const node = section();
    expect(textOf(node, '.tm-Draft')).toBe(
      'Draft · cell 7412 in + up to 256 outcontext 5 %$0.0000618 – $0.000215' +
        'likely ~$0.0001 (95 %: $0.00008 – $0.00012)'
    );
    const draft = node.querySelector('section')!;
    expect(draft.getAttribute('aria-label')).toBe('Draft of cell 7');
    expect(
      node.querySelector('[data-field=input]')!.hasAttribute('title')
    ).toBe(false);
  });

  it('is said by a screen reader only after a pause', () => {
    const live = section().querySelectorAll('[role=status], [aria-live]');
    expect(live).toHaveLength(1);
    expect(live[0]!.textContent).toBe('');
  });

  it('marks an estimate and says why it is one', () => {
    const change = {
      input_source: 'estimated',
      cost_source: 'estimated',
      reason: 'why'
    };
    expect(shown(change, 'input')).toBe('~412 in');
    expect(shown(change, 'cost')).toBe('~$0.0000618 – ~$0.000215');
    const title = section(change).querySelector('[data-field=input]')!;
    expect(title.getAttribute('title')).toBe('why');
  });

  it('shows each token of a long prompt', () => {
    expect(shown({ input_tokens: 108031 }, 'input')).toBe('108,031 in');
  });

  it('shows what is unknown as unknown', () => {
    const unknown = { input_tokens: null, low_usd: null, high_usd: null };
    expect(shown(unknown, 'input')).toBe('— in');
    expect(shown(unknown, 'cost')).toBe('—');
    expect(shown({ context_tokens: null }, 'context')).toBe('');
    expect(shown({ max_output_tokens: null }, 'output')).toBeUndefined();
  });

  it('shows the input alone where the longest answer is unknown or costs nothing', () => {
    expect(shown({ high_usd: null }, 'cost')).toBe('$0.0000618');
    expect(shown({ low_usd: '0', high_usd: '0' }, 'cost')).toBe('$0');
  });

  it('shows a cost by the hour, and what an hour costs where no run told the speed', () => {
    const timed = wire('drafts')[4];
    const title = (change: object) =>
      section({ ...timed, ...change })
        .querySelector('[data-field=cost]')!
        .getAttribute('title');
    expect(shown(timed, 'cost')).toBe('~$0.0021');
    expect(title({})).toContain('at list price: 2 vCPU');
    const unknown = { high_usd: null };
    expect(shown({ ...timed, ...unknown }, 'cost')).toBe('$0.0800 an hour');
    expect(title(unknown)).toContain('at list price: 2 vCPU');
    expect(title({ list_price: null })).toContain('at the rate that was set');
  });

  it('warns of a prompt that is longer than the context', () => {
    const level = (input_tokens: number) =>
      section({ input_tokens })
        .querySelector('[data-field=context]')!
        .getAttribute('data-level');
    expect(level(8191)).toBe('ok');
    expect(level(8192)).toBe('used-up');
    expect(shown({ input_tokens: 16384 }, 'context')).toBe('context 200 %');
  });

  it('says that it is counting', () => {
    const { state, input_source } = wire('drafts')[0];
    expect(shown({ state, input_source }, 'input')).toBe('counting… ~412 in');
  });
});
