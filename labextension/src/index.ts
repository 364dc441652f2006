/** Wiring: the sidebar, the status bar's item and the commands. */

import type {
  JupyterFrontEnd,
  JupyterFrontEndPlugin
} from '@jupyterlab/application';
import { ILayoutRestorer } from '@jupyterlab/application';
import { ICommandPalette } from '@jupyterlab/apputils';
import { INotebookTracker } from '@jupyterlab/notebook';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStateDB } from '@jupyterlab/statedb';
import { IStatusBar } from '@jupyterlab/statusbar';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ITranslator } from '@jupyterlab/translation';
import { LabIcon } from '@jupyterlab/ui-components';

import iconSvg from '../style/tokmagic.svg';
import { Notebooks } from './notebooks';
import { PANEL_ID, SidebarPanel } from './panel';
import { StatusItem } from './statusbar';
import { translations } from './translations';
import type { Watched } from './watched';

const PLUGIN_ID = 'tokmagic:sidebar';
const OPENED_KEY = 'tokmagic:opened';
const WIDGET_MANAGER = '@jupyter-widgets/jupyterlab-manager:plugin';

const icon = new LabIcon({ name: 'tokmagic:icon', svgstr: iconSvg });

const sidebar: JupyterFrontEndPlugin<void> = {
  id: PLUGIN_ID,
  description: 'Live tokens, cost and latency of each prompt cell.',
  autoStart: true,
  requires: [INotebookTracker],
  optional: [
    ICommandPalette,
    ILayoutRestorer,
    ISettingRegistry,
    IStateDB,
    IStatusBar,
    ITranslator
  ],
  activate: async (
    app: JupyterFrontEnd,
    tracker: INotebookTracker,
    palette: ICommandPalette | null,
    restorer: ILayoutRestorer | null,
    registry: ISettingRegistry | null,
    state: IStateDB | null,
    statusBar: IStatusBar | null,
    translator: ITranslator | null
  ) => {
    const trans = await translations(translator);
    const notebooks = new Notebooks(
      tracker,
      app.hasPlugin(WIDGET_MANAGER),
      // A command of JupyterLab's own and of Notebook 7's, on the notebook in front.
      async () => {
        await app.commands.execute('notebook:run-cell');
      },
      state
    );
    const panel = new SidebarPanel(notebooks, trans, command => {
      void app.commands.execute(command);
    });
    panel.title.icon = icon;
    app.shell.add(panel, 'right', { rank: 200, type: 'tokmagic' });
    restorer?.add(panel, PANEL_ID);
    const open = () => app.shell.activateById(PANEL_ID);
    addCommands(app, notebooks, panel, palette, trans, open);

    const settings = await registry?.load(PLUGIN_ID);
    const isOn = (name: string) => settings?.get(name).composite !== false;
    if (statusBar !== null) {
      statusBar.registerStatusItem(PLUGIN_ID, {
        item: new StatusItem(notebooks, trans, open),
        align: 'right',
        rank: 200,
        isActive: () => isOn('statusBar'),
        ...(settings ? { activeStateChanged: settings.changed } : {})
      });
    }
    // Not awaited: the layout is restored only after every extension is active.
    void app.restored.then(async () => {
      // Shown once in each workspace, which then remembers what the person chose.
      if (isOn('openOnStart') && !(await state?.fetch(OPENED_KEY))) {
        open();
        await state?.save(OPENED_KEY, true);
      }
    });
  }
};

function addCommands(
  app: JupyterFrontEnd,
  notebooks: Notebooks,
  panel: SidebarPanel,
  palette: ICommandPalette | null,
  trans: TranslationBundle,
  open: () => void
): void {
  const add = (
    name: string,
    label: string,
    execute: () => void,
    isEnabled: () => boolean = () => true
  ) => {
    const command = `tokmagic:${name}`;
    app.commands.addCommand(command, {
      label,
      execute,
      isEnabled,
      describedBy: { args: { type: 'object', properties: {} } }
    });
    palette?.addItem({ command, category: 'tokmagic' });
  };
  const running = () => notebooks.current?.readings.running ?? [];
  add('open', trans.__('Show what prompts cost'), open);
  add(
    'forecast',
    trans.__('Forecast what running all cells will cost'),
    () => {
      open();
      notebooks.current?.forecasts.ask();
    },
    () => notebooks.current?.hasPrompts ?? false
  );
  const hasRows = () => (notebooks.current?.rows().length ?? 0) > 0;
  add(
    'export-csv',
    trans.__("Export the sidebar's rows as CSV"),
    () => panel.save('csv'),
    hasRows
  );
  add(
    'export-jsonl',
    trans.__("Export the sidebar's rows as JSON lines"),
    () => panel.save('jsonl'),
    hasRows
  );
  const active = () => {
    const current = notebooks.current;
    const cellId = current?.panel.content.activeCell?.model.id ?? null;
    return current?.rows().find(row => row.cellId === cellId)?.cellId ?? null;
  };
  const ofActive = (act: (watched: Watched, cellId: string) => void) => () => {
    const cellId = active();
    if (cellId !== null && notebooks.current !== null) {
      open();
      act(notebooks.current, cellId);
    }
  };
  add(
    'toggle-row',
    trans.__('Open or close the row of the active cell'),
    ofActive((watched, cellId) => watched.toggle(cellId)),
    () => active() !== null
  );
  add(
    'pin-row',
    trans.__('Pin or unpin the row of the active cell'),
    ofActive((watched, cellId) => watched.pins.toggle(cellId)),
    () => active() !== null
  );
  add(
    'load',
    trans.__('Insert %load_ext tokmagic'),
    () => notebooks.current?.insert('%load_ext tokmagic', true),
    () => notebooks.current?.readings.connection === 'not-loaded'
  );
  add(
    'stop',
    trans.__("Stop this notebook's running prompts"),
    () => running().forEach(row => notebooks.current?.stop(row.runId)),
    () => running().length > 0
  );
  add(
    'go-to-running',
    trans.__('Go to the cell whose prompt is running'),
    () => {
      const cellId = running()[0]?.cellId;
      if (cellId) {
        void notebooks.current?.goTo(cellId);
      }
    },
    () => running().length > 0
  );
}

export default sidebar;
