// The ids of pieces that a model has seen: words come again and again.

/** Pieces that are kept, their units together, and the length from which none is. */
const PIECES = 16_384;
const UNITS = 1 << 20;
export const LONGEST_KEPT = 256;

/** A copy of a short text. Engines make a slice of a text a view that keeps all of it. */
function copied(piece: string): string {
  const units = new Array<number>(piece.length);
  for (let at = 0; at < piece.length; at++) units[at] = piece.charCodeAt(at);
  return String.fromCharCode.apply(null, units);
}

/** Keeps ids by piece, up to a size; then it begins anew. Of the texts that pieces were cut from it keeps nothing. */
export class PieceCache {
  readonly #ids = new Map<string, readonly number[]>();
  #units = 0;

  get(piece: string): readonly number[] | undefined {
    return this.#ids.get(piece);
  }

  /** Keeps the ids of a piece that is not kept, unless it is long. */
  set(piece: string, ids: readonly number[]): void {
    if (piece.length >= LONGEST_KEPT) return;
    this.#units += piece.length;
    if (this.#ids.size === PIECES || this.#units > UNITS) {
      this.#ids.clear();
      this.#units = piece.length;
    }
    this.#ids.set(copied(piece), ids);
  }

  /** Pieces that are kept. */
  get size(): number {
    return this.#ids.size;
  }
}
