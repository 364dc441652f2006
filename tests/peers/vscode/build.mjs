// Bundles page.mjs into the folder that is named, by the bundler and with the packages that the sidebar is built with.
import { createRequire } from 'node:module';
import { promisify } from 'node:util';

const sidebar = new URL('../../../labextension/', import.meta.url).pathname;
const { rspack } = createRequire(sidebar)('@rspack/core');

const compiler = rspack({
  mode: 'production',
  context: sidebar,
  entry: new URL('page.mjs', import.meta.url).pathname,
  target: ['web', 'es2022'],
  resolve: { modules: [`${sidebar}node_modules`] },
  output: { path: process.argv[2], filename: 'page.js' },
  performance: false
});
const stats = await promisify(compiler.run.bind(compiler))();
if (stats.hasErrors()) {
  throw new Error(stats.toString('errors-only'));
}
await promisify(compiler.close.bind(compiler))();
