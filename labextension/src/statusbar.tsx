/** The status bar's item: what the notebook in front has cost so far. */

import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import * as React from 'react';

import { sumUsd, tokens } from './format';
import type { Notebooks } from './notebooks';

export class StatusItem extends ReactWidget {
  constructor(
    private readonly _notebooks: Notebooks,
    private readonly _trans: TranslationBundle,
    private readonly _open: () => void
  ) {
    super();
    this.addClass('tm-Status');
    _notebooks.changed.connect(() => this.update());
  }

  protected override render(): React.ReactElement | null {
    const totals = this._notebooks.current?.readings.notebookTotals ?? null;
    if (totals === null || totals.runs === 0) {
      return null;
    }
    const trans = this._trans;
    return (
      <button
        className="jp-StatusBar-TextItem"
        title={trans.__('What the prompts of this notebook cost so far')}
        onClick={this._open}
      >
        {sumUsd(totals)} ·{' '}
        {trans.__(
          '%1 in · %2 out',
          tokens(totals.inputTokens),
          tokens(totals.outputTokens)
        )}
      </button>
    );
  }
}
