/** Which rows stand beside the cells of a notebook, and whether they are of what the cells say now. No DOM. */

import type { Readings } from './model';
import type { Row } from './protocol';
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
}

export class CellRows {
  /** The rows of the cells that can be run, in their order. What became Markdown has none. */
  of(cells: readonly CellNow[], readings: Pick<Readings, 'row'>): CellRow[] {
    const rows: CellRow[] = [];
    for (const cell of cells) {
      const row = cell.isCode ? readings.row(cell.id) : undefined;
      if (row !== undefined) {
        const ran = row.sourceSha256;
        const isOutdated = ran !== null && this._digest(cell) !== ran;
        rows.push({ cellId: cell.id, label: cell.label, row, isOutdated });
      }
    }
    return rows;
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

  private readonly _digests = new Map<
    string,
    { readonly source: string; readonly digest: string }
  >();
}
