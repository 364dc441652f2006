/** Kernel ↔ panel in an output: a widget's own messages, which are the sidebar's. No DOM. */

import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import type { CellRow } from './cells';
import { Details } from './details';
import { UNKNOWN } from './format';
import { Inbox } from './inbox';
import { Readings } from './model';
import type { ControlMessage, Row } from './protocol';
import { answerTo, hello, isOurs, stop } from './protocol';
import { GroupedTotals } from './totals';

/** How long a kernel may take to say that it heard a stop. */
const HEARD_MS = 2000;

/** How long nothing may be heard of a run: a kernel tells of one every second. */
const SILENT_MS = 10_000;

/** What anywidget gives a view of its model. */
export interface WidgetModel {
  get(name: string): unknown;
  send(content: unknown): void;
  on(event: string, callback: (message: unknown) => void): void;
  off(event: string, callback: (message: unknown) => void): void;
}

export class Link {
  readonly readings = new Readings();
  readonly details = new Details(message => this._send(message));
  readonly totals = new GroupedTotals(message => this._send(message));

  constructor(private readonly _model: WidgetModel) {
    this.readings.changed.connect(() => this._follow());
    this.details.changed.connect(() => this._changed.emit());
    this.totals.changed.connect(() => this._changed.emit());
    _model.on('msg:custom', this._onMessage);
    _model.on('comm_live_update', this._onLive);
    const first = _model.get('first');
    if (isOurs(first)) {
      this._inbox.receive(first, true);
    }
    this._hello();
    this._await();
  }

  /** Emitted after every change. */
  get changed(): ISignal<Link, void> {
    return this._changed;
  }

  /** Whether cells may begin with a magic. */
  get hasMagics(): boolean {
    return this._model.get('magics') === true;
  }

  /** Whether a stop was asked for that the kernel does not hear while its cell runs. */
  get isUnheard(): boolean {
    return this._isUnheard;
  }

  /**
   * The latest run of each cell, pinned ones first, in the order in which they began: a widget does not know which
   * cells the notebook has, nor what they say.
   */
  rows(): CellRow[] {
    return this.readings.rows
      .map(row => this._cellRow(row))
      .sort((a, b) => place(a).localeCompare(place(b)));
  }

  /** The number that the notebook shows for a cell. */
  label(cellId: string): string {
    const count = this.readings.row(cellId)?.executionCount ?? null;
    return count === null ? UNKNOWN : String(count);
  }

  stop(runId: string): void {
    if (!this._send(stop(runId))) {
      return;
    }
    // A hello is answered; a stop is not, and a run that was stopped may take a while to end.
    this._hello();
    clearTimeout(this._patience);
    this._patience = setTimeout(() => this._setUnheard(true), HEARD_MS);
  }

  /** Open a cell's row, or shut it. */
  toggle(cellId: string): void {
    this.details.toggle(cellId, this.readings.row(cellId));
  }

  /** Show another run of a cell whose row is open. */
  choose(cellId: string, runId: string): void {
    this.details.choose(cellId, runId, this.readings.row(cellId));
  }

  pin(cellId: string): void {
    if (!this._pins.delete(cellId)) {
      this._pins.add(cellId);
    }
    this._changed.emit();
  }

  /** Say goodbye: nobody looks here any more. */
  readonly close = (): void => {
    if (!this._isClosed) {
      this._isClosed = true;
      this._send({ type: 'goodbye' });
      clearTimeout(this._patience);
      clearTimeout(this._silence);
      this._model.off('msg:custom', this._onMessage);
      this._model.off('comm_live_update', this._onLive);
      Signal.clearData(this);
    }
  };

  private _hello(): void {
    // Widgets are rendered here: this is one.
    this._send(hello(null, true));
  }

  private _cellRow(row: Row): CellRow {
    const cellId = row.cellId ?? row.runId;
    return {
      cellId,
      label: this.label(cellId),
      row,
      isOutdated: false,
      before: this.readings.before(cellId),
      isPinned: this._pins.has(cellId),
      opened: this.details.of(cellId)
    };
  }

  private readonly _onMessage = (data: unknown): void => {
    if (!isOurs(data)) {
      return;
    }
    const { page } = data as { page?: unknown };
    const own = page === this._page;
    if (own) {
      clearTimeout(this._patience);
      this._setUnheard(false);
    }
    // What another page on this notebook was told of its own questions.
    if (own || answerTo(data) === null) {
      this._inbox.receive(data, own);
      this._await();
    }
  };

  /** The kernel went away, or came back. */
  private readonly _onLive = (): void => {
    this._lose();
    this._hello();
  };

  /** Nobody hears this panel any more, as far as is known, and nothing runs that it shows. */
  private _lose(): void {
    if (this._isClosed || this.readings.connection === 'disconnected') {
      return;
    }
    clearTimeout(this._patience);
    clearTimeout(this._silence);
    this._isUnheard = false;
    this.readings.setConnection('disconnected');
    this.details.reset();
    this.totals.reset();
    this.readings.interruptRunning();
  }

  /** While something runs, ask after each silence: VS Code tells no widget that its kernel was started anew. */
  private _await(): void {
    clearTimeout(this._silence);
    if (this.readings.running.length > 0) {
      this._silence = setTimeout(() => {
        this._hello();
        this._await();
      }, SILENT_MS);
    }
  }

  private _follow(): void {
    if (this.readings.connection === 'ready') {
      this.details.follow(cellId => this.readings.row(cellId));
      if (this.readings.running.length === 0) {
        this.totals.follow(this.readings.notebookTotals);
        this._isUnheard = false;
      }
    }
    this._changed.emit();
  }

  private _setUnheard(isUnheard: boolean): void {
    if (isUnheard !== this._isUnheard) {
      this._isUnheard = isUnheard;
      this._changed.emit();
    }
  }

  private _send(message: ControlMessage | { type: 'goodbye' }): boolean {
    try {
      this._model.send({ ...message, page: this._page });
      return !this._isClosed;
    } catch {
      // The widget's comm is closed.
      this._lose();
      return false;
    }
  }

  private readonly _changed = new Signal<Link, void>(this);
  private readonly _inbox = new Inbox(this.readings, [
    this.details,
    this.totals
  ]);
  private _isClosed = false;
  private _isUnheard = false;
  /** Which of the pages this is that are open on the notebook. */
  private readonly _page = Math.random().toString(36).slice(2);
  private _patience: ReturnType<typeof setTimeout> | undefined;
  private _silence: ReturnType<typeof setTimeout> | undefined;
  private readonly _pins = new Set<string>();
}

/** Pinned rows first, then by the beginning of their runs. */
function place(row: CellRow): string {
  return `${row.isPinned ? 0 : 1} ${row.row.startedAt}`;
}
