// What Python's classes and tokenizer.json's own sections settle where tokenizer_config.json is silent. Expectations are
// transformers 5.18's, asked with files of this kind.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Disk } from "../../src/sources/disk.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { StreamDecoder } from "../../src/tokenizer/stream.js";
import { temporary } from "../support/temporary.js";

const WORDS = ["<|endoftext|>", "<s>", "</s>", "<unk>", "<pad>", "h", "i", "Ġ", "Ġh", "!", ",", "'", "s", "n", "t"];
const VOCAB = Object.fromEntries(WORDS.map((word, id) => [word, id]));
const byteLevel = (add_prefix_space: boolean) => ({ type: "ByteLevel", add_prefix_space, use_regex: true });
const bpe = (more: object = {}) => ({
  added_tokens: [],
  pre_tokenizer: byteLevel(false),
  decoder: byteLevel(false),
  model: { type: "BPE", vocab: VOCAB, merges: ["Ġ h"] },
  ...more,
});
const wordPiece = {
  pre_tokenizer: { type: "BertPreTokenizer" },
  decoder: { type: "WordPiece", prefix: "##", cleanup: false },
  model: { type: "WordPiece", vocab: { "[UNK]": 0, hi: 1, "!": 2, ",": 3 }, unk_token: "[UNK]" },
};

async function tokenizerOf(tokenizer: object, config: object) {
  const folder = temporary("tokenizer");
  mkdirSync(folder);
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(tokenizer));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(config));
  return loadTokenizer(new Disk(folder));
}

describe("clean_up_tokenization_spaces", () => {
  const config = { clean_up_tokenization_spaces: true };

  it("leaves the spaces of BPE alone, also if the caller asks for it", async () => {
    const tokenizer = await tokenizerOf(bpe(), config);
    for (const text of ["hi ! ! !", "hi , hi", "hi 's hi n't"]) {
      const ids = tokenizer.encode(text);
      expect(tokenizer.decode(ids)).toBe(text);
      expect(tokenizer.decode(ids, config)).toBe(text);
      expect(tokenizer.batch_decode([ids], config)).toEqual([text]);
      const stream = new StreamDecoder(tokenizer, config);
      expect(stream.push(ids) + stream.end()).toBe(text);
    }
  });

  it("holds for WordPiece", async () => {
    const tokenizer = await tokenizerOf(wordPiece, config);
    const ids = tokenizer.encode("hi , hi !");
    expect(tokenizer.decode(ids)).toBe("hi, hi!");
    expect(tokenizer.decode(ids, { clean_up_tokenization_spaces: false })).toBe("hi , hi !");
    const stream = new StreamDecoder(tokenizer);
    expect(stream.push(ids) + stream.end()).toBe("hi, hi!");
  });
});

describe("add_prefix_space", () => {
  const cases = [false, true].flatMap((file) => [undefined, false, true].map((config) => [file, config] as const));
  const first = async (tokenizer_class: string, file: boolean, config: boolean | undefined) => {
    const inside = { type: "Sequence", pretokenizers: [{ type: "Digits", individual_digits: true }, byteLevel(file)] };
    const [plain, nested] = await Promise.all(
      [byteLevel(file), inside].map(async (pre_tokenizer) => {
        const tokenizer = await tokenizerOf(bpe({ pre_tokenizer }), { tokenizer_class, add_prefix_space: config });
        return tokenizer.convert_ids_to_tokens(tokenizer.encode("hi"))[0];
      }),
    );
    expect(nested).toBe(plain);
    return plain;
  };

  it.each(["GPT2Tokenizer", "GPT2TokenizerFast", "RobertaTokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizer"])(
    "%s goes by tokenizer_config.json",
    async (name) => {
      for (const [file, config] of cases) expect(await first(name, file, config)).toBe(config ? "Ġh" : "h");
    },
  );

  it.each(["PreTrainedTokenizerFast", "BloomTokenizer"])("%s goes by tokenizer.json", async (name) => {
    for (const [file, config] of cases) expect(await first(name, file, config)).toBe(file ? "Ġh" : "h");
  });
});

describe("padding", () => {
  const padding = { strategy: "BatchLongest", direction: "Left", pad_id: 4, pad_type_id: 0, pad_token: "<pad>" };
  const read = async (file: object, config: object) => {
    const { pad_token, pad_token_id, padding_side } = await tokenizerOf(bpe(file), config);
    return [pad_token, pad_token_id, padding_side];
  };

  it("is tokenizer.json's where the config is silent", async () => {
    expect(await read({ padding }, {})).toEqual(["<pad>", 4, "left"]);
    expect(await read({ padding: { ...padding, direction: "Right" } }, { tokenizer_class: "LlamaTokenizer" })).toEqual([
      "<pad>",
      4,
      "right",
    ]);
    expect(await read({ padding: null }, {})).toEqual([null, null, "right"]);
  });

  it("is the config's where that says something", async () => {
    expect(await read({ padding }, { pad_token: "</s>", padding_side: "right" })).toEqual(["</s>", 2, "right"]);
    expect(await read({ padding }, { pad_token: null })).toEqual([null, null, "left"]);
  });

  it("pads a batch", async () => {
    const tokenizer = await tokenizerOf(bpe({ padding }), {});
    expect(tokenizer(["h", "hi"], { padding: true })).toMatchObject({
      input_ids: [
        [4, 5],
        [5, 6],
      ],
      attention_mask: [
        [0, 1],
        [1, 1],
      ],
    });
  });

  it.each([
    ["LlamaTokenizer", "left"],
    ["LlamaTokenizerFast", "left"],
    ["GemmaTokenizer", "left"],
    ["CohereTokenizer", "left"],
    ["GPT2Tokenizer", "right"],
    ["PreTrainedTokenizerFast", "right"],
  ])("of %s is on the %s by default", async (tokenizer_class, side) => {
    expect((await read({}, { tokenizer_class }))[2]).toBe(side);
    expect((await read({}, { tokenizer_class, padding_side: "right" }))[2]).toBe("right");
  });
});

it("an added token without text is left out", async () => {
  const added_tokens = [{ id: 400, content: "" }];
  const decoder = { 400: { content: "" }, 401: { content: "<|x|>", special: true } };
  const tokenizer = await tokenizerOf(bpe({ added_tokens }), { added_tokens_decoder: decoder });
  expect(tokenizer.encode("hi")).toEqual([5, 6]);
  expect(tokenizer.encode("h<|x|>i")).toEqual([5, 401, 6]);
});

it("a special token that counts as text hides shorter tokens within it", async () => {
  const added_tokens = [
    { id: 15, content: "<h!>", special: true },
    { id: 16, content: "<h", special: true },
    { id: 17, content: "h!", special: false },
  ];
  const vocab = { ...VOCAB, "<": 18, ">": 19 };
  const tokenizer = await tokenizerOf(bpe({ added_tokens, model: { type: "BPE", vocab, merges: ["Ġ h"] } }), {});
  const tokens = (text: string, split_special_tokens: boolean) =>
    tokenizer.convert_ids_to_tokens(tokenizer.encode(text, { split_special_tokens }));
  expect(tokens("i<h!>i", false)).toEqual(["i", "<h!>", "i"]);
  expect(tokens("i<h!>i", true)).toEqual(["i", "<", "h", "!", ">", "i"]);
  expect(tokens("i<h i", true)).toEqual(["i", "<", "h", "Ġ", "i"]);
  expect(tokens("ih!i", true)).toEqual(["i", "h!", "i"]);
});
