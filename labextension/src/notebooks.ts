/** The readings of every open notebook, and which notebook is in front. */

import type {
  Cell,
  CodeCell,
  ICellModel,
  ICodeCellModel
} from '@jupyterlab/cells';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import type { CellRow } from './cells';
import { CellRows } from './cells';
import { Channel } from './channel';
import type { Written } from './drafts';
import { Drafts } from './drafts';
import { Readings } from './model';
import type { Draft, Row } from './protocol';
import { ProtocolError, parseRow } from './protocol';

/** What the prompt in a cell would take, under the number that the notebook shows for the cell. */
export interface CellDraft {
  readonly label: string;
  readonly draft: Draft;
}

// As the kernel finds the magics: below blank lines, at the very beginning of a line.
const PROMPT = /^%%(?:generate|tokens)(?: |\s*$)/;

/** One open notebook. */
export class Watched implements IDisposable {
  readonly readings = new Readings();
  readonly drafts = new Drafts(
    () => this._written(),
    message => this._channel.send(message)
  );

  /** `isLookedAt` says whether this notebook is in front and the sidebar shows it. */
  constructor(
    readonly panel: NotebookPanel,
    widgets: boolean,
    private readonly _isLookedAt: () => boolean
  ) {
    this._channel = new Channel(
      panel.sessionContext,
      this.readings,
      this.drafts,
      widgets
    );
    panel.content.modelContentChanged.connect(this._onContent, this);
    panel.content.activeCellChanged.connect(this._onActiveCell, this);
    void panel.context.ready.then(() => this._onReady());
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
      this.drafts.dispose();
      Signal.clearData(this);
    }
  }

  /**
   * The cells with a run, in notebook order; then what runs in none of them, as a console's or a server's request
   * does, which names no cell.
   */
  rows(): CellRow[] {
    const cells = this.panel.content.widgets.map((cell, index) => ({
      id: cell.model.id,
      isCode: cell.model.type === 'code',
      label: labelOf(cell, index),
      source: () => cell.model.sharedModel.getSource()
    }));
    const rows = this._cellRows.of(cells, this.readings);
    const placed = new Set(cells.map(cell => cell.id));
    for (const row of this.readings.running) {
      if (row.cellId !== null && !placed.has(row.cellId)) {
        this._strays.add(row.runId);
        rows.push({ cellId: row.cellId, label: '…', row, isOutdated: false });
      }
    }
    return rows;
  }

  /** The prompt that is being written. An answer that comes late, when another cell is active, is none. */
  get draft(): CellDraft | null {
    const { activeCell, activeCellIndex } = this.panel.content;
    const draft = this.drafts.shown;
    return activeCell === null || activeCell.model.id !== draft?.cellId
      ? null
      : { label: labelOf(activeCell, activeCellIndex), draft };
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

  private _onReady(): void {
    const cells = this.panel.content.model?.cells;
    if (!this._disposed && cells !== undefined) {
      cells.changed.connect(this._onCells, this);
      this._seed(cells);
    }
  }

  /** A cell that was duplicated or pasted brings its outputs along. */
  private _onCells(
    _cells: unknown,
    change: { readonly newValues: Iterable<ICellModel> }
  ): void {
    this._seed(change.newValues);
  }

  /** Take in the rows that cells' outputs hold. A copied cell carries the metadata of the one it was copied from. */
  private _seed(cells: Iterable<ICellModel>): void {
    const rows: Row[] = [];
    for (const cell of cells) {
      const row = savedIn(cell);
      if (row !== null) {
        rows.push({ ...row, cellId: cell.id });
      }
    }
    if (rows.length > 0) {
      this.readings.seed(rows);
    }
  }

  /** Runs that named no cell are known by the output that they left in one. */
  private _placeStrays(): void {
    const cells = this._strays.size > 0 ? this.panel.content.model?.cells : [];
    for (const cell of cells ?? []) {
      const row = savedIn(cell);
      if (row !== null && this._strays.delete(row.runId)) {
        this.readings.place({ ...row, cellId: cell.id });
      }
    }
  }

  private _onContent(): void {
    this._placeStrays();
    this._cellsChanged.emit();
    this._onActiveCell();
  }

  private _onActiveCell(): void {
    // Another cell, or a key in this one; while nobody looks it is not even asked which.
    if (this._isLookedAt()) {
      this.drafts.touch();
    }
  }

  /** The prompt in the active cell, where somebody looks and the kernel can tell what it takes. */
  private _written(): Written | null {
    const cell = this.panel.content.activeCell;
    return this._isLookedAt() &&
      this.readings.connection === 'ready' &&
      cell?.model.type === 'code' &&
      isPrompt(cell)
      ? { cellId: cell.model.id, text: cell.model.sharedModel.getSource() }
      : null;
  }

  private readonly _cellRows = new CellRows();
  private readonly _cellsChanged = new Signal<Watched, void>(this);
  private readonly _channel: Channel;
  private _disposed = false;
  /** The runs that were seen running in no cell. */
  private readonly _strays = new Set<string>();
}

/** All open notebooks. */
export class Notebooks {
  constructor(
    private readonly _tracker: INotebookTracker,
    private readonly _widgets: boolean
  ) {
    _tracker.widgetAdded.connect((_sender, panel) => this._watch(panel));
    _tracker.forEach(panel => this._watch(panel));
    _tracker.currentChanged.connect(() => {
      this._watched.forEach(watched => watched.drafts.touch());
      this._changed.emit();
    });
  }

  /** The sidebar came into view, or went out of it: prompts are counted while they are typed only where it is seen. */
  setVisible(visible: boolean): void {
    this._visible = visible;
    this.current?.drafts.touch();
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
    const watched = new Watched(
      panel,
      this._widgets,
      () => this._visible && this._tracker.currentWidget === panel
    );
    this._watched.set(panel, watched);
    const changed = () => {
      if (this.current === watched) {
        this._changed.emit();
      }
    };
    watched.readings.changed.connect(changed);
    watched.cellsChanged.connect(changed);
    watched.drafts.changed.connect(changed);
    panel.disposed.connect(() => {
      this._watched.delete(panel);
      watched.dispose();
      this._changed.emit();
    });
    changed();
  }

  private readonly _changed = new Signal<Notebooks, void>(this);
  private _visible = false;
  private readonly _watched = new Map<NotebookPanel, Watched>();
}

/** A cell by the number that the notebook shows; one that runs, or never ran, has none and is called by its place. */
function labelOf(cell: Cell, index: number): string {
  const count =
    cell.model.type === 'code' ? (cell as CodeCell).model.executionCount : null;
  return count === null ? `#${index + 1}` : String(count);
}

/** Whether a cell begins with a magic that takes a prompt; of a long cell only its first lines are looked at. */
function isPrompt(cell: Cell): boolean {
  const { editor } = cell;
  if (editor === null) {
    const lines = cell.model.sharedModel.getSource().split('\n');
    return PROMPT.test(lines.find(line => line.trim() !== '') ?? '');
  }
  for (let line = 0; line < editor.lineCount; line++) {
    const text = editor.getLine(line) ?? '';
    if (text.trim() !== '') {
      return PROMPT.test(text);
    }
  }
  return false;
}

/** The run whose numbers stand in a cell's outputs: the last of them. */
function savedIn(cell: ICellModel): Row | null {
  const outputs =
    cell.type === 'code' ? (cell as ICodeCellModel).outputs : null;
  for (let index = (outputs?.length ?? 0) - 1; index >= 0; index--) {
    const row = savedRow(outputs?.get(index).metadata.tokmagic);
    if (row !== null) {
      return row;
    }
  }
  return null;
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
