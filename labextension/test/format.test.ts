import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';

import { describe, expect, it } from 'vitest';

import {
  cap,
  dtype,
  duration,
  gibibytes,
  joules,
  milliseconds,
  percent,
  scoreText,
  seconds,
  sparkline,
  tokens,
  usd,
  watts
} from '../src/format';

describe('the numbers that reports show, too', () => {
  const path = resolve(__dirname, '../../tests/fixtures/numbers.json');
  const shown = JSON.parse(readFileSync(path, 'utf8'));
  const ways: Record<string, (value: any) => string> = {
    usd: amount => usd(amount),
    seconds,
    milliseconds,
    joules: value => joules(value),
    duration,
    percent,
    passed: value => scoreText(value, true),
    score: value => scoreText(value, false)
  };

  it.each(Object.keys(shown))('are rounded alike: %s', kind => {
    const told = shown[kind].map(([value]: [unknown]) => [
      value,
      ways[kind]!(value).replace(/\s/g, '')
    ]);
    expect(told).toEqual(shown[kind]);
  });
});

describe('tokens', () => {
  it.each([
    [null, '—'],
    [0, '0'],
    [412, '412'],
    [9999, '9999'],
    [10_000, '10.0k'],
    [12_440, '12.4k'],
    [999_949, '999.9k'],
    [999_950, '1.0M'],
    [3_100_000, '3.1M']
  ])('%j → %s', (count, text) => {
    expect(tokens(count)).toBe(text);
  });

  it('marks an estimate', () => {
    expect(tokens(37, 'estimated')).toBe('~37');
    expect(tokens(37, 'reported')).toBe('37');
  });
});

describe('usd', () => {
  it.each([
    [null, '—'],
    ['0', '$0'],
    ['0.000', '$0'],
    ['0.0011', '$0.0011'],
    ['0.00005215', '$0.0000522'],
    ['0.00005214', '$0.0000521'],
    ['0.000000000001', '$0.000000000001'],
    ['0.0312', '$0.0312'],
    ['0.41205', '$0.4121'],
    ['0.5', '$0.5000'],
    ['0.99996', '$1.0000'],
    ['1.005', '$1.01'],
    ['1234567.891', '$1,234,567.89'],
    ['123456789012345678.995', '$123,456,789,012,345,679.00'],
    ['-0.02', '-$0.0200']
  ])('%j → %s', (amount, text) => {
    expect(usd(amount)).toBe(text);
  });

  it('marks estimates and bounds', () => {
    expect(usd('0.0011', 'estimated')).toBe('~$0.0011');
    expect(usd('0.0011', 'measured', 'at_least')).toBe('≥$0.0011');
    expect(usd('0.0011', 'estimated', 'at_most')).toBe('~≤$0.0011');
  });
});

describe('cap', () => {
  it.each([
    ['5', '$5.00'],
    ['5.00', '$5.00'],
    ['0.05', '$0.05'],
    ['0.050', '$0.05'],
    ['0.5', '$0.50'],
    ['0.000000000001', '$0.000000000001'],
    ['1.005', '$1.005'],
    ['1000000', '$1,000,000.00'],
    ['100', '$100.00']
  ])('%j → %s', (amount, text) => {
    expect(cap(amount)).toBe(text);
  });
});

describe('percent', () => {
  it.each([
    [0, '0\u00a0%'],
    [0.000001, '<1\u00a0%'],
    [0.0824, '8\u00a0%'],
    [0.29, '29\u00a0%'],
    [0.57, '57\u00a0%'],
    [0.999999, '99\u00a0%'],
    [1, '100\u00a0%'],
    [1.2, '120\u00a0%']
  ])('%j → %s', (share, text) => {
    expect(percent(share)).toBe(text);
  });
});

describe('times', () => {
  it('shows seconds and milliseconds per token', () => {
    expect(seconds(0.2044)).toBe('0.20s');
    expect(seconds(12.44)).toBe('12.4s');
    expect(seconds(null)).toBe('—');
    expect(milliseconds(0.0111)).toBe('11.1');
    expect(milliseconds(0.00052)).toBe('0.52');
    expect(milliseconds(0.99994)).toBe('999.9');
    expect(milliseconds(1.2345)).toBe('1235');
    expect(milliseconds(null)).toBe('—');
  });
});

describe('dtype', () => {
  it('says what people say', () => {
    expect(dtype('bfloat16')).toBe('bf16');
    expect(dtype('float8_e4m3')).toBe('float8_e4m3');
    expect(dtype(null)).toBeNull();
  });
});

describe('sparkline', () => {
  it('spans the box', () => {
    expect(sparkline([1, 3, 2], 40, 10)).toBe('0.0,10.0 20.0,0.0 40.0,5.0');
  });

  it('lies in the middle where nothing changes', () => {
    expect(sparkline([5, 5], 40, 10)).toBe('0.0,5.0 40.0,5.0');
  });

  it('needs two points', () => {
    expect(sparkline([5], 40, 10)).toBe('');
    expect(sparkline([], 40, 10)).toBe('');
  });
});

describe('a device', () => {
  it.each([
    [0, '0.00'],
    [2 ** 28, '0.25'],
    [13 * 2 ** 30, '13.0'],
    [140 * 2 ** 30, '140']
  ])('has its memory in GiB: %j bytes → %s', (bytes, text) => {
    expect(gibibytes(bytes)).toBe(text);
  });

  it.each([
    [0.31, '0.31\u00a0J'],
    [12.5, '12.5\u00a0J'],
    [999.4, '999\u00a0J'],
    [999.6, '1.00\u00a0kJ'],
    [1.25e12, '1250\u00a0GJ']
  ])('has its energy in three digits: %j → %s', (value, text) => {
    expect(joules(value)).toBe(text);
  });

  it('has marks on what is not exact', () => {
    expect(joules(12.5, true, 'at_most')).toBe('~≤12.5\u00a0J');
    expect([watts(8.25), watts(412.4)]).toEqual(['8.3\u00a0W', '412\u00a0W']);
  });
});
