/** A cell's runs over time as small plots, a bar for each run. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { PastRun } from './detail';
import { seconds, tokens, tokensOf, usd } from './format';

const HEIGHT = 28;
const BAR = 5;
const STEP = 7;
/** As many bars as a narrow sidebar has room for beside two more plots. */
const MOST_BARS = 24;

interface Plot {
  readonly name: string;
  readonly label: string;
  value(run: PastRun): number | null;
  shown(run: PastRun): string;
}

export function Plots(props: {
  runs: readonly PastRun[];
  /** The run that the row shows. */
  runId: string | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { runId, trans } = props;
  const runs = props.runs.slice(-MOST_BARS);
  return (
    <div className="tm-Plots">
      {plotsOf(trans).map(plot => (
        <PlotOf
          key={plot.name}
          plot={plot}
          runs={runs}
          runId={runId}
          trans={trans}
        />
      ))}
    </div>
  );
}

function PlotOf(props: {
  plot: Plot;
  runs: readonly PastRun[];
  runId: string | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { plot, runs, runId, trans } = props;
  const most = Math.max(0, ...runs.map(run => plot.value(run) ?? 0));
  const chosen = runs.find(run => run.runId === runId) ?? runs.at(-1);
  const said = runs.map(run => plot.shown(run)).join(', ');
  return (
    <figure className="tm-Plot" data-plot={plot.name}>
      <svg
        role="img"
        aria-label={trans.__(
          '%1 of each run, oldest first: %2',
          plot.label,
          said
        )}
        width={MOST_BARS * STEP}
        height={HEIGHT}
        viewBox={`0 0 ${MOST_BARS * STEP} ${HEIGHT}`}
        preserveAspectRatio="xMinYMid meet"
      >
        {runs.map((run, index) => {
          const value = plot.value(run);
          // What is not known has a mark of its own, which no zero has.
          const height =
            value === null || most === 0
              ? 1
              : 1 + (value / most) * (HEIGHT - 2);
          return (
            <rect
              key={run.runId}
              data-chosen={run === chosen || undefined}
              data-unknown={value === null || undefined}
              x={index * STEP}
              y={HEIGHT - height}
              width={BAR}
              height={height}
            >
              <title>{plot.shown(run)}</title>
            </rect>
          );
        })}
      </svg>
      <figcaption>
        {plot.label} {chosen && <strong>{plot.shown(chosen)}</strong>}
      </figcaption>
    </figure>
  );
}

function plotsOf(trans: TranslationBundle): readonly Plot[] {
  return [
    {
      name: 'tokens',
      label: trans.__('Tokens'),
      value: run => tokensOf(run),
      shown: run =>
        tokens(
          tokensOf(run),
          [run.inputSource, run.outputSource].includes('estimated')
            ? 'estimated'
            : 'measured'
        )
    },
    {
      name: 'cost',
      label: trans.__('Cost'),
      value: run => (run.costUsd === null ? null : Number(run.costUsd)),
      shown: run => usd(run.costUsd, run.costSource, run.costBound)
    },
    {
      name: 'latency',
      label: trans.__('Latency'),
      value: run => run.latencyS,
      shown: run => seconds(run.latencyS)
    }
  ];
}
