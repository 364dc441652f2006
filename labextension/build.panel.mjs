// Bundles the panel for outputs, by the bundler that JupyterLab's builder brings: one ES module, its style, and the
// licences of what is in it.
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { rspack } from '@rspack/core';

const here = dirname(fileURLToPath(import.meta.url));
const target = resolve(here, '../tokmagic/widget');

const compiler = rspack({
  mode: 'production',
  context: here,
  entry: './lib/widget.js',
  target: ['web', 'es2022'],
  output: {
    path: target,
    filename: 'panel.js',
    module: true,
    library: { type: 'module' },
    clean: true
  },
  // As in build.config.js: the same bytes in any folder.
  optimization: { moduleIds: 'natural' },
  performance: false
});
const stats = await promisify(compiler.run.bind(compiler))();
if (stats.hasErrors()) {
  throw new Error(stats.toString('errors-only'));
}

const styles = ['base.css', 'panel.css'].map(name =>
  readFile(join(here, 'style', name), 'utf8')
);
await writeFile(
  join(target, 'panel.css'),
  (await Promise.all(styles)).join('\n')
);

const { modules } = stats.toJson({
  all: false,
  modules: true,
  nestedModules: true,
  modulesSpace: Infinity,
  nestedModulesSpace: Infinity
});
const names = modules
  .flatMap(it => [it, ...(it.modules ?? [])])
  .map(it => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(it.name ?? '')?.[1])
  .filter(name => name !== undefined);
const licences = [];
for (const name of [...new Set(names)].sort()) {
  const folder = join(here, 'node_modules', name);
  const { version, license } = JSON.parse(
    await readFile(join(folder, 'package.json'), 'utf8')
  );
  const file = (await readdir(folder)).find(it => /^licen[cs]e/i.test(it));
  const text = file ? await readFile(join(folder, file), 'utf8') : '';
  licences.push(`${name} ${version} (${license})\n\n${text.trim()}\n`);
}
await writeFile(join(target, 'licenses.txt'), licences.join('\n----\n\n'));
await promisify(compiler.close.bind(compiler))();
