/** The sidebar in the person's language: a language pack may not know it, so its catalogues come along. */

import type { ITranslator, TranslationBundle } from '@jupyterlab/translation';
import { nullTranslator } from '@jupyterlab/translation';

import { catalogue, isSimplifiedChinese } from './catalogue';

const DOMAIN = 'tokmagic';

/** The strings in the application's language, if there is a catalogue for it here; else what a language pack has. */
export async function translations(
  translator: ITranslator | null
): Promise<TranslationBundle> {
  const given = translator ?? nullTranslator;
  return isSimplifiedChinese(given.languageCode)
    ? catalogue((await import('./locales/zh')).ZH)
    : given.load(DOMAIN);
}
