/** What a row says in words: its status, why it ended, what its numbers do not say. */

import type { TranslationBundle } from '@jupyterlab/translation';

import { minus, signedUsd, usd, visible } from './format';
import type { Row, Scope, Status } from './protocol';

export function statusText(status: Status, trans: TranslationBundle): string {
  const texts: Record<Status, string> = {
    running: trans.__('running'),
    ok: trans.__('done'),
    cached: trans.__('from the cache'),
    interrupted: trans.__('interrupted'),
    failed: trans.__('failed'),
    refused: trans.__('refused')
  };
  return texts[status];
}

/** How a run stands, or how it ended, where its numbers do not say so. */
export function endOf(row: Row, trans: TranslationBundle): string | null {
  const reason =
    row.error === null ? trans.__('no reason known') : visible(row.error);
  switch (row.status) {
    case 'running':
      if (row.isQueued) {
        return trans.__('waiting for its turn at the model');
      }
      if (row.ttftS === null) {
        return trans.__('prefill: waiting for the first token');
      }
      return row.maxTokens === null
        ? trans.__('generating')
        : trans._n(
            'generating, up to %1 token',
            'generating, up to %1 tokens',
            row.maxTokens * row.choices
          );
    case 'cached':
      return row.savedUsd === null ? trans.__('from the cache') : null;
    case 'interrupted':
      return row.finishReason === 'budget'
        ? trans.__('stopped by a budget: %1', reason)
        : trans.__('interrupted');
    case 'failed':
      return trans.__('failed: %1', reason);
    case 'refused':
      return trans.__('refused: %1', reason);
    case 'ok':
      return row.finishReason === 'length'
        ? trans.__('cut off at --max-tokens')
        : null;
  }
}

/** The second line of a row: what its numbers do not say, and what the same tokens would cost elsewhere. */
export function noteOf(
  row: Row,
  isOutdated: boolean,
  trans: TranslationBundle
): string | null {
  // In the row itself: why there are no numbers, and that the answer was cut.
  const isInRow =
    row.status === 'refused' ||
    row.status === 'ok' ||
    (row.status === 'failed' &&
      row.outputTokens === null &&
      row.costUsd === null);
  const parts = [
    isInRow ? null : endOf(row, trans),
    isOutdated ? trans.__('these numbers are of an earlier text') : null,
    shadowOf(row)
  ];
  return parts.filter(part => part !== null).join(' · ') || null;
}

/** A message up to what only explains it. */
export function firstClause(message: string): string {
  return message.split(/;| \(/, 1)[0] ?? message;
}

/** What the same tokens would cost at another model. */
export function shadowOf(row: Row): string | null {
  if (row.shadowUsd === null || row.shadowModel === null) {
    return null;
  }
  const guessed = [row.inputSource, row.outputSource].includes('estimated');
  const cost = usd(row.shadowUsd, guessed ? 'estimated' : 'measured');
  return `${visible(row.shadowModel)}: ${cost}`;
}

/** What a budget bounds. */
export function scopeText(scope: Scope, trans: TranslationBundle): string {
  const texts: Record<Scope, string> = {
    cell: trans.__('Cell'),
    notebook: trans.__('Notebook'),
    day: trans.__('Today'),
    month: trans.__('Month')
  };
  return texts[scope];
}

/** One amount against another: +$0.0002. */
export function dollars(before: string, after: string): string {
  return signedUsd(minus(after, before));
}

/** How a model stands. */
export function stateText(state: string, trans: TranslationBundle): string {
  const texts: Record<string, string> = {
    unloaded: trans.__('not loaded'),
    loading: trans.__('loading'),
    ready: trans.__('ready')
  };
  return texts[state] ?? state;
}
