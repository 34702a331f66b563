// The choices of a mutant: a function of the format's name, the seed and the mutant's number, so that any mutant can be made
// again without those before it.

import { uniforms } from "../../support/random.js";

/** A 32-bit hash of a text (FNV-1a). */
function hash(text: string): number {
  let sum = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) sum = Math.imul(sum ^ text.charCodeAt(i), 0x01000193);
  return sum;
}

export class Chance {
  readonly #next: () => number;

  constructor(format: string, seed: number, number: number) {
    this.#next = uniforms(hash(`${format} ${seed} ${number}`));
  }

  /** A whole number from 0 to `end`, which is not included. */
  below(end: number): number {
    return Math.floor(this.#next() * end);
  }

  one<T>(of: readonly T[]): T {
    return of[this.below(of.length)]!;
  }

  /** True in that share of cases. */
  is(share: number): boolean {
    return this.#next() < share;
  }

  /** How many changes a mutant gets: mostly one, so that the rest of the file is still looked at. */
  few(): number {
    return this.one([1, 1, 1, 2, 2, 3, 6]);
  }
}
