/** The sidebar: what the notebook in front costs, a row for each cell. */

import { Clipboard } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { Message } from '@lumino/messaging';
import * as React from 'react';

import { DraftSection } from './draft';
import type { ForecastActions } from './foreseen';
import { ForecastSection } from './foreseen';
import type { Notebooks } from './notebooks';
import type { Actions } from './rows';
import { download, exported } from './exports';
import type { Format } from './exports';
import type { GroupedActions } from './grouped';
import { GroupedSection } from './grouped';
import { Rows } from './rows';
import type { EmptyActions } from './summary';
import { Empty, Head, TotalsTable } from './summary';

/** The time between two frames, in milliseconds. */
const FRAME_MS = 16;

export const PANEL_ID = 'tokmagic-panel';
/** Room for every column where the window has it, and for the notebook where it has not. */
const MIN_WIDTH = 'clamp(250px, 25vw, 350px)';

export class SidebarPanel extends ReactWidget {
  constructor(
    private readonly _notebooks: Notebooks,
    private readonly _trans: TranslationBundle,
    _execute: (command: string) => void
  ) {
    super();
    this.id = PANEL_ID;
    this.addClass('tm-Panel');
    // In the element itself: the layout measures it before any stylesheet has come.
    this.node.style.minWidth = MIN_WIDTH;
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', _trans.__('Prompt costs'));
    this.title.caption = _trans.__('tokmagic: what each prompt costs');
    this._actions = {
      goTo: cellId => void _notebooks.current?.goTo(cellId),
      stop: runId => _notebooks.current?.stop(runId),
      toggle: cellId => _notebooks.current?.toggle(cellId),
      choose: (cellId, runId) => _notebooks.current?.choose(cellId, runId),
      run: cellId => void _notebooks.current?.run(cellId),
      pin: cellId => _notebooks.current?.pins.toggle(cellId),
      copy: text => Clipboard.copyToSystem(text)
    };
    this._emptyActions = {
      insert: (source, isAtTop) => _notebooks.current?.insert(source, isAtTop),
      execute: _execute
    };
    this._groupedActions = {
      show: by => _notebooks.current?.totals.show(by),
      save: format => this.save(format)
    };
    this._forecastActions = {
      ask: () => _notebooks.current?.forecasts.ask(),
      close: () => _notebooks.current?.forecasts.close(),
      goTo: this._actions.goTo
    };
    _notebooks.changed.connect(this._redraw, this);
  }

  /** Save the rows of the notebook in front as a file. */
  save(format: Format): void {
    const current = this._notebooks.current;
    const text = exported(current?.rows() ?? [], format);
    const name = current?.panel.title.label.replace(/\.ipynb$/, '') ?? '';
    download(`${name || 'tokmagic'}-costs.${format}`, text);
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._notebooks.setVisible(true);
    this._fitAround();
    window.addEventListener('resize', this._fitAround);
    this.update();
  }

  /**
   * Notebook 7 gives a stack the width of its stylesheet alone, and no layout looks again at how wide its parts must
   * be when the window changes.
   */
  private readonly _fitAround = (): void => {
    for (let around = this.parent; around !== null; around = around.parent) {
      around.fit();
    }
  };

  protected override onBeforeHide(message: Message): void {
    super.onBeforeHide(message);
    window.removeEventListener('resize', this._fitAround);
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
    const forecast = current?.forecast ?? null;
    const isReady = readings?.connection === 'ready';
    // The running row says it better.
    const isRunning =
      draft !== null && readings?.row(draft.draft.cellId)?.status === 'running';
    this._drawn = (
      <>
        <Head
          model={readings?.model ?? null}
          isRunning={(readings?.running.length ?? 0) > 0}
          trans={trans}
        />
        {draft && !isRunning && <DraftSection cell={draft} trans={trans} />}
        {readings && (
          <TotalsTable
            notebook={readings.notebookTotals}
            day={readings.dayTotals}
            budgets={readings.budgets}
            hasMagics={true}
            trans={trans}
          />
        )}
        {forecast === null && current?.hasPrompts && isReady && (
          <div className="tm-Tools">
            <button onClick={() => this._forecastActions.ask()}>
              {trans.__('Forecast Run All')}
            </button>
          </div>
        )}
        {forecast !== null && (
          <ForecastSection
            view={forecast}
            actions={this._forecastActions}
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
          actions={this._emptyActions}
          trans={trans}
        />
        {rows.length > 0 && (
          <>
            <Rows rows={rows} actions={this._actions} trans={trans} />
            <GroupedSection
              view={current!.grouped}
              canAsk={isReady}
              actions={this._groupedActions}
              trans={trans}
            />
          </>
        )}
      </>
    );
    return this._drawn;
  }

  /**
   * At most one redraw for each frame, and none while the page is hidden. What is drawn is drawn after this, by React,
   * so that waiting for a frame would take two of them, and a frame of a long notebook takes its time.
   */
  private _redraw(): void {
    if (this._waiting || !this.isVisible) {
      return;
    }
    this._waiting = true;
    const draw = () => {
      this._waiting = false;
      this._drawnAt = performance.now();
      this.update();
    };
    if (document.hidden) {
      requestAnimationFrame(draw);
    } else {
      setTimeout(draw, this._drawnAt + FRAME_MS - performance.now());
    }
  }

  private readonly _actions: Required<Actions>;
  private readonly _emptyActions: EmptyActions;
  private readonly _groupedActions: GroupedActions;
  private readonly _forecastActions: ForecastActions;
  private _drawn: React.ReactElement | null = null;
  private _drawnAt = -FRAME_MS;
  private _waiting = false;
}
