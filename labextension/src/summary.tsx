/** What stands above the rows: the model, the sums, and what to do where there is nothing to show. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { dtype, tokens, usd } from './format';
import type { Connection } from './model';
import type { ModelState, Totals } from './protocol';

export function Head(props: {
  model: ModelState | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { model, trans } = props;
  if (model === null) {
    return (
      <header className="tm-Head" data-model-state="none">
        <span className="tm-Name">tokmagic</span>
      </header>
    );
  }
  const how = [model.engine, model.quant ?? dtype(model.dtype), model.device];
  return (
    <header className="tm-Head" data-model-state={model.state}>
      <span className="tm-Dot" aria-hidden="true">
        ●
      </span>
      <span className="tm-Name">{model.name}</span>
      <span className="tm-How">{how.filter(Boolean).join(' · ')}</span>
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
    </header>
  );
}

export function TotalsTable(props: {
  notebook: Totals | null;
  day: Totals | null;
  trans: TranslationBundle;
}): React.ReactElement | null {
  const { notebook, day, trans } = props;
  if (notebook === null && day === null) {
    return null;
  }
  return (
    <table className="tm-Totals" aria-label={trans.__('Sums')}>
      <tbody>
        <TotalsLine
          name="notebook"
          label={trans.__('Notebook')}
          totals={notebook}
          trans={trans}
        />
        <TotalsLine
          name="day"
          label={trans.__('Today')}
          totals={day}
          trans={trans}
        />
      </tbody>
    </table>
  );
}

function TotalsLine(props: {
  name: string;
  label: string;
  totals: Totals | null;
  trans: TranslationBundle;
}): React.ReactElement | null {
  const { name, label, totals, trans } = props;
  if (totals === null) {
    return null;
  }
  const unpriced = totals.unpricedRuns;
  return (
    <>
      <tr data-total={name}>
        <th scope="row">{label}</th>
        <td data-field="cost" data-value={totals.costUsd ?? ''}>
          {/* With runs that have no price the sum is what is known of it. */}
          {usd(
            totals.costUsd,
            'measured',
            unpriced > 0 && totals.costUsd !== null ? 'at_least' : 'exact'
          )}
        </td>
        <td data-field="input" data-value={totals.inputTokens}>
          {trans.__('%1 in', tokens(totals.inputTokens))}
        </td>
        <td data-field="output" data-value={totals.outputTokens}>
          {trans.__('%1 out', tokens(totals.outputTokens))}
        </td>
      </tr>
      {unpriced > 0 && name === 'notebook' && (
        <tr className="tm-Note">
          <td colSpan={4}>
            {trans._n(
              '%1 run has no price; set one with %price',
              '%1 runs have no price; set one with %price',
              unpriced
            )}
          </td>
        </tr>
      )}
    </>
  );
}

/** What to do next, where there is nothing to show. `null` is no notebook at all. */
export function Empty(props: {
  connection: Connection | null;
  hasRows: boolean;
  trans: TranslationBundle;
}): React.ReactElement {
  const { connection, hasRows, trans } = props;
  return (
    <div className="tm-Empty" data-connection={connection ?? 'no-notebook'}>
      {emptyText(connection, hasRows, trans)}
    </div>
  );
}

function emptyText(
  connection: Connection | null,
  hasRows: boolean,
  trans: TranslationBundle
): React.ReactNode {
  switch (connection) {
    case null:
      return trans.__('Open a notebook to see what its prompts cost.');
    case 'no-kernel':
      return trans.__(
        'This notebook has no kernel. Choose one to run prompts.'
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
          {trans.__('Where the kernel does not have it yet, run first:')}
          <pre>%pip install tokmagic</pre>
        </>
      );
    case 'ready':
      return hasRows ? null : (
        <>
          {trans.__('No prompt has run yet. Put this at the top of a cell:')}
          <pre>%%generate</pre>
        </>
      );
  }
}

function stateText(state: string, trans: TranslationBundle): string {
  const texts: Record<string, string> = {
    unloaded: trans.__('not loaded'),
    loading: trans.__('loading'),
    ready: trans.__('ready')
  };
  return texts[state] ?? state;
}
