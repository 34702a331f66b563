// Fields of a few bits in 32-bit words, as the formats of packed matrices store them: from the lowest bit of the first word on,
// one after the other, also across the end of a word.

/** The field `index` of `bits` bits in words that lie `stride` apart, the first one at `base`. */
export function fieldAt(words: Uint32Array, base: number, stride: number, index: number, bits: number): number {
  const bit = index * bits;
  const at = base + (bit >>> 5) * stride;
  const from = bit & 31;
  let value = words[at]! >>> from;
  if (from + bits > 32) value |= words[at + stride]! << (32 - from);
  return value & ((1 << bits) - 1);
}

/** Words that hold `count` fields. */
export function wordsFor(count: number, bits: number): number {
  return Math.ceil((count * bits) / 32);
}

/** Bytes of a file as little-endian words, with memory of their own. */
export function wordsOf(bytes: Uint8Array): Uint32Array {
  return new Uint32Array(bytes.slice().buffer);
}

/** Words with the two codes of each byte in the other order: the first one in the high half. */
export function swapped(word: number): number {
  return ((word & 0x0f0f0f0f) << 4) | ((word >>> 4) & 0x0f0f0f0f);
}
