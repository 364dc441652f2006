/** Which rows stand beside the cells of a notebook, and whether they are of what the cells say now. No DOM. */

import type { Opened } from './details';
import type { Readings } from './model';
import type { Before, Row } from './protocol';
import { sourceSha256 } from './source';

/** A cell as the notebook has it now; where its text changes, it is another object. */
export interface CellNow {
  readonly id: string;
  readonly isCode: boolean;
  /** The number that the notebook shows for it. */
  readonly label: string;
  source(): string;
}

/** A cell that has something to show, under the number that the notebook shows for it. */
export interface CellRow {
  readonly cellId: string;
  readonly label: string;
  readonly row: Row;
  /** Whether the cell's text was changed since the run began. */
  readonly isOutdated: boolean;
  /** The last complete run before it. */
  readonly before: Before | null;
  /** Whether a person wants it above the others. */
  readonly isPinned: boolean;
  /** What is known of its runs where it is open. */
  readonly opened: Opened | null;
}

/** What a person did with the rows: which are open, and which are pinned. */
export interface Handled {
  opened(cellId: string): Opened | null;
  isPinned(cellId: string): boolean;
}

/** Where more cells than this were touched, all of them are looked at. */
const FEW = 16;
/** So many cells that are gone are kept in any case: one that was cut is often pasted again. */
const SPARE = 100;

export const UNHANDLED: Handled = {
  opened: () => null,
  isPinned: () => false
};

export class CellRows {
  /**
   * The rows of the cells that can be run, pinned ones first, in their order. What became Markdown has none.
   *
   * A row in which nothing changed is the very object that it was before, so that what is drawn of it stays. A cell
   * that is the very object that it was before has the same text. `touched` are the cells whose readings changed since
   * the last time, where nothing else did: of a long notebook the others need not be looked at.
   */
  of(
    cells: readonly CellNow[],
    readings: Pick<Readings, 'row' | 'before'>,
    handled: Handled = UNHANDLED,
    touched: ReadonlySet<string> | null = null
  ): readonly CellRow[] {
    const again =
      touched !== null && touched.size <= FEW
        ? this._again(touched, readings, handled)
        : null;
    this._last = again ?? this._all(cells, readings, handled);
    return this._last;
  }

  /** The last rows with those that were touched anew; null where one of them had no row. */
  private _again(
    touched: ReadonlySet<string>,
    readings: Pick<Readings, 'row' | 'before'>,
    handled: Handled
  ): readonly CellRow[] | null {
    let rows: CellRow[] | null = null;
    for (const id of touched) {
      const known = this._rows.get(id);
      const place = known === undefined ? -1 : this._last.indexOf(known.made);
      const row = readings.row(id);
      if (known === undefined || place < 0 || row === undefined) {
        return null;
      }
      const made = this._made(known.cell, row, readings.before(id), handled);
      if (made !== known.made) {
        rows ??= [...this._last];
        rows[place] = made;
      }
    }
    return rows ?? this._last;
  }

  private _all(
    cells: readonly CellNow[],
    readings: Pick<Readings, 'row' | 'before'>,
    handled: Handled
  ): CellRow[] {
    const pinned: CellRow[] = [];
    const rows: CellRow[] = [];
    for (const cell of cells) {
      const row = cell.isCode ? readings.row(cell.id) : undefined;
      if (row !== undefined) {
        const made = this._made(cell, row, readings.before(cell.id), handled);
        (made.isPinned ? pinned : rows).push(made);
      }
    }
    this._forget(cells.length);
    return [...pinned, ...rows];
  }

  private _made(
    cell: CellNow,
    row: Row,
    before: Before | null,
    handled: Handled
  ): CellRow {
    const { id, label } = cell;
    const isPinned = handled.isPinned(id);
    const opened = handled.opened(id);
    const known = this._rows.get(id);
    const isSame =
      known !== undefined &&
      known.made.row === row &&
      known.made.label === label &&
      known.made.before === before &&
      known.made.isPinned === isPinned &&
      known.made.opened === opened;
    if (isSame && known.cell === cell) {
      return known.made;
    }
    const ran = row.sourceSha256;
    const isOutdated = ran !== null && this._digest(cell) !== ran;
    const made =
      isSame && known.made.isOutdated === isOutdated
        ? known.made
        : { cellId: id, label, row, isOutdated, before, isPinned, opened };
    this._rows.set(id, { cell, made });
    return made;
  }

  /** The digest of a cell's text, which seldom changes between two frames. */
  private _digest(cell: CellNow): string {
    const source = cell.source();
    const known = this._digests.get(cell.id);
    if (known?.source === source) {
      return known.digest;
    }
    const digest = sourceSha256(source);
    this._digests.set(cell.id, { source, digest });
    return digest;
  }

  /** Let go of cells that are gone, once they are more than those that are there. */
  private _forget(cells: number): void {
    if (this._rows.size > 2 * cells + SPARE) {
      this._rows.clear();
      this._digests.clear();
    }
  }

  private _last: readonly CellRow[] = [];
  private readonly _digests = new Map<
    string,
    { readonly source: string; readonly digest: string }
  >();
  private readonly _rows = new Map<
    string,
    { readonly cell: CellNow; readonly made: CellRow }
  >();
}
