/** The forecast of *Run All*: its sum, the budgets that it would meet, and a line for each prompt cell. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { Against, Forecast, Foreseen } from './forecast';
import type { Asking } from './forecasts';
import { UNKNOWN, cap, tokens, usd, visible } from './format';
import { scopeText } from './words';

export interface ForecastView {
  readonly asking: Asking;
  readonly told: Forecast | null;
  readonly isOutdated: boolean;
  /** The number that the notebook shows for a cell. */
  label(cellId: string): string;
}

export interface ForecastActions {
  ask(): void;
  close(): void;
  goTo(cellId: string): void;
}

export function ForecastSection(props: {
  view: ForecastView;
  actions: ForecastActions;
  trans: TranslationBundle;
}): React.ReactElement {
  const { view, actions, trans } = props;
  const { told } = view;
  return (
    <section
      className="tm-Forecast"
      aria-label={trans.__('Forecast of Run All')}
      data-asking={view.asking}
      data-done={told?.isDone || undefined}
    >
      <div className="tm-ForecastHead">
        <span className="tm-Heading">{trans.__('Forecast of Run All')}</span>
        <button onClick={() => actions.ask()}>{trans.__('Again')}</button>
        <button
          aria-label={trans.__('Close the forecast')}
          title={trans.__('Close the forecast')}
          onClick={() => actions.close()}
        >
          ×
        </button>
      </div>
      <p role="status">{statusOf(view, trans)}</p>
      {told !== null && (
        <>
          <Total forecast={told} trans={trans} />
          {told.budgets.map((budget, index) => (
            <p key={index} data-verdict={budget.verdict}>
              {verdictText(budget, view.label, trans)}
            </p>
          ))}
          <Cells
            told={told}
            label={view.label}
            actions={actions}
            trans={trans}
          />
        </>
      )}
    </section>
  );
}

function Total(props: {
  forecast: Forecast;
  trans: TranslationBundle;
}): React.ReactElement {
  const { total } = props.forecast;
  const { trans } = props;
  const missing = total.withoutHistory + total.unpriced + total.unknown;
  const bound = missing > 0 ? 'at_least' : 'exact';
  const gaps = [
    total.cached > 0 &&
      trans._n('%1 from the cache', '%1 from the cache', total.cached),
    total.withoutHistory > 0 &&
      trans._n(
        '%1 cell never ran: its least is counted',
        '%1 cells never ran: their least is counted',
        total.withoutHistory
      ),
    total.unpriced > 0 &&
      trans._n(
        '%1 cell has no price',
        '%1 cells have no price',
        total.unpriced
      ),
    total.unknown > 0 &&
      trans._n('%1 cell is unknown', '%1 cells are unknown', total.unknown)
  ].filter(Boolean);
  return (
    <>
      <p className="tm-ForecastTotal">
        <strong
          data-field="likely"
          data-value={total.likelyUsd ?? ''}
          title={trans.__('What the cells cost on average before')}
        >
          {usd(total.likelyUsd, 'estimated', bound)}
        </strong>{' '}
        <span
          data-field="interval"
          data-low={total.lowUsd ?? ''}
          data-high={total.highUsd ?? ''}
          title={trans.__(
            "95 % prediction interval (Student's t) of cells with two runs or more; of the others the least and the most that they can cost"
          )}
        >
          {trans.__(
            '95 %: %1 – %2',
            usd(total.lowUsd),
            total.highUsd === null ? UNKNOWN : usd(total.highUsd)
          )}
        </span>
      </p>
      {gaps.length > 0 && <p className="tm-Told">{gaps.join(' · ')}</p>}
    </>
  );
}

const Cells = React.memo(function Cells(props: {
  told: Forecast;
  label: (cellId: string) => string;
  actions: ForecastActions;
  trans: TranslationBundle;
}): React.ReactElement {
  const { told, label, actions, trans } = props;
  return (
    <details>
      <summary>
        {trans._n('%1 prompt cell', '%1 prompt cells', told.cells.length)}
      </summary>
      <table aria-label={trans.__('Forecast by cell')}>
        <tbody>
          {told.cells.map(cell => (
            <tr
              key={cell.cellId}
              data-forecast={cell.cellId}
              data-fate={cell.fate}
            >
              <th scope="row">
                <button
                  className="tm-Cell"
                  aria-label={trans.__('Go to cell %1', label(cell.cellId))}
                  onClick={() => actions.goTo(cell.cellId)}
                >
                  {label(cell.cellId)}
                </button>
              </th>
              <td
                title={cell.reason === null ? undefined : visible(cell.reason)}
              >
                {cellText(cell, trans)}
              </td>
              <td data-field="cost" data-value={cell.likely.usd ?? ''}>
                {costText(cell)}
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
});

function cellText(cell: Foreseen, trans: TranslationBundle): string {
  switch (cell.fate) {
    case 'cached':
      return trans.__('from the cache');
    case 'free':
      return trans.__('runs no prompt');
    case 'unknown':
      return visible(cell.reason ?? trans.__('no reason known'));
    case 'runs': {
      const { runs, edited } = cell.likely;
      const history = edited
        ? trans._n(
            'from %1 run of an earlier text',
            'from %1 runs of an earlier text',
            runs
          )
        : runs === 0
          ? trans.__('never ran')
          : trans._n('from %1 run', 'from %1 runs', runs);
      if (cell.inputTokens === null) {
        return history; // of a cell's own code only its cost is known
      }
      const input = tokens(cell.inputTokens, cell.inputSource);
      return `${trans.__('%1 in', input)} · ${history}`;
    }
  }
}

function costText(cell: Foreseen): string {
  const { usd: middle, low, high } = cell.likely;
  if (cell.fate !== 'runs') {
    return cell.fate === 'unknown' ? UNKNOWN : '$0';
  }
  if (middle !== null) {
    return usd(middle, 'estimated');
  }
  return low === null && high === null ? UNKNOWN : `${usd(low)} – ${usd(high)}`;
}

function statusOf(view: ForecastView, trans: TranslationBundle): string | null {
  switch (view.asking) {
    case 'asked':
      return trans.__('asking the kernel…');
    case 'no-kernel':
      return trans.__('A forecast needs a kernel with tokmagic.');
    case 'unknown':
      return trans.__(
        "The kernel's tokmagic is older and makes no forecast; upgrade it there."
      );
    case 'told':
      return view.isOutdated
        ? trans.__('The notebook was changed since; ask again.')
        : view.told?.isDone
          ? null
          : trans.__('reading a tokenizer…');
  }
}

function verdictText(
  budget: Against,
  label: (cellId: string) => string,
  trans: TranslationBundle
): string {
  const scope = scopeText(budget.scope, trans);
  const left = trans.__(
    '%1 budget: %2 of %3 left',
    scope,
    usd(budget.leftUsd),
    cap(budget.capUsd)
  );
  const where =
    budget.cellId === null
      ? ''
      : ` · ${trans.__('cell %1 may be refused', label(budget.cellId))}`;
  const verdicts = {
    fits: trans.__('it fits'),
    'may-exceed': trans.__('it may not fit'),
    exceeds: trans.__('it does not fit')
  };
  return `${left}: ${verdicts[budget.verdict]}${where}`;
}
