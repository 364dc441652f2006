// What VS Code's Jupyter extension does around the bundle that renders its widgets: the kernel that a widget talks to,
// the loader of other people's widgets, and the elements that an output is put into.
import { ServerConnection } from '@jupyterlab/services';
import { KernelConnection } from '@jupyterlab/services/lib/kernel/default.js';

const VIEW = 'application/vnd.jupyter.widget-view+json';

/** The extension's stand-in for a kernel never asks what the kernel can do, so its comms have no subshells. */
class Connection extends KernelConnection {
  requestKernelInfo() {
    return Promise.resolve(undefined);
  }
}

/** Have requirejs find widgets where an nbextension's entry says, as the extension reads it from the file's text. */
async function locate(moduleName) {
  const text = await (
    await fetch(`nbextensions/${moduleName}/extension.js`)
  ).text();
  const config = text.slice(text.indexOf('requirejs?.config({'));
  const [, path] = new RegExp(`${moduleName}['"]?:\\s*['"]([^'"]+)`).exec(
    config
  );
  window.requirejs.config({
    paths: { [moduleName]: new URL(path, location).href }
  });
}

/** Take up a kernel, and show the widgets that its cells show. */
async function connect(token, model) {
  const { activate } = await import(
    /* webpackIgnore: true */ new URL('ipywidgets.js', location).href
  );
  activate();
  window.vscIPyWidgets8.load();
  const baseUrl = new URL('/', location).href;
  const serverSettings = ServerConnection.makeSettings({
    baseUrl,
    token,
    appendToken: true
  });
  const kernel = new Connection({ model, serverSettings, handleComms: true });
  const failures = [];
  const loader = {
    widgetsRegisteredInRequireJs: new Set(),
    loadWidgetScript: locate,
    successHandler: () => undefined,
    errorHandler: (...said) => failures.push(said.map(String).join(' '))
  };
  const manager = new window.vscIPyWidgets.WidgetManager(
    kernel,
    null,
    loader,
    () => undefined
  );
  kernel.iopubMessage.connect((_, { content }) => {
    const view = content.data?.[VIEW];
    if (view) {
      void show(manager, view).catch(error => failures.push(String(error)));
    }
  });
  // A kernel that was started anew gets a connection and a manager of its own; widgets of the old one hear of neither.
  const restarted = () => {
    manager.dispose();
    kernel.dispose();
  };
  Object.assign(window, { kernel, failures });
  Object.assign(window.vscode, { restarted });
}

async function show(manager, { model_id }) {
  const cell = document
    .querySelector('#container')
    .appendChild(document.createElement('div'));
  cell.innerHTML =
    '<div class="output_container"><div class="output"><div class="cell-output-ipywidget-background">' +
    '<div class="cell-output-ipywidget-background"><div class="cell-output"></div></div></div></div></div>';
  const node = cell.querySelector('.cell-output').parentElement;
  const widget = await manager.get_model(model_id);
  const view = await manager.create_view(widget, { el: node });
  await manager.display_view(undefined, view, { node });
}

/** Run a cell; resolves to its reply, which comes at its end. */
function run(code, cellId) {
  return window.kernel
    .requestExecute({ code }, false, { cellId })
    .done.then(({ content }) => content.status);
}

window.vscode = { connect, run };
