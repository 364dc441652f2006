/** A comparison in the table of cells: how far it is, and where its row is open a line for each variant. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { Comparison, Part } from './comparison';
import { scoreText, seconds, tokens, usd, visible } from './format';
import type { Row } from './protocol';

/** What an open comparison lets a person do. */
export interface ComparedActions {
  /** Missing where a page cannot run cells. */
  run?(cellId: string): void;
  pin(cellId: string): void;
}

/** How far a comparison is that goes on. */
export function Progress(props: {
  comparison: Comparison;
  trans: TranslationBundle;
}): React.ReactElement {
  const { done, runs } = props.comparison;
  return (
    <progress
      className="tm-Progress"
      aria-label={props.trans.__('Runs of the comparison')}
      value={done}
      max={Math.max(1, runs)}
    />
  );
}

export const OpenedComparison = React.memo(function OpenedComparison(props: {
  cellId: string;
  row: Row;
  comparison: Comparison;
  isPinned: boolean;
  actions: ComparedActions;
  trans: TranslationBundle;
}): React.ReactElement {
  const { cellId, row, comparison, isPinned, actions, trans } = props;
  const { beside, judgeUsd, judgeBound, parts, passes } = comparison;
  const judgeSource = comparison.isJudgeEstimated ? 'estimated' : 'measured';
  return (
    <div className="tm-Opened">
      <div className="tm-Actions">
        {actions.run !== undefined && (
          <button onClick={() => actions.run?.(cellId)}>
            {trans.__('Run again')}
          </button>
        )}
        <button aria-pressed={isPinned} onClick={() => actions.pin(cellId)}>
          {isPinned ? trans.__('Unpin') : trans.__('Pin')}
        </button>
      </div>
      <table
        className="tm-Parts"
        aria-label={trans.__('The comparison by variant')}
      >
        <thead>
          <tr>
            <th scope="col">{trans.__('Runs')}</th>
            <th scope="col" title={trans.__('Input and output tokens')}>
              {trans.__('Tokens')}
            </th>
            <th scope="col">{trans.__('Cost')}</th>
            <th scope="col" title={trans.__('Mean score')}>
              {passes ? trans.__('Passed') : trans.__('Score')}
            </th>
            <th scope="col" title={trans.__('Mean time of a run')}>
              {trans.__('Latency')}
            </th>
          </tr>
        </thead>
        <Parts parts={parts} passes={passes} trans={trans} />
        {beside.length > 0 && (
          <>
            <tbody>
              <tr>
                <th className="tm-Heading" scope="colgroup" colSpan={5}>
                  {trans.__('Without one of its parts')}
                </th>
              </tr>
            </tbody>
            <Parts parts={beside} passes={passes} trans={trans} />
          </>
        )}
      </table>
      {judgeUsd !== null && (
        <p className="tm-Told">
          {trans.__(
            'of which the judge: %1',
            usd(judgeUsd, judgeSource, judgeBound)
          )}
        </p>
      )}
      <p className="tm-Told">{visible(row.model)}</p>
    </div>
  );
});

/** Two lines for each, so that a long name takes no room from the numbers. */
function Parts(props: {
  parts: readonly Part[];
  passes: boolean;
  trans: TranslationBundle;
}): React.ReactElement {
  const { parts, passes, trans } = props;
  return (
    <>
      {parts.map((part, index) => (
        <tbody key={index} data-part={part.label}>
          <tr>
            <th scope="rowgroup" colSpan={5}>
              {visible(part.label)}
              <Wrong part={part} trans={trans} />
            </th>
          </tr>
          <tr>
            <td data-field="runs" data-value={part.done}>
              {part.runs === null
                ? part.done
                : trans.__('%1 of %2', String(part.done), String(part.runs))}
            </td>
            <td data-field="tokens">
              {tokens(part.inputTokens)} + {tokens(part.outputTokens)}
            </td>
            <td data-field="cost" data-value={part.costUsd ?? ''}>
              {usd(
                part.costUsd,
                part.isEstimated ? 'estimated' : 'measured',
                part.costBound
              )}
            </td>
            <td data-field="score" data-value={part.score ?? ''}>
              {scoreText(part.score, passes)}
            </td>
            <td data-field="latency" data-value={part.latencyS ?? ''}>
              {seconds(part.latencyS)}
            </td>
          </tr>
        </tbody>
      ))}
    </>
  );
}

function Wrong(props: {
  part: Part;
  trans: TranslationBundle;
}): React.ReactElement | null {
  const { part, trans } = props;
  const told = [
    part.failed > 0 ? trans.__('%1 failed', String(part.failed)) : null,
    part.refused > 0 ? trans.__('%1 refused', String(part.refused)) : null
  ].filter(it => it !== null);
  return told.length === 0 ? null : (
    <span className="tm-Wrong"> · {told.join(', ')}</span>
  );
}
