import { describe, expect, it } from 'vitest';

import { bounds, stepOf } from '../src/shading';

const piece = (value: number | null) => ({ text: 'x', value });

describe('shading', () => {
  it('of times goes by multiples of their median', () => {
    const limits = bounds('latency', [null, 30, 10, 10, 12, 100].map(piece));
    expect(limits).toEqual([12, 18, 24, 48]);
    const steps = [0, 12, 12.1, 24, 48, 48.1].map(value =>
      stepOf('latency', value, limits)
    );
    expect(steps).toEqual([0, 0, 1, 2, 3, 4]);
  });

  it('of probabilities goes by what they are', () => {
    const limits = bounds('probability', []);
    const steps = [1, 0.9, 0.89, 0.5, 0.2, 0.05, 0.01].map(probability =>
      stepOf('probability', Math.log(probability) + 1e-12, limits)
    );
    expect(steps).toEqual([0, 0, 1, 1, 2, 3, 4]);
  });

  it('leaves out what is not known', () => {
    expect(stepOf('latency', null, [1, 2, 3, 4])).toBeNull();
    expect(stepOf('probability', -Infinity, bounds('probability', []))).toBe(4);
    expect(bounds('latency', [])).toEqual([0, 0, 0, 0]);
  });
});
