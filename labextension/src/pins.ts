/** The cells whose rows a person keeps above the others: remembered by the workspace, not in the notebook's file. */

import type { IStateDB } from '@jupyterlab/statedb';
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

const KEY = 'tokmagic:pins';

/** What is asked of a document's context. */
interface IPath {
  readonly path: string;
  readonly pathChanged: ISignal<unknown, string>;
}

export class Pins implements IDisposable {
  constructor(
    private readonly _document: IPath,
    private readonly _state: IStateDB | null
  ) {
    this._path = _document.path;
    _document.pathChanged.connect(this._onPath, this);
    void this._fetch();
  }

  /** Emitted when a row was pinned or let go. */
  get changed(): ISignal<Pins, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  /** Another number whenever another row is pinned. */
  get version(): number {
    return this._version;
  }

  has(cellId: string): boolean {
    return this._cells.has(cellId);
  }

  toggle(cellId: string): void {
    if (!this._cells.delete(cellId)) {
      this._cells.add(cellId);
    }
    this._version++;
    this._save();
    this._changed.emit();
  }

  dispose(): void {
    this._disposed = true;
    this._document.pathChanged.disconnect(this._onPath, this);
    Signal.clearData(this);
  }

  private async _fetch(): Promise<void> {
    const kept = await this._state
      ?.fetch(`${KEY}:${this._path}`)
      .catch(() => undefined);
    if (!this._disposed && Array.isArray(kept)) {
      kept.forEach(cellId => this._cells.add(String(cellId)));
      this._version++;
      this._changed.emit();
    }
  }

  private _save(): void {
    const key = `${KEY}:${this._path}`;
    void (this._cells.size > 0
      ? this._state?.save(key, [...this._cells])
      : this._state?.remove(key));
  }

  /** The notebook was renamed: what is pinned in it goes along. */
  private _onPath(_sender: unknown, path: string): void {
    void this._state?.remove(`${KEY}:${this._path}`);
    this._path = path;
    if (this._cells.size > 0) {
      this._save();
    }
  }

  private readonly _cells = new Set<string>();
  private readonly _changed = new Signal<Pins, void>(this);
  private _disposed = false;
  private _path: string;
  private _version = 0;
}
