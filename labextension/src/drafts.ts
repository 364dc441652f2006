/**
 * The prompt that is being written: its text goes to the kernel change by change, one question at a time.
 *
 * The kernel keeps the text that it was told last, so a keystroke in a long cell stays a short message. No DOM.
 */

import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import type { ControlMessage, Draft, DraftEdit } from './protocol';
import { draft } from './protocol';

/** How long nothing is typed before a count that takes the whole text is asked for. */
const PAUSE_MS = 400;

/** A cell's text. */
export interface Written {
  readonly cellId: string;
  readonly text: string;
}

export class Drafts {
  /**
   * `read` gives the prompt that somebody is looking at, null where there is none; `send` says whether
   * there was a kernel to send to.
   */
  constructor(
    private readonly _read: () => Written | null,
    private readonly _send: (message: ControlMessage) => boolean
  ) {}

  /** Emitted when another answer is shown, or none any more. */
  get changed(): ISignal<Drafts, void> {
    return this._changed;
  }

  /** What the prompt that is being written would take. */
  get shown(): Draft | null {
    return this._shown;
  }

  /** Something may have been typed, or another cell is written now: looked at once in a frame. */
  touch(): void {
    clearTimeout(this._pause);
    if (this._shown?.costly) {
      this._pause = setTimeout(() => this._look(), PAUSE_MS);
    }
    if (this._frame === 0) {
      this._frame = requestAnimationFrame(() => {
        this._frame = 0;
        if (!this._isWaiting()) {
          this._look();
        }
      });
    }
  }

  /** The kernel may know more than when it answered: a variable, a price, a model that is loaded now. */
  refresh(): void {
    this._stale = true;
    this.touch();
  }

  /** The kernel's answer to one of our questions. */
  receive(answer: Draft): void {
    const told = this._told;
    if (answer.seq === this._asked) {
      this._asked = null;
    }
    if (told === null || answer.seq !== told.seq) {
      return;
    }
    if (answer.state === 'lost') {
      if (told.base === null) {
        this.refuse();
        return;
      }
      this._told = null;
    } else {
      this._show(answer);
    }
    this.touch();
  }

  /** The kernel does not know what a draft is; it is asked no more. */
  refuse(): void {
    this._refused = true;
    this._forget();
  }

  /** Another process, or another way to it: it was told nothing yet. */
  reset(): void {
    this._refused = false;
    this._forget();
    this.touch();
  }

  dispose(): void {
    clearTimeout(this._pause);
    cancelAnimationFrame(this._frame);
    this._refused = true;
    Signal.clearData(this);
  }

  /** Whether the text is being typed whose every count is a long one. */
  private _isWaiting(): boolean {
    const shown = this._shown;
    return shown?.costly === true && this._read()?.cellId === shown.cellId;
  }

  private _look(): void {
    const written = this._refused ? null : this._read();
    if (this._shown !== null && this._shown.cellId !== written?.cellId) {
      this._show(null);
    }
    // The newest text is asked about as soon as the last answer has come.
    if (written === null || this._asked !== null) {
      return;
    }
    const { cellId, text } = written;
    const before = this._told?.cellId === cellId ? this._told : null;
    const answered = this._shown !== null && !this._stale;
    if (before?.text === text && answered) {
      return;
    }
    const seq = ++this._seq;
    const base = before?.seq ?? null;
    const change = difference(before?.text ?? '', text);
    if (this._send(draft({ cell_id: cellId, seq, base, ...change }))) {
      this._told = { cellId, text, seq, base };
      this._asked = seq;
      this._stale = false;
    }
  }

  private _show(answer: Draft | null): void {
    this._shown = answer;
    this._changed.emit();
  }

  private _forget(): void {
    this._told = null;
    this._asked = null;
    if (this._shown !== null) {
      this._show(null);
    }
  }

  private _asked: number | null = null;
  private readonly _changed = new Signal<Drafts, void>(this);
  private _frame = 0;
  private _pause: ReturnType<typeof setTimeout> | undefined;
  private _refused = false;
  private _seq = 0;
  private _shown: Draft | null = null;
  private _stale = false;
  /** The text that the kernel knows, and by which questions. */
  private _told: (Written & { seq: number; base: number | null }) | null = null;
}

/** The change that turns one text into another, in UTF-16 code units; it parts no character. */
export function difference(
  before: string,
  after: string
): Pick<DraftEdit, 'offset' | 'deleted' | 'text'> {
  const shorter = Math.min(before.length, after.length);
  let offset = 0;
  while (
    offset < shorter &&
    before.charCodeAt(offset) === after.charCodeAt(offset)
  ) {
    offset++;
  }
  if (isHigh(before.charCodeAt(offset - 1))) {
    offset--;
  }
  let same = 0;
  while (
    same < shorter - offset &&
    before.charCodeAt(before.length - 1 - same) ===
      after.charCodeAt(after.length - 1 - same)
  ) {
    same++;
  }
  if (isLow(after.charCodeAt(after.length - same))) {
    same--;
  }
  return {
    offset,
    deleted: before.length - same - offset,
    text: after.slice(offset, after.length - same)
  };
}

function isHigh(unit: number): boolean {
  return unit >= 0xd800 && unit < 0xdc00;
}

function isLow(unit: number): boolean {
  return unit >= 0xdc00 && unit < 0xe000;
}
