/** An open row: a cell's runs over time, and one of them in full. Whatever a model wrote is text here, nothing else. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import { AnswerSection } from './answer';
import type { Changes, Missing, PastRun, RunDetail } from './detail';
import type { Opened } from './details';
import {
  UNKNOWN,
  localTime,
  seconds,
  signed,
  signedTokens,
  tokens,
  tokensOf,
  visible
} from './format';
import { Plots } from './plots';
import type { Row } from './protocol';
import { dollars, endOf } from './words';

/** What an open row lets a person do. */
export interface OpenedActions {
  choose(cellId: string, runId: string): void;
  /** Missing where a page cannot run cells. */
  run?(cellId: string): void;
  pin(cellId: string): void;
  copy(text: string): void;
}

export const OpenedRow = React.memo(function OpenedRow(props: {
  cellId: string;
  row: Row;
  opened: Opened;
  isPinned: boolean;
  actions: OpenedActions;
  trans: TranslationBundle;
}): React.ReactElement {
  const { cellId, row, opened, isPinned, actions, trans } = props;
  const { detail } = opened;
  const runs = detail?.runs ?? [];
  const run = detail?.run ?? null;
  const at = runs.findIndex(it => it.runId === run?.runId);
  const shown = runs[at] ?? null;
  const end = endOf(row, trans);
  return (
    <div className="tm-Opened">
      {runs.length > 0 && (
        <Chooser
          cellId={cellId}
          runs={runs}
          at={at}
          more={detail?.more ?? false}
          actions={actions}
          trans={trans}
        />
      )}
      <div className="tm-Actions">
        {actions.run !== undefined && (
          <button onClick={() => actions.run?.(cellId)}>
            {trans.__('Run again')}
          </button>
        )}
        <button aria-pressed={isPinned} onClick={() => actions.pin(cellId)}>
          {isPinned ? trans.__('Unpin') : trans.__('Pin')}
        </button>
        <Copy
          label={trans.__('Copy as Python')}
          text={run?.python ?? null}
          why={whyMissing(run, 'python', trans)}
          actions={actions}
        />
        <Copy
          label={trans.__('Copy as curl')}
          text={run?.curl ?? null}
          why={whyMissing(run, 'curl', trans)}
          actions={actions}
        />
      </div>
      {end !== null && <p className="tm-Told">{end}</p>}
      {opened.telling !== 'told' && (
        <p className="tm-Told" data-telling={opened.telling}>
          {tellingText(opened, trans)}
        </p>
      )}
      {runs.length > 0 && (
        <Plots runs={runs} runId={run?.runId ?? null} trans={trans} />
      )}
      {run !== null && shown !== null && (
        <>
          {run.changes !== null && (
            <ChangesSection
              changes={run.changes}
              run={shown}
              before={runs.find(it => it.runId === run.changes?.since) ?? null}
              trans={trans}
            />
          )}
          <AnswerSection
            answer={run.answer}
            why={
              whyMissing(run, 'answer', trans) ??
              whyMissing(run, 'times', trans)
            }
            trans={trans}
          />
          <PromptSection run={run} trans={trans} />
        </>
      )}
      <Parameters row={row} run={run} trans={trans} />
    </div>
  );
});

function Chooser(props: {
  cellId: string;
  runs: readonly PastRun[];
  at: number;
  more: boolean;
  actions: OpenedActions;
  trans: TranslationBundle;
}): React.ReactElement {
  const { cellId, runs, at, more, actions, trans } = props;
  const step = (by: number, label: string, sign: string) => {
    const to = runs[at + by];
    return (
      <button
        aria-label={label}
        title={label}
        disabled={to === undefined}
        onClick={() => to && actions.choose(cellId, to.runId)}
      >
        {sign}
      </button>
    );
  };
  const count = more ? `${runs.length}+` : String(runs.length);
  return (
    <div className="tm-Chooser">
      {step(-1, trans.__('The run before'), '‹')}
      <span role="status">
        {trans.__('run %1 of %2', String(at + 1), count)}
        {runs[at] && ` · ${localTime(runs[at].startedAt)}`}
      </span>
      {step(1, trans.__('The run after'), '›')}
    </div>
  );
}

function Copy(props: {
  label: string;
  text: string | null;
  why: string | null;
  actions: OpenedActions;
}): React.ReactElement {
  const { label, text, why, actions } = props;
  return (
    <button
      aria-disabled={text === null}
      title={why ?? undefined}
      onClick={() => text !== null && actions.copy(text)}
    >
      {label}
    </button>
  );
}

function ChangesSection(props: {
  changes: Changes;
  run: PastRun;
  before: PastRun | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { changes, run, before, trans } = props;
  const { settings, prompt, isSameAnswer } = changes;
  const figures = before === null ? [] : differences(before, run, trans);
  const isSame =
    settings.length === 0 && prompt?.length === 0 && isSameAnswer === true;
  return (
    <div
      role="group"
      className="tm-Changes"
      aria-label={trans.__('Against the run before')}
    >
      <div className="tm-Heading">{trans.__('Against the run before')}</div>
      {figures.length > 0 && (
        <p className="tm-Figures">{figures.join(' · ')}</p>
      )}
      {isSame && <p>{trans.__('same prompt, same settings, same answer')}</p>}
      {!isSame && isSameAnswer !== null && (
        <p>
          {isSameAnswer ? trans.__('same answer') : trans.__('another answer')}
        </p>
      )}
      {settings.map(({ name, before, after }) => (
        <p key={name}>
          <code>{visible(name)}</code> {valueText(before, trans)} →{' '}
          {valueText(after, trans)}
        </p>
      ))}
      {prompt === null && (
        <p>
          {trans.__('the prompts are too long to compare, or were not kept')}
        </p>
      )}
      {prompt !== null && prompt.length > 0 && (
        <pre className="tm-Diff">
          {prompt.map(([sign, line], index) => (
            <span key={index} data-sign={sign}>
              {`${sign} ${visible(line)}\n`}
            </span>
          ))}
        </pre>
      )}
    </div>
  );
}

/** Tokens, cost and latency against another run's, as far as both are known. */
function differences(
  before: PastRun,
  after: PastRun,
  trans: TranslationBundle
): string[] {
  const found: string[] = [];
  const [one, other] = [tokensOf(before), tokensOf(after)];
  if (one !== null && other !== null) {
    found.push(trans.__('%1 tokens', signedTokens(one, other)));
  }
  if (before.costUsd !== null && after.costUsd !== null) {
    found.push(dollars(before.costUsd, after.costUsd));
  }
  if (before.latencyS !== null && after.latencyS !== null) {
    found.push(signed(after.latencyS - before.latencyS, it => seconds(it)));
  }
  return found;
}

function PromptSection(props: {
  run: RunDetail;
  trans: TranslationBundle;
}): React.ReactElement {
  const { run, trans } = props;
  const { messages, parts } = run;
  const total = (parts ?? []).reduce((sum, [, count]) => sum + count, 0);
  return (
    <details className="tm-Prompt">
      <summary>{trans.__('Prompt')}</summary>
      {messages === null && <p>{whyMissing(run, 'messages', trans)}</p>}
      {messages?.map(({ role, text, isCut }, index) => (
        <React.Fragment key={index}>
          <div className="tm-Role">{visible(role)}</div>
          <pre>
            {visible(text)}
            {isCut && '…'}
          </pre>
        </React.Fragment>
      ))}
      {parts === null && messages !== null && (
        <p>{whyMissing(run, 'parts', trans)}</p>
      )}
      {parts !== null && (
        <table aria-label={trans.__('What the prompt consists of')}>
          <tbody>
            {parts.map(([name, count], index) => (
              <tr key={index}>
                <th scope="row">{visible(name)}</th>
                <td>{tokens(count)}</td>
                <td className="tm-Share" aria-hidden="true">
                  <div style={{ width: `${(count / total) * 100}%` }} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </details>
  );
}

function Parameters(props: {
  row: Row;
  run: RunDetail | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { row, run, trans } = props;
  // Without a kernel the notebook's own metadata tell what they can.
  const known: Record<string, unknown> =
    run === null
      ? {
          model: row.model,
          max_tokens: row.maxTokens,
          finish: row.finishReason
        }
      : { ...run.params, ...run.info, rates: run.rates };
  const given = Object.entries(known).filter(([, value]) => value !== null);
  return (
    <details className="tm-Parameters">
      <summary>{trans.__('Parameters')}</summary>
      <dl>
        {given.map(([name, value]) => (
          <React.Fragment key={name}>
            <dt>{visible(name)}</dt>
            <dd>{valueText(value, trans)}</dd>
          </React.Fragment>
        ))}
      </dl>
    </details>
  );
}

function valueText(value: unknown, trans: TranslationBundle): string {
  if (value === null || value === undefined) {
    return trans.__('not set');
  }
  return visible(typeof value === 'string' ? value : JSON.stringify(value));
}

function tellingText(opened: Opened, trans: TranslationBundle): string {
  switch (opened.telling) {
    case 'asked':
      return trans.__('asking the kernel…');
    case 'no-kernel':
      return opened.detail === null
        ? trans.__(
            'This is what the notebook keeps. A kernel with tokmagic tells more.'
          )
        : trans.__('as the kernel told before it went away');
    case 'unknown':
      return trans.__(
        "The kernel's tokmagic is older and tells no more; upgrade it there."
      );
    case 'failed':
      return trans.__('failed: %1', visible(opened.why ?? ''));
    case 'told':
      return '';
  }
}

function whyMissing(
  run: RunDetail | null,
  field: string,
  trans: TranslationBundle
): string | null {
  const why: Missing | undefined = run?.missing[field];
  if (run === null) {
    return trans.__('The kernel has not told yet.');
  }
  switch (why) {
    case undefined:
      return null;
    case 'texts':
      return trans.__('The texts were not kept (TOKMAGIC_STORE_TEXT).');
    case 'times':
      return trans.__(
        'The kernel that ran it is gone, and with it when each token came. Run the cell again to see that.'
      );
    case 'tokenizer':
      return trans.__(
        "The model's tokenizer has not been read in this kernel yet."
      );
    case 'server':
      return trans.__('No server answered this run: the model ran here.');
    case 'length':
      return UNKNOWN;
    case 'refused':
      return trans.__('It was refused before anything was sent.');
    case 'nothing':
      return trans.__('No answer came.');
  }
}
