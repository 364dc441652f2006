/** Strings in a language whose catalogue comes along, made without JupyterLab's code, which a panel does not have. */

import type { TranslationBundle } from '@jupyterlab/translation';

/** Chinese as it is written in China and Singapore. */
const SIMPLIFIED = /^zh(?:-hans)?(?:-(?:cn|sg))?$/i;

/** Whether a language's strings are those of `locales/zh`. */
export function isSimplifiedChinese(language: string): boolean {
  return SIMPLIFIED.test(language.replace(/_/g, '-'));
}

/** A catalogue whose strings have one form for every number; what it does not have stays English. */
export function catalogue(
  strings: Readonly<Record<string, string>>
): TranslationBundle {
  const one = (id: string, ...args: unknown[]) => fill(strings[id] ?? id, args);
  const many = (id: string, plural: string, n: number, ...args: unknown[]) =>
    fill(strings[id] ?? (n === 1 ? id : plural), [n, ...args]);
  return {
    __: one,
    _n: many,
    _p: (_context, ...rest) => one(...rest),
    _np: (_context, ...rest) => many(...rest),
    gettext: one,
    ngettext: many,
    pgettext: (_context, ...rest) => one(...rest),
    npgettext: (_context, ...rest) => many(...rest),
    dcnpgettext: (_domain, _context, ...rest) => many(...rest)
  };
}

function fill(text: string, args: readonly unknown[]): string {
  return text.replace(/%(\d)/g, (_all, place) => String(args[place - 1]));
}
