// The Unigram model: the cut of a piece whose tokens' scores have the largest sum, as in Python's `tokenizers`. Linear in the
// piece's length.

import { byteIds } from "./bpe.js";
import { checkLengths, type Model, type Scores, unknownToken } from "./model.js";
import { LONGEST_KEPT, PieceCache } from "./piece-cache.js";
import { sizeAt } from "./text.js";
import { Trie } from "./trie.js";

/** How much less than the least likely token an unknown character scores. */
const PENALTY = 10;
const UTF8 = new TextEncoder();

export class Unigram implements Model {
  readonly #file: string;
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #unk: number | undefined;
  readonly #bytes: readonly (number | undefined)[];
  readonly #trie: Trie;
  readonly #scores: Float64Array;
  readonly #unkScore: number;
  readonly #kept = new PieceCache();
  readonly #keptWithBanned = new PieceCache();
  readonly #best = new Float64Array(LONGEST_KEPT);
  readonly #from = new Int32Array(LONGEST_KEPT);
  readonly #last = new Int32Array(LONGEST_KEPT);

  /** @throws FormatError when a token is longer than 512 units */
  constructor(
    file: string,
    scores: Scores,
    vocab: ReadonlyMap<string, number>,
    unk: number | undefined,
    bytes: boolean,
  ) {
    this.#file = file;
    this.#vocab = vocab;
    this.#unk = unk;
    this.#bytes = bytes ? byteIds(vocab) : [];
    const tokens = scores.map(([token]) => token);
    checkLengths(file, tokens);
    this.#trie = new Trie(tokens, false, file);
    this.#scores = Float64Array.from(scores, ([, score]) => score);
    this.#unkScore = this.#scores.reduce((least, score) => Math.min(least, score), Number.POSITIVE_INFINITY) - PENALTY;
  }

  encode(piece: string, banned: ReadonlySet<number> | undefined, out: number[]): void {
    const kept = banned === undefined ? this.#kept : this.#keptWithBanned;
    const known = kept.get(piece);
    if (known !== undefined) {
      for (const id of known) out.push(id);
      return;
    }
    const ids = this.#cut(piece, banned);
    for (let i = ids.length - 1; i >= 0; i--) out.push(ids[i]!);
    kept.set(piece, ids.reverse());
  }

  place(piece: string, banned: ReadonlySet<number> | undefined, out: number[], places: number[]): void {
    const bounds: number[] = [];
    const ids = this.#cut(piece, banned, bounds);
    for (let i = ids.length - 1; i >= 0; i--) {
      out.push(ids[i]!);
      places.push(bounds[2 * i]!, bounds[2 * i + 1]!);
    }
  }

  /** Ids of the best cut, the last first. `bounds` takes the place of each; those of bytes have the place of all of them. */
  #cut(piece: string, banned: ReadonlySet<number> | undefined, bounds?: number[]): number[] {
    const n = piece.length;
    const short = n < LONGEST_KEPT;
    // The largest sum of a cut of what comes before a place, where its last token begins, and its id, or -1 if it is unknown.
    const best = short ? this.#best : new Float64Array(n + 1);
    const from = (short ? this.#from : new Int32Array(n + 1)).fill(-1, 0, n + 1);
    const last = short ? this.#last : new Int32Array(n + 1);
    best[0] = 0;
    const trie = this.#trie;
    for (let at = 0; at < n; ) {
      const next = at + sizeAt(piece, at);
      let single = false;
      for (let node = 0, end = at; end < n; ) {
        node = trie.child(node, piece.charCodeAt(end++));
        if (node === 0) break;
        const id = trie.words[node]!;
        if (id < 0 || banned?.has(id)) continue;
        const score = best[at]! + this.#scores[id]!;
        if (from[end]! < 0 || score > best[end]!) {
          best[end] = score;
          from[end] = at;
          last[end] = id;
        }
        single ||= end === next;
      }
      const score = best[at]! + this.#unkScore;
      if (!single && (from[next]! < 0 || score > best[next]!)) {
        best[next] = score;
        from[next] = at;
        last[next] = -1;
      }
      at = next;
    }
    const ids: number[] = [];
    for (let end = n; end > 0; ) {
      let start = from[end]!;
      if (!this.#isUnknown(last[end]!)) ids.push(last[end]!);
      else {
        while (start > 0 && this.#isUnknown(last[start]!)) start = from[start]!;
        this.#unknown(piece.slice(start, end), banned, ids);
      }
      if (bounds !== undefined) while (bounds.length < 2 * ids.length) bounds.push(start, end);
      end = start;
    }
    return ids;
  }

  #isUnknown(id: number): boolean {
    return id === -1 || id === this.#unk;
  }

  /** Ids, the last first, of a run of unknown characters: a token, one for each byte, or the unknown token. */
  #unknown(text: string, banned: ReadonlySet<number> | undefined, ids: number[]): void {
    const known = this.#vocab.get(text);
    if (known !== undefined && !banned?.has(known)) {
      ids.push(known);
      return;
    }
    const bytes = this.#bytes.length > 0 ? Array.from(UTF8.encode(text), (byte) => this.#bytes[byte]) : [undefined];
    if (bytes.every((id) => id !== undefined && !banned?.has(id))) {
      for (const id of bytes.reverse()) ids.push(id!);
    } else ids.push(this.#unk ?? unknownToken(this.#file, text));
  }
}
