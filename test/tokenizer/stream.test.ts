// Stream decoding: the pieces make the full decode, no character is split, and the work is linear.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { cleanUp, JsonTokenizer } from "../../src/tokenizer/engine.js";
import { Sink, StreamCleanUp, StreamReplacer } from "../../src/tokenizer/replace.js";
import { StreamDecoder } from "../../src/tokenizer/stream.js";
import { checkTokenizerJson } from "../../src/tokenizer/tokenizer-json.js";
import { golden, goldens } from "./golden.js";

const text = fc.oneof(
  fc.string({ unit: "grapheme", maxLength: 30 }),
  fc.string({ unit: "binary", maxLength: 30 }),
  fc.stringMatching(/^(?:[a-z ]|👩‍👩‍👧|日本|é|\ufffd| \.|'s| n't| ' ){0,20}$/),
);

function stream(decoder: StreamDecoder, ids: readonly number[]): string[] {
  return [...ids.map((id) => decoder.push(id)), decoder.end()];
}

describe.each(["storyteller", "llama3", "llama2", "metaspace-first", "wordpiece", "unigram"])("%s", (name) => {
  const { tokenizer } = golden(name);

  it("equals the full decode, and well-formed text gives no piece with half a character", () => {
    fc.assert(
      fc.property(text, (value) => {
        const ids = tokenizer.encode(value);
        const parts = stream(new StreamDecoder(tokenizer), ids);
        const whole = tokenizer.decode(ids);
        expect(parts.join("")).toBe(whole);
        if (!whole.includes("\ufffd")) expect(parts.join("|")).not.toContain("\ufffd");
      }),
      { numRuns: 200 },
    );
  });

  it("equals the full decode with clean-up", () => {
    fc.assert(
      fc.property(text, (value) => {
        const ids = tokenizer.encode(value);
        const parts = stream(new StreamDecoder(tokenizer, { clean_up_tokenization_spaces: true }), ids);
        const whole = tokenizer.decode(ids);
        // BPE keeps its spaces, as in Python.
        expect(parts.join("")).toBe(tokenizer.cleans ? cleanUp(whole) : whole);
      }),
      { numRuns: 300 },
    );
  });
});

// Decoders that no golden tokenizer has, over the vocabulary of one that has bytes, marks and special tokens.
const { json: llama } = golden("llama2") as { json: Record<string, unknown> };
const replace = (from: object, content: string) => ({ type: "Replace", pattern: from, content });
const DECODERS: Record<string, object | null> = {
  none: null,
  "joined, then stripped": sequence({ type: "Fuse" }, { type: "Strip", content: "▁", start: 2, stop: 3 }),
  "joined, then replaced": sequence(
    { type: "Fuse" },
    replace({ String: "▁t" }, "<0x"),
    replace({ String: "<0x<0x" }, "▁"),
  ),
  "joined, then a pattern": sequence({ type: "ByteFallback" }, { type: "Fuse" }, replace({ Regex: "[aeiou]+" }, "$&")),
  "joined, then words": sequence(
    { type: "Fuse" },
    { type: "WordPiece", prefix: "▁", cleanup: true },
    { type: "Metaspace" },
  ),
  "bytes of joined tokens": sequence(
    { type: "ByteLevel" },
    { type: "ByteFallback" },
    { type: "BPEDecoder", suffix: "e" },
  ),
  "end of words": { type: "BPEDecoder", suffix: "▁" },
  CTC: { type: "CTC", pad_token: "a", word_delimiter_token: "▁", cleanup: true },
  "CTC as it is": { type: "CTC", pad_token: "<0x41>", word_delimiter_token: "t", cleanup: false },
  words: { type: "WordPiece", prefix: "t", cleanup: true },
  "marks in every token": { type: "Metaspace", replacement: "▁", prepend_scheme: "never" },
};
function sequence(...decoders: object[]): object {
  return { type: "Sequence", decoders };
}

const kinds: [string, JsonTokenizer][] = [
  ...goldens.map(({ name, tokenizer }): [string, JsonTokenizer] => [name, tokenizer]),
  ...Object.entries(DECODERS).map(([name, decoder]): [string, JsonTokenizer] => [
    name,
    new JsonTokenizer(checkTokenizerJson({ ...llama, decoder }, name)),
  ]),
];

it.each(kinds)("equals the full decode for any ids, however they are cut: %s", (_name, tokenizer) => {
  const { size } = tokenizer;
  const bytes = Array.from(
    { length: 256 },
    (_, byte) => tokenizer.token_to_id(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`) ?? byte % size,
  );
  const cleaned = [" .", ".", "▁'", "'", "s", "n", "▁", "t", "▁n"].flatMap(
    (token) => tokenizer.token_to_id(token) ?? [],
  );
  const id = fc.oneof(
    fc.integer({ min: -1, max: size + 3 }),
    fc.constantFrom(0, 1, 2, ...bytes),
    fc.constantFrom(0, ...cleaned),
    fc.constantFrom(...["<0xF0>", "<0x9F>", "<0x8E>", "<0x89>"].map((token) => tokenizer.token_to_id(token) ?? 0)),
  );
  const run = fc.tuple(
    fc.array(id, { maxLength: 24 }),
    fc.array(fc.nat(24), { maxLength: 6 }),
    fc.boolean(),
    fc.boolean(),
  );
  fc.assert(
    fc.property(run, ([ids, cuts, skip_special_tokens, clean_up_tokenization_spaces]) => {
      const decoder = new StreamDecoder(tokenizer, { skip_special_tokens, clean_up_tokenization_spaces });
      const ends = [...new Set([...cuts.filter((cut) => cut < ids.length), ids.length])].sort((a, b) => a - b);
      const text =
        ends.map((end, i) => decoder.push(ids.slice(i === 0 ? 0 : ends[i - 1], end))).join("") + decoder.end();
      const whole = tokenizer.decode(ids, { skip_special_tokens });
      expect(text).toBe(clean_up_tokenization_spaces && tokenizer.cleans ? cleanUp(whole) : whole);
    }),
    { numRuns: 300 },
  );
});

it("cleans up text that comes in pieces as it cleans up the whole", () => {
  const piece = fc.stringMatching(/^[ .?!,'ntmsvrex]{0,8}$/);
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
      const stream = new StreamCleanUp();
      const parts = pieces.map((part) => stream.push(part, false));
      expect(parts.join("") + stream.push("", true)).toBe(cleanUp(pieces.join("")));
    }),
    { numRuns: 3000 },
  );
});

it("replaces in text that comes in pieces as in the whole", () => {
  const letters = fc.stringMatching(/^[ab]{0,6}$/);
  fc.assert(
    fc.property(letters, letters, fc.array(letters, { maxLength: 8 }), (find, content, pieces) => {
      const out = new Sink();
      const replacer = new StreamReplacer(find, content);
      for (const part of pieces) replacer.push([part], out);
      replacer.end(out);
      const whole = pieces.join("");
      expect(out.texts.join("")).toBe(find === "" ? whole : whole.replaceAll(find, content));
    }),
    { numRuns: 3000 },
  );
});

it("gives text as soon as it is certain, and starts anew after end()", () => {
  const { tokenizer } = golden("llama2");
  const decoder = new StreamDecoder(tokenizer);
  const ids = ["<0xF0>", "<0x9F>", "<0x8E>", "<0x89>"].map((token) => tokenizer.token_to_id(token)!);
  const a = tokenizer.token_to_id("a")!;
  expect(decoder.push(a)).toBe("a");
  // One more byte token would make the whole run invalid; any other token ends it.
  expect(ids.map((id) => decoder.push(id))).toEqual(["", "", "", ""]);
  expect(decoder.push(a)).toBe("🎉a");
  expect(decoder.push([...ids, ids[0]!])).toBe("");
  expect(decoder.end()).toBe("\ufffd".repeat(5));
  expect(decoder.push(ids)).toBe("");
  expect(decoder.end()).toBe("🎉");
  expect(decoder.end()).toBe("");
});

it("leaves special tokens out without losing spaces", () => {
  const { tokenizer } = golden("llama2");
  const decoder = new StreamDecoder(tokenizer, { skip_special_tokens: true });
  const ids = [1, ...tokenizer.encode("a b", { add_special_tokens: false }), 2];
  expect(stream(decoder, ids).join("")).toBe("a b");
  expect(() => new StreamDecoder(tokenizer, { skip_special_token: true } as object)).toThrow(OptionError);
});

it("stays linear over long streams", () => {
  const { json } = golden("llama2");
  const tokenizer = new JsonTokenizer(checkTokenizerJson(json, "llama2"));
  let decoded = 0;
  const counting = new Proxy(tokenizer, {
    get: (target, key) => {
      if (key !== "decode") {
        const value: unknown = Reflect.get(target, key, target);
        return typeof value === "function" ? value.bind(target) : value;
      }
      return (ids: number[]) => {
        decoded += ids.length;
        return target.decode(ids);
      };
    },
  });
  const ids = tokenizer.encode("\ufffd\ufffd🎉 word ".repeat(500));
  stream(new StreamDecoder(counting), ids);
  expect(decoded).toBeLessThan(ids.length * 12);
});
