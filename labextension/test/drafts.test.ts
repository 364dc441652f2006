// @vitest-environment jsdom

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import type { Written } from '../src/drafts';
import { Drafts, difference } from '../src/drafts';
import type { Draft } from '../src/protocol';
import { parseMessage } from '../src/protocol';
import { wire } from './fixtures';

/** Applies changes as the kernel does: to UTF-16 code units. */
function applied(
  before: string,
  change: { offset: number; deleted: number; text: string }
): string {
  const { offset, deleted, text } = change;
  return before.slice(0, offset) + text + before.slice(offset + deleted);
}

describe('the difference of two texts', () => {
  it.each([
    ['', 'abc', { offset: 0, deleted: 0, text: 'abc' }],
    ['abc', 'abc', { offset: 3, deleted: 0, text: '' }],
    ['abc', 'abxc', { offset: 2, deleted: 0, text: 'x' }],
    ['aaa', 'aa', { offset: 2, deleted: 1, text: '' }],
    [
      'a\u{1f680}b',
      'a\u{1f681}b',
      { offset: 1, deleted: 2, text: '\u{1f681}' }
    ],
    ['\u{1f680}', '\u{1f280}', { offset: 0, deleted: 2, text: '\u{1f280}' }],
    // Both end in the same half of a character, whose other half differs.
    [
      '\ud83d\ude80',
      '\ud83e\ude80',
      { offset: 0, deleted: 2, text: '\u{1fa80}' }
    ]
  ])('from %j to %j', (before, after, change) => {
    expect(difference(before, after)).toEqual(change);
    expect(applied(before, change)).toBe(after);
  });

  it('never parts a character, and always makes the new text', () => {
    const units = [
      'a',
      'b',
      '\u{1f680}',
      '\u{1f681}',
      '\u{1fa80}',
      '\u{1f280}'
    ];
    const some = (seed: number) =>
      [0, 1, 2].map(at => units[Math.floor(seed / 6 ** at) % 6]!).join('');
    for (let one = 0; one < 216; one++) {
      for (let two = 0; two < 216; two++) {
        const change = difference(some(one), some(two));
        expect(change.text.isWellFormed()).toBe(true);
        expect(applied(some(one), change)).toBe(some(two));
      }
    }
  });
});

describe('drafts', () => {
  let written: Written | null;
  let sent: any[];
  let connected: boolean;
  let drafts: Drafts;

  function answer(change: object = {}): Draft {
    const last = sent.at(-1);
    return parseMessage({
      ...wire('drafts')[1],
      cell_id: last.cell_id,
      seq: last.seq,
      ...change
    }) as Draft;
  }

  function type(text: string, cellId = 'c'): void {
    written = { cellId, text };
    drafts.touch();
    vi.advanceTimersByTime(20);
  }

  beforeEach(() => {
    vi.useFakeTimers();
    written = null;
    sent = [];
    connected = true;
    drafts = new Drafts(
      () => written,
      message => {
        if (connected) {
          sent.push(message);
        }
        return connected;
      }
    );
  });

  afterEach(() => {
    drafts.dispose();
    vi.useRealTimers();
  });

  it('tell the whole text first, then what changed, as the fixture says', () => {
    type('%%generate\nHi \u{1f680}', 'c-draft');
    drafts.receive(answer());
    type('%%generate\nHi !', 'c-draft');
    expect(sent).toEqual(wire('control').slice(2));
  });

  it('ask about one text at a time, the newest', () => {
    type('%%generate\na');
    type('%%generate\nab');
    type('%%generate\nabc');
    expect(sent).toHaveLength(1);
    drafts.receive(answer());
    vi.advanceTimersByTime(20);
    expect(sent).toHaveLength(2);
    expect(sent[1]).toMatchObject({ base: 1, offset: 12, text: 'bc' });
  });

  it('ask once in a frame, and nothing while no text changes', () => {
    for (let key = 0; key < 50; key++) {
      drafts.touch();
    }
    type('%%generate\na');
    drafts.receive(answer());
    vi.advanceTimersByTime(20);
    drafts.touch();
    vi.advanceTimersByTime(5000);
    expect(sent).toHaveLength(1);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('show the answer until another cell is written', () => {
    const changed = vi.fn();
    drafts.changed.connect(changed);
    type('%%generate\na');
    drafts.receive(answer({ input_tokens: 31 }));
    expect(drafts.shown?.inputTokens).toBe(31);
    written = null;
    drafts.touch();
    vi.advanceTimersByTime(20);
    expect(drafts.shown).toBeNull();
    expect(changed).toHaveBeenCalledTimes(2);
  });

  it('come back with the cell', () => {
    type('%%generate\na');
    drafts.receive(answer());
    written = null;
    drafts.touch();
    vi.advanceTimersByTime(20);
    type('%%generate\na');
    drafts.receive(answer({ input_tokens: 5 }));
    expect(drafts.shown?.inputTokens).toBe(5);
  });

  it('leave an answer about an older text alone', () => {
    type('%%generate\na');
    const first = answer({ state: 'counting' });
    drafts.receive(first);
    type('%%generate\nab');
    drafts.receive({ ...first, state: 'counted', inputTokens: 1 });
    expect(drafts.shown).toEqual(first);
    drafts.receive(answer({ input_tokens: 2 }));
    expect(drafts.shown?.inputTokens).toBe(2);
  });

  it('take a second answer once the tokenizer is there', () => {
    type('%%generate\na');
    drafts.receive(answer({ state: 'counting' }));
    drafts.receive(answer({ input_tokens: 9 }));
    expect(drafts.shown).toMatchObject({ state: 'counted', inputTokens: 9 });
  });

  it('begin anew where the kernel lost the text', () => {
    type('%%generate\na');
    drafts.receive(answer());
    type('%%generate\nab');
    drafts.receive(parseMessage({ ...wire('drafts')[3], seq: 2 }) as Draft);
    vi.advanceTimersByTime(20);
    expect(sent[2]).toMatchObject({ base: null, text: '%%generate\nab' });
  });

  it('begin anew after a restart', () => {
    type('%%generate\na');
    drafts.reset();
    expect(drafts.shown).toBeNull();
    vi.advanceTimersByTime(20);
    expect(sent[1]).toMatchObject({ base: null, seq: 2 });
  });

  it('ask an older kernel once', () => {
    type('%%generate\na');
    drafts.refuse();
    type('%%generate\nab');
    expect(sent).toHaveLength(1);
    expect(drafts.shown).toBeNull();
  });

  it('wait for the connection', () => {
    connected = false;
    type('%%generate\na');
    connected = true;
    drafts.refresh();
    vi.advanceTimersByTime(20);
    expect(sent).toHaveLength(1);
  });

  it('ask about the same text again when the kernel may know more', () => {
    type('%%generate\na');
    drafts.receive(answer());
    drafts.refresh();
    vi.advanceTimersByTime(20);
    expect(sent[1]).toMatchObject({ base: 1, deleted: 0, text: '' });
  });

  it('wait for a pause where each count takes the whole text', () => {
    type('%%generate\na');
    drafts.receive(answer({ costly: true }));
    vi.advanceTimersByTime(1000);
    for (let key = 0; key < 30; key++) {
      type('%%generate\n' + 'a'.repeat(key + 2));
    }
    expect(sent).toHaveLength(1);
    vi.advanceTimersByTime(1000);
    expect(sent).toHaveLength(2);
    type('%%generate\nb', 'another cell');
    expect(sent).toHaveLength(2);
    drafts.receive(answer());
    vi.advanceTimersByTime(20);
    expect(sent).toHaveLength(3);
  });
});
