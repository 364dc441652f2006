import { createHash } from 'node:crypto';

import { describe, expect, it } from 'vitest';

import { sourceSha256 } from '../src/source';
import { wire } from './fixtures';

function reference(text: string): string {
  return createHash('sha256').update(text, 'utf8').digest('hex');
}

describe("the digest of a cell's text", () => {
  it('is the one that the kernel makes', () => {
    const kept = wire('output_metadata').source_sha256;
    expect(sourceSha256('%%generate\nWhy?')).toBe(kept);
  });

  it.each([0, 1, 54, 55, 56, 63, 64, 65, 119, 120, 1000, 100_000])(
    'is SHA-256 at a length of %s',
    length => {
      const text = 'ab1 '.repeat(length).slice(0, length);
      expect(sourceSha256(text)).toBe(reference(text.replace(/\n$/, '')));
    }
  );

  it.each(['Grüße, 京都 🚀', '\u0000', '👩‍🚀'.repeat(50)])(
    'is of UTF-8: %s',
    text => {
      expect(sourceSha256(text)).toBe(reference(text));
    }
  );

  it('does not tell line ends apart, nor half a character from its stand-in', () => {
    const digest = sourceSha256('%%generate\nHi');
    expect(sourceSha256('%%generate\r\nHi\r\n')).toBe(digest);
    expect(sourceSha256('%%generate\nHi\n')).toBe(digest);
    expect(sourceSha256('%%generate\nHi\n\n')).not.toBe(digest);
    expect(sourceSha256('a\ud800b')).toBe(reference('a\ufffdb'));
  });
});
