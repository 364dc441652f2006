/** All open notebooks, and which of them is in front. */

import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { IStateDB } from '@jupyterlab/statedb';
import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import type { Run } from './watched';
import { Watched } from './watched';

export class Notebooks {
  constructor(
    private readonly _tracker: INotebookTracker,
    private readonly _widgets: boolean,
    private readonly _run: Run,
    private readonly _state: IStateDB | null = null
  ) {
    _tracker.widgetAdded.connect((_sender, panel) => this._watch(panel));
    _tracker.forEach(panel => this._watch(panel));
    _tracker.currentChanged.connect(() => {
      this._watched.forEach(watched => watched.drafts.touch());
      this._changed.emit();
    });
  }

  /** The sidebar came into view, or went out of it: prompts are counted while they are typed only where it is seen. */
  setVisible(visible: boolean): void {
    this._visible = visible;
    this.current?.drafts.touch();
  }

  /** Emitted when another notebook comes to the front, or something changed in the one in front. */
  get changed(): ISignal<Notebooks, void> {
    return this._changed;
  }

  /** The notebook in front. */
  get current(): Watched | null {
    const panel = this._tracker.currentWidget;
    return (panel && this._watched.get(panel)) ?? null;
  }

  private _watch(panel: NotebookPanel): void {
    if (this._watched.has(panel)) {
      return;
    }
    const watched = new Watched(
      panel,
      this._widgets,
      () => this._visible && this._tracker.currentWidget === panel,
      this._run,
      this._state
    );
    this._watched.set(panel, watched);
    const changed = () => {
      if (this.current === watched) {
        this._changed.emit();
      }
    };
    watched.readings.changed.connect(changed);
    watched.cellsChanged.connect(changed);
    watched.drafts.changed.connect(changed);
    watched.details.changed.connect(changed);
    watched.forecasts.changed.connect(changed);
    watched.totals.changed.connect(changed);
    watched.pins.changed.connect(changed);
    panel.disposed.connect(() => {
      this._watched.delete(panel);
      watched.dispose();
      this._changed.emit();
    });
    changed();
  }

  private readonly _changed = new Signal<Notebooks, void>(this);
  private _visible = false;
  private readonly _watched = new Map<NotebookPanel, Watched>();
}
