// @vitest-environment jsdom

import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { renderToStaticMarkup } from 'react-dom/server';
import { beforeEach, describe, expect, it } from 'vitest';

import { GroupedSection } from '../src/grouped';
import { ProtocolError } from '../src/protocol';
import { GroupedTotals } from '../src/totals';
import { snapshot, wire } from './fixtures';

const { request, answer } = wire('totals');
const trans = nullTranslator.load('tokmagic');

describe('totals by cell, model or day', () => {
  let sent: any[];
  let totals: GroupedTotals;

  beforeEach(() => {
    sent = [];
    totals = new GroupedTotals(message => {
      sent.push(message);
      return true;
    });
  });

  it('are asked for when they are shown, and again when the sum is another one', () => {
    const sums = snapshot().totals.notebook!;
    totals.follow(sums);
    expect(sent).toEqual([]);
    totals.show('model');
    expect(sent).toEqual([{ ...request, seq: 1 }]);
    totals.receive({ ...answer, seq: 1 });
    expect(totals.groups?.map(group => group.key)).toEqual(['m', 'other']);
    totals.follow(sums);
    expect(sent).toHaveLength(1);
    totals.follow({ ...sums, runs: sums.runs + 1 });
    expect(sent).toHaveLength(2);
    expect(totals.groups, 'what was told stays meanwhile').not.toBeNull();
    totals.show(null);
    totals.follow(sums);
    expect(sent).toHaveLength(2);
  });

  it('leave alone what answers another question', () => {
    totals.show('model');
    totals.show('day');
    totals.receive({ ...answer, seq: 1 });
    expect(totals.groups).toBeNull();
    expect(() => totals.receive({ ...answer, by: 'moon' })).toThrow(
      ProtocolError
    );
    totals.refuse();
    expect(totals.by).toBeNull();
  });

  it('are shown with their costs, runs and tokens', () => {
    totals.show('model');
    totals.receive({ ...answer, seq: 1 });
    const node = document.createElement('div');
    node.innerHTML = renderToStaticMarkup(
      <GroupedSection
        view={{ by: totals.by, groups: totals.groups, label: it => it }}
        canAsk={true}
        actions={{ show: () => undefined, save: () => undefined }}
        trans={trans}
      />
    );
    const lines = [...node.querySelectorAll('tr')].map(it => it.textContent);
    expect(lines).toEqual(['m$1.753 runs30 in12 out', 'other—1 run10 in4 out']);
    const pressed = node.querySelectorAll('[aria-pressed=true]');
    expect([...pressed].map(it => it.textContent)).toEqual(['model']);
  });
});
