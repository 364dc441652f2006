/** The rows that are open: what was asked of the kernel about them, and what it answered. No DOM. */

import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import type { Detail } from './detail';
import { askDetail, parseDetail } from './detail';
import type { ControlMessage, Row } from './protocol';

/** How the answer about an open row stands. */
export type Telling = 'asked' | 'told' | 'no-kernel' | 'unknown' | 'failed';

/** An open row. Replaced, never changed, so that what is drawn of it can be compared. */
export interface Opened {
  readonly detail: Detail | null;
  /** `unknown`: the kernel's tokmagic is older, and knows of no such question. */
  readonly telling: Telling;
  /** The run that a person chose; null is the latest. */
  readonly runId: string | null;
  /** Why the kernel could not answer, where it `failed`. */
  readonly why?: string;
}

interface Asked {
  readonly seq: number;
  /** The run that the row showed, and how it stood, when it was asked. */
  readonly of: string;
}

export class Details {
  readonly type = 'detail';

  /** `send` says whether there was a kernel to send to. */
  constructor(private readonly _send: (message: ControlMessage) => boolean) {}

  /** Emitted when a row was opened or shut, or an answer came. */
  get changed(): ISignal<Details, void> {
    return this._changed;
  }

  /** Another number whenever something else is known of a row, or another one is open. */
  get version(): number {
    return this._version;
  }

  /** What is known of an open row; null where it is shut. */
  of(cellId: string): Opened | null {
    return this._opened.get(cellId) ?? null;
  }

  toggle(cellId: string, row: Row | undefined): void {
    if (this._opened.delete(cellId)) {
      this._version++;
      this._asked.delete(cellId);
    } else {
      this._ask(cellId, null, row);
    }
    this._changed.emit();
  }

  /** Show another run of an open cell. */
  choose(cellId: string, runId: string, row: Row | undefined): void {
    if (this._opened.has(cellId)) {
      this._ask(cellId, runId, row);
      this._changed.emit();
    }
  }

  /** Rows may have changed: what is open is asked about again where its cell ran, or where nobody answered. */
  follow(row: (cellId: string) => Row | undefined): void {
    for (const cellId of this._opened.keys()) {
      const now = row(cellId);
      if (this._asked.get(cellId)?.of !== standing(now)) {
        if (this._ask(cellId, null, now)) {
          this._changed.emit();
        }
      }
    }
  }

  /** The kernel's answer to one of our questions. Raises ProtocolError. */
  receive(data: unknown): void {
    const detail = parseDetail(data);
    const { cellId, seq } = detail;
    const opened = this._opened.get(cellId);
    if (opened !== undefined && this._asked.get(cellId)?.seq === seq) {
      this._put(cellId, { ...opened, detail, telling: 'told' });
      this._changed.emit();
    }
  }

  /** The kernel does not know the question, or its answer cannot be read. */
  refuse(): void {
    this._end({ telling: 'unknown' });
  }

  /** The kernel could not answer; it is asked again when the cell runs, or its row is opened anew. */
  fail(why: string): void {
    this._end({ telling: 'failed', why });
  }

  /** Another process, or another way to it: what it told stays, and what is asked next is new. */
  reset(): void {
    for (const [cellId, opened] of this._opened) {
      this._asked.delete(cellId);
      this._put(cellId, { ...opened, telling: 'no-kernel' });
    }
  }

  private _end(how: Pick<Opened, 'telling' | 'why'>): void {
    for (const [cellId, opened] of this._opened) {
      if (opened.telling === 'asked') {
        this._put(cellId, { ...opened, ...how });
      }
    }
    this._changed.emit();
  }

  private _put(cellId: string, opened: Opened): void {
    this._opened.set(cellId, opened);
    this._version++;
  }

  private _ask(cellId: string, runId: string | null, row?: Row): boolean {
    if (row != null && row.comparison !== null) {
      // Its row tells all of it.
      this._asked.set(cellId, { seq: 0, of: standing(row) });
      this._put(cellId, { detail: null, telling: 'told', runId: null });
      return true;
    }
    const seq = ++this._seq;
    const isSent = this._send(askDetail(cellId, seq, runId));
    if (isSent) {
      this._asked.set(cellId, { seq, of: standing(row) });
    }
    const detail = this._opened.get(cellId)?.detail ?? null;
    const telling = isSent ? 'asked' : 'no-kernel';
    this._put(cellId, { detail, telling, runId });
    return isSent;
  }

  private readonly _asked = new Map<string, Asked>();
  private readonly _changed = new Signal<Details, void>(this);
  private readonly _opened = new Map<string, Opened>();
  private _seq = 0;
  private _version = 0;
}

function standing(row: Row | undefined): string {
  return row === undefined ? '' : `${row.runId} ${row.status}`;
}
