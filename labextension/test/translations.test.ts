// @vitest-environment jsdom

import { readFileSync, readdirSync } from 'node:fs';
import { resolve } from 'node:path';
import * as ts from 'typescript';
import { describe, expect, it } from 'vitest';

import { catalogue } from '../src/catalogue';
import { ZH } from '../src/locales/zh';
import { translations } from '../src/translations';

/** The strings of the sources that a person sees: the first of each call, and its plural. */
function used(): Map<string, string | null> {
  const found = new Map<string, string | null>();
  const folder = resolve(__dirname, '../src');
  // What translates has no strings of its own.
  const names = readdirSync(folder).filter(
    it => /\.tsx?$/.test(it) && it !== 'catalogue.ts'
  );
  for (const name of names) {
    const source = ts.createSourceFile(
      name,
      readFileSync(resolve(folder, name), 'utf8'),
      ts.ScriptTarget.ES2022,
      true,
      name.endsWith('x') ? ts.ScriptKind.TSX : ts.ScriptKind.TS
    );
    const look = (node: ts.Node): void => {
      if (
        ts.isCallExpression(node) &&
        ts.isPropertyAccessExpression(node.expression) &&
        ['__', '_n', '_p', '_np'].includes(node.expression.name.text)
      ) {
        const [first, second] = node.arguments;
        const isPlural = node.expression.name.text === '_n';
        expect(ts.isStringLiteral(first!), node.getText()).toBe(true);
        found.set(
          (first as ts.StringLiteral).text,
          isPlural ? (second as ts.StringLiteral).text : null
        );
      }
      ts.forEachChild(node, look);
    };
    look(source);
  }
  return found;
}

const placeholders = (text: string) =>
  [...text.matchAll(/%\d/g)].map(match => match[0]).sort();

const translator = (languageCode: string) => ({
  languageCode,
  load: () => 'a language pack'
});

describe('Simplified Chinese', () => {
  const strings = used();

  it('has every string of the sidebar, and no other', () => {
    expect(strings.size).toBeGreaterThan(100);
    expect([...strings.keys()].filter(it => !(it in ZH))).toEqual([]);
    expect(Object.keys(ZH).filter(it => !strings.has(it))).toEqual([]);
  });

  it('fills in what the English strings do, and says it in Chinese', () => {
    for (const [english, chinese] of Object.entries(ZH)) {
      expect(placeholders(chinese), english).toEqual(placeholders(english));
      if (!['TTFT', '%1 of %2', '95 %: %1 – %2'].includes(english)) {
        expect(chinese, english).not.toBe(english);
      }
    }
  });

  it('is shown without a language pack', async () => {
    for (const language of ['zh-CN', 'zh_CN', 'zh-Hans-CN', 'zh']) {
      const trans = await translations(translator(language) as any);
      expect(trans.__('Cell')).toBe('单元格');
      expect(trans.__('Draft · cell %1', '7')).toBe('草稿 · 单元格 7');
      expect(trans._n('%1 run', '%1 runs', 3)).toBe('3 次运行');
      expect(trans._n('%1 run', '%1 runs', 1)).toBe('1 次运行');
    }
  });

  it('is left alone in every other language', async () => {
    for (const language of ['en', 'de-DE', 'zh-TW', 'zh-Hant']) {
      const trans: unknown = await translations(translator(language) as any);
      expect(trans).toBe('a language pack');
    }
    expect((await translations(null)).__('Cell')).toBe('Cell');
  });

  it('leaves in English what it does not have', () => {
    const none = catalogue({});
    expect(none.__('Cell %1', '3')).toBe('Cell 3');
    expect(none._n('%1 run', '%1 runs', 1)).toBe('1 run');
    expect(none._n('%1 run', '%1 runs', 2)).toBe('2 runs');
  });
});
