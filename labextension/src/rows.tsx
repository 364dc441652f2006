/** The table of cells. Only rows near what is in sight are drawn, and a row anew only when its own reading changed. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { CellRow } from './cells';
import { OpenedComparison, Progress } from './compared';
import { progressOf } from './comparison';
import { FIGURES, Figures } from './figures';
import { visible } from './format';
import type { OpenedActions } from './opened';
import { OpenedRow } from './opened';
import type { Status } from './protocol';
import { useDrawn } from './windowed';
import { noteOf, statusText } from './words';

/** What a row lets a person do. */
export interface Actions extends OpenedActions {
  /** Missing where a page does not know where the cells are. */
  goTo?(cellId: string): void;
  stop(runId: string): void;
  toggle(cellId: string): void;
}

const GLYPHS: Record<Status, string> = {
  running: '●',
  ok: '✓',
  cached: '↺',
  interrupted: '⊘',
  failed: '!',
  refused: '!'
};
const COLUMNS = FIGURES + 1;

export function Rows(props: {
  rows: readonly CellRow[];
  actions: Actions;
  trans: TranslationBundle;
}): React.ReactElement {
  const { rows, actions, trans } = props;
  const { ids, opened, lines } = useLaidOut(rows, trans);
  const { table, pieces, onFocus, onKeyDown } = useDrawn(ids, opened);
  return (
    <table
      ref={table}
      className="tm-Rows"
      aria-label={trans.__('Runs by cell')}
      aria-rowcount={lines[rows.length]! - 1}
      onFocus={onFocus}
      onKeyDown={onKeyDown}
    >
      <thead>
        <tr aria-rowindex={1}>
          <th scope="col">{trans.__('Cell')}</th>
          <th scope="col" title={trans.__('Input tokens')}>
            {trans.__('In')}
          </th>
          <th scope="col" title={trans.__('Output tokens')}>
            {trans.__('Out')}
          </th>
          <th scope="col">{trans.__('Cost')}</th>
          <th
            scope="col"
            className="tm-Wide"
            title={trans.__('Time to first token')}
          >
            {trans.__('TTFT')}
          </th>
          <th scope="col" title={trans.__('Mean time per output token')}>
            {trans.__('ms/token')}
          </th>
          <th
            scope="col"
            className="tm-Wide"
            title={trans.__(
              'Time per output token, from the first to the last'
            )}
          >
            {trans.__('Trend')}
          </th>
        </tr>
      </thead>
      {pieces.map(piece => {
        if (piece.kind === 'gap') {
          return (
            <tbody
              key={`gap before ${ids[piece.span.to] ?? ''}`}
              className="tm-Gap"
              aria-hidden="true"
            >
              <tr>
                <td colSpan={COLUMNS} style={{ height: piece.height }} />
              </tr>
            </tbody>
          );
        }
        const row = rows[piece.index]!;
        return (
          <CellLines
            key={row.cellId}
            of={row}
            line={lines[piece.index]!}
            actions={actions}
            trans={trans}
          />
        );
      })}
    </table>
  );
}

interface LaidOut {
  readonly ids: readonly string[];
  /** The places of those that are open. */
  readonly opened: readonly number[];
  /** The line of the table that each begins at, from 1; then the one after the last row. */
  readonly lines: readonly number[];
}

/** How the rows stand in the table: the very same while no row comes, goes, moves or takes more lines or less. */
function useLaidOut(
  rows: readonly CellRow[],
  trans: TranslationBundle
): LaidOut {
  const kept = React.useRef<{
    rows: readonly CellRow[];
    trans: TranslationBundle;
    laidOut: LaidOut;
  } | null>(null);
  const last = kept.current;
  const isSame =
    last !== null &&
    last.trans === trans &&
    last.rows.length === rows.length &&
    rows.every((row, place) => {
      const before = last.rows[place]!;
      return (
        row === before ||
        (row.cellId === before.cellId &&
          (row.opened === null) === (before.opened === null) &&
          linesOf(row, trans) === linesOf(before, trans))
      );
    });
  const found = isSame ? last.laidOut : laidOut(rows, trans);
  kept.current = { rows, trans, laidOut: found };
  return found;
}

function laidOut(rows: readonly CellRow[], trans: TranslationBundle): LaidOut {
  const ids: string[] = [];
  const opened: number[] = [];
  // The table's head is the first line of all; the last one here is the one after the last row.
  const lines = [2];
  let line = 2;
  for (const row of rows) {
    if (row.opened !== null) {
      opened.push(ids.length);
    }
    ids.push(row.cellId);
    line += linesOf(row, trans);
    lines.push(line);
  }
  return { ids, opened, lines };
}

const counted = new WeakMap<CellRow, number>();

/** How many lines of the table a row takes. */
function linesOf(row: CellRow, trans: TranslationBundle): number {
  let lines = counted.get(row);
  if (lines === undefined) {
    const note = noteBelow(row, trans);
    lines = 1 + Number(note !== null) + Number(row.opened !== null);
    counted.set(row, lines);
  }
  return lines;
}

/** The line below a row's numbers; a comparison always has one. */
function noteBelow(of: CellRow, trans: TranslationBundle): string | null {
  const { row, isOutdated } = of;
  return row.comparison === null
    ? noteOf(row, isOutdated, trans)
    : progressOf(row, row.comparison, isOutdated, trans);
}

const CellLines = React.memo(function CellLines(props: {
  of: CellRow;
  /** Where its first line stands in the table, from 1. */
  line: number;
  actions: Actions;
  trans: TranslationBundle;
}): React.ReactElement {
  const { line, actions, trans } = props;
  const { cellId, label, row, isOutdated, isPinned, opened } = props.of;
  const { comparison } = row;
  const note = noteBelow(props.of, trans);
  const status = statusText(row.status, trans);
  const toggle = () => actions.toggle(cellId);
  const detailsId = React.useId();
  const name = (
    <>
      <span className="tm-Glyph" aria-hidden="true">
        {GLYPHS[row.status]}
      </span>
      {label}
      {isPinned && (
        <span className="tm-Pin" aria-hidden="true">
          {'\u25c6'}
        </span>
      )}
    </>
  );
  return (
    <tbody>
      <tr
        className="tm-Row"
        aria-rowindex={line}
        data-run-id={row.runId}
        data-cell-id={cellId}
        data-status={row.status}
        data-outdated={isOutdated || undefined}
        data-pinned={isPinned || undefined}
        title={`${visible(row.model)} · ${status}`}
        onClick={toggle}
      >
        <th scope="row">
          <button
            className="tm-Open"
            aria-expanded={opened !== null}
            aria-controls={opened === null ? undefined : detailsId}
            aria-label={trans.__('Runs of cell %1', label)}
            onClick={event => {
              event.stopPropagation();
              toggle();
            }}
          >
            {opened === null ? '▸' : '▾'}
          </button>
          {actions.goTo === undefined ? (
            <span className="tm-Cell">
              {name}
              <span className="tm-Spoken">{status}</span>
            </span>
          ) : (
            <button
              className="tm-Cell"
              aria-label={trans.__('Go to cell %1: %2', label, status)}
              onClick={event => {
                event.stopPropagation();
                actions.goTo?.(cellId);
              }}
            >
              {name}
            </button>
          )}
        </th>
        <Figures row={row} before={props.of.before} trans={trans} />
      </tr>
      {note !== null && (
        <tr
          className="tm-Note"
          aria-rowindex={line + 1}
          data-note-for={row.runId}
          onClick={toggle}
        >
          <td colSpan={COLUMNS}>
            {comparison !== null && row.status === 'running' && (
              <Progress comparison={comparison} trans={trans} />
            )}
            {note}
            {row.status === 'running' && (
              <button
                className="tm-Stop"
                aria-label={trans.__('Stop the run of cell %1', label)}
                title={trans.__('Stop this run')}
                onClick={event => {
                  event.stopPropagation();
                  actions.stop(row.runId);
                }}
              >
                ■
              </button>
            )}
          </td>
        </tr>
      )}
      {opened !== null && (
        <tr
          className="tm-OpenedRow"
          aria-rowindex={line + (note === null ? 1 : 2)}
          id={detailsId}
          data-opened={cellId}
        >
          <td colSpan={COLUMNS}>
            {comparison === null ? (
              <OpenedRow
                cellId={cellId}
                row={row}
                opened={opened}
                isPinned={isPinned}
                actions={actions}
                trans={trans}
              />
            ) : (
              <OpenedComparison
                cellId={cellId}
                row={row}
                comparison={comparison}
                isPinned={isPinned}
                actions={actions}
                trans={trans}
              />
            )}
          </td>
        </tr>
      )}
    </tbody>
  );
});
