/** The cells of a notebook, read when they change and not at each frame: a notebook may have thousands of them. */

import type { Cell, CodeCell, ICellModel } from '@jupyterlab/cells';
import type { CellList, Notebook } from '@jupyterlab/notebook';
import type { IDisposable } from '@lumino/disposable';
import { Signal } from '@lumino/signaling';

import type { CellNow } from './cells';
import type { PromptCell } from './forecast';

// As the kernel finds the magics: below blank lines, at the very beginning of a line.
const PROMPT = /^%%(?:generate|tokens)(?: |\s*$)/;
const FORESEEN = /^%%(?:generate|compare)(?: |\s*$)/;
const CALLS = /\btokmagic\.(?:generate|generate_many|compare)\s*\(/;

export class NotebookCells implements IDisposable {
  constructor(private readonly _notebook: Notebook) {}

  get isDisposed(): boolean {
    return this._disposed;
  }

  dispose(): void {
    this._disposed = true;
    this._models.clear();
    Signal.clearData(this);
  }

  /** From now on see which cells there are and when they change. */
  follow(cells: CellList): void {
    cells.changed.connect(this._onCells, this);
    this._onCells();
  }

  /** All cells, in their order. */
  get all(): readonly CellNow[] {
    this._read();
    return this._all;
  }

  /** Another number whenever a cell changed. */
  get version(): number {
    this._read();
    return this._version;
  }

  has(cellId: string): boolean {
    this._read();
    return this._byId.has(cellId);
  }

  /**
   * Gives the number that the notebook shows for a cell; of one that is gone there is none. Another function where a
   * number changed, so that what is drawn with it can be compared.
   */
  get label(): (cellId: string) => string {
    this._read();
    return this._label;
  }

  /** Whether there is a prompt to run. */
  get hasPrompts(): boolean {
    this._read();
    return this._all.some(cell => cell.isForeseen);
  }

  /**
   * The cells that send prompts to a model, as they stand: by their magics, or by their code, where that says so or
   * `ran` some before.
   */
  foreseen(ran: (cellId: string) => boolean): readonly PromptCell[] {
    this._read();
    return this._all
      .filter(cell => cell.isForeseen || (cell.isCode && ran(cell.id)))
      .map(cell => ({ id: cell.id, source: cell.source() }));
  }

  /** Cells were added, moved or removed: each may have another place now. */
  private _onCells(): void {
    this._isStale = true;
  }

  private _onContent(model: ICellModel): void {
    this._changed.add(model);
  }

  private _read(): void {
    if (this._isStale) {
      this._readAll();
    }
    for (const model of this._changed) {
      const place = this._models.get(model);
      if (place !== undefined) {
        this._set(place);
      }
    }
    this._changed.clear();
  }

  private _readAll(): void {
    this._isStale = false;
    this._version++;
    const before = new Set(this._models.keys());
    this._models.clear();
    this._byId.clear();
    this._all.length = 0;
    this._label = this._labels();
    this._notebook.widgets.forEach(({ model }, place) => {
      this._models.set(model, place);
      this._set(place);
      if (!before.delete(model)) {
        model.contentChanged.connect(this._onContent, this);
      }
    });
    before.forEach(gone =>
      gone.contentChanged.disconnect(this._onContent, this)
    );
  }

  private _set(place: number): void {
    const cell = this._notebook.widgets[place];
    if (cell !== undefined) {
      const seen = new SeenCell(cell, place);
      if (this._all[place]?.label !== seen.label) {
        this._label = this._labels();
      }
      this._all[place] = seen;
      this._version++;
      this._byId.set(seen.id, seen);
    }
  }

  private _labels(): (cellId: string) => string {
    return cellId => this._byId.get(cellId)?.label ?? '…';
  }

  private readonly _all: SeenCell[] = [];
  private readonly _byId = new Map<string, SeenCell>();
  private readonly _changed = new Set<ICellModel>();
  private _disposed = false;
  private _isStale = false;
  private _label = this._labels();
  /** The place of each cell. */
  private readonly _models = new Map<ICellModel, number>();
  private _version = 0;
}

/** A cell as it was when it last changed. */
class SeenCell implements CellNow {
  constructor(
    private readonly _cell: Cell,
    place: number
  ) {
    this.id = _cell.model.id;
    this.isCode = _cell.model.type === 'code';
    this.label = labelOf(_cell, place);
  }

  readonly id: string;
  readonly isCode: boolean;
  readonly label: string;

  source(): string {
    this._source ??= this._cell.model.sharedModel.getSource();
    return this._source;
  }

  /** Whether a forecast tells of it, if only that it makes one of its own. */
  get isForeseen(): boolean {
    this._isForeseen ??=
      this.isCode &&
      (FORESEEN.test(firstLine(this._cell)) || CALLS.test(this.source()));
    return this._isForeseen;
  }

  private _isForeseen: boolean | null = null;
  private _source: string | null = null;
}

/** Whether a cell begins with a magic that takes a prompt. */
export function isPrompt(cell: Cell): boolean {
  return cell.model.type === 'code' && PROMPT.test(firstLine(cell));
}

/** A cell by the number that the notebook shows; one that runs, or never ran, has none and is called by its place. */
function labelOf(cell: Cell, place: number): string {
  const count =
    cell.model.type === 'code' ? (cell as CodeCell).model.executionCount : null;
  return count === null ? `#${place + 1}` : String(count);
}

/** The first line of a cell that is not blank; of a long cell only its first lines are looked at. */
function firstLine(cell: Cell): string {
  const { editor } = cell;
  if (editor === null) {
    const lines = cell.model.sharedModel.getSource().split('\n');
    return lines.find(line => line.trim() !== '') ?? '';
  }
  for (let line = 0; line < editor.lineCount; line++) {
    const text = editor.getLine(line) ?? '';
    if (text.trim() !== '') {
      return text;
    }
  }
  return '';
}
