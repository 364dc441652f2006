import { beforeEach, describe, expect, it } from 'vitest';

import { parseDetail } from '../src/detail';
import { Details } from '../src/details';
import { ProtocolError, parseRow } from '../src/protocol';
import { wire, wireRow } from './fixtures';

const [full, empty] = wire('detail').answers;

describe('the answer about an opened row', () => {
  it('is parsed as the kernel writes it', () => {
    const detail = parseDetail(full);
    expect(detail.runs.map(run => run.runId)).toEqual(['a1', 'a2']);
    expect(detail.more).toBe(true);
    expect(detail.run?.messages?.[1]?.text).toContain("O'Hara");
    expect(detail.run?.parts).toEqual([
      ['system', 5],
      ['user', 9],
      ['template overhead', 12]
    ]);
    expect(detail.run?.answer?.pieces[0]).toEqual({ text: 'Hi', value: null });
    expect(detail.run?.changes?.prompt).toEqual([
      ['-', 'Say hi.'],
      ['+', 'Say "hi".']
    ]);
    expect(detail.run?.missing).toEqual({ curl: 'server' });
    expect(parseDetail(empty).run).toBeNull();
  });

  it('of a newer kernel is read as far as it is known', () => {
    const run = { ...full.run, missing: { curl: 'moon', parts: 'texts' } };
    expect(parseDetail({ ...full, run }).run?.missing).toEqual({
      parts: 'texts'
    });
  });

  it.each([
    ['another version', { v: 2 }],
    ['no list of runs', { runs: {} }],
    ['a run without a status', { runs: [{ ...full.runs[0], status: null }] }],
    [
      'a cost that is no decimal',
      { runs: [{ ...full.runs[0], cost_usd: 'x' }] }
    ],
    [
      'a piece that is no pair',
      { run: { ...full.run, answer: { pieces: [['a']], logprobs: [] } } }
    ],
    ['a part without tokens', { run: { ...full.run, parts: [['a', 'b']] } }]
  ])('is refused with %s', (_what, change) => {
    expect(() => parseDetail({ ...full, ...change })).toThrow(ProtocolError);
  });
});

describe('open rows', () => {
  let sent: any[];
  let isHeard: boolean;
  let details: Details;
  let emitted: number;
  const row = parseRow(wireRow({ run_id: 'a2', status: 'ok' }));
  const answer = (change: object = {}) => ({
    ...full,
    seq: sent.at(-1).seq,
    ...change
  });

  beforeEach(() => {
    [sent, isHeard, emitted] = [[], true, 0];
    details = new Details(message => {
      if (isHeard) {
        sent.push(message);
      }
      return isHeard;
    });
    details.changed.connect(() => void emitted++);
  });

  it('ask when they are opened, and not before', () => {
    details.follow(() => row);
    expect(sent).toEqual([]);
    details.toggle('c', row);
    expect(sent).toEqual([{ ...wire('detail').request, seq: 1 }]);
    expect(details.of('c')).toMatchObject({ telling: 'asked', detail: null });
    details.receive(answer());
    expect(details.of('c')?.telling).toBe('told');
    expect(details.of('c')?.detail?.runs).toHaveLength(2);
    details.toggle('c', row);
    expect(details.of('c')).toBeNull();
  });

  it('say why the kernel could not answer, and ask no more by themselves', () => {
    details.toggle('c', row);
    details.fail('the ledger is gone');
    const failed = { telling: 'failed', why: 'the ledger is gone' };
    expect(details.of('c')).toMatchObject(failed);
    details.follow(() => row);
    expect(sent).toHaveLength(1);
    details.choose('c', 'a1', row);
    details.receive(answer());
    expect(details.of('c')).toMatchObject({ telling: 'told' });
    details.fail('of another row');
    expect(details.of('c')?.telling).toBe('told');
  });

  it('ask again when their cell ran, and only then', () => {
    details.toggle('c', row);
    details.receive(answer());
    details.follow(() => row);
    details.follow(() => row);
    expect(sent).toHaveLength(1);
    const next = { ...row, runId: 'a3', status: 'running' as const };
    details.follow(() => next);
    details.follow(() => ({ ...next, status: 'ok' as const }));
    expect(sent.map(it => it.seq)).toEqual([1, 2, 3]);
    expect(
      details.of('c')?.detail,
      'what was told stays meanwhile'
    ).not.toBeNull();
  });

  it('leave alone what answers an earlier question, or one about a row that was shut', () => {
    details.toggle('c', row);
    details.choose('c', 'a1', row);
    expect(sent[1]).toMatchObject({ run_id: 'a1', seq: 2 });
    details.receive(answer({ seq: 1 }));
    expect(details.of('c')?.detail).toBeNull();
    details.receive(answer({ seq: 2, cell_id: 'other' }));
    expect(details.of('other')).toBeNull();
    details.receive(answer());
    expect(details.of('c')?.detail).not.toBeNull();
  });

  it('say that there is no kernel, and ask as soon as there is one', () => {
    isHeard = false;
    details.toggle('c', row);
    expect(details.of('c')?.telling).toBe('no-kernel');
    const before = emitted;
    details.follow(() => row);
    expect(emitted, 'nothing changed').toBe(before);
    isHeard = true;
    details.follow(() => row);
    expect(details.of('c')?.telling).toBe('asked');
  });

  it('keep what they were told when the kernel goes away', () => {
    details.toggle('c', row);
    details.receive(answer());
    details.reset();
    expect(details.of('c')).toMatchObject({ telling: 'no-kernel' });
    expect(details.of('c')?.detail).not.toBeNull();
    details.follow(() => row);
    expect(sent).toHaveLength(2);
  });

  it('say that an older kernel knows no such question', () => {
    details.toggle('c', row);
    details.refuse();
    expect(details.of('c')?.telling).toBe('unknown');
  });
});
