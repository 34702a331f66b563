// Calls with texts and arguments of people who mean harm, or err: no text becomes a special token where that is asked for, and
// whatever is passed there is an answer or a typed error.

import { describe, expect, it } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { TextStreamer } from "../../src/generate/streamers.js";
import { Disk } from "../../src/sources/disk.js";
import type { PreTrainedTokenizer } from "../../src/tokenizer/api.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { StreamDecoder } from "../../src/tokenizer/stream.js";
import { golden, goldens, STORYTELLER } from "./golden.js";
import { make, problem } from "./support.js";

const N = 100_000;

describe("split_special_tokens", () => {
  it.each(
    goldens.map(
      ({ name, json, tokenizer }) =>
        [name, json as { added_tokens: { content: string; id: number; special: boolean }[] }, tokenizer] as const,
    ),
  )("no text becomes a special token: %s", (_name, json, tokenizer) => {
    // The unknown token stands for what the vocabulary lacks, and some of these lack "<".
    const specials = json.added_tokens.filter((token) => token.special && token.id !== tokenizer.unk_token_id);
    for (const { content, id } of specials) {
      for (const text of [content, `a${content}b`, ` ${content} `, content.repeat(3)]) {
        expect(tokenizer.encode(text, { add_special_tokens: false })).toContain(id);
        const ids = tokenizer.encode(text, { add_special_tokens: false, split_special_tokens: true });
        for (const other of specials) expect([text, ids]).not.toEqual([text, expect.arrayContaining([other.id])]);
      }
    }
  });

  it("whatever the model: words, pieces, merges, whole pieces, and texts that become special by normalization", () => {
    const special = [{ id: 1, content: "<s>", special: true }];
    const letters = { "<unk>": 0, "<s>": 1, "<": 2, s: 3, ">": 4, "<s": 5 };
    const merges = [
      ["<", "s"],
      ["<s", ">"],
    ];
    const models: [object, number[]][] = [
      [{ type: "WordLevel", unk_token: "<unk>", vocab: letters }, [0]],
      [{ type: "WordPiece", unk_token: "<unk>", continuing_subword_prefix: "", vocab: letters }, [5, 4]],
      [
        {
          type: "Unigram",
          unk_id: 0,
          vocab: ["<unk>", "<s>", "<", "s", ">"].map((token) => [token, token === "<s>" ? 0 : -5]),
        },
        [2, 3, 4],
      ],
      [{ type: "BPE", unk_token: "<unk>", vocab: letters, merges }, [5, 4]],
      [{ type: "BPE", unk_token: "<unk>", vocab: letters, merges, ignore_merges: true }, [5, 4]],
    ];
    for (const [model, plain] of models) {
      const tokenizer = make({ model, added_tokens: special, normalizer: { type: "NFKC" } });
      for (const text of ["<s>", "\uff1cs\uff1e"]) {
        expect(tokenizer.encode(text, { split_special_tokens: true })).toEqual(plain);
        expect(tokenizer.encode(text, { split_special_tokens: true })).toEqual(plain); // and from the cache
      }
      expect(tokenizer.encode("<s>")).toEqual([1]);
    }
  });

  it("the unknown token comes only from what the vocabulary lacks", () => {
    const pieces = ["<unk>", "<", "u", "n", "k", ">"];
    const vocab = Object.fromEntries(pieces.map((piece, id) => [piece, id]));
    const added_tokens = [{ id: 0, content: "<unk>", special: true }];
    for (const model of [
      { type: "WordPiece", unk_token: "<unk>", continuing_subword_prefix: "", vocab },
      { type: "Unigram", unk_id: 0, vocab: pieces.map((piece) => [piece, piece === "<unk>" ? 0 : -5]) },
      { type: "BPE", unk_token: "<unk>", vocab, merges: [], ignore_merges: true },
    ]) {
      const tokenizer = make({ model, added_tokens });
      expect(tokenizer.encode("<unk>")).toEqual([0]);
      expect(tokenizer.encode("<unk>", { split_special_tokens: true })).toEqual([1, 2, 3, 4, 5]);
      expect(tokenizer.encode("u?", { split_special_tokens: true })).toContain(0);
    }
  });
});

describe("calls with odd arguments", () => {
  const fails = (): never => {
    throw new TypeError("not ours");
  };
  const detached = new Uint32Array(4);
  structuredClone(detached.buffer, { transfer: [detached.buffer] });
  const revoked = (target: object): unknown => {
    const { proxy, revoke } = Proxy.revocable(target, {});
    revoke();
    return proxy;
  };
  const traps = { get: fails, has: fails, ownKeys: fails, getPrototypeOf: fails };
  const circle: unknown[] = [];
  circle.push(circle);
  const odd: unknown[] = [
    undefined,
    null,
    0,
    1,
    -1,
    1.5,
    Number.NaN,
    1e308,
    5n,
    2n ** 80n,
    true,
    "",
    "a",
    "\ud800",
    "x".repeat(N),
    Symbol("s"),
    () => 1,
    [],
    [1],
    [[1]],
    [[[1]]],
    ["a"],
    ["a", 1],
    [null],
    [1n],
    {},
    { length: 3 },
    { shape: [1, 2], data: [1] },
    { shape: [1e9, 0], data: [] },
    { shape: [1, 1], data: null },
    { toString: fails, valueOf: fails },
    Object.defineProperty({}, "padding", { get: fails, enumerable: true }),
    Object.defineProperty({}, "shape", { get: fails }),
    Object.defineProperty({}, "backend", { get: fails }),
    { [Symbol.iterator]: 1 },
    { [Symbol.iterator]: fails },
    { [Symbol.iterator]: () => ({ next: fails }) },
    detached,
    new Uint32Array([1, 2]),
    new Float32Array([1.5]),
    new BigInt64Array([1n]),
    new ArrayBuffer(8),
    new Map([[1, 2]]),
    new Set([1, "a"]),
    new Date(Number.NaN),
    revoked({}),
    revoked([]),
    new Proxy({}, traps),
    new Proxy([], traps),
    new Proxy([1, 2], {}),
    Object.create(null),
    circle,
    { backend: null },
    { backend: {} },
    { padding: "max_length", max_length: 9e8 },
    { padding: true, pad_to_multiple_of: 9e8 },
    { text_pair: revoked([]) },
    { text_pair: ["a"] },
    { truncation: true, max_length: 1 },
    { skip_special_tokens: 1 },
    { write: 5 },
  ];
  type Any = (...args: unknown[]) => unknown;
  const on = (t: PreTrainedTokenizer): Record<string, Any> => ({
    call: t as unknown as Any,
    encode: (a, b) => (t.encode as Any).call(t, a, b),
    decode: (a, b) => (t.decode as Any).call(t, a, b),
    batch_decode: (a, b) => (t.batch_decode as Any).call(t, a, b),
    tokenize: (a, b) => (t.tokenize as Any).call(t, a, b),
    convert_tokens_to_ids: (a) => (t.convert_tokens_to_ids as Any).call(t, a),
    convert_ids_to_tokens: (a) => (t.convert_ids_to_tokens as Any).call(t, a),
    streamDecoder: (a) => (t.streamDecoder as Any).call(t, a),
    push: (a) => t.streamDecoder().push(a as number),
    StreamDecoder: (a, b) => new StreamDecoder(a as PreTrainedTokenizer, b as object),
    TextStreamer: (a, b) => new TextStreamer(a as PreTrainedTokenizer, b as object),
    put: (a) => new TextStreamer(t, { write: () => {} }).put(a as number[]),
    pad_token: (a) => Object.assign(t, { pad_token: a }),
    padding_side: (a) => Object.assign(t, { padding_side: a }),
    model_max_length: (a) => {
      t.model_max_length = a as number;
      return t(["a b c"], { truncation: true, padding: "max_length" });
    },
  });

  it.each(Object.keys(on({} as PreTrainedTokenizer)))("%s", async (name) => {
    let typed = 0;
    for (const a of odd) {
      for (const b of name === "model_max_length" ? [undefined] : odd) {
        const tokenizer = await shared;
        if (problem(() => on(tokenizer)[name]!(a, b)) instanceof OptionError) typed++;
        tokenizer.model_max_length = 512;
      }
    }
    expect(typed).toBeGreaterThan(0);
  });
  const shared = loadTokenizer(new Disk(STORYTELLER));

  it("says what it got and what to do", () => {
    const { tokenizer } = golden("llama2");
    expect(() => tokenizer.encode(5 as unknown as string)).toThrow("text must be a string, got 5");
    expect(() => new StreamDecoder({} as PreTrainedTokenizer)).toThrow(/expected a tokenizer, got \{\}/);
    const stream = new StreamDecoder(tokenizer);
    expect(() => stream.push([5, "x" as unknown as number])).toThrow(/ids must be integers, got "x"/);
    expect(stream.push([]) + stream.end()).toBe(""); // none of them counted
  });
});
