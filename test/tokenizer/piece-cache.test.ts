// What models keep of pieces is bounded, and keeps none of the texts that they were cut from.

import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import { PieceCache } from "../../src/tokenizer/piece-cache.js";
import { make } from "./support.js";

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

function heap(): number {
  collect();
  return process.memoryUsage().heapUsed;
}

const vocab = { "<unk>": 0, a: 1, b: 2, ab: 3, ba: 4, ".": 5 };
const MODELS = {
  BPE: { type: "BPE", vocab, merges: [], unk_token: "<unk>" },
  "BPE by parts": { type: "BPE", vocab, merges: [], unk_token: "<unk>", long: true },
  Unigram: { type: "Unigram", vocab: Object.keys(vocab).map((token) => [token, -1]), unk_id: 0 },
};

describe("pieces of long texts", () => {
  it.each(Object.entries(MODELS))("%s keeps no text", (_, { ...model }) => {
    const long = "long" in model;
    // A piece of 40 units, or one of 310 that falls into parts of about 20, and white space that is no piece.
    const tokenizer = make({ model, pre_tokenizer: { type: "WhitespaceSplit" } });
    const text = (n: number) => String(n).padStart(long ? 310 : 40, `${"ab".repeat(10)}.`) + " ".repeat(1 << 20);
    tokenizer.encode(text(0));
    const before = heap();
    for (let n = 1; n <= 48; n++) tokenizer.encode(text(n));
    // 48 texts of 1 MB; what is kept of them is some KB.
    expect(heap() - before).toBeLessThan(8 << 20);
  });

  it("a cache begins anew when it is full, by count and by length", () => {
    const cache = new PieceCache();
    let most = 0;
    for (let n = 0; n < 20_000; n++) {
      cache.set(`${n}`, [n]);
      most = Math.max(most, cache.size);
    }
    expect([most, cache.get("0"), cache.get("19999")]).toEqual([16_384, undefined, [19_999]]);
    const long = new PieceCache();
    for (let n = 0; n < 10_000; n++) long.set(String(n).padStart(255, "."), [n]);
    expect(long.size).toBeLessThanOrEqual((1 << 20) / 255);
    long.set("x".repeat(256), [1]);
    expect(long.get("x".repeat(256))).toBeUndefined();
  });
});
