// A SentencePiece model whose pieces get their ids from a vocabulary of its own (Marian, M2M-100): text is cut by the one, and each part
// looked up in the other.

import { type Model, unknownToken } from "./model.js";
import { PieceCache } from "./piece-cache.js";

export class Pieces implements Model {
  readonly #file: string;
  readonly #inner: Model;
  readonly #ids: ReadonlyMap<string, number>;
  readonly #unk: number | undefined;
  readonly #innerUnk: number | undefined;
  /** The id of each piece of the inner model. */
  readonly #outer: readonly (number | undefined)[];
  readonly #kept = new PieceCache();

  /**
   * @param inner cuts text, with the ids of `pieces`
   * @param ids of the vocabulary
   */
  constructor(
    file: string,
    inner: { readonly model: Model; readonly pieces: ReadonlyMap<string, number>; readonly unk: number | undefined },
    ids: ReadonlyMap<string, number>,
    unk: number | undefined,
  ) {
    this.#file = file;
    this.#inner = inner.model;
    this.#innerUnk = inner.unk;
    this.#ids = ids;
    this.#unk = unk;
    const outer: (number | undefined)[] = [];
    for (const [piece, id] of inner.pieces) outer[id] = ids.get(piece);
    this.#outer = outer;
  }

  encode(piece: string, banned: ReadonlySet<number> | undefined, out: number[]): void {
    const known = banned === undefined ? this.#kept.get(piece) : undefined;
    if (known !== undefined) {
      for (const id of known) out.push(id);
      return;
    }
    const ids: number[] = [];
    this.place(piece, banned, ids, []);
    for (const id of ids) out.push(id);
    if (banned === undefined) this.#kept.set(piece, ids);
  }

  place(piece: string, banned: ReadonlySet<number> | undefined, out: number[], places: number[]): void {
    const cut: number[] = [];
    const from = places.length;
    this.#inner.place(piece, undefined, cut, places);
    for (const [i, part] of cut.entries()) {
      // What the model does not know may still be a word of the vocabulary.
      const text = () => piece.slice(places[from + 2 * i], places[from + 2 * i + 1]);
      const id = part === this.#innerUnk ? this.#ids.get(text()) : this.#outer[part];
      out.push((id !== undefined && banned?.has(id) ? undefined : id) ?? this.#unk ?? unknownToken(this.#file, text()));
    }
  }
}
