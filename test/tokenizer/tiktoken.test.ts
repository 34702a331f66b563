// tiktoken's files give the ids that OpenAI's tiktoken gives (fixtures/tokenizers/tiktoken.json, by make_tiktoken.py).

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { FormatError } from "../../src/core/errors.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { MemorySource } from "../fuzz/support/memory-source.js";

const FOLDER = new URL("../fixtures/tokenizers/", import.meta.url);
const FILE = readFileSync(new URL("small.tiktoken", FOLDER));
const { size, texts } = JSON.parse(readFileSync(new URL("tiktoken.json", FOLDER), "utf8")) as {
  size: number;
  texts: [text: string, general: number[], qwen: number[]][];
};
const SETTINGS = {
  tokenizer_class: "PreTrainedTokenizerFast",
  added_tokens_decoder: {
    [size]: { content: "<|begin|>", special: true },
    [size + 2]: { content: "<|eot|>", special: true },
  },
};
const open = (files: Readonly<Record<string, Uint8Array | object>>) =>
  loadTokenizer(
    new MemorySource(
      Object.fromEntries(
        Object.entries(files).map(([name, content]) => [
          name,
          content instanceof Uint8Array ? content : Buffer.from(JSON.stringify(content)),
        ]),
      ),
    ),
  );

test.each(["tokenizer.model", "tiktoken.model"])("%s, as Llama 3 has it", async (name) => {
  const tokenizer = await open({ [name]: FILE, "tokenizer_config.json": SETTINGS });
  for (const [text, ids] of texts) {
    expect([text, tokenizer.encode(text)]).toEqual([text, ids]);
    expect(tokenizer.decode(ids)).toBe(text);
  }
  expect([tokenizer.vocab_size, tokenizer.size]).toEqual([size, size + 3]);
  expect(tokenizer.convert_ids_to_tokens(size + 1)).toBe(`<|reserved_token_${size + 1}|>`);
});

test("qwen.tiktoken, with the tokens that Qwen has behind it", async () => {
  const tokenizer = await open({ "qwen.tiktoken": FILE });
  for (const [text, , ids] of texts) expect([text, tokenizer.encode(text)]).toEqual([text, ids]);
  expect(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|extra_204|>"])).toEqual([size + 2, size + 207]);
});

test("a token far behind the vocabulary, whose gap would fill the memory, is refused", async () => {
  const settings = { added_tokens_decoder: { [1 << 24]: { content: "<x>", special: true } } };
  const loading = open({ "tokenizer.model": FILE, "tokenizer_config.json": settings });
  await expect(loading).rejects.toThrow(/the last has the id 16777216, and at most 16384 stand behind/);
});

describe("what is no such file is refused", () => {
  const lines = FILE.toString().split("\n");
  test.each([
    ["a rank twice", [lines[0], lines[1]!.replace(/\d+$/, "0")], /line 2: rank 0 stands twice/],
    ["a token twice", [lines[0], lines[0]!.replace(/\d+$/, "7")], /line 2: the token "." stands twice/],
    ["a line of words", [lines[0], "hello world"], /line 2: expected base64 and a rank, got "hello world"/],
    ["half of base64", [lines[0], "IQQQQ 9"], /line 2: "IQQQQ" is not base64/],
    ["a rank beyond all", [lines[0], "IQQQ 999999999"], /line 2: rank 999999999, at most/],
    ["a long token", [lines[0], `${"QUJD".repeat(400)} 9`], /line 2: 1200 bytes, at most 512/],
    ["nothing", [""], /no tokens|empty/],
  ])("%s", async (_, content, message) => {
    const loading = open({ "tiktoken.model": Buffer.from(content.join("\n")) });
    await expect(loading).rejects.toThrow(FormatError);
    await expect(loading).rejects.toThrow(message);
  });
});
