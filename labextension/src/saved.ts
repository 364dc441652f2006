/** The rows that the outputs of a notebook's cells keep. */

import type { ICellModel, ICodeCellModel } from '@jupyterlab/cells';

import type { Row } from './protocol';
import { ProtocolError, parseRow } from './protocol';

/** The run whose numbers stand in a cell's outputs: the last of them. */
export function savedIn(cell: ICellModel): Row | null {
  const outputs =
    cell.type === 'code' ? (cell as ICodeCellModel).outputs : null;
  for (let index = (outputs?.length ?? 0) - 1; index >= 0; index--) {
    const { metadata } = outputs!.get(index);
    const compared = metadata.tokmagic_comparison as { row?: unknown } | null;
    const row = savedRow(metadata.tokmagic ?? compared?.row);
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
