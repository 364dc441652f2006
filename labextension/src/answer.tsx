/** The answer of an open row, its tokens shaded by how long each took, or by how probable it was. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { Answer, Piece } from './detail';
import { milliseconds, percent, visible } from './format';
import type { Shade } from './shading';
import { STEPS, bounds, stepOf } from './shading';

export function AnswerSection(props: {
  answer: Answer | null;
  /** Why there is no answer, or why nothing is known of its tokens. */
  why: string | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { answer, why, trans } = props;
  const [wanted, setWanted] = React.useState<Shade>('latency');
  const shades = answer === null ? [] : shadesOf(answer);
  const shade = shades.includes(wanted) ? wanted : (shades[0] ?? null);
  const name = React.useId();
  return (
    <div role="group" className="tm-Answer" aria-label={trans.__('Answer')}>
      <div className="tm-Heading">{trans.__('Answer')}</div>
      {shades.length > 1 && (
        <fieldset className="tm-ShadeBy">
          <legend>{trans.__('Shaded by')}</legend>
          {shades.map(it => (
            <label key={it}>
              <input
                type="radio"
                name={name}
                checked={it === shade}
                onChange={() => setWanted(it)}
              />
              {shadeText(it, answer?.byToken ?? true, trans)}
            </label>
          ))}
        </fieldset>
      )}
      {why !== null && <p>{why}</p>}
      {answer !== null && (
        <Shaded answer={answer} shade={shade} trans={trans} />
      )}
    </div>
  );
}

const Shaded = React.memo(function Shaded(props: {
  answer: Answer;
  shade: Shade | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { answer, shade, trans } = props;
  const pieces = shade === 'probability' ? answer.logprobs : answer.pieces;
  const limits = shade === null ? [] : bounds(shade, pieces);
  return (
    <>
      {shade !== null && (
        <Legend
          shade={shade}
          limits={limits}
          byToken={answer.byToken}
          trans={trans}
        />
      )}
      <pre className="tm-AnswerText" tabIndex={0}>
        {pieces.map((piece, index) => {
          const step = shade && stepOf(shade, piece.value, limits);
          return step === null ? (
            visible(piece.text)
          ) : (
            <span
              key={index}
              className="tm-Shade"
              data-step={step}
              title={valueText(shade!, piece)}
            >
              {visible(piece.text)}
            </span>
          );
        })}
        {answer.isCut && '…'}
      </pre>
    </>
  );
});

function Legend(props: {
  shade: Shade;
  limits: readonly number[];
  byToken: boolean;
  trans: TranslationBundle;
}): React.ReactElement {
  const { shade, limits, byToken, trans } = props;
  return (
    <p className="tm-Legend">
      {shadeText(shade, byToken, trans)}:{' '}
      {STEPS.map(step => (
        <span key={step} className="tm-Shade" data-step={step}>
          {stepText(shade, limits, step)}
        </span>
      ))}
    </p>
  );
}

function stepText(
  shade: Shade,
  limits: readonly number[],
  step: number
): string {
  const last = limits.length - 1;
  const bound = limits[Math.min(step, last)] ?? 0;
  if (shade === 'probability') {
    return `${step > last ? '<' : '≥'}\u00a0${percent(bound)}`;
  }
  const shown = milliseconds(bound / 1e3);
  return step > last ? `>\u00a0${shown}\u00a0ms` : `≤\u00a0${shown}`;
}

function valueText(shade: Shade, piece: Piece): string {
  const value = piece.value ?? 0;
  return shade === 'probability'
    ? percent(Math.exp(value))
    : `${milliseconds(value / 1e3)}\u00a0ms`;
}

function shadeText(
  shade: Shade,
  byToken: boolean,
  trans: TranslationBundle
): string {
  if (shade === 'probability') {
    return trans.__('probability');
  }
  return byToken
    ? trans.__('ms/token')
    : trans.__('ms since what the server sent before');
}

/** By what the tokens of an answer can be shaded. */
function shadesOf(answer: Answer): Shade[] {
  const shades: Shade[] = [];
  if (answer.pieces.some(piece => piece.value !== null)) {
    shades.push('latency');
  }
  if (answer.logprobs.some(piece => piece.value !== null)) {
    shades.push('probability');
  }
  return shades;
}
