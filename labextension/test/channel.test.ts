// @vitest-environment jsdom

import { Signal } from '@lumino/signaling';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { Channel } from '../src/channel';
import type { Written } from '../src/drafts';
import { Drafts } from '../src/drafts';
import { Readings } from '../src/model';
import { ProtocolError } from '../src/protocol';
import { wire } from './fixtures';

/** A comm as the sidebar opens it: what was sent is kept. */
class FakeComm {
  readonly subshellStarted: Promise<void>;
  readonly sent: unknown[] = [];
  isDisposed = false;
  opened = false;
  /** The subshell that it was opened in. */
  openedIn = '';

  constructor(
    readonly commId: string,
    started: Promise<void>,
    public subshellId: string
  ) {
    this.subshellStarted = started;
  }

  set commsOverSubshells(mode: string) {
    setTimeout(() => (this.subshellId = `${mode} of ${this.commId}`), 5);
  }

  open(): void {
    this.openedIn = this.subshellId;
    this.opened = true;
  }

  send(data: unknown): void {
    this.sent.push(data);
  }

  dispose(): void {
    this.isDisposed = true;
  }
}

class FakeKernel {
  readonly iopubMessage = new Signal<this, any>(this);
  readonly targets = new Map<string, unknown>();
  readonly comms: FakeComm[] = [];
  handleComms = true;
  isDisposed = false;
  interrupts = 0;
  subshell = Promise.resolve();
  /** The one that JupyterLab gives the next comm, where that is none of its own. */
  kept: string | null = null;

  registerCommTarget(name: string, callback: unknown): void {
    this.targets.set(name, callback);
  }

  removeCommTarget(name: string): void {
    this.targets.delete(name);
  }

  createComm(_target: string): FakeComm {
    const id = `comm-${this.comms.length}`;
    const comm = new FakeComm(id, this.subshell, this.kept ?? `of ${id}`);
    this.comms.push(comm);
    return comm;
  }

  async interrupt(): Promise<void> {
    this.interrupts += 1;
  }

  says(msg_type: string, content: object, session?: string): void {
    this.iopubMessage.emit({ header: { msg_type, session }, content });
  }

  get lastComm(): FakeComm {
    return this.comms.at(-1)!;
  }
}

class FakeContext {
  readonly kernelChanged = new Signal<this, any>(this);
  readonly statusChanged = new Signal<this, any>(this);
  readonly connectionStatusChanged = new Signal<this, any>(this);
  readonly propertyChanged = new Signal<this, any>(this);
  path = 'a.ipynb';

  constructor(public session: { kernel: FakeKernel | null } | null) {}
}

/** Let promises that are already settled be seen. */
const settle = () => new Promise(resolve => setTimeout(resolve, 0));
const HELLO = { v: 1, type: 'hello', path: 'a.ipynb', widgets: true };

let kernel: FakeKernel;
let context: FakeContext;
let readings: Readings;
let written: Written | null;
let drafts: Drafts;
let channel: Channel;

const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
const quiet = () =>
  new Drafts(
    () => null,
    () => false
  );

beforeEach(async () => {
  kernel = new FakeKernel();
  context = new FakeContext({ kernel });
  readings = new Readings();
  written = null;
  drafts = new Drafts(
    () => written,
    message => channel.send(message)
  );
  channel = new Channel(context as any, readings, drafts, true);
  await settle();
});

afterEach(() => drafts.dispose());

describe('what is asked beside the drafts', () => {
  const told: string[] = [];
  const asker = {
    type: 'detail',
    receive: (data: any) => {
      if (data.seq < 0) {
        throw new ProtocolError('seq is below 0');
      }
      told.push(`told ${data.seq}`);
    },
    refuse: () => void told.push('refused'),
    fail: (why: string) => void told.push(`failed: ${why}`),
    reset: () => void told.push('reset')
  };
  const detail = (seq: number) => ({ v: 1, type: 'detail', seq });
  const error = (type: string) => ({
    v: 1,
    type: 'error',
    message: `this kernel's tokmagic does not know '${type}'; reload the page`
  });

  beforeEach(async () => {
    channel.dispose();
    channel = new Channel(context as any, readings, drafts, true, [asker]);
    await settle();
    told.length = 0;
  });

  it('is answered on our own comm alone', () => {
    kernel.says('comm_msg', { comm_id: 'another page', data: detail(1) });
    expect(told).toEqual([]);
    kernel.says('comm_msg', {
      comm_id: kernel.lastComm.commId,
      data: detail(2)
    });
    expect(told).toEqual(['told 2']);
    expect(readings.error).toBeNull();
  });

  it('is refused where the kernel does not know it, or its answer cannot be read', () => {
    const own = kernel.lastComm.commId;
    kernel.says('comm_msg', { comm_id: own, data: error('detail') });
    kernel.says('comm_msg', { comm_id: own, data: detail(-1) });
    expect(told).toEqual(['refused', 'refused']);
    expect(readings.error).toBeNull();
    kernel.says('comm_msg', { comm_id: own, data: error('hello') });
    expect(readings.error).toContain('hello');
  });

  it('fails where the kernel says so on our own comm', () => {
    const failed = { ...wire('error'), to: 'detail' };
    kernel.says('comm_msg', { comm_id: 'another page', data: failed });
    const own = kernel.lastComm.commId;
    kernel.says('comm_msg', { comm_id: own, data: { ...failed, to: 'moon' } });
    expect(told).toEqual([]);
    kernel.says('comm_msg', { comm_id: own, data: failed });
    expect(told).toEqual(['failed: the ledger cannot be opened']);
    expect(readings.error).toBe('the ledger cannot be opened');
  });

  it('starts anew with another process', () => {
    context.statusChanged.emit('restarting');
    expect(told).toEqual(['reset']);
  });
});

describe('attaching', () => {
  it('says hello with the notebook path on its own comm', () => {
    expect(readings.connection).toBe('connecting');
    expect(kernel.lastComm.opened).toBe(true);
    expect(kernel.lastComm.sent).toEqual([HELLO]);
    expect([...kernel.targets.keys()]).toEqual(['tokmagic.data']);
  });

  it('reads what the kernel says, whichever comm it comes on', () => {
    kernel.says('comm_msg', { comm_id: 'x', data: wire('streaming') });
    expect(readings.connection).toBe('ready');
    expect(readings.running).toHaveLength(1);
  });

  it('leaves the messages of others alone', () => {
    kernel.says('comm_msg', { comm_id: 'x', data: { method: 'update' } });
    kernel.says('stream', { name: 'stdout', text: 'hi' });
    expect(readings.connection).toBe('connecting');
  });

  it('complains of a kernel that speaks another version', () => {
    const data = { ...wire('streaming'), v: 2 };
    kernel.says('comm_msg', { comm_id: 'x', data });
    expect(readings.error).toMatch(/another version.*upgrade/);
  });

  it('knows a kernel where the extension is not loaded, and hears when it is', async () => {
    kernel.says('comm_close', { comm_id: kernel.lastComm.commId });
    expect(readings.connection).toBe('not-loaded');
    kernel.says('comm_open', { comm_id: 'd', target_name: 'tokmagic.data' });
    await settle();
    expect(kernel.comms).toHaveLength(2);
    expect(kernel.lastComm.sent).toEqual([HELLO]);
  });

  it('waits for the comm to have its subshell', async () => {
    const slow = new FakeKernel();
    let started = () => undefined as void;
    slow.subshell = new Promise(resolve => (started = resolve));
    new Channel(
      new FakeContext({ kernel: slow }) as any,
      new Readings(),
      quiet(),
      true
    );
    await settle();
    expect(slow.lastComm.opened).toBe(false);
    started();
    await settle();
    expect(slow.lastComm.opened).toBe(true);
  });

  it('shows that there is no kernel', () => {
    const alone = new Readings();
    new Channel(new FakeContext(null) as any, alone, quiet(), true);
    expect(alone.connection).toBe('no-kernel');
  });
});

describe('what happens to kernels', () => {
  beforeEach(() => {
    kernel.says('comm_msg', { comm_id: 'x', data: wire('streaming') });
  });

  it('restart: what ran is interrupted, and a new hello goes out', async () => {
    context.statusChanged.emit('restarting');
    expect(readings.running).toEqual([]);
    expect(readings.connection).toBe('connecting');
    context.statusChanged.emit('starting');
    context.statusChanged.emit('idle');
    await settle();
    expect(kernel.comms).toHaveLength(2);
    expect(kernel.lastComm.sent).toEqual([HELLO]);
  });

  it('death: the rows stay, and nothing runs', () => {
    context.statusChanged.emit('dead');
    expect(readings.connection).toBe('no-kernel');
    expect(readings.running).toEqual([]);
  });

  it('an ordinary idle brings no hello', async () => {
    context.statusChanged.emit('busy');
    context.statusChanged.emit('idle');
    await settle();
    expect(kernel.comms).toHaveLength(1);
    expect(kernel.lastComm.sent).toHaveLength(1);
  });

  it('end of the extension: nothing runs, and it can be loaded again', () => {
    kernel.says('comm_close', { comm_id: 'x' });
    expect(readings.connection).toBe('not-loaded');
    expect(readings.running).toEqual([]);
  });

  it('an answer on our own comm is not taken for the data comm', () => {
    const ours = kernel.lastComm.commId;
    kernel.says('comm_msg', { comm_id: ours, data: wire('empty') });
    kernel.says('comm_close', { comm_id: 'x' });
    expect(readings.connection).toBe('not-loaded');
  });

  it('the end of another comm means nothing', () => {
    kernel.says('comm_close', { comm_id: 'y' });
    expect(readings.connection).toBe('ready');
  });

  it('switch: the old kernel is left, the new one greeted', async () => {
    const next = new FakeKernel();
    context.session = { kernel: next };
    context.kernelChanged.emit({ oldValue: kernel, newValue: next });
    await settle();
    expect(next.lastComm.sent).toEqual([HELLO]);
    expect(kernel.targets.size).toBe(0);
    kernel.says('comm_msg', { comm_id: 'x', data: wire('error') });
    expect(readings.error).toBeNull();
  });

  it('rename: the kernel is told on the comm that is open', async () => {
    context.path = 'b.ipynb';
    context.propertyChanged.emit('path');
    await settle();
    expect(kernel.comms).toHaveLength(1);
    expect(kernel.lastComm.sent.at(-1)).toEqual({ ...HELLO, path: 'b.ipynb' });
  });

  it('a lost connection: says so, and greets anew when it is back', async () => {
    context.connectionStatusChanged.emit('disconnected');
    expect(readings.connection).toBe('disconnected');
    expect(readings.running).toHaveLength(1);
    context.connectionStatusChanged.emit('connected');
    await settle();
    expect(kernel.comms).toHaveLength(2);
  });
});

describe('asking', () => {
  it('interrupts a kernel that has not heard it yet, once for all that runs', async () => {
    kernel.says('comm_msg', { comm_id: 'x', data: wire('streaming') });
    channel.stop('a1');
    channel.stop('b2');
    expect(kernel.interrupts).toBe(1);
    expect(kernel.lastComm.sent).toEqual([HELLO]);
    await settle();
    channel.stop('a1');
    expect(kernel.interrupts).toBe(2);
  });

  it('stops a run', () => {
    const comm_id = kernel.lastComm.commId;
    kernel.says('comm_msg', { comm_id, data: wire('streaming') });
    channel.stop('a1');
    expect(kernel.interrupts).toBe(0);
    expect(kernel.lastComm.sent.at(-1)).toEqual({
      v: 1,
      type: 'stop',
      run_id: 'a1'
    });
  });

  it('nothing after the end', () => {
    channel.dispose();
    channel.dispose();
    expect(kernel.lastComm.isDisposed).toBe(true);
    kernel.says('comm_msg', { comm_id: 'x', data: wire('streaming') });
    expect(readings.running).toEqual([]);
  });
});

describe('drafts', () => {
  const asked = () =>
    kernel.comms
      .flatMap(comm => comm.sent)
      .filter((it: any) => it.type === 'draft');

  beforeEach(async () => {
    kernel.says('comm_msg', { comm_id: 'x', data: wire('state') });
    written = { cellId: 'c-draft', text: '%%generate\nHi' };
    drafts.touch();
    await frame();
  });

  function answers(comm_id: string, change: object = {}): void {
    const data = { ...wire('drafts')[1], seq: 1, ...change };
    kernel.says('comm_msg', { comm_id, data });
  }

  it('are asked for and answered on our own comm', () => {
    expect(asked()).toHaveLength(1);
    answers(kernel.lastComm.commId);
    expect(drafts.shown?.inputTokens).toBe(412);
  });

  it('of another page are not taken for ours, nor its comm for the data comm', () => {
    answers('comm of another page');
    expect(drafts.shown).toBeNull();
    kernel.says('comm_close', { comm_id: 'comm of another page' });
    expect(readings.connection).toBe('ready');
  });

  it('of an older kernel: none, and no complaint', async () => {
    const message =
      "this kernel's tokmagic does not know 'draft'; reload the page";
    kernel.says('comm_msg', {
      comm_id: kernel.lastComm.commId,
      data: { ...wire('error'), message }
    });
    drafts.refresh();
    await frame();
    expect(readings.error).toBeNull();
    expect(drafts.shown).toBeNull();
    expect(asked()).toHaveLength(1);
  });

  it('that cannot be read: none, and no complaint', () => {
    answers(kernel.lastComm.commId, { state: 'dancing' });
    expect(readings.error).toBeNull();
    expect(drafts.shown).toBeNull();
  });

  it('are counted anew when a cell has run, and only then', async () => {
    answers(kernel.lastComm.commId);
    const says = (msg_type: string) =>
      kernel.iopubMessage.emit({
        header: { msg_type: 'status' },
        parent_header: { msg_type },
        content: { execution_state: 'idle' }
      });
    says('comm_msg');
    await frame();
    expect(asked()).toHaveLength(1);
    says('execute_request');
    await frame();
    expect(asked()).toHaveLength(2);
  });

  it('begin anew with another process', async () => {
    answers(kernel.lastComm.commId);
    context.statusChanged.emit('restarting');
    expect(drafts.shown).toBeNull();
    context.statusChanged.emit('idle');
    await settle();
    await frame();
    await frame();
    expect(asked().at(-1)).toMatchObject({ base: null, seq: 2 });
  });
});

describe('a restart that nobody told of', () => {
  it('shows in the first message of the new process', async () => {
    kernel.says('status', { execution_state: 'busy' }, 'process-1');
    kernel.says(
      'comm_msg',
      { comm_id: 'x', data: wire('streaming') },
      'process-1'
    );
    expect(readings.connection).toBe('ready');
    expect(readings.running).toHaveLength(1);
    const before = kernel.lastComm;

    kernel.says('status', { execution_state: 'starting' }, 'process-2');
    await settle();
    expect(readings.running).toHaveLength(0);
    expect(readings.connection).toBe('connecting');
    expect(kernel.lastComm).not.toBe(before);
    expect(kernel.lastComm.sent).toEqual([HELLO]);

    kernel.says('comm_close', { comm_id: kernel.lastComm.commId }, 'process-2');
    expect(readings.connection).toBe('not-loaded');
    expect(kernel.comms).toHaveLength(2);
  });

  it('leads to a subshell of the new process where JupyterLab kept that of the old one', async () => {
    const before = kernel.lastComm;
    kernel.kept = before.subshellId;
    kernel.says('status', { execution_state: 'idle' }, 'process-1');
    kernel.says('comm_close', { comm_id: before.commId }, 'process-1');
    kernel.says('status', { execution_state: 'starting' }, 'process-2');
    await vi.waitFor(() => expect(kernel.lastComm.opened).toBe(true));
    expect(kernel.lastComm.openedIn).toBe('perComm of comm-1');
    expect(kernel.lastComm.sent).toEqual([HELLO]);
  });
});
