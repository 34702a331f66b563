// Sorting and choosing of the host's warpers beside plain sorting.

import { expect, test } from "vitest";
import { ascending } from "../../src/generate/processors/host/base.js";
import { EpsilonLogitsWarper, TopKLogitsWarper } from "../../src/generate/processors/host/warpers.js";
import { uniforms } from "../support/random.js";

test("sorting by packed keys is a stable sort", () => {
  const next = uniforms(3);
  const some = [0, -0, 1, -1, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 5e-324, -5e-324, 1e300, -1e300];
  for (const make of [
    () => some[Math.floor(next() * some.length)]!,
    () => next() - 0.5,
    () => Math.floor(next() * 40) - 20,
    () => 1 + Math.floor(next() * 9) * Number.EPSILON, // keys whose upper halves are equal
    () => -1e-300 * (1 + Math.floor(next() * 9) * Number.EPSILON),
  ]) {
    const keys = Float64Array.from({ length: 3000 }, make);
    const naive = [...keys.keys()].sort((a, b) => (keys[a]! < keys[b]! ? -1 : keys[a]! > keys[b]! ? 1 : a - b));
    expect([...ascending(keys)]).toEqual(naive);
    const floats = Float32Array.from(keys);
    const stable = [...floats.keys()].sort((a, b) =>
      floats[a]! < floats[b]! ? -1 : floats[a]! > floats[b]! ? 1 : a - b,
    );
    expect([...ascending(floats)]).toEqual(stable);
  }
  expect([...ascending([])]).toEqual([]);
});

test("few tokens to keep and many are the same ones as by sorting", () => {
  const next = uniforms(4);
  const scores = Float32Array.from({ length: 900 }, () => Math.floor(next() * 30));
  for (const keep of [1, 2, 7, 256, 257, 899, 900, 2000]) {
    const cut = new EpsilonLogitsWarper(0.999, { min_tokens_to_keep: keep });
    const found = scores.slice();
    cut.change(found);
    const order = [...scores.keys()].sort((a, b) => scores[a]! - scores[b]! || a - b).slice(-keep);
    expect([...found.keys()].filter((i) => found[i]! > Number.NEGATIVE_INFINITY)).toEqual(order.sort((a, b) => a - b));
    const top = scores.slice();
    new TopKLogitsWarper(Math.min(keep, 900)).change(top);
    const least = [...scores].sort((a, b) => b - a)[Math.min(keep, 900) - 1]!;
    expect([...top]).toEqual([...scores].map((score) => (score < least ? Number.NEGATIVE_INFINITY : score)));
  }
});
