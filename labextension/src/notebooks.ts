/** The readings of every open notebook, and which notebook is in front. */

import type { CodeCell } from '@jupyterlab/cells';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import { Channel } from './channel';
import { Readings } from './model';
import type { Row } from './protocol';
import { ProtocolError, parseRow } from './protocol';

/** A cell that has something to show, under the number that the notebook shows for it. */
export interface CellRow {
  readonly cellId: string;
  readonly label: string;
  readonly row: Row;
}

/** One open notebook. */
export class Watched implements IDisposable {
  readonly readings = new Readings();

  constructor(
    readonly panel: NotebookPanel,
    widgets: boolean
  ) {
    this._channel = new Channel(panel.sessionContext, this.readings, widgets);
    panel.content.modelContentChanged.connect(this._onContent, this);
    void panel.context.ready.then(() => this._seed());
  }

  get isDisposed(): boolean {
    return this._disposed;
  }

  /** Emitted when cells were added, moved, removed or renumbered. */
  get cellsChanged(): ISignal<Watched, void> {
    return this._cellsChanged;
  }

  dispose(): void {
    if (!this._disposed) {
      this._disposed = true;
      this._channel.dispose();
      Signal.clearData(this);
    }
  }

  /** The cells with a run, in notebook order. */
  rows(): CellRow[] {
    const rows: CellRow[] = [];
    this.panel.content.widgets.forEach((cell, index) => {
      const row = this.readings.row(cell.model.id);
      if (row !== undefined) {
        const count =
          cell.model.type === 'code'
            ? (cell as CodeCell).model.executionCount
            : null;
        // A cell that runs has no number yet: it is called by its place.
        const label = count === null ? `#${index + 1}` : String(count);
        rows.push({ cellId: cell.model.id, label, row });
      }
    });
    return rows;
  }

  /** Bring a cell into view and make it the active one. */
  async goTo(cellId: string): Promise<void> {
    const notebook = this.panel.content;
    const index = notebook.widgets.findIndex(it => it.model.id === cellId);
    if (index >= 0) {
      notebook.activeCellIndex = index;
      notebook.deselectAll();
      await notebook.scrollToItem(index, 'smart');
      notebook.activate();
    }
  }

  stop(runId: string): void {
    this._channel.stop(runId);
  }

  private _seed(): void {
    if (this._disposed) {
      return;
    }
    const rows: Row[] = [];
    for (const cell of this.panel.content.widgets) {
      const outputs =
        cell.model.type === 'code' ? (cell as CodeCell).model.outputs : null;
      for (let index = (outputs?.length ?? 0) - 1; index >= 0; index--) {
        const row = savedRow(outputs?.get(index).metadata.tokmagic);
        if (row !== null) {
          // A copied cell carries the metadata of the one it was copied from.
          rows.push({ ...row, cellId: cell.model.id });
          break;
        }
      }
    }
    this.readings.seed(rows);
  }

  private _onContent(): void {
    this._cellsChanged.emit();
  }

  private readonly _cellsChanged = new Signal<Watched, void>(this);
  private readonly _channel: Channel;
  private _disposed = false;
}

/** All open notebooks. */
export class Notebooks {
  constructor(
    private readonly _tracker: INotebookTracker,
    private readonly _widgets: boolean
  ) {
    _tracker.widgetAdded.connect((_sender, panel) => this._watch(panel));
    _tracker.forEach(panel => this._watch(panel));
    _tracker.currentChanged.connect(() => this._changed.emit());
  }

  /** Emitted when another notebook comes to the front, or something changed in the one in front. */
  get changed(): ISignal<Notebooks, void> {
    return this._changed;
  }

  /** The notebook in front. */
  get current(): Watched | null {
    const panel = this._tracker.currentWidget;
    return (panel && this._watched.get(panel)) ?? null;
  }

  private _watch(panel: NotebookPanel): void {
    if (this._watched.has(panel)) {
      return;
    }
    const watched = new Watched(panel, this._widgets);
    this._watched.set(panel, watched);
    const changed = () => {
      if (this.current === watched) {
        this._changed.emit();
      }
    };
    watched.readings.changed.connect(changed);
    watched.cellsChanged.connect(changed);
    panel.disposed.connect(() => {
      this._watched.delete(panel);
      watched.dispose();
      this._changed.emit();
    });
    changed();
  }

  private readonly _changed = new Signal<Notebooks, void>(this);
  private readonly _watched = new Map<NotebookPanel, Watched>();
}

function savedRow(data: unknown): Row | null {
  if (data === undefined) {
    return null;
  }
  try {
    return parseRow(data);
  } catch (error) {
    if (error instanceof ProtocolError) {
      return null; // written by another version
    }
    throw error;
  }
}
