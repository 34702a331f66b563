// Random order of examples: the same for the same seed, on every machine.

import { number } from "../../core/options.js";
import { uniformOf } from "../../nn/init.js";

/** An option that seeds a random choice. */
export const seedOption = (help?: string) =>
  number((value) => Number.isInteger(value) && value >= 0 && value < 2 ** 32, "a whole number below 2^32", {
    value: "<n>",
    help,
  });

/** Whole numbers below a bound, from the stream of a seed and a number of one's own, such as an epoch. */
export function integers(seed: number, own = 0): (below: number) => number {
  const draw = uniformOf(seed, own);
  // Two draws of 24 bits: one has too few for a list of millions.
  return (below) => Math.floor((draw() + draw() * 2 ** -24) * below);
}

/** Shuffles a list in its place (Fisher and Yates; Durstenfeld 1964). */
export function shuffle<T>(list: T[], below: (bound: number) => number): T[] {
  for (let i = list.length - 1; i > 0; i--) {
    const j = below(i + 1);
    [list[i], list[j]] = [list[j]!, list[i]!];
  }
  return list;
}

/** The numbers from 0 to `count` in the order of a seed and a number of one's own. */
export function permutation(count: number, seed: number, own = 0): number[] {
  return shuffle(
    Array.from({ length: count }, (_, i) => i),
    integers(seed, own),
  );
}
