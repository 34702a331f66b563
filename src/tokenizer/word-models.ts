// The models that look whole words up: WordLevel and WordPiece.

import { checkLengths, type Model, unknownToken } from "./model.js";
import { Trie } from "./trie.js";

/** A token for each whole piece. */
export class WordLevel implements Model {
  readonly #file: string;
  readonly #vocab: ReadonlyMap<string, number>;
  readonly #unk: number | undefined;

  constructor(file: string, vocab: ReadonlyMap<string, number>, unk: number | undefined) {
    this.#file = file;
    this.#vocab = vocab;
    this.#unk = unk;
  }

  encode(piece: string, banned: ReadonlySet<number> | undefined, out: number[]): void {
    const id = this.#vocab.get(piece);
    out.push(id !== undefined && !banned?.has(id) ? id : (this.#unk ?? unknownToken(this.#file, piece)));
  }

  place(piece: string, banned: ReadonlySet<number> | undefined, out: number[], places: number[]): void {
    this.encode(piece, banned, out);
    places.push(0, piece.length);
  }
}

/** The longest token at the start of a piece, then the longest that continues it, and so on; else the piece is unknown. */
export class WordPiece implements Model {
  readonly #file: string;
  readonly #unk: number | undefined;
  readonly #most: number;
  readonly #starting: Trie;
  readonly #continuing: Trie;
  readonly #startIds: readonly number[];
  readonly #continueIds: readonly number[];

  constructor(file: string, vocab: ReadonlyMap<string, number>, unk: number | undefined, prefix: string, most: number) {
    this.#file = file;
    this.#unk = unk;
    this.#most = most;
    checkLengths(file, vocab.keys());
    const all = [...vocab];
    const continuing = all.filter(([token]) => token.startsWith(prefix));
    this.#starting = new Trie(
      all.map(([token]) => token),
      false,
      file,
    );
    this.#continuing = new Trie(
      continuing.map(([token]) => token.slice(prefix.length)),
      false,
      file,
    );
    this.#startIds = all.map(([, id]) => id);
    this.#continueIds = continuing.map(([, id]) => id);
  }

  place(piece: string, banned: ReadonlySet<number> | undefined, out: number[], places: number[]): void {
    const ends: number[] = [];
    this.encode(piece, banned, out, ends);
    const known = ends.at(-1) === piece.length;
    let start = 0;
    for (const end of known ? ends : [piece.length]) {
      places.push(start, end);
      start = end;
    }
  }

  /** @param ends takes the end of each token; of a piece that is unknown, those that were found */
  encode(piece: string, banned: ReadonlySet<number> | undefined, out: number[], ends?: number[]): void {
    const before = out.length;
    if (characters(piece) <= this.#most) {
      let at = 0;
      while (at < piece.length) {
        const trie = at === 0 ? this.#starting : this.#continuing;
        const ids = at === 0 ? this.#startIds : this.#continueIds;
        let best = -1;
        let end = at;
        for (let node = 0, i = at; i < piece.length; ) {
          node = trie.child(node, piece.charCodeAt(i++));
          if (node === 0) break;
          const word = trie.words[node]!;
          if (word < 0 || banned?.has(ids[word]!) || splitsPair(piece, i)) continue;
          best = ids[word]!;
          end = i;
        }
        if (best < 0) break;
        out.push(best);
        ends?.push(end);
        at = end;
      }
      if (at === piece.length) return;
    }
    out.length = before;
    out.push(this.#unk ?? unknownToken(this.#file, piece));
  }
}

/** True if a place in well-formed text lies within a pair of surrogates. */
function splitsPair(text: string, at: number): boolean {
  return (text.charCodeAt(at) & 0xfc00) === 0xdc00;
}

/** Code points of a text. */
function characters(text: string): number {
  let count = 0;
  for (let at = 0; at < text.length; at++, count++) if (text.codePointAt(at)! > 0xffff) at++;
  return count;
}
