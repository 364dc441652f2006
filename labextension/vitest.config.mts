import { defineConfig } from 'vitest/config';

export default defineConfig({
  plugins: [
    {
      name: 'svg-as-text',
      enforce: 'pre',
      async load(id: string) {
        if (!id.endsWith('.svg')) {
          return null;
        }
        const { readFile } = await import('node:fs/promises');
        return `export default ${JSON.stringify(await readFile(id, 'utf8'))}`;
      }
    }
  ],
  test: {
    include: ['test/**/*.test.{ts,tsx}'],
    // Properties try hundreds of examples, and the Python tests run beside them.
    testTimeout: 60_000,
    server: { deps: { inline: [/@jupyterlab\//, /@jupyter\//] } }
  }
});
