/**
 * Kernel ↔ model: attach, restart, switch, reload.
 *
 * Everything the kernel says is read from `iopubMessage`: after a page reload in mid-generation a comm
 * target hears nothing until the kernel is idle, but the messages themselves keep coming. The control
 * comm is for sending alone.
 */

import type { ISessionContext } from '@jupyterlab/apputils';
import type { Kernel, KernelMessage } from '@jupyterlab/services';
import type { IDisposable } from '@lumino/disposable';
import { Signal } from '@lumino/signaling';

import type { Drafts } from './drafts';
import type { Asker } from './inbox';
import { Inbox } from './inbox';
import type { Readings } from './model';
import type { ControlMessage } from './protocol';
import {
  CONTROL_TARGET,
  DATA_TARGET,
  answerTo,
  hello,
  isOurs,
  stop
} from './protocol';
import { sleep } from './sleep';

/** How long to wait for the comm's subshell, which never starts where subshells are disabled. */
const SUBSHELL_TIMEOUT_MS = 2000;
const SUBSHELL_POLL_MS = 20;

/** JupyterLab's comms run in a subshell of the kernel; its public type does not say so yet. */
interface ISubshellComm {
  readonly subshellStarted?: Promise<void>;
  readonly subshellId?: string | null;
  commsOverSubshells?: string;
}

export class Channel implements IDisposable {
  constructor(
    private readonly _context: ISessionContext,
    private readonly _readings: Readings,
    private readonly _drafts: Drafts,
    private readonly _widgets: boolean,
    private readonly _askers: readonly Asker[] = []
  ) {
    this._inbox = new Inbox(_readings, _askers, _drafts);
    _context.kernelChanged.connect(this._onKernelChanged, this);
    _context.statusChanged.connect(this._onStatus, this);
    _context.connectionStatusChanged.connect(this._onConnection, this);
    _context.propertyChanged.connect(this._onProperty, this);
    this._attach(_context.session?.kernel ?? null);
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  dispose(): void {
    if (this._disposed) {
      return;
    }
    this._disposed = true;
    this._detach();
    Signal.clearData(this);
  }

  /**
   * Stop a run. After a page reload in mid-generation the kernel hears no message until its cell ends, but an
   * interrupt it does.
   */
  stop(runId: string): void {
    if (this._heard) {
      this.send(stop(runId));
    } else {
      this._interrupt();
    }
  }

  /** Once for several runs that are stopped together: a second interrupt would not wait for the first one's end. */
  private _interrupt(): void {
    if (this._interrupted === null && this._kernel !== null) {
      this._interrupted = this._kernel
        .interrupt()
        .catch((error: unknown) => {
          console.error('tokmagic: the kernel was not interrupted', error);
        })
        .finally(() => {
          this._interrupted = null;
        });
    }
  }

  /** Ask the kernel something; false where nobody would hear it. */
  send(message: ControlMessage): boolean {
    if (this._comm === null || this._comm.isDisposed) {
      return false;
    }
    this._comm.send(message);
    return true;
  }

  private _attach(kernel: Kernel.IKernelConnection | null): void {
    this._detach();
    this._kernel = kernel;
    if (kernel === null) {
      this._readings.setConnection('no-kernel');
      return;
    }
    // A target that does nothing keeps JupyterLab from closing the kernel's comm as unwanted.
    kernel.registerCommTarget(DATA_TARGET, ignore);
    kernel.iopubMessage.connect(this._onMessage, this);
    void this._hello();
  }

  private _detach(): void {
    const kernel = this._kernel;
    this._kernel = null;
    this._process = '';
    this._forgetComm();
    if (kernel !== null && !kernel.isDisposed) {
      kernel.iopubMessage.disconnect(this._onMessage, this);
      kernel.removeCommTarget(DATA_TARGET, ignore);
    }
  }

  private _forgetComm(): void {
    const comm = this._comm;
    this._comm = null;
    this._heard = false;
    this._drafts.reset();
    this._askers.forEach(asker => asker.reset());
    if (comm !== null && !comm.isDisposed) {
      comm.dispose();
    }
  }

  /** Introduce the sidebar; the kernel answers with the whole notebook, or closes the comm. */
  private async _hello(): Promise<void> {
    const kernel = this._kernel;
    if (kernel === null || kernel.isDisposed || !kernel.handleComms) {
      return;
    }
    const message = hello(this._context.path, this._widgets);
    if (this._comm !== null && !this._comm.isDisposed) {
      this.send(message);
      return;
    }
    if (this._readings.connection !== 'ready') {
      this._readings.setConnection('connecting');
    }
    const comm = kernel.createComm(CONTROL_TARGET);
    this._comm = comm;
    await Promise.race([
      subshellStarted(comm, this._lostSubshell),
      sleep(SUBSHELL_TIMEOUT_MS)
    ]);
    if (this._comm !== comm || comm.isDisposed) {
      return;
    }
    this._subshell = (comm as ISubshellComm).subshellId ?? '';
    comm.open();
    this.send(message);
  }

  private _onMessage(
    _kernel: unknown,
    message: KernelMessage.IIOPubMessage
  ): void {
    this._notice(message.header.session);
    const content = message.content as {
      comm_id?: string;
      target_name?: string;
      data?: unknown;
      execution_state?: string;
    };
    const { parent_header: parent } = message;
    const own = content.comm_id === this._comm?.commId;
    switch (message.header.msg_type) {
      case 'comm_open':
        if (content.target_name === DATA_TARGET) {
          // The extension was just loaded in the kernel.
          this._dataComm = content.comm_id ?? '';
          this._forgetComm();
          void this._hello();
        }
        break;
      case 'comm_msg':
        if (isOurs(content.data)) {
          this._heard ||= own;
          if (!own && answerTo(content.data) === null) {
            this._dataComm = content.comm_id ?? '';
          }
          this._inbox.receive(content.data, own);
        }
        break;
      case 'status':
        if (
          content.execution_state === 'idle' &&
          parent !== undefined &&
          'msg_type' in parent &&
          parent.msg_type === 'execute_request'
        ) {
          this._drafts.refresh();
        }
        break;
      case 'comm_close':
        if (this._comm !== null && content.comm_id === this._comm.commId) {
          // Nobody answers this target: the extension is not loaded.
          this._comm = null;
          this._readings.setConnection('not-loaded');
        } else if (content.comm_id === this._dataComm) {
          // The extension was unloaded, or its process is ending.
          this._forgetComm();
          this._readings.interruptRunning();
          this._readings.setConnection('not-loaded');
        }
        break;
    }
  }

  /**
   * Each process of a kernel has a session id of its own. Somebody else's restart changes no status
   * here, and a killed kernel closes no comm: the new process' first message tells.
   */
  private _notice(process: string | undefined): void {
    const before = this._process;
    this._process = process ?? before;
    if (before !== '' && before !== this._process) {
      this._lostSubshell = this._subshell;
      this._forgetComm();
      this._readings.interruptRunning();
      this._readings.setConnection('connecting');
      void this._hello();
    }
  }

  private _onKernelChanged(
    _context: ISessionContext,
    change: { newValue: Kernel.IKernelConnection | null }
  ): void {
    this._readings.interruptRunning();
    this._attach(change.newValue);
  }

  private _onStatus(_context: ISessionContext, status: Kernel.Status): void {
    switch (status) {
      case 'restarting':
      case 'autorestarting':
      case 'terminating':
      case 'dead':
        this._gone = true;
        this._forgetComm();
        this._readings.interruptRunning();
        this._readings.setConnection(
          status === 'restarting' || status === 'autorestarting'
            ? 'connecting'
            : 'no-kernel'
        );
        break;
      case 'idle':
        if (this._gone) {
          this._gone = false;
          void this._hello();
        }
        break;
    }
  }

  private _onConnection(
    _context: ISessionContext,
    status: Kernel.ConnectionStatus
  ): void {
    if (status === 'connected') {
      if (this._readings.connection === 'disconnected') {
        this._forgetComm();
        void this._hello();
      }
    } else if (status === 'disconnected') {
      this._readings.setConnection('disconnected');
    }
  }

  private _onProperty(
    _context: ISessionContext,
    property: 'path' | 'name' | 'type'
  ): void {
    if (property === 'path') {
      void this._hello();
    }
  }

  private _comm: Kernel.IComm | null = null;
  private _disposed = false;
  private _interrupted: Promise<void> | null = null;
  /** Whether the kernel has answered on the comm, so that it hears what is sent there. */
  private _heard = false;
  private _gone = false;
  private readonly _inbox: Inbox;
  private _kernel: Kernel.IKernelConnection | null = null;
  /** The session id of the kernel's process, once it has said something. */
  private _process = '';
  /** The subshell that our latest comm ran in, and the one that went with an earlier process. */
  private _subshell = '';
  private _lostSubshell = '';
  /** The comm that the kernel pushes its snapshots on, once it is known. */
  private _dataComm = '';
}

/**
 * Wait until the comm has a subshell that is there.
 *
 * Before 4.5.5 JupyterLab gives a comm the subshell of its predecessor also when somebody else has
 * restarted the kernel, and nobody hears what is sent there. Asked for one of its own, it makes a new one.
 */
async function subshellStarted(
  comm: Kernel.IComm,
  lost: string
): Promise<void> {
  const shell = comm as ISubshellComm;
  await shell.subshellStarted?.catch(() => undefined);
  if (lost === '' || shell.subshellId !== lost) {
    return;
  }
  shell.commsOverSubshells = 'perComm';
  while (shell.subshellId === lost && !comm.isDisposed) {
    await sleep(SUBSHELL_POLL_MS);
  }
}

function ignore(): void {
  // The messages are read elsewhere.
}
