// Long texts are found by an automaton of our own, and give what the engine's own search gives; long JSON is made in pieces.

import { expect, it } from "vitest";
import { Budget } from "../../src/tokenizer/chat/limits.js";
import { countIn, partsOf, placeIn, replacedIn } from "../../src/tokenizer/chat/search.js";
import { jsonOf } from "../../src/tokenizer/chat/text-of.js";
import { integers } from "../support/random.js";

it("finds, counts, cuts and replaces as the engine does", () => {
  const budget = new Budget(1e6);
  const texts = [3, 5, 9].flatMap((period) =>
    [0, 1, 2].map((seed) => {
      const flips = integers(seed + period, 400, 0, 60);
      return Array.from({ length: 400 }, (_, i) => "ab"[(i % period === 0 ? 1 : 0) ^ (flips[i] === 0 ? 1 : 0)]!).join(
        "",
      );
    }),
  );
  let hits = 0;
  for (const text of texts) {
    for (const length of [1, 2, 31, 32, 33, 40, 64, 120]) {
      for (const at of [0, 7, 100, 250]) {
        const what = text.slice(at, at + length);
        const parts = text.split(what);
        hits += parts.length - 1;
        expect(partsOf(text, what, budget)).toEqual(parts);
        expect(placeIn(text, what, false, budget)).toBe(text.indexOf(what));
        expect(placeIn(text, what, true, budget)).toBe(text.lastIndexOf(what));
        const most = Math.min(2, parts.length - 1);
        const end = text.length - parts.slice(most).join(what).length;
        expect(countIn(text, what, 2, budget)).toEqual({ found: most, end });
        expect(countIn(text, what, Number.POSITIVE_INFINITY, budget).found).toBe(parts.length - 1);
        expect(replacedIn(text, what, "$&", budget)).toBe(parts.join("$&"));
        expect(placeIn(text, `${what}c`, false, budget)).toBe(-1);
      }
    }
  }
  expect(hits).toBeGreaterThan(1000);
});

it("writes a long text as JSON, pairs of surrogates at the cuts too", () => {
  const settings = { indent: undefined, item: ", ", key: ": ", sorts: false, ascii: false };
  for (const before of [65_534, 65_535, 65_536]) {
    const text = `${"x".repeat(before)}\u{1f600}\n"é`;
    expect(jsonOf(text, settings, new Budget(1))).toBe(JSON.stringify(text));
  }
});
