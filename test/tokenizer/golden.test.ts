// Every kind of tokenizer gives the ids and the text that Python's `tokenizers` gives.

import { describe, expect, it } from "vitest";
import { StreamDecoder } from "../../src/tokenizer/stream.js";
import { golden, goldens } from "./golden.js";

describe.each(goldens.map((entry) => [entry.name, entry] as const))("%s", (_name, { tokenizer, cases }) => {
  it("encodes as Python does", () => {
    for (const [text, plain, framed] of cases) {
      expect([text, tokenizer.encode(text, { add_special_tokens: false })]).toEqual([text, plain]);
      expect([text, tokenizer.encode(text)]).toEqual([text, framed]);
    }
  });

  it("decodes as Python does", () => {
    for (const [text, , framed, decoded, skipped] of cases) {
      expect([text, tokenizer.decode(framed)]).toEqual([text, decoded]);
      expect([text, tokenizer.decode(framed, { skip_special_tokens: true })]).toEqual([text, skipped]);
    }
  });

  it("streams what it decodes", () => {
    for (const [text, , framed, decoded, skipped] of cases) {
      for (const skip_special_tokens of [false, true]) {
        const stream = new StreamDecoder(tokenizer, { skip_special_tokens });
        const parts = framed.map((id) => stream.push(id));
        expect([text, parts.join("") + stream.end()]).toEqual([text, skip_special_tokens ? skipped : decoded]);
      }
    }
  });
});

it("of two cuts with the same tokens takes Python's: its library rounds the scores of a file twice", () => {
  const { tokenizer } = golden("unigram-split");
  const ids = tokenizer.encode("évpt1,000", { add_special_tokens: false });
  expect(ids.map((id) => tokenizer.id_to_token(id))).toEqual(["▁", "é", "v", "pt", "1", ",", "0", "00"]);
});

it("cuts at what was punctuation when Python's tables were made", () => {
  const { tokenizer } = golden("wordpiece");
  const unknown = tokenizer.token_to_id("[UNK]");
  expect(tokenizer.encode("a\u166Db", { add_special_tokens: false })).toEqual([
    ...tokenizer.encode("a", { add_special_tokens: false }),
    unknown,
    ...tokenizer.encode("b", { add_special_tokens: false }),
  ]);
});
