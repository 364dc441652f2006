/** The shared engine that the model is at: who uses it, and what is left of the key's budget. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { cap, clockTime, tokens, usd, visible } from './format';
import type { SharedState } from './protocol';
import { stateText } from './words';

export function ShareSection(props: {
  shared: SharedState;
  /** Whether the reading is renewed: it is while a prompt runs. */
  isLive: boolean;
  trans: TranslationBundle;
}): React.ReactElement {
  const { shared, isLive, trans } = props;
  const users = usersText(shared, trans);
  const key = keyText(shared, trans);
  const left = leftText(shared, trans);
  return (
    <div
      className="tm-Share"
      role="group"
      aria-label={trans.__('Shared engine')}
      data-read-at={shared.readAt}
    >
      <span data-field="requests">
        {[trans.__('Shared engine'), ...requestTexts(shared, trans)].join(
          ' · '
        )}
      </span>
      {!isLive && (
        <span data-field="age" title={trans.__('Read while a prompt runs')}>
          {trans.__('as of %1', clockTime(shared.readAt))}
        </span>
      )}
      {users !== null && <span data-field="users">{users}</span>}
      {key !== null && <span data-field="key">{key}</span>}
      {left !== null && (
        <span data-field="left" data-value={shared.leftUsd ?? ''}>
          {left}
        </span>
      )}
    </div>
  );
}

/** Whether the model is loaded there, and how busy the engine is. */
function requestTexts(
  { state, running, waiting }: SharedState,
  trans: TranslationBundle
): string[] {
  return [
    ...(state === '' ? [] : [stateText(state, trans)]),
    ...(running === null
      ? []
      : [trans._n('%1 request runs', '%1 requests run', running)]),
    ...(waiting === null || waiting === 0
      ? []
      : [trans._n('%1 waits', '%1 wait', waiting)])
  ];
}

/** Who uses this model now. */
function usersText(
  { users }: SharedState,
  trans: TranslationBundle
): string | null {
  const told = users.map(
    ([name, count]) =>
      `${name === '' ? trans.__('without a user') : visible(name)} ${count}`
  );
  return told.length === 0 ? null : trans.__('in use: %1', told.join(', '));
}

function keyText(
  { key, team }: SharedState,
  trans: TranslationBundle
): string | null {
  const told = [
    key === null ? null : trans.__('key %1', visible(key)),
    team === null ? null : trans.__('team %1', visible(team))
  ];
  return told.filter(part => part !== null).join(' · ') || null;
}

/** What is left of the key's budget, by each cap that it has. */
function leftText(
  { capUsd, leftUsd, capTokens, leftTokens }: SharedState,
  trans: TranslationBundle
): string | null {
  const told = [
    capUsd === null || leftUsd === null
      ? null
      : trans.__('%1 of %2 left', usd(leftUsd), cap(capUsd)),
    capTokens === null || leftTokens === null
      ? null
      : trans.__('%1 of %2 tokens left', tokens(leftTokens), tokens(capTokens))
  ];
  return told.filter(part => part !== null).join(' · ') || null;
}
