/** The panel in a cell's output: what the sidebar shows, as far as a widget can know it. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { download, exported } from './exports';
import type { GroupedActions } from './grouped';
import { GroupedSection } from './grouped';
import type { Link } from './link';
import type { Actions } from './rows';
import { Rows } from './rows';
import { Head, TotalsTable } from './summary';

/** What a person may do in a panel. */
export function actionsOf(link: Link): Actions {
  return {
    stop: runId => link.stop(runId),
    toggle: cellId => link.toggle(cellId),
    choose: (cellId, runId) => link.choose(cellId, runId),
    pin: cellId => link.pin(cellId),
    copy: text => void copy(text)
  };
}

export function InlinePanel(props: {
  link: Link;
  actions: Actions;
  trans: TranslationBundle;
}): React.ReactElement {
  const { link, actions, trans } = props;
  const { readings } = link;
  const rows = link.rows();
  const grouped: GroupedActions = {
    show: by => link.totals.show(by),
    save: format => download(`tokmagic-costs.${format}`, exported(rows, format))
  };
  const hasRun = (readings.notebookTotals?.runs ?? 0) > 0;
  const isLoading = readings.model?.state === 'loading';
  return (
    <div
      className="tm-Panel tm-Inline"
      role="region"
      aria-label={trans.__('Prompt costs in this output')}
      data-connection={readings.connection}
    >
      <Head
        model={readings.model}
        isRunning={readings.running.length > 0}
        trans={trans}
      />
      <TotalsTable
        notebook={readings.notebookTotals}
        day={readings.dayTotals}
        budgets={readings.budgets}
        hasMagics={link.hasMagics}
        trans={trans}
      />
      {readings.error !== null && (
        <p className="tm-Error" role="alert">
          {readings.error}
        </p>
      )}
      {readings.connection === 'disconnected' && (
        <p className="tm-Told" role="status">
          {trans.__('This panel has lost its kernel. Run its cell again.')}
        </p>
      )}
      {link.isUnheard && (
        <p className="tm-Error" role="alert">
          {trans.__(
            "The kernel hears this only when its cell has ended: interrupt the cell with the notebook's own button."
          )}
        </p>
      )}
      {rows.length === 0 && !isLoading && hasRun && (
        <p className="tm-Told">
          {trans.__(
            'Runs outside of prompt cells have no row, and are in the sums.'
          )}
        </p>
      )}
      {rows.length === 0 && !isLoading && !hasRun && (
        <div className="tm-Empty">
          {link.hasMagics
            ? trans.__('No prompt has run yet. Put this at the top of a cell:')
            : trans.__('No prompt has run yet. Write this in a cell:')}
          <pre>{link.hasMagics ? '%%generate' : "tokmagic.generate('…')"}</pre>
        </div>
      )}
      {rows.length > 0 && (
        <>
          <Rows rows={rows} actions={actions} trans={trans} />
          <p className="tm-Told">
            {trans.__(
              "In the order in which they ran: a cell's place in the notebook is not known here."
            )}
          </p>
          <GroupedSection
            view={{
              by: link.totals.by,
              groups: link.totals.groups,
              label: cellId => link.label(cellId)
            }}
            canAsk={readings.connection === 'ready'}
            actions={grouped}
            trans={trans}
          />
        </>
      )}
    </div>
  );
}

/** Copy a text, also where the browser lets an output's frame not use its clipboard. */
async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = document.createElement('textarea');
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
}
