import { beforeEach, describe, expect, it } from 'vitest';

import { Readings } from '../src/model';
import { parseRow } from '../src/protocol';
import { rowOf, snapshot, wire, wireRow } from './fixtures';

const CELL = '3a7c1f0e-95f8-4d3b-a8a3-2c1d9e7b6f50';

let readings: Readings;
let changes: number;

function take(seq: number, row: object = {}, more: object = {}): void {
  readings.apply(snapshot({ seq, rows: [wireRow(row)], ...more }));
}

beforeEach(() => {
  readings = new Readings();
  changes = 0;
  readings.changed.connect(() => {
    changes++;
  });
});

describe('snapshots', () => {
  it('are kept by cell', () => {
    readings.apply(snapshot());
    expect(readings.connection).toBe('ready');
    expect(readings.row(CELL)).toEqual(rowOf(snapshot()));
    expect(readings.model?.name).toBe('smollm2');
    expect(readings.notebookTotals?.costUsd).toBe('0.0000521');
    expect(readings.dayTotals?.runs).toBe(31);
    expect(readings.running).toHaveLength(1);
    expect(changes).toBe(1);
  });

  it('keep the object of a row that no message touched', () => {
    readings.apply(snapshot({}, 'state'));
    const before = readings.row('c-ok');
    take(13);
    expect(readings.row('c-ok')).toBe(before);
  });

  it('tell what a run is compared with, as does a run that another one follows', () => {
    readings.apply(snapshot({}, 'state'));
    expect(readings.before('c-ok')).toMatchObject({
      runId: 'a0',
      costUsd: '0.0009'
    });
    expect(readings.before(CELL)).toBeNull();
    take(13, { run_id: 'r1', status: 'ok', started_at: '2026-11-25T09:00' });
    take(14, {
      run_id: 'r2',
      status: 'running',
      started_at: '2026-11-25T09:01'
    });
    expect(readings.before(CELL)?.runId).toBe('r1');
    take(15, {
      run_id: 'r2',
      status: 'failed',
      started_at: '2026-11-25T09:01'
    });
    take(16, { run_id: 'r3', status: 'ok', started_at: '2026-11-25T09:02' });
    expect(readings.before(CELL)?.runId, 'the last complete one').toBe('r1');
  });

  it('bring the budgets, the latest ones alone', () => {
    expect(readings.budgets).toEqual([]);
    readings.apply(snapshot({}, 'state'));
    expect(readings.budgets.map(budget => budget.scope)).toEqual([
      'cell',
      'notebook',
      'day',
      'month'
    ]);
    take(2, {}, { budgets: [] });
    expect(readings.budgets).toEqual([]);
  });

  it('that were overtaken change nothing', () => {
    const budgets = wire('state').budgets;
    take(13, { output_tokens: 50 }, { budgets });
    take(12, { output_tokens: 37 }, { model: null, budgets: [] });
    expect(readings.row(CELL)?.outputTokens).toBe(50);
    expect(readings.budgets).toHaveLength(4);
    expect(readings.model).not.toBeNull();
  });

  it('never bring an ended run back', () => {
    take(13, { status: 'ok', output_tokens: 60 });
    take(14, { output_tokens: 37 });
    expect(readings.row(CELL)?.status).toBe('ok');
  });

  it('of a later run replace the earlier one, not the reverse', () => {
    take(12, { run_id: 'late', started_at: '2026-11-24T10:00:00.000000Z' });
    take(13, { run_id: 'early', started_at: '2026-11-24T09:00:00.000000Z' });
    expect(readings.row(CELL)?.runId).toBe('late');
    take(14, { run_id: 'later', started_at: '2026-11-24T11:00:00.000000Z' });
    expect(readings.row(CELL)?.runId).toBe('later');
  });

  it('of a run without a cell have no row', () => {
    take(12, { cell_id: null });
    expect(readings.running).toEqual([]);
  });
});

describe('another kernel process', () => {
  it('ends what ran in the one before it, and counts anew', () => {
    take(40);
    take(1, { run_id: 'new', cell_id: 'other' }, { session: 'second' });
    expect(readings.row(CELL)?.status).toBe('interrupted');
    expect(readings.row('other')?.status).toBe('running');
    take(
      2,
      { run_id: 'new', cell_id: 'other', output_tokens: 99 },
      { session: 'second' }
    );
    expect(readings.row('other')?.outputTokens).toBe(99);
  });
});

describe('interruptRunning', () => {
  it('interrupts what runs and leaves what ended', () => {
    readings.apply(snapshot({}, 'state'));
    take(13);
    readings.interruptRunning();
    expect(readings.row(CELL)).toMatchObject({
      status: 'interrupted',
      outputTokens: 37
    });
    expect(readings.row('c-ok')?.status).toBe('ok');
  });

  it('is taken back by news that the run is alive', () => {
    take(13);
    readings.interruptRunning();
    take(14, { output_tokens: 70 });
    expect(readings.row(CELL)).toMatchObject({
      status: 'running',
      outputTokens: 70
    });
  });
});

describe('seed', () => {
  it('shows what the notebook kept, until the kernel knows better', () => {
    readings.seed([parseRow(wireRow({ status: 'ok', output_tokens: 5 }))]);
    expect(readings.row(CELL)?.outputTokens).toBe(5);
    take(1, { run_id: 'new', started_at: '2026-11-25T09:00:00.000000Z' });
    expect(readings.row(CELL)?.runId).toBe('new');
  });

  it('does not show a saved run as running', () => {
    readings.seed([parseRow(wireRow())]);
    expect(readings.row(CELL)?.status).toBe('interrupted');
  });

  it('does not replace what the kernel said', () => {
    take(12);
    readings.seed([parseRow(wireRow({ output_tokens: 5 }))]);
    expect(readings.row(CELL)?.outputTokens).toBe(37);
  });
});

describe('connection', () => {
  it('says so once, and forgets the model with the kernel', () => {
    readings.apply(snapshot());
    readings.setConnection('no-kernel');
    readings.setConnection('no-kernel');
    expect(changes).toBe(2);
    expect(readings.model).toBeNull();
    expect(readings.row(CELL)).toBeDefined();
  });

  it('keeps an error until the next snapshot', () => {
    readings.apply({ type: 'error', message: 'no ledger' });
    expect(readings.error).toBe('no ledger');
    readings.apply(snapshot());
    expect(readings.error).toBeNull();
  });
});
