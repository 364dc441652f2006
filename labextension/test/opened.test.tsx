// @vitest-environment jsdom

import { nullTranslator } from '@jupyterlab/translation';
import * as React from 'react';
import { createRoot } from 'react-dom/client';
import { flushSync } from 'react-dom';
import { beforeEach, describe, expect, it } from 'vitest';

import { parseDetail } from '../src/detail';
import type { Opened } from '../src/details';
import type { OpenedActions } from '../src/opened';
import { OpenedRow } from '../src/opened';
import type { Row } from '../src/protocol';
import { parseRow } from '../src/protocol';
import { wire, wireRow } from './fixtures';

const trans = nullTranslator.load('tokmagic');
const [full] = wire('detail').answers;
const HOSTILE =
  '<img src=x onerror=alert(1)>\u001b[31m\u202efdp.exe\ud800 javascript:x';

let done: string[];
const ACTIONS: OpenedActions = {
  choose: (cellId, runId) => done.push(`choose ${cellId} ${runId}`),
  run: cellId => done.push(`run ${cellId}`),
  pin: cellId => done.push(`pin ${cellId}`),
  copy: text => done.push(`copy ${text}`)
};

beforeEach(() => {
  done = [];
});

function open(change: object = {}, row: Partial<Row> = {}): HTMLElement {
  const detail = parseDetail({ ...full, run: { ...full.run, ...change } });
  return draw({ detail, telling: 'told', runId: null }, row);
}

function draw(opened: Opened, change: Partial<Row> = {}): HTMLElement {
  const node = document.createElement('div');
  const row = { ...parseRow(wireRow({ status: 'ok' })), ...change };
  flushSync(() =>
    createRoot(node).render(
      <OpenedRow
        cellId="c"
        row={row}
        opened={opened}
        isPinned={false}
        actions={ACTIONS}
        trans={trans}
      />
    )
  );
  return node;
}

const textOf = (node: ParentNode, selector: string) =>
  node.querySelector(selector)?.textContent?.replace(/\u00a0/g, ' ');

const button = (node: ParentNode, label: string) =>
  [...node.querySelectorAll('button')].find(
    it => (it.getAttribute('aria-label') ?? it.textContent) === label
  )!;

describe('an open row', () => {
  it('has a bar for each run in three plots that can be heard', () => {
    const node = open();
    const plots = [...node.querySelectorAll('.tm-Plot')];
    expect(plots.map(it => it.getAttribute('data-plot'))).toEqual([
      'tokens',
      'cost',
      'latency'
    ]);
    for (const plot of plots) {
      expect(plot.querySelectorAll('rect')).toHaveLength(2);
      expect(plot.querySelectorAll('[data-chosen]')).toHaveLength(1);
    }
    expect(plots[1]!.querySelector('svg')!.getAttribute('aria-label')).toBe(
      'Cost of each run, oldest first: $0.0011, $0.0011'
    );
    expect(textOf(plots[2]!, 'figcaption')).toBe('Latency 0.60s');
  });

  it('leads to the runs before and after', () => {
    const node = open();
    expect(textOf(node, '[role=status]')).toMatch(/^run 2 of 2\+ · /);
    button(node, 'The run before').click();
    expect(button(node, 'The run after').disabled).toBe(true);
    expect(done).toEqual(['choose c a1']);
  });

  it('shades tokens by latency and by probability, with a legend', () => {
    const node = open();
    const steps = () =>
      [...node.querySelectorAll('.tm-AnswerText .tm-Shade')].map(it => [
        it.textContent,
        it.getAttribute('data-step'),
        it.getAttribute('title')
      ]);
    // The first token's time is the TTFT, so it has no shade.
    expect(steps()).toEqual([
      [' there', '0', '11.3\u00a0ms'],
      ['!', '0', '40.0\u00a0ms']
    ]);
    expect(node.querySelectorAll('.tm-Legend .tm-Shade')).toHaveLength(5);
    flushSync(() =>
      [...node.querySelectorAll<HTMLInputElement>('input')][1]!.click()
    );
    expect(steps().map(([, step]) => step)).toEqual(['0', '3', '0']);
    expect(textOf(node, '.tm-Legend')).toMatch(/^probability: ≥ 90 %/);
  });

  it('says what differs from the run before', () => {
    const text = textOf(open(), '.tm-Changes')!;
    expect(text).toContain('±0 tokens · ±$0 · ±0.00s');
    expect(text).toContain('temperature not set → 0.5');
    expect(text).toContain('- Say hi.\n+ Say "hi".');
    expect(text).toContain('another answer');
  });

  it.each(['input_tokens', 'output_tokens'])(
    'tells no tokens where %s of one of the runs is not known',
    name => {
      for (const at of [0, 1]) {
        const runs = full.runs.map((run: object, index: number) =>
          index === at ? { ...run, [name]: null } : run
        );
        const detail = parseDetail({ ...full, runs });
        const node = draw({ detail, telling: 'told', runId: null });
        expect(textOf(node, '.tm-Figures')).toBe('±$0 · ±0.00s');
        const plot = node.querySelector('[data-plot=tokens]')!;
        const titles = [...plot.querySelectorAll('title')];
        expect(titles[at]!.textContent).toBe('—');
      }
    }
  );

  it('says that nothing differs', () => {
    const changes = {
      since: 'a1',
      settings: [],
      prompt: [],
      same_answer: true
    };
    expect(textOf(open({ changes }), '.tm-Changes')).toContain(
      'same prompt, same settings, same answer'
    );
  });

  it('runs, pins and copies, and says why it cannot', () => {
    const node = open();
    button(node, 'Run again').click();
    button(node, 'Pin').click();
    button(node, 'Copy as Python').click();
    const curl = button(node, 'Copy as curl');
    curl.click();
    expect(done).toEqual(['run c', 'pin c', 'copy import tokmagic\n']);
    expect(curl.getAttribute('aria-disabled')).toBe('true');
    expect(curl.title).toContain('No server answered');
  });

  it('shows what the notebook keeps where no kernel tells more', () => {
    const node = draw(
      { detail: null, telling: 'no-kernel', runId: null },
      { status: 'failed', error: 'out of memory; use a smaller one' }
    );
    expect(textOf(node, '.tm-Told')).toBe(
      'failed: out of memory; use a smaller one'
    );
    expect(textOf(node, '[data-telling]')).toContain('A kernel with tokmagic');
    expect(textOf(node, '.tm-Parameters')).toContain('max_tokens256');
    expect(node.querySelector('.tm-Plot')).toBeNull();
  });

  it('says why the kernel could not answer', () => {
    const why = 'the ledger is gone\u202e';
    const node = draw({ detail: null, telling: 'failed', why, runId: null });
    expect(textOf(node, '[data-telling=failed]')).toBe(
      'failed: the ledger is gone⟨202E⟩'
    );
  });

  it('says what is missing, and why', () => {
    const missing = {
      messages: 'texts',
      answer: 'texts',
      python: 'texts',
      curl: 'texts'
    };
    const node = open({
      messages: null,
      parts: null,
      answer: null,
      python: null,
      missing
    });
    expect(textOf(node, '.tm-Answer')).toContain('TOKMAGIC_STORE_TEXT');
    expect(textOf(node, '.tm-Prompt')).toContain('TOKMAGIC_STORE_TEXT');
  });

  it('shows whatever a model or a server wrote as text, and nothing hidden in it', () => {
    const node = open(
      {
        messages: [{ role: HOSTILE, text: HOSTILE, cut: false }],
        parts: [[HOSTILE, 1]],
        answer: {
          by_token: true,
          pieces: [[HOSTILE, 3]],
          logprobs: [],
          cut: false
        },
        params: { [HOSTILE]: HOSTILE },
        changes: {
          since: HOSTILE,
          settings: [{ name: HOSTILE, before: null, after: HOSTILE }],
          prompt: [['+', HOSTILE]],
          same_answer: null
        }
      },
      { status: 'failed', error: HOSTILE }
    );
    expect(node.querySelector('img, a, script, iframe')).toBeNull();
    expect(node.innerHTML).not.toMatch(/[\u001b\u202e]/);
    expect(node.textContent!.match(/onerror=alert/g)!.length).toBeGreaterThan(
      6
    );
    expect(node.textContent).toContain('⟨001B⟩[31m⟨202E⟩fdp.exe⟨D800⟩');
  });
});
