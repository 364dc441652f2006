import { describe, expect, it } from 'vitest';

import {
  ProtocolError,
  hello,
  isOurs,
  parseMessage,
  parseRow,
  stop
} from '../src/protocol';
import type { Draft } from '../src/protocol';
import { budgetOf, snapshot, wire, wireRow } from './fixtures';

describe('parseMessage', () => {
  it('reads a snapshot in mid-stream', () => {
    const message = snapshot();
    expect(message).toMatchObject({
      type: 'snapshot',
      complete: false,
      seq: 12,
      model: { name: 'smollm2', device: 'cpu', state: 'ready', progress: null },
      totals: {
        notebook: { costUsd: '0.0000521', runs: 1, unpricedRuns: 0 },
        day: { costUsd: '0.4120521', inputTokens: 12412 }
      }
    });
    expect(message.rows).toEqual([
      {
        runId: '01930f5e8c7a4b0f8f1d2a3b4c5d6e7f',
        cellId: '3a7c1f0e-95f8-4d3b-a8a3-2c1d9e7b6f50',
        status: 'running',
        model: 'smollm2',
        startedAt: '2026-11-24T09:15:02.120000Z',
        inputTokens: 412,
        inputSource: 'measured',
        outputTokens: 37,
        outputSource: 'measured',
        costUsd: '0.0000521',
        costSource: 'measured',
        costBound: 'exact',
        savedUsd: null,
        shadowUsd: null,
        shadowModel: null,
        listPrice: null,
        ttftS: 0.204,
        itlMeanS: 0.0111,
        latencyS: 0.6036,
        sparkMs: [11.0, 11.2, 11.1, 11.1],
        maxTokens: 256,
        choices: 1,
        finishReason: null,
        error: null,
        isQueued: false,
        sourceSha256: null,
        comparison: null,
        executionCount: null
      }
    ]);
  });

  it('reads under which number the notebook shows a run', () => {
    expect(parseRow(wire('output_metadata')).executionCount).toBe(3);
  });

  it('reads every state a row can be in', () => {
    const statuses = snapshot({}, 'state').rows.map(row => row.status);
    expect(statuses).toEqual([
      'ok',
      'interrupted',
      'ok',
      'cached',
      'refused',
      'failed',
      'interrupted'
    ]);
  });

  it('reads budgets in USD and in tokens', () => {
    expect(snapshot({}, 'state').budgets).toEqual([
      budgetOf({ scope: 'cell', capUsd: '0.05' }),
      budgetOf({
        scope: 'notebook',
        capTokens: 20000,
        usedTokens: 942,
        unpricedRuns: 1
      }),
      budgetOf({
        scope: 'day',
        capUsd: '0.002',
        usedUsd: '0.0016',
        usedTokens: 1454,
        unpricedRuns: 1
      }),
      budgetOf({
        scope: 'month',
        capUsd: '5',
        usedUsd: '0.0016',
        usedTokens: 1454,
        warnAt: 0.5,
        unpricedRuns: 1
      })
    ]);
  });

  it('reads how sure a sum is', () => {
    expect(snapshot({}, 'state').totals).toMatchObject({
      notebook: { costEstimated: false, costBound: 'at_least' },
      day: { costEstimated: true, costBound: 'at_least' }
    });
  });

  it('reads sums of a kernel that does not tell how sure they are', () => {
    const earlier = (unpriced_runs: number) => ({
      ...wire('streaming').totals.day,
      unpriced_runs,
      cost_estimated: undefined
    });
    const [notebook, day] = [earlier(0), earlier(2)];
    delete notebook.cost_bound;
    delete day.cost_bound;
    expect(snapshot({ totals: { notebook, day } }).totals).toMatchObject({
      notebook: { costEstimated: false, costBound: 'exact' },
      day: { costEstimated: false, costBound: 'at_least' }
    });
  });

  it('reads a kernel that knows no budgets', () => {
    expect(snapshot({ budgets: undefined }).budgets).toEqual([]);
    expect(snapshot({}, 'empty').budgets).toEqual([]);
  });

  it.each([null, 'budgets', 7, {}])('takes %j for no budgets', budgets => {
    expect(snapshot({ budgets }).budgets).toEqual([]);
  });

  it.each([
    ['text', 'budget'],
    ['null', null],
    ['an unknown scope', { scope: 'week' }],
    ['no cap', { cap_usd: null, cap_tokens: null }],
    ['a cap of nothing', { cap_usd: '0.00' }],
    ['a cap below nothing', { cap_usd: '-5' }],
    ['a cap that is a float', { cap_usd: 5 }],
    ['a cap that is no decimal', { cap_usd: '5 USD' }],
    ['a cap that is missing', { cap_usd: undefined }],
    ['no tokens allowed', { cap_usd: null, cap_tokens: 0 }],
    ['tokens as text', { cap_tokens: '5000' }],
    ['a use that is unknown', { used_usd: null }],
    ['a use below nothing', { used_usd: '-0.1' }],
    ['used tokens that are missing', { used_tokens: undefined }],
    ['used tokens below nothing', { used_tokens: -1 }],
    ['a warning beyond the cap', { warn_at: 1.5 }],
    ['a warning as text', { warn_at: '80 %' }],
    ['uncounted runs that are missing', { unpriced_runs: undefined }]
  ])('leaves a budget with %s out, and keeps the others', (_what, change) => {
    const sound = wire('state').budgets[2];
    const broken =
      typeof change === 'object' && change ? { ...sound, ...change } : change;
    const message = snapshot({ budgets: [broken, sound] });
    expect(message.budgets).toEqual(snapshot({ budgets: [sound] }).budgets);
    expect(message.budgets).toHaveLength(1);
  });

  it('reads a shadow price', () => {
    const shadow = { shadow_usd: '0.0003', shadow_model: 'openai/gpt-5-mini' };
    expect(parseRow(wireRow(shadow))).toMatchObject({
      shadowUsd: '0.0003',
      shadowModel: 'openai/gpt-5-mini'
    });
  });

  it('reads a row of the time before shadow and list prices', () => {
    const old = { ...wireRow() };
    delete old.shadow_usd;
    delete old.shadow_model;
    delete old.list_price;
    expect(parseRow(old)).toMatchObject({
      shadowUsd: null,
      shadowModel: null,
      listPrice: null
    });
  });

  it('reads a kernel that knows nothing yet', () => {
    const message = snapshot({}, 'empty');
    expect(message.model).toBeNull();
    expect(message.totals).toEqual({ notebook: null, day: null });
    expect(message.rows).toEqual([]);
  });

  it('reads an error', () => {
    expect(parseMessage(wire('error'))).toEqual({
      type: 'error',
      message: 'the ledger cannot be opened',
      to: null
    });
  });

  it('keeps money as the digits it came with', () => {
    const cost = '123456789012345678.000000000001';
    expect(parseRow(wireRow({ cost_usd: cost })).costUsd).toBe(cost);
  });

  it.each([
    ['another version', { v: 2 }],
    ['an unknown type', { type: 'delta' }],
    ['no rows', { rows: undefined }],
    ['a row that is text', { rows: ['row'] }],
    ['a sequence number that is text', { seq: '12' }],
    ['totals that are missing', { totals: undefined }],
    ['an unknown status', { rows: [wireRow({ status: 'done' })] }],
    ['a count that is text', { rows: [wireRow({ output_tokens: '37' })] }],
    ['a cost that is a float', { rows: [wireRow({ cost_usd: 0.1 })] }],
    ['a cost that is no decimal', { rows: [wireRow({ cost_usd: 'NaN' })] }],
    ['a field that is missing', { rows: [wireRow({ ttft_s: undefined })] }],
    ['a spark of text', { rows: [wireRow({ spark_ms: ['1'] })] }],
    ['a shadow price that is a float', { rows: [wireRow({ shadow_usd: 0.1 })] }]
  ])('refuses %s', (_what, change) => {
    expect(() => snapshot(change)).toThrow(ProtocolError);
  });

  it.each([null, 7, 'text', [], undefined])('refuses %j', data => {
    expect(() => parseMessage(data)).toThrow(ProtocolError);
  });
});

describe('isOurs', () => {
  it('knows our messages from those of other extensions', () => {
    expect(isOurs(wire('streaming'))).toBe(true);
    expect(isOurs(wire('error'))).toBe(true);
    expect(isOurs({ method: 'update', state: {} })).toBe(false);
    expect(isOurs({ v: 1, type: 'other' })).toBe(false);
    expect(isOurs(null)).toBe(false);
  });

  it('knows a message of a later version, so that it can be complained of', () => {
    expect(isOurs({ ...wire('streaming'), v: 2 })).toBe(true);
  });
});

describe('control messages', () => {
  it('are the ones that the kernel is tested with', () => {
    expect([hello('notebooks/01_quickstart.ipynb', true), stop('a1')]).toEqual(
      wire('control').slice(0, 2)
    );
  });
});

describe('output metadata', () => {
  it('is a row', () => {
    const row = parseRow(wire('output_metadata'));
    expect(row).toMatchObject({
      runId: 'a1',
      cellId: 'c-ok',
      status: 'ok',
      costUsd: '0.0011',
      shadowUsd: '0.0003',
      shadowModel: 'openai/gpt-5-mini'
    });
  });
});

describe('drafts on the wire', () => {
  const drafts = wire('drafts').map(parseMessage) as Draft[];

  it('read as the fixture has them', () => {
    expect(drafts.map(draft => draft.state)).toEqual([
      'counting',
      'counted',
      'counted',
      'lost',
      'counted'
    ]);
    expect(drafts[4]).toMatchObject({
      lowUsd: null,
      highUsd: '0.0021',
      costSource: 'estimated',
      deviceHourUsd: '0.08',
      listPrice: 'list price: 2 vCPU, a cloud by the hour'
    });
    expect(drafts[1]).toEqual({
      type: 'draft',
      cellId: 'c-draft',
      seq: 2,
      state: 'counted',
      model: 'smollm2',
      inputTokens: 412,
      inputSource: 'counted',
      maxOutputTokens: 256,
      contextTokens: 8192,
      lowUsd: '0.0000618',
      highUsd: '0.0002154',
      costSource: 'counted',
      deviceHourUsd: null,
      listPrice: null,
      likely: {
        usd: '0.0001',
        low: '0.00008',
        high: '0.00012',
        runs: 4,
        predicted: true,
        edited: false
      },
      reason: null,
      costly: false
    });
    expect(drafts[2]?.reason).toMatch(/only a run/);
  });

  it.each([
    { state: 'dancing' },
    { seq: '1' },
    { input_tokens: '412' },
    { low_usd: 0.1 },
    { reason: 1 }
  ])('with %j are none', change => {
    const data = { ...wire('drafts')[1], ...change };
    expect(() => parseMessage(data)).toThrow(ProtocolError);
  });

  it('are ours', () => {
    expect(wire('drafts').every(isOurs)).toBe(true);
  });
});
