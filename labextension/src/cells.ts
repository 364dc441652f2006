/** Which rows stand beside the cells of a notebook, and whether they are of what the cells say now. No DOM. */

import type { Opened } from './details';
import type { Readings } from './model';
import type { Before, Row } from './protocol';
import { sourceSha256 } from './source';

/** A cell as the notebook has it now. */
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
   * A row in which nothing changed is the very object that it was before, so that what is drawn of it stays.
   */
  of(
    cells: readonly CellNow[],
    readings: Pick<Readings, 'row' | 'before'>,
    handled: Handled = UNHANDLED
  ): CellRow[] {
    const pinned: CellRow[] = [];
    const rows: CellRow[] = [];
    for (const cell of cells) {
      const row = cell.isCode ? readings.row(cell.id) : undefined;
      if (row !== undefined) {
        const ran = row.sourceSha256;
        const isPinned = handled.isPinned(cell.id);
        (isPinned ? pinned : rows).push(
          this._kept({
            cellId: cell.id,
            label: cell.label,
            row,
            isOutdated: ran !== null && this._digest(cell) !== ran,
            before: readings.before(cell.id),
            isPinned,
            opened: handled.opened(cell.id)
          })
        );
      }
    }
    this._forget(cells.length);
    return [...pinned, ...rows];
  }

  private _kept(row: CellRow): CellRow {
    const known = this._rows.get(row.cellId);
    if (known !== undefined && isSame(known, row)) {
      return known;
    }
    this._rows.set(row.cellId, row);
    return row;
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

  private readonly _digests = new Map<
    string,
    { readonly source: string; readonly digest: string }
  >();
  private readonly _rows = new Map<string, CellRow>();
}

function isSame(one: CellRow, other: CellRow): boolean {
  return (
    one.row === other.row &&
    one.label === other.label &&
    one.isOutdated === other.isOutdated &&
    one.before === other.before &&
    one.isPinned === other.isPinned &&
    one.opened === other.opened
  );
}
