/** The sidebar: what the notebook in front costs, a row for each cell. */

import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import * as React from 'react';

import { DraftSection } from './draft';
import type { Notebooks } from './notebooks';
import type { Actions } from './rows';
import { Rows } from './rows';
import { Empty, Head, TotalsTable } from './summary';

export const PANEL_ID = 'tokmagic-panel';
const MIN_WIDTH_PX = 330;

export class SidebarPanel extends ReactWidget {
  constructor(
    private readonly _notebooks: Notebooks,
    private readonly _trans: TranslationBundle
  ) {
    super();
    this.id = PANEL_ID;
    this.addClass('tm-Panel');
    // In the element itself: the layout measures it before any stylesheet has come.
    this.node.style.minWidth = `${MIN_WIDTH_PX}px`;
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', _trans.__('Prompt costs'));
    this.title.caption = _trans.__('tokmagic: what each prompt costs');
    this._actions = {
      goTo: cellId => void _notebooks.current?.goTo(cellId),
      stop: runId => _notebooks.current?.stop(runId)
    };
    _notebooks.changed.connect(this._redraw, this);
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._notebooks.setVisible(true);
    // Notebook 7 gives a stack the width of its stylesheet alone, and does not look again at what it shows.
    for (let around = this.parent; around !== null; around = around.parent) {
      around.fit();
    }
    this.update();
  }

  protected override onBeforeHide(message: Message): void {
    super.onBeforeHide(message);
    this._notebooks.setVisible(false);
  }

  protected override render(): React.ReactElement | null {
    // Nothing is drawn while nobody looks; showing the panel draws it anew.
    if (!this.isVisible) {
      return this._drawn;
    }
    const trans = this._trans;
    const current = this._notebooks.current;
    const readings = current?.readings ?? null;
    const rows = current?.rows() ?? [];
    const draft = current?.draft ?? null;
    this._drawn = (
      <>
        <Head model={readings?.model ?? null} trans={trans} />
        {draft && <DraftSection cell={draft} trans={trans} />}
        {readings && (
          <TotalsTable
            notebook={readings.notebookTotals}
            day={readings.dayTotals}
            budgets={readings.budgets}
            trans={trans}
          />
        )}
        {readings?.error && (
          <p className="tm-Error" role="alert">
            {readings.error}
          </p>
        )}
        <Empty
          connection={readings?.connection ?? null}
          hasRows={rows.length > 0}
          isLoading={readings?.model?.state === 'loading'}
          trans={trans}
        />
        {rows.length > 0 && (
          <Rows rows={rows} actions={this._actions} trans={trans} />
        )}
      </>
    );
    return this._drawn;
  }

  /** At most one redraw for each animation frame. */
  private _redraw(): void {
    if (this._frame === 0 && this.isVisible) {
      this._frame = requestAnimationFrame(() => {
        this._frame = 0;
        this.update();
      });
    }
  }

  private readonly _actions: Actions;
  private _drawn: React.ReactElement | null = null;
  private _frame = 0;
}
