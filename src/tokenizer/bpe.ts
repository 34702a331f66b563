// The BPE model: pieces of text to ids by merging neighbours, the pair of the lowest rank first. n log n in the piece's length.

import { fail } from "./json-file.js";
import { type Merges, type Model, unknownToken } from "./model.js";
import { LONGEST_KEPT, PieceCache } from "./piece-cache.js";
import { bytesAt, sizeAt } from "./text.js";

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

/** Pieces of up to so many characters are merged by looking at all of them, longer ones by a heap. */
const SHORT = 24;
/** Places of a piece in one number with a rank; no string is longer. */
const PLACE = 2 ** 29;

/** Characters whose bytes' tokens are remembered. */
const MOST_FALLBACKS = 2 ** 16;

const UTF8 = new TextEncoder();
const [UNKNOWN, NEVER_LOOKED] = [-1, -2];

/** The tokens `<0x00>` to `<0xFF>`, where the vocabulary has them. */
export function byteIds(vocab: ReadonlyMap<string, number>): (number | undefined)[] {
  return Array.from({ length: 256 }, (_, byte) => vocab.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`));
}

/** Ranks of pairs of ids: a hash table in typed arrays, which is asked some three times for each character. */
class Ranks {
  readonly #mask: number;
  readonly #left: Int32Array;
  readonly #right: Int32Array;
  readonly #rank: Int32Array;

  constructor({ left, right, result }: Merges) {
    let size = 16;
    while (size < 2 * result.length) size *= 2;
    this.#mask = size - 1;
    this.#left = new Int32Array(size);
    this.#right = new Int32Array(size);
    this.#rank = new Int32Array(size).fill(-1);
    for (let rank = 0; rank < result.length; rank++) {
      const at = this.#place(left[rank]!, right[rank]!);
      this.#left[at] = left[rank]!;
      this.#right[at] = right[rank]!;
      this.#rank[at] = rank; // of two equal pairs the later counts
    }
  }

  /** Where a pair stands, or where it would be put. */
  #place(left: number, right: number): number {
    let at = (Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)) >>> 0;
    at = (at ^ (at >>> 15)) & this.#mask;
    while (this.#rank[at]! >= 0 && (this.#left[at] !== left || this.#right[at] !== right)) at = (at + 1) & this.#mask;
    return at;
  }

  /** The rank of a pair, or -1. */
  get(left: number, right: number): number {
    return this.#rank[this.#place(left, right)]!;
  }
}

/** Bits of a set of neighbours. */
const NEIGHBOUR_BITS = 2 ** 22;

/** Which two units stand side by side in some token. It may say so of others, too, as two pairs may share a bit. */
class Neighbours {
  readonly #bits = new Uint32Array(NEIGHBOUR_BITS / 32);

  constructor(tokens: Iterable<string>) {
    for (const token of tokens) {
      for (let at = 1; at < token.length; at++) {
        const bit = Neighbours.#bit(token.charCodeAt(at - 1), token.charCodeAt(at));
        this.#bits[bit >>> 5]! |= 1 << (bit & 31);
      }
    }
  }

  static #bit(left: number, right: number): number {
    const mixed = Math.imul((left << 16) | right, 0x9e3779b1);
    return (mixed ^ (mixed >>> 13)) & (NEIGHBOUR_BITS - 1);
  }

  has(left: number, right: number): boolean {
    const bit = Neighbours.#bit(left, right);
    return ((this.#bits[bit >>> 5]! >>> (bit & 31)) & 1) === 1;
  }
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

/** Units of each token, by its id. */
function lengthsOf(vocab: ReadonlyMap<string, number>): Int32Array {
  let size = 0;
  for (const id of vocab.values()) size = Math.max(size, id + 1);
  const lengths = new Int32Array(size);
  for (const [token, id] of vocab) lengths[id] = token.length;
  return lengths;
}

/** The place of the character of a byte of a text. */
function charactersOf(file: string, text: string): (byte: number) => number {
  const places: number[] = [];
  for (let at = 0; at < text.length; at += sizeAt(text, at)) {
    for (let left = bytesAt(text, at); left > 0; left--) places.push(at);
  }
  return (byte) => places[byte] ?? fail(file, "model.byte_fallback", "has no offsets together with end_of_word_suffix");
}

export class Bpe implements Model {
  readonly #file: string;
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #options: BpeOptions;
  readonly #results: Int32Array; // for each rank, the id of the merged token
  readonly #ranks: Ranks;
  readonly #units = new Int32Array(65536).fill(NEVER_LOOKED); // ids of single UTF-16 units, or UNKNOWN
  readonly #bytes: readonly (number | undefined)[];
  readonly #fallbacks = new Map<string, readonly number[]>(); // ids of the bytes of characters that are no tokens
  readonly #kept = new PieceCache();
  readonly #keptWithBanned = new PieceCache();
  readonly #parts = new PieceCache(); // of long pieces, which are merged even if they are tokens
  readonly #partsWithBanned = new PieceCache();
  #neighbours: Neighbours | undefined; // made on first use
  #lengths: Int32Array | undefined; // of tokens by their ids; made on first use

  constructor(file: string, vocab: ReadonlyMap<string, number>, merges: Merges, options: BpeOptions) {
    this.#file = file;
    this.#vocab = vocab;
    this.#options = options;
    this.#results = merges.result;
    this.#ranks = new Ranks(merges);
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
    const whole = this.#whole(piece, banned);
    if (whole !== undefined) {
      out.push(whole);
      return;
    }
    if (piece.length < LONGEST_KEPT || this.#options.end_of_word_suffix !== "") this.#merged(piece, banned, kept, out);
    else this.#byParts(piece, banned, out);
  }

  /** The id of a piece that is a token and not merged. */
  #whole(piece: string, banned: ReadonlySet<number> | undefined): number | undefined {
    const id = this.#options.ignore_merges ? this.#vocab.get(piece) : undefined;
    return id === undefined || banned?.has(id) ? undefined : id;
  }

  /**
   * A token's text is the texts of those that it was merged of, so that their lengths tell which ones they are. As in Python, what
   * follows a character that was left out begins that much earlier.
   */
  place(piece: string, banned: ReadonlySet<number> | undefined, out: number[], places: number[]): void {
    const first = out.length;
    this.encode(piece, banned, out);
    if (this.#whole(piece, banned) !== undefined) {
      places.push(0, piece.length);
      return;
    }
    const sizes: number[] = [];
    const parts = this.#characters(piece, banned, sizes);
    const characterAt = charactersOf(this.#file, piece);
    const lengths = (this.#lengths ??= lengthsOf(this.#vocab));
    let [part, byte] = [0, 0];
    for (let i = first; i < out.length; i++) {
      const start = byte;
      for (let left = lengths[out[i]!]!, begun = false; part < parts.length && (left > 0 || !begun); begun = true) {
        left -= lengths[parts[part]!]!;
        byte += sizes[part++]!;
      }
      const last = characterAt(byte - 1);
      places.push(characterAt(start), last + sizeAt(piece, last));
    }
  }

  #merged(piece: string, banned: ReadonlySet<number> | undefined, kept: PieceCache, out: number[]): void {
    const ids = this.#merge(this.#characters(piece, banned), banned);
    kept.set(piece, ids);
    for (const id of ids) out.push(id);
  }

  /**
   * A long piece, cut where no token holds what stands on both sides: no merge can cross such a place, so that the parts are
   * independent. Text without a pre-tokenizer falls into its words, most of which are known.
   */
  #byParts(piece: string, banned: ReadonlySet<number> | undefined, out: number[]): void {
    const neighbours = (this.#neighbours ??= new Neighbours(this.#vocab.keys()));
    const kept = banned === undefined ? this.#parts : this.#partsWithBanned;
    let from = 0;
    const give = (to: number) => {
      const part = piece.slice(from, to);
      const known = kept.get(part);
      if (known === undefined) this.#merged(part, banned, kept, out);
      else for (const id of known) out.push(id);
      from = to;
    };
    let before = this.#unitId(piece, 0);
    for (let at = 1; at < piece.length; at++) {
      const id = this.#unitId(piece, at);
      // Bytes and unknown tokens may be merged whatever their text is.
      if (before >= 0 && id >= 0 && !neighbours.has(piece.charCodeAt(at - 1), piece.charCodeAt(at))) give(at);
      before = id;
    }
    give(piece.length);
  }

  /** The id of a character of one UTF-16 unit, or less than 0: it has none, or is half a character. */
  #unitId(piece: string, at: number): number {
    const unit = piece.charCodeAt(at);
    if ((unit & 0xf800) === 0xd800) return UNKNOWN;
    let known = this.#units[unit]!;
    if (known === NEVER_LOOKED) known = this.#units[unit] = this.#vocab.get(piece[at]!) ?? UNKNOWN;
    return known;
  }

  /** Ids of the piece's characters. `sizes` takes the number of bytes that each id stands for. */
  #characters(piece: string, banned: ReadonlySet<number> | undefined, sizes?: number[]): number[] {
    const { unk, fuse_unk, end_of_word_suffix: suffix } = this.#options;
    const ids: number[] = [];
    let unknown = false; // was the last character?
    for (let at = 0; at < piece.length; ) {
      const end = at + sizeAt(piece, at);
      const last = end === piece.length && suffix !== "";
      const known = last ? UNKNOWN : this.#unitId(piece, at);
      if (known >= 0 && !banned?.has(known)) {
        ids.push(known);
        sizes?.push(bytesAt(piece, at));
        unknown = false;
        at = end;
        continue;
      }
      const char = last ? piece.slice(at, end) + suffix : piece.slice(at, end);
      const size = sizes === undefined ? 0 : bytesAt(piece, at);
      // The vocabulary was asked for single units already.
      const id = last || end - at > 1 ? this.#vocab.get(char) : undefined;
      at = end;
      if (id !== undefined && !banned?.has(id)) {
        ids.push(id);
        sizes?.push(size);
        unknown = false;
        continue;
      }
      const bytes = this.#bytes.length > 0 ? this.#bytesOf(char, banned) : undefined;
      if (bytes !== undefined) {
        for (const byte of bytes) ids.push(byte);
        sizes?.push(...bytes.map(() => 1));
        unknown = false;
      } else if (unk !== null) {
        if (!(unknown && fuse_unk)) {
          ids.push(unk ?? unknownToken(this.#file, char));
          sizes?.push(size);
        } else if (sizes !== undefined) sizes[sizes.length - 1]! += size;
        unknown = true;
      }
    }
    return ids;
  }

  #bytesOf(char: string, banned: ReadonlySet<number> | undefined): readonly number[] | undefined {
    const known = banned === undefined ? this.#fallbacks.get(char) : undefined;
    if (known !== undefined) return known;
    const ids: number[] = [];
    for (const byte of UTF8.encode(char)) {
      const id = this.#bytes[byte];
      if (id === undefined || banned?.has(id)) return undefined;
      ids.push(id);
    }
    if (banned === undefined && this.#fallbacks.size < MOST_FALLBACKS) this.#fallbacks.set(char, ids);
    return ids;
  }

  /** The rank of two neighbours, or -1 if they are not merged. */
  #rankOf(left: number, right: number, banned: ReadonlySet<number> | undefined): number {
    const rank = this.#ranks.get(left, right);
    return rank >= 0 && banned?.has(this.#results[rank]!) ? -1 : rank;
  }

  #merge(ids: number[], banned: ReadonlySet<number> | undefined): number[] {
    return ids.length <= SHORT ? this.#mergeShort(ids, banned) : this.#mergeLong(ids, banned);
  }

  /** Merges the pair of the lowest rank, the first of equal ones, until there is none. */
  #mergeShort(ids: number[], banned: ReadonlySet<number> | undefined): number[] {
    const ranks: number[] = [];
    for (let i = 0; i + 1 < ids.length; i++) ranks.push(this.#rankOf(ids[i]!, ids[i + 1]!, banned));
    for (;;) {
      let [best, at] = [-1, -1];
      for (let i = 0; i < ranks.length; i++) {
        const rank = ranks[i]!;
        if (rank >= 0 && (best < 0 || rank < best)) [best, at] = [rank, i];
      }
      if (at < 0) return ids;
      ids[at] = this.#results[best]!;
      for (let i = at + 1; i + 1 < ids.length; i++) ids[i] = ids[i + 1]!;
      ids.length--;
      for (let i = at; i + 1 < ranks.length; i++) ranks[i] = ranks[i + 1]!;
      ranks.length--;
      if (at > 0) ranks[at - 1] = this.#rankOf(ids[at - 1]!, ids[at]!, banned);
      if (at < ranks.length) ranks[at] = this.#rankOf(ids[at]!, ids[at + 1]!, banned);
    }
  }

  #mergeLong(ids: number[], banned: ReadonlySet<number> | undefined): number[] {
    const n = ids.length;
    const heap = new Heap();
    const next = new Int32Array(n); // place of the right neighbour, n for none
    const previous = new Int32Array(n);
    const tokens = Int32Array.from(ids);
    const offer = (place: number): void => {
      const right = next[place]!;
      if (right === n) return;
      const rank = this.#rankOf(tokens[place]!, tokens[right]!, banned);
      if (rank >= 0) heap.push(rank * PLACE + place);
    };
    for (let i = 0; i < n; i++) {
      next[i] = i + 1;
      previous[i] = i - 1;
    }
    for (let i = 0; i < n - 1; i++) offer(i);
    let count = n;
    for (let top = heap.pop(); top !== undefined; top = heap.pop()) {
      const rank = Math.floor(top / PLACE);
      const place = top - rank * PLACE;
      const right = next[place]!;
      // Offers outlive their pairs: the left one is merged away (-1) or has another right neighbour.
      if (tokens[place] === -1 || right === n) continue;
      const now = this.#ranks.get(tokens[place]!, tokens[right]!);
      const result = this.#results[rank]!;
      if (now < 0 || this.#results[now] !== result) continue;
      tokens[place] = result;
      tokens[right] = -1;
      count--;
      const after = next[right]!;
      next[place] = after;
      if (after < n) previous[after] = place;
      offer(place);
      if (previous[place]! >= 0) offer(previous[place]!);
    }
    if (count === n) return ids;
    const merged: number[] = [];
    for (let i = 0; i < n; i = next[i]!) merged.push(tokens[i]!);
    return merged;
  }
}
