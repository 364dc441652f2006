/** How far a budget is used: its numbers, a bar, and a word where it calls for attention. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { Level, Use } from './budgets';
import { cap, percent, tokens, usd } from './format';

export function BudgetMeter(props: {
  use: Use;
  /** What a screen reader calls the bar. */
  label: string;
  trans: TranslationBundle;
}): React.ReactElement {
  const { use, label, trans } = props;
  const used = percent(use.share);
  const word = wordOf(use.level, trans);
  const filled = Math.min(100, use.share * 100);
  return (
    <div className="tm-Budget" data-level={use.level} data-share={use.share}>
      <span title={trans.__('Spent, plus held by active runs')}>
        {amounts(use, trans)}
      </span>
      <div
        className="tm-Bar"
        role="meter"
        aria-label={label}
        aria-valuemin={0}
        aria-valuemax={100}
        aria-valuenow={Math.floor(filled)}
        aria-valuetext={word === '' ? used : `${used}, ${word}`}
      >
        <div className="tm-BarFill" style={{ width: `${filled}%` }} />
      </div>
      <span data-field="share">{used}</span>
      {/* There from the start, so that a screen reader says the word when it comes. */}
      <span className="tm-Level" role="status">
        {word !== '' && <span aria-hidden="true">{'⚠\ufe0e '}</span>}
        {word}
      </span>
    </div>
  );
}

function amounts(use: Use, trans: TranslationBundle): string {
  const { capUsd, usedUsd, capTokens, usedTokens, unpricedRuns } = use.budget;
  if (use.unit === 'tokens' || capUsd === null) {
    return trans.__('%1 of %2 tokens', tokens(usedTokens), tokens(capTokens));
  }
  const bound = unpricedRuns > 0 ? 'at_least' : 'exact';
  return trans.__('%1 of %2', usd(usedUsd, 'measured', bound), cap(capUsd));
}

function wordOf(level: Level, trans: TranslationBundle): string {
  const words: Record<Level, string> = {
    ok: '',
    warning: trans.__('warning'),
    'used-up': trans.__('used up')
  };
  return words[level];
}
