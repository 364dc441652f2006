/** The table of cells. A row is drawn anew only when its own reading changed. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { CellRow } from './cells';
import { milliseconds, seconds, sparkline, tokens, usd } from './format';
import type { Row, Status } from './protocol';

/** What a row lets a person do. */
export interface Actions {
  goTo(cellId: string): void;
  stop(runId: string): void;
}

const GLYPHS: Record<Status, string> = {
  running: '●',
  ok: '✓',
  cached: '↺',
  interrupted: '⊘',
  failed: '!',
  refused: '!'
};
const SPARK = { width: 44, height: 12 };

export function Rows(props: {
  rows: readonly CellRow[];
  actions: Actions;
  trans: TranslationBundle;
}): React.ReactElement {
  const { rows, actions, trans } = props;
  return (
    <table className="tm-Rows" aria-label={trans.__('Runs by cell')}>
      <thead>
        <tr>
          <th scope="col">{trans.__('Cell')}</th>
          <th scope="col" title={trans.__('Input tokens')}>
            {trans.__('In')}
          </th>
          <th scope="col" title={trans.__('Output tokens')}>
            {trans.__('Out')}
          </th>
          <th scope="col">{trans.__('Cost')}</th>
          <th scope="col" title={trans.__('Time to first token')}>
            TTFT
          </th>
          <th scope="col" title={trans.__('Mean time per output token')}>
            {trans.__('ms/token')}
          </th>
        </tr>
      </thead>
      <tbody>
        {rows.map(({ cellId, label, row, isOutdated }) => (
          <CellLine
            key={cellId}
            cellId={cellId}
            label={label}
            row={row}
            isOutdated={isOutdated}
            actions={actions}
            trans={trans}
          />
        ))}
      </tbody>
    </table>
  );
}

const CellLine = React.memo(function CellLine(props: {
  cellId: string;
  label: string;
  row: Row;
  isOutdated: boolean;
  actions: Actions;
  trans: TranslationBundle;
}): React.ReactElement {
  const { cellId, label, row, isOutdated, actions, trans } = props;
  const note = noteOf(row, isOutdated, trans);
  const status = statusText(row.status, trans);
  const go = () => actions.goTo(cellId);
  return (
    <>
      <tr
        className="tm-Row"
        data-run-id={row.runId}
        data-cell-id={cellId}
        data-status={row.status}
        data-outdated={isOutdated || undefined}
        title={`${row.model} · ${status}`}
        onClick={go}
      >
        <th scope="row">
          <button
            className="tm-Cell"
            aria-label={trans.__('Go to cell %1: %2', label, status)}
          >
            <span className="tm-Glyph" aria-hidden="true">
              {GLYPHS[row.status]}
            </span>
            {label}
          </button>
        </th>
        <Field name="input" value={row.inputTokens}>
          {tokens(row.inputTokens, row.inputSource)}
        </Field>
        <Field name="output" value={row.outputTokens}>
          {tokens(row.outputTokens, row.outputSource)}
        </Field>
        {row.status === 'cached' && row.savedUsd !== null ? (
          // A replayed answer costs nothing and has no latency of its own.
          <td
            colSpan={3}
            data-field="saved"
            data-value={row.savedUsd}
            title={priceOf(row, trans)}
          >
            {trans.__(
              'saved %1',
              usd(row.savedUsd, row.costSource, row.costBound)
            )}
          </td>
        ) : (
          <Measured row={row} trans={trans} />
        )}
      </tr>
      {note !== null && (
        <tr className="tm-Note" data-note-for={row.runId} onClick={go}>
          <td colSpan={6}>
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
    </>
  );
});

function Measured(props: {
  row: Row;
  trans: TranslationBundle;
}): React.ReactElement {
  const { row, trans } = props;
  return (
    <>
      <Field name="cost" value={row.costUsd} title={priceOf(row, trans)}>
        {usd(row.costUsd, row.costSource, row.costBound)}
      </Field>
      <Field name="ttft" value={row.ttftS}>
        {seconds(row.ttftS)}
      </Field>
      <Field name="itl" value={row.itlMeanS}>
        {milliseconds(row.itlMeanS)}
        <Spark values={row.sparkMs} />
      </Field>
    </>
  );
}

function Field(props: {
  name: string;
  value: number | string | null;
  title?: string | undefined;
  children: React.ReactNode;
}): React.ReactElement {
  return (
    <td
      data-field={props.name}
      data-value={props.value ?? ''}
      title={props.title}
    >
      {props.children}
    </td>
  );
}

function Spark(props: { values: readonly number[] }): React.ReactElement {
  const { width, height } = SPARK;
  return (
    <svg
      className="tm-Spark"
      width={width}
      height={height}
      viewBox={`0 -1 ${width} ${height + 2}`}
      aria-hidden="true"
    >
      <polyline points={sparkline(props.values, width, height)} />
    </svg>
  );
}

/** Whose price a cost is, where it is not one that somebody set: what the device's time is worth. */
function priceOf(row: Row, trans: TranslationBundle): string | undefined {
  return row.listPrice === null ? undefined : trans.__('at %1', row.listPrice);
}

/** The second line of a row: what its numbers do not say, and what the same tokens would cost elsewhere. */
function noteOf(
  row: Row,
  isOutdated: boolean,
  trans: TranslationBundle
): string | null {
  const earlier = isOutdated
    ? trans.__('these numbers are of an earlier text')
    : null;
  const parts = [endOf(row, trans), earlier, shadowOf(row)];
  return parts.filter(part => part !== null).join(' · ') || null;
}

function endOf(row: Row, trans: TranslationBundle): string | null {
  const reason = row.error ?? trans.__('no reason known');
  switch (row.status) {
    case 'running':
      if (row.ttftS === null) {
        return trans.__('prefill: waiting for the first token');
      }
      return row.maxTokens === null
        ? trans.__('generating')
        : trans._n(
            'generating, up to %1 token',
            'generating, up to %1 tokens',
            row.maxTokens
          );
    case 'cached':
      return row.savedUsd === null ? trans.__('from the cache') : null;
    case 'interrupted':
      return row.finishReason === 'budget'
        ? trans.__('stopped by a budget: %1', reason)
        : trans.__('interrupted');
    case 'failed':
      return trans.__('failed: %1', reason);
    case 'refused':
      return trans.__('refused: %1', reason);
    case 'ok':
      return row.finishReason === 'length'
        ? trans.__('cut off at --max-tokens')
        : null;
  }
}

function shadowOf(row: Row): string | null {
  if (row.shadowUsd === null || row.shadowModel === null) {
    return null;
  }
  const guessed = [row.inputSource, row.outputSource].includes('estimated');
  const cost = usd(row.shadowUsd, guessed ? 'estimated' : 'measured');
  return `${row.shadowModel}: ${cost}`;
}

function statusText(status: Status, trans: TranslationBundle): string {
  const texts: Record<Status, string> = {
    running: trans.__('running'),
    ok: trans.__('done'),
    cached: trans.__('from the cache'),
    interrupted: trans.__('interrupted'),
    failed: trans.__('failed'),
    refused: trans.__('refused')
  };
  return texts[status];
}
