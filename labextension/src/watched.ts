/** One open notebook: its readings, its cells, and what a person does with them. */

import type { ICellModel } from '@jupyterlab/cells';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { IStateDB } from '@jupyterlab/statedb';
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import type { CellRow } from './cells';
import { CellRows } from './cells';
import { Channel } from './channel';
import { Details } from './details';
import type { CellDraft } from './draft';
import type { Written } from './drafts';
import { Drafts } from './drafts';
import type { ForecastView } from './foreseen';
import { Forecasts } from './forecasts';
import type { GroupedView } from './grouped';
import { Readings } from './model';
import { NotebookCells, isPrompt } from './notebookcells';
import { Pins } from './pins';
import type { Row } from './protocol';
import { savedIn } from './saved';
import { sleep } from './sleep';
import { GroupedTotals } from './totals';

/** How long to wait before a cell that is not in the page yet is looked for again. */
const ATTACH_MS = 100;

/** Runs the active cell of a notebook, as the application does it. */
export type Run = (panel: NotebookPanel) => Promise<void>;

/** One open notebook. */
export class Watched implements IDisposable {
  readonly readings = new Readings();
  readonly drafts = new Drafts(
    () => this._written(),
    message => this._channel.send(message)
  );
  readonly details = new Details(message => this._channel.send(message));
  readonly forecasts = new Forecasts(
    (ran = cellId => this.readings.row(cellId) !== undefined) =>
      this._cells.foreseen(ran),
    message => this._channel.send(message)
  );
  readonly totals = new GroupedTotals(message => this._channel.send(message));
  readonly pins: Pins;

  /** `isLookedAt` says whether this notebook is in front and the sidebar shows it. */
  constructor(
    readonly panel: NotebookPanel,
    widgets: boolean,
    private readonly _isLookedAt: () => boolean,
    private readonly _run: Run,
    state: IStateDB | null
  ) {
    this._cells = new NotebookCells(panel.content);
    this.pins = new Pins(panel.context, state);
    this._channel = new Channel(
      panel.sessionContext,
      this.readings,
      this.drafts,
      widgets,
      [this.details, this.forecasts, this.totals]
    );
    this.readings.changed.connect(() => this._followDetails());
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
      this._cells.dispose();
      this.drafts.dispose();
      this.pins.dispose();
      Signal.clearData(this.details);
      Signal.clearData(this.forecasts);
      Signal.clearData(this.totals);
      Signal.clearData(this);
    }
  }

  /**
   * The cells with a run, in notebook order; then what runs in none of them, as a console's or a server's request
   * does, which names no cell.
   */
  rows(): readonly CellRow[] {
    const { details, pins } = this;
    const stand = `${this._cells.version} ${details.version} ${pins.version}`;
    const touched = this.readings.takeTouched();
    const rows = this._cellRows.of(
      this._cells.all,
      this.readings,
      { opened: id => details.of(id), isPinned: id => pins.has(id) },
      stand === this._stand ? touched : null
    );
    this._stand = stand;
    const strays: CellRow[] = [];
    for (const row of this.readings.running) {
      if (row.cellId !== null && !this._cells.has(row.cellId)) {
        this._strays.add(row.runId);
        strays.push({
          cellId: row.cellId,
          label: '…',
          row,
          isOutdated: false,
          before: null,
          isPinned: false,
          opened: details.of(row.cellId)
        });
      }
    }
    return strays.length > 0 ? [...rows, ...strays] : rows;
  }

  /** The prompt that is being written. An answer that comes late, when another cell is active, is none. */
  get draft(): CellDraft | null {
    const { activeCell } = this.panel.content;
    const draft = this.drafts.shown;
    return activeCell === null || activeCell.model.id !== draft?.cellId
      ? null
      : { label: this._cells.label(draft.cellId), draft };
  }

  /** Bring a cell into view and make it the active one. */
  async goTo(cellId: string): Promise<void> {
    const notebook = this.panel.content;
    const index = notebook.widgets.findIndex(it => it.model.id === cellId);
    const cell = notebook.widgets[index];
    if (cell !== undefined) {
      notebook.activeCellIndex = index;
      notebook.deselectAll();
      await notebook.scrollToItem(index, 'smart');
      notebook.activate();
      // JupyterLab adds the cells of a long notebook little by little, and gives up waiting for one of them.
      while (!cell.isAttached && notebook.activeCell === cell) {
        await sleep(ATTACH_MS);
        await notebook.scrollToItem(notebook.activeCellIndex, 'smart');
      }
    }
  }

  /** The forecast of Run All, where one was asked for. */
  get forecast(): ForecastView | null {
    const { asking, told, isOutdated } = this.forecasts;
    return asking === null
      ? null
      : { asking, told, isOutdated, label: this._cells.label };
  }

  /** The sums by cell, model or day. */
  get grouped(): GroupedView {
    const { by, groups } = this.totals;
    return { by, groups, label: this._cells.label };
  }

  /** Put a new code cell at the top, or below the active one, and go there. */
  insert(source: string, isAtTop: boolean): void {
    const notebook = this.panel.content;
    const index = isAtTop ? 0 : notebook.activeCellIndex + 1;
    notebook.model?.sharedModel.insertCell(index, {
      cell_type: 'code',
      source,
      metadata: {}
    });
    notebook.activeCellIndex = index;
    notebook.deselectAll();
    notebook.activate();
  }

  /** Whether there is a prompt to run. */
  get hasPrompts(): boolean {
    return this._cells.hasPrompts;
  }

  /** Open a cell's row, or shut it. */
  toggle(cellId: string): void {
    this.details.toggle(cellId, this.readings.row(cellId));
  }

  /** Show another run of a cell whose row is open. */
  choose(cellId: string, runId: string): void {
    this.details.choose(cellId, runId, this.readings.row(cellId));
  }

  /** Run a cell, as a person does who goes to it first. */
  async run(cellId: string): Promise<void> {
    await this.goTo(cellId);
    if (this.panel.content.activeCell?.model.id === cellId) {
      await this._run(this.panel);
    }
  }

  stop(runId: string): void {
    this._channel.stop(runId);
  }

  private _followDetails(): void {
    if (this.readings.connection === 'ready') {
      this.details.follow(cellId => this.readings.row(cellId));
      if (this.readings.running.length === 0) {
        this.totals.follow(this.readings.notebookTotals);
      }
    }
  }

  private _onReady(): void {
    const cells = this.panel.content.model?.cells;
    if (!this._disposed && cells !== undefined) {
      this._cells.follow(cells);
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

  private readonly _cells: NotebookCells;
  private readonly _cellRows = new CellRows();
  private readonly _cellsChanged = new Signal<Watched, void>(this);
  private readonly _channel: Channel;
  private _disposed = false;
  /** How all that rows show beside their readings stood when they were made. */
  private _stand = '';
  /** The runs that were seen running in no cell. */
  private readonly _strays = new Set<string>();
}
