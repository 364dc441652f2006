import { describe, expect, it } from 'vitest';

import type { Placed } from '../src/span';
import { inSight, pieces } from '../src/span';

const HEIGHT = () => 10;

/** What is drawn, as it would stand on the screen from `top` on. */
function placed(
  drawn: ReturnType<typeof pieces>,
  top: number,
  height: (index: number) => number
): Placed[] {
  return drawn.map(piece => {
    const from = top;
    top += piece.kind === 'gap' ? piece.height : height(piece.index);
    return { piece, top: from, bottom: top };
  });
}

describe('the rows that are drawn', () => {
  it('are a span and those that are kept, in order, with gaps between', () => {
    const drawn = pieces(100, { from: 40, to: 43 }, [2, 41, 99], HEIGHT);
    expect(drawn).toEqual([
      { kind: 'gap', span: { from: 0, to: 2 }, height: 20 },
      { kind: 'row', index: 2 },
      { kind: 'gap', span: { from: 3, to: 40 }, height: 370 },
      { kind: 'row', index: 40 },
      { kind: 'row', index: 41 },
      { kind: 'row', index: 42 },
      { kind: 'gap', span: { from: 43, to: 99 }, height: 560 },
      { kind: 'row', index: 99 }
    ]);
  });

  it('are all of a few, and none that is gone', () => {
    const drawn = pieces(2, { from: 0, to: 40 }, [7], HEIGHT);
    expect(drawn.map(it => it.kind)).toEqual(['row', 'row']);
    expect(pieces(0, { from: 5, to: 9 }, [], HEIGHT)).toEqual([]);
  });

  it('take as much room together as all rows do', () => {
    const height = (index: number) => 10 + (index % 7);
    const all = Array.from({ length: 500 }, (_, index) => height(index));
    for (const from of [0, 3, 250, 490]) {
      const drawn = pieces(500, { from, to: from + 20 }, [100], height);
      expect(placed(drawn, 0, height).at(-1)!.bottom).toBe(
        all.reduce((sum, one) => sum + one)
      );
    }
  });
});

describe('what is in sight', () => {
  it.each([
    ['at the top', 0, 0, 300, { from: 0, to: 30 }],
    ['in the middle of a gap', -5000, 0, 300, { from: 500, to: 530 }],
    ['half of a row', -5, 0, 12, { from: 0, to: 2 }],
    ['at the end', -9700, 0, 300, { from: 970, to: 1000 }],
    ['above the table', 400, 0, 300, { from: 0, to: 1 }],
    ['below it', -10100, 0, 300, { from: 999, to: 1000 }]
  ])('%s', (_where, scrolled, top, bottom, span) => {
    const drawn = pieces(1000, { from: 20, to: 60 }, [], HEIGHT);
    const found = inSight(placed(drawn, scrolled, HEIGHT), top, bottom, HEIGHT);
    expect(found).toEqual(span);
  });

  it('is found beside a row that is open and higher than the panel', () => {
    const height = (index: number) => (index === 50 ? 2000 : 10);
    const drawn = pieces(1000, { from: 0, to: 40 }, [50], height);
    const at = (scrolled: number) =>
      inSight(placed(drawn, -scrolled, height), 0, 300, height);
    expect(at(1500)).toEqual({ from: 50, to: 51 });
    expect(at(2500)).toEqual({ from: 51, to: 81 });
  });
});
