/** The prompt that is being written: what it would take, before anything runs. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { UNKNOWN, percent, usd, wholeTokens } from './format';
import type { Draft } from './protocol';

/** What the prompt in a cell would take, under the number that the notebook shows for the cell. */
export interface CellDraft {
  readonly label: string;
  readonly draft: Draft;
}

/** A screen reader says the numbers when they have stood still for so long. */
const SPOKEN_AFTER_MS = 1500;

export function DraftSection(props: {
  cell: CellDraft;
  trans: TranslationBundle;
}): React.ReactElement {
  const { trans } = props;
  const { draft, label } = props.cell;
  const input = inputText(draft, trans);
  const output = outputText(draft, trans);
  const context = contextText(draft, trans);
  const cost = costText(draft, trans);
  const likely = likelyText(draft, trans);
  return (
    <section
      className="tm-Draft"
      aria-label={trans.__('Draft of cell %1', label)}
      data-cell-id={draft.cellId}
      data-state={draft.state}
    >
      <span
        className="tm-DraftName"
        {...(draft.model === null ? {} : { title: draft.model })}
      >
        {trans.__('Draft · cell %1', label)}
      </span>
      <span className="tm-DraftTokens">
        <span
          data-field="input"
          data-value={draft.inputTokens ?? ''}
          data-source={draft.inputSource}
          {...(draft.reason === null ? {} : { title: draft.reason })}
        >
          {input}
        </span>
        {output !== null && (
          <span data-field="output" data-value={draft.maxOutputTokens ?? ''}>
            {' '}
            {output}
          </span>
        )}
      </span>
      <span data-field="context" data-level={contextLevel(draft)}>
        {context}
      </span>
      <span
        data-field="cost"
        data-low={draft.lowUsd ?? ''}
        data-high={draft.highUsd ?? ''}
        title={costTitle(draft, trans)}
      >
        {cost}
      </span>
      {likely !== null && (
        <span
          className="tm-Likely"
          data-field="likely"
          data-value={draft.likely.usd ?? ''}
          title={likelyTitle(draft, trans)}
        >
          {likely}
        </span>
      )}
      <Spoken
        text={[input, output, context, cost, likely, draft.reason]
          .filter(Boolean)
          .join(', ')}
      />
    </section>
  );
}

/** For screen readers alone, and not at each keystroke. */
function Spoken(props: { text: string }): React.ReactElement {
  const { text } = props;
  const [spoken, setSpoken] = React.useState('');
  React.useEffect(() => {
    const timer = setTimeout(() => setSpoken(text), SPOKEN_AFTER_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <span className="tm-Spoken" role="status">
      {spoken}
    </span>
  );
}

function inputText(draft: Draft, trans: TranslationBundle): string {
  const count = wholeTokens(draft.inputTokens, draft.inputSource);
  return draft.state === 'counting'
    ? trans.__('counting… %1 in', count)
    : trans.__('%1 in', count);
}

function outputText(draft: Draft, trans: TranslationBundle): string | null {
  const most = draft.maxOutputTokens;
  return most === null
    ? null
    : trans.__('+ up to %1 out', wholeTokens(most, 'counted'));
}

function contextText(draft: Draft, trans: TranslationBundle): string | null {
  const share = contextShare(draft);
  return share === null ? null : trans.__('context %1', percent(share));
}

function contextLevel(draft: Draft): 'ok' | 'used-up' {
  return (contextShare(draft) ?? 0) >= 1 ? 'used-up' : 'ok';
}

function contextShare(draft: Draft): number | null {
  const { inputTokens, contextTokens } = draft;
  return inputTokens === null || !contextTokens
    ? null
    : inputTokens / contextTokens;
}

function costText(draft: Draft, trans: TranslationBundle): string {
  const { lowUsd, highUsd, costSource, deviceHourUsd } = draft;
  const amounts = [lowUsd, highUsd]
    .filter(amount => amount !== null)
    .map(amount => usd(amount, costSource));
  if (amounts.length === 0 && deviceHourUsd !== null) {
    return trans.__('%1 an hour', usd(deviceHourUsd));
  }
  return [...new Set(amounts)].join(' – ') || UNKNOWN;
}

/** The middle of what it is likely to cost, where its cell ran before. */
function likelyText(draft: Draft, trans: TranslationBundle): string | null {
  const { usd: middle, low, high, predicted } = draft.likely;
  if (middle === null) {
    return null;
  }
  const likely = trans.__('likely %1', usd(middle, 'estimated'));
  return predicted && low !== high
    ? `${likely} (95 %: ${usd(low)} – ${usd(high)})`
    : likely;
}

function likelyTitle(draft: Draft, trans: TranslationBundle): string {
  const { runs, predicted, edited } = draft.likely;
  if (edited) {
    return trans._n(
      'The mean of %1 run of an earlier text of this cell',
      'The mean of %1 runs of earlier texts of this cell',
      runs
    );
  }
  const mean = trans._n(
    'The mean of %1 run of this text',
    'The mean of %1 runs of this text',
    runs
  );
  return predicted
    ? `${mean}; ${trans.__("in brackets the 95 % prediction interval (Student's t)")}`
    : mean;
}

function costTitle(draft: Draft, trans: TranslationBundle): string {
  if (draft.deviceHourUsd !== null) {
    const price = draft.listPrice ?? trans.__('the rate that was set');
    return draft.highUsd === null
      ? trans.__("The device's time, at %1", price)
      : trans.__(
          'The longest answer, at the speed of the latest runs and at %1',
          price
        );
  }
  if (draft.lowUsd === null) {
    return trans.__('No rates are known; set them with %price');
  }
  return draft.highUsd === null
    ? trans.__('The input alone')
    : trans.__('The input alone – with the longest answer');
}
