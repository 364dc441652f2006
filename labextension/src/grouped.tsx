/** Below the rows: sums by cell, model or day, and the rows as files. */

import type { TranslationBundle } from '@jupyterlab/translation';
import * as React from 'react';

import type { Format } from './exports';
import { UNKNOWN, sumUsd, tokens, visible } from './format';
import type { Group, Grouping } from './totals';
import { GROUPINGS } from './totals';

export interface GroupedView {
  readonly by: Grouping | null;
  readonly groups: readonly Group[] | null;
  /** The number that the notebook shows for a cell. */
  label(cellId: string): string;
}

export interface GroupedActions {
  show(by: Grouping | null): void;
  save(format: Format): void;
}

interface GroupedProps {
  view: GroupedView;
  /** Whether there is a kernel to ask. */
  canAsk: boolean;
  actions: GroupedActions;
  trans: TranslationBundle;
}

export const GroupedSection = React.memo(function GroupedSection(
  props: GroupedProps
): React.ReactElement {
  const { view, canAsk, actions, trans } = props;
  const { by, groups } = view;
  return (
    <section className="tm-Grouped" aria-label={trans.__('Totals and export')}>
      <div className="tm-Tools" role="group" aria-label={trans.__('Totals by')}>
        <span>{trans.__('Totals by')}</span>
        {GROUPINGS.map(it => (
          <button
            key={it}
            aria-pressed={by === it}
            aria-disabled={!canAsk}
            onClick={() => canAsk && actions.show(by === it ? null : it)}
          >
            {groupingText(it, trans)}
          </button>
        ))}
      </div>
      {by !== null && groups !== null && (
        <table
          className="tm-Totals"
          aria-label={trans.__('Totals by %1', groupingText(by, trans))}
        >
          <tbody>
            {groups.map(({ key, totals }) => (
              <tr key={key ?? ''} data-group={key ?? ''}>
                <th scope="row">{keyText(key, by, view)}</th>
                <td data-field="cost" data-value={totals.costUsd ?? ''}>
                  {sumUsd(totals)}
                </td>
                <td>{trans._n('%1 run', '%1 runs', totals.runs)}</td>
                <td>{trans.__('%1 in', tokens(totals.inputTokens))}</td>
                <td>{trans.__('%1 out', tokens(totals.outputTokens))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <div className="tm-Tools" role="group" aria-label={trans.__('Export')}>
        <span>{trans.__('Export')}</span>
        {(['csv', 'jsonl'] as const).map(format => (
          <button key={format} onClick={() => actions.save(format)}>
            {format.toUpperCase()}
          </button>
        ))}
      </div>
    </section>
  );
}, isSame);

/** There may be as many groups as cells: they are not drawn anew with each reading of a run. */
function isSame(one: GroupedProps, other: GroupedProps): boolean {
  return (
    one.view.by === other.view.by &&
    one.view.groups === other.view.groups &&
    one.view.label === other.view.label &&
    one.canAsk === other.canAsk &&
    one.actions === other.actions
  );
}

function keyText(key: string | null, by: Grouping, view: GroupedView): string {
  if (key === null) {
    return UNKNOWN;
  }
  return by === 'cell' ? view.label(key) : visible(key);
}

function groupingText(by: Grouping, trans: TranslationBundle): string {
  const texts: Record<Grouping, string> = {
    cell: trans.__('cell'),
    model: trans.__('model'),
    day: trans.__('day')
  };
  return texts[by];
}
