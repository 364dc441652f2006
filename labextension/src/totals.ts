/** What a notebook's ended runs add up to by cell, model or day: asked of the kernel while that is shown. No DOM. */

import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import { list, number, object, textOrNull, word } from './fields';
import type { ControlMessage, Totals } from './protocol';
import { VERSION, parseTotals, versioned } from './protocol';

export const GROUPINGS = ['cell', 'model', 'day'] as const;

export type Grouping = (typeof GROUPINGS)[number];

/** One group; a cell's key is its id, null what ran in no cell. */
export interface Group {
  readonly key: string | null;
  readonly totals: Totals;
}

export class GroupedTotals {
  readonly type = 'totals';

  constructor(private readonly _send: (message: ControlMessage) => boolean) {}

  /** Emitted when they were opened, shut or told. */
  get changed(): ISignal<GroupedTotals, void> {
    return this._changed;
  }

  /** By what they are shown; null where they are not. */
  get by(): Grouping | null {
    return this._by;
  }

  /** Null until the kernel has told, and where there is none to ask. */
  get groups(): readonly Group[] | null {
    return this._groups;
  }

  show(by: Grouping | null): void {
    this._by = by;
    this._groups = null;
    this._ask();
    this._changed.emit();
  }

  /** The notebook's sum is another one now: what is shown is asked for again. */
  follow(totals: Totals | null): void {
    const now = totals === null ? '' : `${totals.runs} ${totals.costUsd}`;
    if (now !== this._of) {
      this._of = now;
      this._ask();
    }
  }

  /** The kernel's answer. Raises ProtocolError. */
  receive(data: unknown): void {
    const message = versioned(data, 'totals');
    const groups = list(message.groups, 'groups').map(group => ({
      key: textOrNull(object(group, 'group'), 'key'),
      totals: parseTotals(group)
    }));
    const by = word(message, 'by', GROUPINGS);
    if (by === this._by && number(message, 'seq') === this._seq) {
      this._groups = groups;
      this._changed.emit();
    }
  }

  /** The kernel does not know the question: nothing is shown. */
  refuse(): void {
    this._by = null;
    this._changed.emit();
  }

  reset(): void {
    this._of = '';
  }

  private _ask(): void {
    if (this._by !== null) {
      const seq = ++this._seq;
      this._send({ v: VERSION, type: 'totals', seq, by: this._by });
    }
  }

  private _by: Grouping | null = null;
  private readonly _changed = new Signal<GroupedTotals, void>(this);
  private _groups: readonly Group[] | null = null;
  private _of = '';
  private _seq = 0;
}
