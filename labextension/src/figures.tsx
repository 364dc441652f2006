/** The numbers of a row. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import {
  milliseconds,
  minus,
  seconds,
  signedTokens,
  signedUsd,
  sparkline,
  tokens,
  tokensOf,
  usd,
  visible
} from './format';
import type { Before, Row } from './protocol';
import { endOf, firstClause } from './words';

const SPARK = { width: 36, height: 12 };
/** The columns of the table beside the first, which names the cell. */
export const FIGURES = 6;

/** The numbers of a row; where there are none, one line that says why. */
export function Figures(props: {
  row: Row;
  before: Before | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { row, trans } = props;
  const isEmpty = row.outputTokens === null && row.costUsd === null;
  if (
    row.comparison === null &&
    (row.status === 'refused' || (row.status === 'failed' && isEmpty))
  ) {
    const reason = endOf(row, trans) ?? '';
    return (
      <td
        className="tm-Message"
        colSpan={FIGURES}
        data-note-for={row.runId}
        title={reason}
      >
        {firstClause(reason)}
      </td>
    );
  }
  return (
    <>
      <Field name="input" value={row.inputTokens}>
        {tokens(row.inputTokens, row.inputSource)}
      </Field>
      <Field name="output" value={row.outputTokens}>
        <Text of={row} text={tokens(row.outputTokens, row.outputSource)} />
        {row.status === 'ok' && row.finishReason === 'length' && (
          <Cut trans={trans} />
        )}
      </Field>
      {row.status === 'cached' && row.savedUsd !== null ? (
        // A replayed answer costs nothing and has no latency of its own.
        <td
          colSpan={4}
          data-field="saved"
          data-value={row.savedUsd}
          title={priceOf(row, trans)}
        >
          {trans.__(
            'saved %1',
            usd(row.savedUsd, row.costSource, row.costBound)
          )}
        </td>
      ) : (
        <Measured row={row} before={props.before} trans={trans} />
      )}
    </>
  );
}

/** The answer is not whole: marked beside its length, in a colour that warns. */
function Cut(props: { trans: TranslationBundle }): React.ReactElement {
  const label = props.trans.__('cut off at --max-tokens');
  return (
    <span className="tm-Cut" role="img" aria-label={label} title={label} />
  );
}

function Measured(props: {
  row: Row;
  before: Before | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { row, trans } = props;
  return (
    <>
      <Field name="cost" value={row.costUsd} title={priceOf(row, trans)}>
        <Text of={row} text={usd(row.costUsd, row.costSource, row.costBound)} />
        <Change row={row} before={props.before} trans={trans} />
      </Field>
      <Field name="ttft" value={row.ttftS} className="tm-Wide">
        <Text of={row} text={seconds(row.ttftS)} />
      </Field>
      <Field name="itl" value={row.itlMeanS}>
        <Text of={row} text={milliseconds(row.itlMeanS)} />
      </Field>
      <td className="tm-Wide">
        <Spark values={row.sparkMs} />
      </td>
    </>
  );
}

/** Whether a complete run cost more or less than the complete one before it, and by how much. */
function Change(props: {
  row: Row;
  before: Before | null;
  trans: TranslationBundle;
}): React.ReactElement | null {
  const { row, before, trans } = props;
  if (row.status !== 'ok' || !row.costUsd || !before?.costUsd) {
    return null;
  }
  const difference = minus(row.costUsd, before.costUsd);
  if (!/[1-9]/.test(difference)) {
    return null;
  }
  const label = trans.__(
    '%1 and %2 tokens against the run before',
    signedUsd(difference),
    signedTokens(tokensOf(before), tokensOf(row))
  );
  return (
    <span
      className="tm-Change"
      data-direction={difference.startsWith('-') ? 'down' : 'up'}
      role="img"
      aria-label={label}
      title={label}
    />
  );
}

function Field(props: {
  name: string;
  value: number | string | null;
  title?: string | undefined;
  className?: string;
  children: React.ReactNode;
}): React.ReactElement {
  return (
    <td
      className={props.className}
      data-field={props.name}
      data-value={props.value ?? ''}
      title={props.title}
    >
      {props.children}
    </td>
  );
}

/**
 * A number, which changes many times a second while a run goes on. Room for it is made by zeros in its place, as many as
 * it once had, so that the table is laid out anew only when it gets longer: the digits of a table are all as wide.
 */
function Text(props: { of: Row; text: string }): React.ReactElement {
  const { of, text } = props;
  const room = React.useRef('');
  if (of.status !== 'running') {
    return <>{text}</>;
  }
  if (text.length >= room.current.length) {
    room.current = text.replace(/\d/g, '0');
  }
  return (
    <span className="tm-Live" data-room={room.current}>
      <span>{text}</span>
    </span>
  );
}

function Spark(props: { values: readonly number[] }): React.ReactElement {
  const { width, height } = SPARK;
  return (
    <svg
      className="tm-Spark"
      height={height}
      preserveAspectRatio="none"
      viewBox={`0 -1 ${width} ${height + 2}`}
      aria-hidden="true"
    >
      <polyline points={sparkline(props.values, width, height)} />
    </svg>
  );
}

/** Whose price a cost is, where it is not one that somebody set: what the device's time is worth. */
function priceOf(row: Row, trans: TranslationBundle): string | undefined {
  return row.listPrice === null
    ? undefined
    : trans.__('at %1', visible(row.listPrice));
}
