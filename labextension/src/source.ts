/** A digest of a cell's text, as the kernel makes it of the text that it runs. */

// The browser's own is asynchronous, and missing where a page comes by plain HTTP from another machine.
// The names are those of FIPS 180-4, in which SHA-256 is defined.
const K = new Uint32Array(64);
const H = new Uint32Array(8);

/** The first bits of the fraction of a root. */
function fraction(root: number): number {
  return (root - Math.floor(root)) * 2 ** 32;
}

for (let number = 2, found = 0; found < 64; number++) {
  let isPrime = true;
  for (let divisor = 2; divisor * divisor <= number; divisor++) {
    isPrime &&= number % divisor !== 0;
  }
  if (isPrime) {
    if (found < 8) {
      H[found] = fraction(Math.sqrt(number));
    }
    K[found++] = fraction(Math.cbrt(number));
  }
}

/** The hex digest of a cell's text; its line ends, and the one that ends it, make no difference. */
export function sourceSha256(source: string): string {
  const text = source.replace(/\r\n/g, '\n').replace(/\n$/, '');
  return sha256(new TextEncoder().encode(text));
}

function sha256(bytes: Uint8Array): string {
  const padded = new Uint8Array(((bytes.length + 72) >> 6) << 6);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(padded.length - 4, bytes.length << 3);
  const hash = H.slice();
  for (let start = 0; start < padded.length; start += 64) {
    addBlock(hash, view, start);
  }
  return Array.from(hash, word => word.toString(16).padStart(8, '0')).join('');
}

function addBlock(hash: Uint32Array, view: DataView, start: number): void {
  const w = new Uint32Array(64);
  for (let t = 0; t < 64; t++) {
    if (t < 16) {
      w[t] = view.getUint32(start + 4 * t);
    } else {
      const [early, late] = [w[t - 15]!, w[t - 2]!];
      const s0 = rotated(early, 7) ^ rotated(early, 18) ^ (early >>> 3);
      const s1 = rotated(late, 17) ^ rotated(late, 19) ^ (late >>> 10);
      w[t] = w[t - 16]! + s0 + w[t - 7]! + s1;
    }
  }
  let [a, b, c, d, e, f, g, h] = hash as unknown as EightWords;
  for (let t = 0; t < 64; t++) {
    const s1 = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25);
    const chosen = (e & f) ^ (~e & g);
    const one = (h + s1 + chosen + K[t]! + w[t]!) | 0;
    const s0 = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22);
    const two = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [
      g,
      f,
      e,
      (d + one) | 0,
      c,
      b,
      a,
      (one + two) | 0
    ];
  }
  [a, b, c, d, e, f, g, h].forEach((word, place) => (hash[place]! += word));
}

type EightWords = [
  number,
  number,
  number,
  number,
  number,
  number,
  number,
  number
];

function rotated(word: number, bits: number): number {
  return (word >>> bits) | (word << (32 - bits));
}
