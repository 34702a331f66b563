// Initial values of parameters, and masks of dropout: numbers that depend on the seed and on the order in which they are asked
// for alone. A parameter gets a stream of its own when it is declared, and draws from it when it is placed on a device.

import { elementsOf } from "../checkpoints/stored.js";
import { narrow } from "../core/dtype.js";
import { entriesOf, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { PendingFloats } from "./pending.js";

let seed = 0;
let streams = 0;

/**
 * Seeds everything that is drawn from now on: the values of modules that are made, and masks of dropout. Without it the seed is
 * 0. The numbers are not those of Python's generator.
 * @param value a whole number below 2^32
 * @throws OptionError
 */
export function manual_seed(value: number): void {
  if (!Number.isInteger(value) || value < 0 || value >= 2 ** 32) {
    throw new OptionError(`manual_seed: the seed must be a whole number below 2^32, got ${show(value)}`);
  }
  seed = value;
  streams = 0;
}

/** Where the drawing of numbers is. */
export interface RandomState {
  readonly seed: number;
  /** Streams that were begun. */
  readonly streams: number;
}

/** What set_rng_state takes back. */
export function get_rng_state(): RandomState {
  return { seed, streams };
}

/** Draws go on from there. @throws OptionError for anything but what get_rng_state gave */
export function set_rng_state(state: RandomState): void {
  const { seed: key, streams: count } = Object.fromEntries(entriesOf("set_rng_state", state));
  if (typeof count !== "number" || !Number.isSafeInteger(count) || count < 0) {
    throw new OptionError(`set_rng_state: expected the result of get_rng_state, got ${show(state)}`);
  }
  manual_seed(key as number);
  streams = count;
}

/** A stream of its own: each call of what is returned begins it anew. */
export function stream(): () => () => number {
  const own = streams++;
  const from = seed;
  return () => uniformOf(from, own);
}

/** Numbers in [0, 1) with 24 bits: sfc32 (Doty-Humphrey's small fast counter), begun from seed and stream. */
export function uniformOf(key: number, own: number): () => number {
  let [a, b, c, d] = [key | 0, own | 0, 0x4f435456 ^ Math.floor(own / 2 ** 32), 1];
  const next = (): number => {
    const sum = (a + b + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + sum;
    return sum >>> 8;
  };
  for (let i = 0; i < 15; i++) next();
  return () => next() * 2 ** -24;
}

/** Values between -bound and bound, all alike likely. */
export function uniform(shape: readonly number[], bound: number): PendingFloats {
  const begin = stream();
  return new PendingFloats(shape, "f32", () => {
    const draw = begin();
    const values = new Float32Array(elementsOf(shape));
    for (let i = 0; i < values.length; i++) values[i] = (2 * draw() - 1) * bound;
    return narrow("f32", values);
  });
}

/** Normal values around 0. */
export function normal(shape: readonly number[], deviation: number): PendingFloats {
  const begin = stream();
  return new PendingFloats(shape, "f32", () => {
    const draw = begin();
    const values = new Float32Array(elementsOf(shape));
    for (let i = 0; i < values.length; i += 2) {
      const radius = deviation * Math.sqrt(-2 * Math.log(1 - draw()));
      const angle = 2 * Math.PI * draw();
      values[i] = radius * Math.cos(angle);
      if (i + 1 < values.length) values[i + 1] = radius * Math.sin(angle);
    }
    return narrow("f32", values);
  });
}
