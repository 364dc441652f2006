/** What stands above the rows: the model, the sums, and what to do where there is nothing to show. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { Use } from './budgets';
import { mostUsed, ofEachRun, uncounted } from './budgets';
import { cap, dtype, sumUsd, tokens } from './format';
import { GpuSection } from './gpu';
import { BudgetMeter } from './meter';
import type { Connection } from './model';
import type { Budget, ModelState, Totals } from './protocol';
import { ShareSection } from './share';
import { stateText } from './words';

export function Head(props: {
  model: ModelState | null;
  /** Whether a prompt runs, so that what is read of devices is renewed. */
  isRunning?: boolean;
  trans: TranslationBundle;
}): React.ReactElement {
  const { model, isRunning = false, trans } = props;
  if (model === null) {
    return (
      <div className="tm-Head" data-model-state="none">
        <span className="tm-Name">tokmagic</span>
      </div>
    );
  }
  const how = [model.engine, model.quant ?? dtype(model.dtype), model.device];
  return (
    <div className="tm-Head" data-model-state={model.state}>
      <span className="tm-Dot" aria-hidden="true">
        ●
      </span>
      <span className="tm-Name">{model.name}</span>
      <span className="tm-How">
        {how.filter(it => it && it !== 'none').join(' · ')}
      </span>
      <span className="tm-State" role="status">
        {stateText(model.state, trans)}
      </span>
      {model.state === 'loading' && (
        <div className="tm-Loading">
          <progress
            aria-label={trans.__('Loading the model')}
            {...(model.progress === null ? {} : { value: model.progress })}
          />
          <span>{model.detail}</span>
        </div>
      )}
      {model.notice !== null && (
        <div className="tm-Notice" role="note">
          {model.notice}
        </div>
      )}
      {model.gpu !== null && (
        <GpuSection gpu={model.gpu} isLive={isRunning} trans={trans} />
      )}
      {model.shared !== null && (
        <ShareSection shared={model.shared} isLive={isRunning} trans={trans} />
      )}
    </div>
  );
}

/** The sums, and the budgets that cap them. */
export function TotalsTable(props: {
  notebook: Totals | null;
  day: Totals | null;
  budgets: readonly Budget[];
  hasMagics: boolean;
  trans: TranslationBundle;
}): React.ReactElement | null {
  const { notebook, day, budgets, hasMagics, trans } = props;
  const pricing = hasMagics ? '%price' : 'TOKMAGIC_PRICES';
  if (notebook === null && day === null && budgets.length === 0) {
    return null;
  }
  return (
    <table className="tm-Totals" aria-label={trans.__('Sums')}>
      <tbody>
        <TotalsLine
          name="notebook"
          label={trans.__('Notebook')}
          totals={notebook}
          use={mostUsed(budgets, 'notebook')}
          trans={trans}
        />
        <TotalsLine
          name="day"
          label={trans.__('Today')}
          totals={day}
          use={mostUsed(budgets, 'day')}
          trans={trans}
        />
        <TotalsLine
          name="month"
          label={trans.__('Month')}
          totals={null}
          use={mostUsed(budgets, 'month')}
          trans={trans}
        />
        <Note text={eachRun(budgets, trans)} />
        <Note text={unpriced(notebook, budgets, pricing, trans)} />
      </tbody>
    </table>
  );
}

function TotalsLine(props: {
  name: 'notebook' | 'day' | 'month';
  label: string;
  totals: Totals | null;
  use: Use | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { name, label, totals, use, trans } = props;
  return (
    <>
      {totals !== null && (
        <tr data-total={name}>
          <th scope="row">{label}</th>
          <td data-field="cost" data-value={totals.costUsd ?? ''}>
            {sumUsd(totals)}
          </td>
          <td data-field="input" data-value={totals.inputTokens ?? ''}>
            {trans.__('%1 in', tokens(totals.inputTokens))}
          </td>
          <td data-field="output" data-value={totals.outputTokens ?? ''}>
            {trans.__('%1 out', tokens(totals.outputTokens))}
          </td>
        </tr>
      )}
      {use !== null && (
        <tr data-budget={name}>
          {totals === null && <th scope="row">{label}</th>}
          <td colSpan={totals === null ? 3 : 4}>
            <BudgetMeter
              use={use}
              label={trans.__('Budget: %1', label)}
              trans={trans}
            />
          </td>
        </tr>
      )}
    </>
  );
}

function Note(props: { text: string | null }): React.ReactElement | null {
  return props.text === null ? null : (
    <tr className="tm-Note">
      <td colSpan={4}>{props.text}</td>
    </tr>
  );
}

/** What has no price. Said once: that a budget does not count it tells more. */
function unpriced(
  notebook: Totals | null,
  budgets: readonly Budget[],
  pricing: string,
  trans: TranslationBundle
): string | null {
  const missed = uncounted(budgets);
  if (missed > 0) {
    return trans._n(
      '%1 run has no price and is not counted; set one with %2',
      '%1 runs have no price and are not counted; set one with %2',
      missed,
      pricing
    );
  }
  const runs = notebook?.unpricedRuns ?? 0;
  return runs === 0
    ? null
    : trans._n(
        '%1 run has no price; set one with %2',
        '%1 runs have no price; set one with %2',
        runs,
        pricing
      );
}

/** What bounds every single run; null where nothing does. */
function eachRun(
  budgets: readonly Budget[],
  trans: TranslationBundle
): string | null {
  const caps = ofEachRun(budgets);
  const parts = [
    caps.usd === null ? null : trans.__('each run up to %1', cap(caps.usd)),
    caps.tokens === null
      ? null
      : trans.__('asks above %1 prompt tokens', tokens(caps.tokens))
  ];
  return parts.filter(part => part !== null).join(' · ') || null;
}

/** What mends an empty state. */
export interface EmptyActions {
  insert(source: string, isAtTop: boolean): void;
  /** Runs a command of the application. */
  execute(command: string): void;
}

/** What to do next, where there is nothing to show. `null` is no notebook at all. */
export function Empty(props: {
  connection: Connection | null;
  hasRows: boolean;
  isLoading: boolean;
  actions: EmptyActions;
  trans: TranslationBundle;
}): React.ReactElement {
  const { connection, hasRows, isLoading, actions, trans } = props;
  return (
    <div className="tm-Empty" data-connection={connection ?? 'no-notebook'}>
      {emptyText(connection, hasRows || isLoading, actions, trans)}
    </div>
  );
}

function emptyText(
  connection: Connection | null,
  isUsed: boolean,
  actions: EmptyActions,
  trans: TranslationBundle
): React.ReactNode {
  switch (connection) {
    case null:
      return (
        <>
          {trans.__('Open a notebook to see what its prompts cost.')}
          <button onClick={() => actions.execute('notebook:create-new')}>
            {trans.__('New notebook')}
          </button>
        </>
      );
    case 'no-kernel':
      return (
        <>
          {trans.__('This notebook has no kernel. Choose one to run prompts.')}
          <button onClick={() => actions.execute('notebook:change-kernel')}>
            {trans.__('Choose a kernel')}
          </button>
        </>
      );
    case 'connecting':
      return trans.__('Connecting to the kernel…');
    case 'disconnected':
      return trans.__('The kernel cannot be reached. Reconnecting…');
    case 'not-loaded':
      return (
        <>
          {trans.__('To see what prompts cost, run this in a cell:')}
          <pre>%load_ext tokmagic</pre>
          <button onClick={() => actions.insert('%load_ext tokmagic', true)}>
            {trans.__('Insert it at the top')}
          </button>
          {trans.__('If it is not installed in the kernel yet, first run:')}
          <pre>%pip install tokmagic</pre>
        </>
      );
    case 'ready':
      return isUsed ? null : (
        <>
          {trans.__('No prompt has run yet. Put this at the top of a cell:')}
          <pre>%%generate</pre>
          <button onClick={() => actions.insert('%%generate\n', false)}>
            {trans.__('Insert such a cell')}
          </button>
        </>
      );
  }
}
