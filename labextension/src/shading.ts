/** By what an answer's tokens are shaded: five steps, each with its bound. Pure. */

import type { Piece } from './detail';

export type Shade = 'latency' | 'probability';

/** From the inconspicuous one to the one that stands out. */
export const STEPS = [0, 1, 2, 3, 4] as const;

/** Times as multiples of the run's median; a token above the last is in the last step. */
const MULTIPLES = [1, 1.5, 2, 4];
/** Probabilities; a token below the last is in the last step. */
const PROBABILITIES = [0.9, 0.5, 0.2, 0.05];

/** The bounds between the steps: upper ones of milliseconds, lower ones of probabilities. */
export function bounds(shade: Shade, pieces: readonly Piece[]): number[] {
  if (shade === 'probability') {
    return PROBABILITIES;
  }
  const middle = median(pieces);
  return MULTIPLES.map(multiple => multiple * middle);
}

/** The step of a token; null where its value is not known. */
export function stepOf(
  shade: Shade,
  value: number | null,
  bounds: readonly number[]
): number | null {
  if (value === null) {
    return null;
  }
  const measured = shade === 'probability' ? Math.exp(value) : value;
  const at = bounds.findIndex(bound =>
    shade === 'probability' ? measured >= bound : measured <= bound
  );
  return at < 0 ? bounds.length : at;
}

function median(pieces: readonly Piece[]): number {
  const values = pieces
    .map(piece => piece.value)
    .filter(value => value !== null)
    .sort((a, b) => a - b);
  return values[values.length >> 1] ?? 0;
}
