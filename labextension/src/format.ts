/** Numbers as text, pure. Estimated is marked ~, unknown is —, lower bounds ≥, upper bounds ≤. */

import type { Bound, Source, Totals } from './protocol';

export const UNKNOWN = '—';

const MARKS: Record<Bound, string> = { exact: '', at_least: '≥', at_most: '≤' };

/** Token counts short enough for a column: 412, 12.4k, 3.1M. */
export function tokens(
  count: number | null,
  source: Source = 'measured'
): string {
  if (count === null) {
    return UNKNOWN;
  }
  const mark = source === 'estimated' ? '~' : '';
  if (count < 10_000) {
    return `${mark}${count}`;
  }
  const [divisor, unit] = count < 999_950 ? [1e3, 'k'] : [1e6, 'M'];
  return `${mark}${(count / divisor).toFixed(1)}${unit}`;
}

/** Token counts to the last one, where each keystroke should show: 108,031. */
export function wholeTokens(count: number | null, source: Source): string {
  const mark = source === 'estimated' ? '~' : '';
  return count === null ? UNKNOWN : `${mark}${thousands(String(count))}`;
}

/**
 * Dollars from a decimal string, rounded half up on the digits themselves: two decimals from $1 on,
 * below it four decimals or three significant digits, whichever is finer.
 */
export function usd(
  amount: string | null,
  source: Source = 'measured',
  bound: Bound = 'exact'
): string {
  if (amount === null) {
    return UNKNOWN;
  }
  const marks = `${source === 'estimated' ? '~' : ''}${MARKS[bound]}`;
  const sign = amount.startsWith('-') ? '-' : '';
  const [whole = '0', fraction = ''] = amount.replace('-', '').split('.');
  if (/^0*$/.test(whole + fraction)) {
    return `${marks}$0`;
  }
  if (/[1-9]/.test(whole)) {
    const [dollars, cents] = round(whole, fraction, 2);
    return `${marks}${sign}$${thousands(dollars)}.${cents}`;
  }
  const leadingZeros = fraction.search(/[1-9]/);
  const [dollars, digits] = round(
    whole,
    fraction,
    Math.max(4, leadingZeros + 3)
  );
  const trimmed = digits.replace(/0+$/, '').padEnd(4, '0');
  return `${marks}${sign}$${dollars}.${trimmed}`;
}

/** What a sum of runs cost, with its marks. */
export function sumUsd(totals: Totals): string {
  const source = totals.costEstimated ? 'estimated' : 'measured';
  return usd(totals.costUsd, source, totals.costBound);
}

/** A cap in dollars as it was set: all its digits, and at least two decimals. */
export function cap(amount: string): string {
  const [whole = '0', fraction = ''] = amount.split('.');
  const cents = fraction.replace(/0+$/, '').padEnd(2, '0');
  return `$${thousands(whole)}.${cents}`;
}

/** A share as percent, rounded down so that 100 % is all of it and nothing less. */
export function percent(share: number): string {
  // A little more, because 0.29 × 100 is a little less than 29 among floats.
  const whole = Math.floor(share * 100 + 1e-12);
  return whole === 0 && share > 0 ? '<1\u00a0%' : `${whole}\u00a0%`;
}

function thousands(digits: string): string {
  return digits.replace(/\B(?=(\d{3})+$)/g, ',');
}

function round(
  whole: string,
  fraction: string,
  decimals: number
): [string, string] {
  const kept = BigInt(
    whole + fraction.padEnd(decimals, '0').slice(0, decimals)
  );
  const up = (fraction[decimals] ?? '0') >= '5' ? 1n : 0n;
  const digits = (kept + up).toString().padStart(decimals + 1, '0');
  return [digits.slice(0, -decimals), digits.slice(-decimals)];
}

const DTYPES: Record<string, string> = {
  bfloat16: 'bf16',
  float16: 'fp16',
  float32: 'fp32'
};

/** A data type by the name that people say. */
export function dtype(name: string | null): string | null {
  return name === null ? null : (DTYPES[name] ?? name);
}

/** Seconds: 0.21s, 12.4s. */
export function seconds(value: number | null): string {
  if (value === null) {
    return UNKNOWN;
  }
  return `${value.toFixed(value < 10 ? 2 : 1)}s`;
}

/** Milliseconds per token from seconds: 11.2, 0.52. */
export function milliseconds(valueS: number | null): string {
  if (valueS === null) {
    return UNKNOWN;
  }
  const ms = valueS * 1e3;
  return ms.toFixed(ms < 1 ? 2 : 1);
}

/** The points of an SVG polyline in a box of the given size; a flat line lies in its middle. */
export function sparkline(
  values: readonly number[],
  width: number,
  height: number
): string {
  if (values.length < 2) {
    return '';
  }
  const low = Math.min(...values);
  const span = Math.max(...values) - low;
  return values
    .map((value, index) => {
      const x = (index / (values.length - 1)) * width;
      const y =
        span === 0 ? height / 2 : height - ((value - low) / span) * height;
      return `${x.toFixed(1)},${y.toFixed(1)}`;
    })
    .join(' ');
}
