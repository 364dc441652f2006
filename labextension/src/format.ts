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

/** What a run took and made in all; unknown where one of the two is. */
export function tokensOf(run: {
  readonly inputTokens: number | null;
  readonly outputTokens: number | null;
}): number | null {
  const { inputTokens, outputTokens } = run;
  return inputTokens === null || outputTokens === null
    ? null
    : inputTokens + outputTokens;
}

/** How much more one count is than another, with its sign; unknown where one of them is. */
export function signedTokens(
  before: number | null,
  after: number | null
): string {
  return before === null || after === null
    ? UNKNOWN
    : signed(after - before, it => tokens(it));
}

/** A difference with its sign, the rest as `shown` writes it: +14, −0.21s, ±0. */
export function signed(
  difference: number,
  shown: (amount: number) => string
): string {
  const text = shown(Math.abs(difference));
  return difference === 0 ? `±${text}` : `${difference > 0 ? '+' : '−'}${text}`;
}

/** The exact difference of two amounts of money, a decimal string as they are. */
export function minus(amount: string, other: string): string {
  const decimals = Math.max(decimalsOf(amount), decimalsOf(other));
  const difference = scaled(amount, decimals) - scaled(other, decimals);
  const digits = String(difference < 0 ? -difference : difference).padStart(
    decimals + 1,
    '0'
  );
  const whole = digits.slice(0, digits.length - decimals);
  const fraction = decimals === 0 ? '' : `.${digits.slice(-decimals)}`;
  return `${difference < 0 ? '-' : ''}${whole}${fraction}`;
}

/** A difference of money with its sign: +$0.0002, −$0.0014, ±$0. */
export function signedUsd(amount: string): string {
  if (/^-?0*\.?0*$/.test(amount)) {
    return '±$0';
  }
  return amount.startsWith('-')
    ? `−${usd(amount.slice(1))}`
    : `+${usd(amount)}`;
}

function decimalsOf(amount: string): number {
  return amount.split('.')[1]?.length ?? 0;
}

function scaled(amount: string, decimals: number): bigint {
  const [whole = '0', fraction = ''] = amount.replace('-', '').split('.');
  const value = BigInt(whole + fraction.padEnd(decimals, '0'));
  return amount.startsWith('-') ? -value : value;
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

/** How long something will take: 45s, 3m 20s, 2h 5m. */
export function duration(value: number): string {
  const whole = Math.max(1, Math.round(value));
  if (whole < 60) {
    return `${whole}s`;
  }
  const minutes = Math.floor(whole / 60);
  if (minutes < 10) {
    return `${minutes}m ${whole % 60}s`;
  }
  const rounded = Math.round(whole / 60);
  return rounded < 60
    ? `${rounded}m`
    : `${Math.floor(rounded / 60)}h ${rounded % 60}m`;
}

/** Milliseconds per token from seconds: 0.52, 11.2, 1234. */
export function milliseconds(valueS: number | null): string {
  if (valueS === null) {
    return UNKNOWN;
  }
  const ms = valueS * 1e3;
  return ms.toFixed(ms < 1 ? 2 : ms < 999.95 ? 1 : 0);
}

/** A pass rate in percent, any other score with three decimals. */
export function scoreText(score: number | null, passes: boolean): string {
  if (score === null) {
    return UNKNOWN;
  }
  return passes ? `${(100 * score).toFixed(1)}\u00a0%` : score.toFixed(3);
}

/** Bytes in GiB, without the unit: 0.25, 13.0, 140. */
export function gibibytes(bytes: number): string {
  const amount = bytes / 2 ** 30;
  return amount.toFixed(amount < 0.995 ? 2 : amount < 99.95 ? 1 : 0);
}

/** Watts: 412 W. */
export function watts(value: number): string {
  return `${value.toFixed(value < 9.95 ? 1 : 0)}\u00a0W`;
}

/** Energy with about three significant digits and its marks: 0.0124 J, 0.31 J, 12.5 J, ≤1.23 kJ. */
export function joules(
  value: number,
  isEstimated = false,
  bound: Bound = 'exact'
): string {
  const units = ['J', 'kJ', 'MJ', 'GJ'];
  let amount = value;
  while (amount >= 999.5 && units.length > 1) {
    amount /= 1000;
    units.shift();
  }
  const decimals =
    amount < 0.0995 ? 4 : amount < 9.995 ? 2 : amount < 99.95 ? 1 : 0;
  const mark = `${isEstimated ? '~' : ''}${MARKS[bound]}`;
  return `${mark}${amount.toFixed(decimals)}\u00a0${units[0]}`;
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

// What would be drawn as nothing, restyle what follows or turn its direction round, and half characters.
const UNSEEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]|\p{Cs}/gu;

/** Somebody else's text as it may be shown: what cannot be seen in it is spelled out. */
export function visible(text: string): string {
  return text.replace(UNSEEN, character => {
    // Between emoji it joins them into one.
    if (character === '\u200d') {
      return character;
    }
    const code = character.codePointAt(0) ?? 0;
    return `\u27e8${code.toString(16).toUpperCase().padStart(4, '0')}\u27e9`;
  });
}

/** An instant of the wire in the person's own time zone and language; as it came where it is none. */
export function localTime(instant: string, language?: string): string {
  const time = new Date(instant);
  return Number.isNaN(time.getTime())
    ? visible(instant)
    : time.toLocaleString(language, {
        dateStyle: 'medium',
        timeStyle: 'medium'
      });
}

/** The time of day of such an instant. */
export function clockTime(instant: string, language?: string): string {
  const time = new Date(instant);
  return Number.isNaN(time.getTime())
    ? visible(instant)
    : time.toLocaleTimeString(language, { timeStyle: 'medium' });
}
