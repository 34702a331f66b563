// The BPE model: pieces of text to ids by merging neighbours, the pair of the lowest rank first. n log n in the piece's length.

import { type Merges, type Model, unknownToken } from "./model.js";

export interface BpeOptions {
  /** The id of what the vocabulary lacks; null if the file names no unknown token: then it is left out. */
  readonly unk: number | null | undefined;
  readonly fuse_unk: boolean;
  /** Characters that the vocabulary lacks become tokens of their UTF-8 bytes. */
  readonly byte_fallback: boolean;
  /** Pieces that are tokens are not merged. */
  readonly ignore_merges: boolean;
  /** Added to the last character of a piece. */
  readonly end_of_word_suffix: string;
}

/** Merges are found by both ids in one number. */
const PAIR = 2 ** 25;
/** Places of a piece in one number with a rank; no string is longer. */
const PLACE = 2 ** 29;
/** Pieces whose ids are kept, and their longest. */
const KEPT = 16_384;
const LONGEST_KEPT = 256;

const UTF8 = new TextEncoder();

/** The tokens `<0x00>` to `<0xFF>`, where the vocabulary has them. */
export function byteIds(vocab: ReadonlyMap<string, number>): (number | undefined)[] {
  return Array.from({ length: 256 }, (_, byte) => vocab.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`));
}

/** Numbers, of which the smallest comes out first. */
class Heap {
  readonly #items: number[] = [];

  push(item: number): void {
    const items = this.#items;
    let at = items.length;
    items.push(item);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (items[parent]! <= item) break;
      items[at] = items[parent]!;
      at = parent;
    }
    items[at] = item;
  }

  pop(): number | undefined {
    const items = this.#items;
    const top = items[0];
    const item = items.pop();
    if (item === undefined || items.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && items[child + 1]! < items[child]!) child++;
      if (items[child]! >= item) break;
      items[at] = items[child]!;
      at = child;
    }
    items[at] = item;
    return top;
  }
}

export class Bpe implements Model {
  readonly #file: string;
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #options: BpeOptions;
  readonly #results: Int32Array; // for each rank, the id of the merged token
  readonly #ranks = new Map<number, number>();
  readonly #bytes: readonly (number | undefined)[];
  readonly #kept = new Map<string, readonly number[]>();
  readonly #keptWithBanned = new Map<string, readonly number[]>();

  constructor(file: string, vocab: ReadonlyMap<string, number>, merges: Merges, options: BpeOptions) {
    const { left, right, result } = merges;
    this.#file = file;
    this.#vocab = vocab;
    this.#options = options;
    this.#results = result;
    for (let rank = 0; rank < result.length; rank++) this.#ranks.set(left[rank]! * PAIR + right[rank]!, rank);
    this.#bytes = options.byte_fallback ? byteIds(vocab) : [];
  }

  encode(piece: string, banned: ReadonlySet<number> | undefined, out: number[]): void {
    if (piece === "") return;
    const kept = banned === undefined ? this.#kept : this.#keptWithBanned;
    const known = kept.get(piece);
    if (known !== undefined) {
      for (const id of known) out.push(id);
      return;
    }
    const whole = this.#options.ignore_merges ? this.#vocab.get(piece) : undefined;
    if (whole !== undefined && !banned?.has(whole)) {
      out.push(whole);
      return;
    }
    const ids = this.#merge(this.#characters(piece, banned), banned);
    if (piece.length < LONGEST_KEPT) {
      if (kept.size === KEPT) kept.clear();
      kept.set(piece, ids);
    }
    for (const id of ids) out.push(id);
  }

  /** Ids of the piece's characters. */
  #characters(piece: string, banned: ReadonlySet<number> | undefined): number[] {
    const { unk, fuse_unk, end_of_word_suffix: suffix } = this.#options;
    const ids: number[] = [];
    let unknown = false; // was the last character?
    for (let at = 0; at < piece.length; ) {
      const end = at + (piece.codePointAt(at)! > 0xffff ? 2 : 1);
      const last = end === piece.length && suffix !== "";
      const char = last ? piece.slice(at, end) + suffix : piece.slice(at, end);
      at = end;
      const id = this.#vocab.get(char);
      if (id !== undefined && !banned?.has(id)) {
        ids.push(id);
        unknown = false;
        continue;
      }
      const bytes = this.#bytes.length > 0 ? this.#bytesOf(char, banned) : undefined;
      if (bytes !== undefined) {
        for (const byte of bytes) ids.push(byte);
        unknown = false;
      } else if (unk !== null) {
        if (!(unknown && fuse_unk)) ids.push(unk ?? unknownToken(this.#file, char));
        unknown = true;
      }
    }
    return ids;
  }

  #bytesOf(char: string, banned: ReadonlySet<number> | undefined): number[] | undefined {
    const ids: number[] = [];
    for (const byte of UTF8.encode(char)) {
      const id = this.#bytes[byte];
      if (id === undefined || banned?.has(id)) return undefined;
      ids.push(id);
    }
    return ids;
  }

  #merge(ids: number[], banned: ReadonlySet<number> | undefined): number[] {
    const n = ids.length;
    if (n < 2) return ids;
    const heap = new Heap();
    const next = new Int32Array(n); // place of the right neighbour, n for none
    const previous = new Int32Array(n);
    const offer = (place: number): void => {
      const right = next[place]!;
      if (right === n) return;
      const rank = this.#ranks.get(ids[place]! * PAIR + ids[right]!);
      if (rank !== undefined && !banned?.has(this.#results[rank]!)) heap.push(rank * PLACE + place);
    };
    for (let i = 0; i < n; i++) {
      next[i] = i + 1;
      previous[i] = i - 1;
    }
    for (let i = 0; i < n - 1; i++) offer(i);
    let count = n;
    for (let top = heap.pop(); top !== undefined; top = heap.pop()) {
      const place = top % PLACE;
      const right = next[place]!;
      // Offers outlive their pairs: the left one is merged away (-1) or has another right neighbour.
      if (ids[place] === -1 || right === n) continue;
      const rank = this.#ranks.get(ids[place]! * PAIR + ids[right]!);
      const result = this.#results[(top - place) / PLACE]!;
      if (rank === undefined || this.#results[rank] !== result) continue;
      ids[place] = result;
      ids[right] = -1;
      count--;
      const after = next[right]!;
      next[place] = after;
      if (after < n) previous[after] = place;
      offer(place);
      if (previous[place]! >= 0) offer(previous[place]!);
    }
    if (count === n) return ids;
    const merged: number[] = [];
    for (let i = 0; i < n; i = next[i]!) merged.push(ids[i]!);
    return merged;
  }
}
