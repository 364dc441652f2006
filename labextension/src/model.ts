/** What is known of one notebook's runs: readings by cell, totals, the model, the connection. No DOM. */

import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import { tellsLess } from './comparison';
import type {
  Before,
  Budget,
  KernelError,
  ModelState,
  Row,
  Snapshot,
  Totals
} from './protocol';

/** How the sidebar stands to the kernel. */
export type Connection =
  'no-kernel' | 'connecting' | 'not-loaded' | 'ready' | 'disconnected';

export class Readings {
  /** Emitted after every change. */
  get changed(): ISignal<Readings, void> {
    return this._changed;
  }

  get connection(): Connection {
    return this._connection;
  }

  get model(): ModelState | null {
    return this._model;
  }

  get notebookTotals(): Totals | null {
    return this._notebookTotals;
  }

  get dayTotals(): Totals | null {
    return this._dayTotals;
  }

  /** How the budgets stand that hold here; several may be of one scope. */
  get budgets(): readonly Budget[] {
    return this._budgets;
  }

  /** What the kernel last complained of. */
  get error(): string | null {
    return this._error;
  }

  /** The latest run of a cell. */
  row(cellId: string): Row | undefined {
    return this._rows.get(cellId);
  }

  /** The last complete run of a cell before the one that its row shows. */
  before(cellId: string): Before | null {
    return this._before.get(cellId) ?? null;
  }

  /** The latest run of each cell. */
  get rows(): Row[] {
    return [...this._rows.values()];
  }

  /** The runs under way. */
  get running(): Row[] {
    return [...this._running.values()];
  }

  /** The cells of which something else is known than when this was asked the last time. */
  takeTouched(): ReadonlySet<string> {
    const touched = this._touched;
    this._touched = new Set();
    return touched;
  }

  setConnection(connection: Connection): void {
    if (connection !== this._connection) {
      this._connection = connection;
      if (connection === 'no-kernel' || connection === 'not-loaded') {
        this._model = null;
      }
      this._changed.emit();
    }
  }

  /** Take a message of the kernel in. */
  apply(message: Snapshot | KernelError): void {
    this._connection = 'ready';
    if (message.type === 'error') {
      this._error = message.message;
    } else {
      this._applySnapshot(message);
    }
    this._changed.emit();
  }

  /** Rows found in the notebook's outputs: shown until the kernel knows better. */
  seed(rows: readonly Row[]): void {
    for (const row of rows) {
      if (row.cellId !== null && !this._rows.has(row.cellId)) {
        this._put(row.cellId, settled(row));
      }
    }
    this._changed.emit();
  }

  /** A row of a run that ended, now that its cell is known. */
  place(row: Row): void {
    if (row.cellId !== null) {
      this._put(row.cellId, settled(row));
      this._changed.emit();
    }
  }

  /** The kernel went away: nothing runs any more, and what ended stays. */
  interruptRunning(): void {
    for (const [cellId, row] of this._rows) {
      this._put(cellId, settled(row));
    }
    this._seqs.clear();
    this._changed.emit();
  }

  private _applySnapshot(snapshot: Snapshot): void {
    this._error = null;
    if (snapshot.session !== this._session) {
      // Another kernel process: runs of the one before it cannot be under way.
      for (const [cellId, row] of this._rows) {
        this._put(cellId, settled(row));
      }
      this._session = snapshot.session;
      this._seqs.clear();
      this._seq = -1;
    }
    for (const row of snapshot.rows) {
      this._merge(row, snapshot.seq);
    }
    for (const run of snapshot.previous) {
      if (run.cellId !== null && run.runId !== this.row(run.cellId)?.runId) {
        this._putBefore(run.cellId, run);
      }
    }
    // Replies and pushed snapshots travel on different paths and may overtake each other.
    if (snapshot.seq > this._seq) {
      this._seq = snapshot.seq;
      this._model = snapshot.model;
      this._notebookTotals = snapshot.totals.notebook;
      this._dayTotals = snapshot.totals.day;
      this._budgets = snapshot.budgets;
    }
  }

  private _merge(row: Row, seq: number): void {
    if (row.cellId === null) {
      return;
    }
    const known = this._rows.get(row.cellId);
    if (known !== undefined) {
      const sameRun = known.runId === row.runId;
      const stale = sameRun && seq < (this._seqs.get(row.runId) ?? -1);
      const revived =
        sameRun && known.status !== 'running' && row.status === 'running';
      const older = !sameRun && known.startedAt > row.startedAt;
      // A run seen as interrupted at a disconnect may well be alive: fresh news of it wins.
      const reallyAlive = revived && !this._seqs.has(row.runId);
      if (
        stale ||
        older ||
        (revived && !reallyAlive) ||
        tellsLess(row, known)
      ) {
        return;
      }
    }
    if (known !== undefined && known.runId !== row.runId) {
      this._seqs.delete(known.runId);
      if (known.status === 'ok') {
        this._putBefore(row.cellId, known);
      }
    }
    this._put(row.cellId, row);
    this._seqs.set(row.runId, seq);
  }

  private _put(cellId: string, row: Row): void {
    this._rows.set(cellId, row);
    if (row.status === 'running') {
      this._running.set(cellId, row);
    } else {
      this._running.delete(cellId);
    }
    this._touched.add(cellId);
  }

  private _putBefore(cellId: string, run: Before): void {
    this._before.set(cellId, run);
    this._touched.add(cellId);
  }

  private readonly _changed = new Signal<Readings, void>(this);
  private readonly _rows = new Map<string, Row>();
  /** Those of them that run. */
  private readonly _running = new Map<string, Row>();
  private _touched = new Set<string>();
  private readonly _seqs = new Map<string, number>();
  private readonly _before = new Map<string, Before>();
  private _budgets: readonly Budget[] = [];
  private _connection: Connection = 'no-kernel';
  private _dayTotals: Totals | null = null;
  private _error: string | null = null;
  private _model: ModelState | null = null;
  private _notebookTotals: Totals | null = null;
  private _seq = -1;
  private _session = '';
}

function settled(row: Row): Row {
  return row.status === 'running'
    ? { ...row, status: 'interrupted', finishReason: 'interrupted' }
    : row;
}
