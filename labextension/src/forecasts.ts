/** What *Run All* will cost: how the question about a notebook's prompt cells stands, and what was told. No DOM. */

import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import type { Forecast, PromptCell } from './forecast';
import { askForecast, parseForecast } from './forecast';
import type { ControlMessage } from './protocol';

/** How the question stands. */
export type Asking = 'asked' | 'told' | 'no-kernel' | 'unknown';

export class Forecasts {
  readonly type = 'forecast';

  /**
   * `read` gives the notebook's prompt cells in their order, and those whose code `ran` prompts, by default until now;
   * `send` says whether there was a kernel to send to.
   */
  constructor(
    private readonly _read: (
      ran?: (cellId: string) => boolean
    ) => readonly PromptCell[],
    private readonly _send: (message: ControlMessage) => boolean
  ) {}

  /** Emitted when a forecast was asked for, told or closed. */
  get changed(): ISignal<Forecasts, void> {
    return this._changed;
  }

  /** Null where no forecast is shown. */
  get asking(): Asking | null {
    return this._asking;
  }

  get told(): Forecast | null {
    return this._told;
  }

  /** Whether a cell was changed, added, moved or removed since it was asked. */
  get isOutdated(): boolean {
    // That code ran prompts meanwhile changes no cell.
    const known = new Set(this._asked.map(({ id }) => id));
    const now = this._read(cellId => known.has(cellId));
    return (
      now.length !== this._asked.length ||
      now.some(({ id, source }, place) => {
        const asked = this._asked[place]!;
        return id !== asked.id || source !== asked.source;
      })
    );
  }

  ask(): void {
    this._asked = this._read();
    this._seq++;
    this._told = null;
    const isSent = this._send(askForecast(this._seq, this._asked));
    this._show(isSent ? 'asked' : 'no-kernel');
  }

  close(): void {
    this._told = null;
    this._show(null);
  }

  /** The kernel's answer. Raises ProtocolError. */
  receive(data: unknown): void {
    const forecast = parseForecast(data);
    if (forecast.seq === this._seq && this._asking !== null) {
      this._told = forecast;
      this._show('told');
    }
  }

  refuse(): void {
    if (this._asking !== null) {
      this._show('unknown');
    }
  }

  reset(): void {
    if (this._asking === 'asked') {
      this._show('no-kernel');
    }
  }

  private _show(asking: Asking | null): void {
    this._asking = asking;
    this._changed.emit();
  }

  private _asked: readonly PromptCell[] = [];
  private _asking: Asking | null = null;
  private readonly _changed = new Signal<Forecasts, void>(this);
  private _seq = 0;
  private _told: Forecast | null = null;
}
