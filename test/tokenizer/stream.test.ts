// Stream decoding: the pieces make the full decode, no character is split, and the work is linear.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { cleanUp, JsonTokenizer } from "../../src/tokenizer/engine.js";
import { StreamDecoder } from "../../src/tokenizer/stream.js";
import { checkTokenizerJson } from "../../src/tokenizer/tokenizer-json.js";
import { golden } from "./golden.js";

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

it("equals the full decode for any ids of a byte-level vocabulary", () => {
  const { tokenizer } = golden("storyteller");
  fc.assert(
    fc.property(fc.array(fc.integer({ min: -1, max: 4100 })), (ids) => {
      expect(stream(new StreamDecoder(tokenizer), ids).join("")).toBe(tokenizer.decode(ids));
    }),
  );
});

it("gives text as soon as it is certain, and starts anew after end()", () => {
  const { tokenizer } = golden("llama2");
  const decoder = new StreamDecoder(tokenizer);
  const ids = ["<0xF0>", "<0x9F>", "<0x8E>", "<0x89>"].map((token) => tokenizer.token_to_id(token)!);
  expect(ids.map((id) => decoder.push(id))).toEqual(["", "", "", "🎉"]);
  expect(decoder.push(ids[0]!)).toBe("");
  expect(decoder.end()).toBe("\ufffd");
  expect(decoder.push(ids)).toBe("🎉");
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
