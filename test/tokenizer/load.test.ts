// Opening folders: tokenizer.json, older files, settings, and everything that can be wrong with them.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { FormatError, NotFoundError, OptionError, UnsupportedModelError } from "../../src/core/errors.js";
import { Disk } from "../../src/sources/disk.js";
import * as load from "../../src/tokenizer/load.js";
import type { LoadTokenizerOptions } from "../../src/tokenizer/options.js";
import { golden, STORYTELLER } from "./golden.js";

const loadTokenizer = (folder: string, options?: LoadTokenizerOptions) => load.loadTokenizer(new Disk(folder), options);

const folders: string[] = [];
afterEach(() => {
  for (const path of folders.splice(0)) rmSync(path, { recursive: true });
});

type Content = string | Uint8Array | object;
function folder(files: Record<string, Content>): string {
  const path = mkdtempSync(join(tmpdir(), "octavo-tokenizer-"));
  folders.push(path);
  for (const [name, content] of Object.entries(files)) {
    const raw = typeof content === "string" || content instanceof Uint8Array;
    writeFileSync(join(path, name), raw ? content : JSON.stringify(content));
  }
  return path;
}

const VOCAB = {
  "<s>": 0,
  "<pad>": 1,
  "</s>": 2,
  h: 3,
  é: 4,
  l: 5,
  o: 6,
  Ġ: 7,
  Ã: 8,
  "©": 9,
  Ãģ: 10,
  lo: 11,
  Ġh: 12,
  "Ã©": 13,
};
const MERGES = ["l o", "Ġ h", "Ã ©"];
const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
const BPE = {
  added_tokens: [{ id: 2, content: "</s>", special: true, normalized: false }],
  pre_tokenizer: BYTE_LEVEL,
  post_processor: {
    type: "TemplateProcessing",
    single: [{ SpecialToken: { id: "</s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
    pair: [],
    special_tokens: { "</s>": { id: "</s>", ids: [2], tokens: ["</s>"] } },
  },
  decoder: BYTE_LEVEL,
  model: { type: "BPE", vocab: VOCAB, merges: MERGES },
};
BPE.post_processor.pair = [...BPE.post_processor.single, { Sequence: { id: "B", type_id: 1 } }] as never[];
const OPT = {
  tokenizer_class: "GPT2Tokenizer",
  add_bos_token: true,
  bos_token: { content: "</s>", lstrip: false },
  eos_token: "</s>",
  pad_token: "<pad>",
  unk_token: { content: "</s>" },
};

describe("older files", () => {
  it("reads vocab.json + merges.txt as the tokenizer.json of the same vocabulary", async () => {
    const old = await loadTokenizer(
      folder({
        "vocab.json": VOCAB,
        "merges.txt": `#version: 0.2\n${MERGES.join("\n")}\n`,
        "tokenizer_config.json": OPT,
      }),
    );
    const modern = await loadTokenizer(folder({ "tokenizer.json": BPE, "tokenizer_config.json": OPT }));
    for (const text of ["hlo hlo", "</s>hé lo", "éé", ""]) {
      expect(old(text)).toEqual(modern(text));
      expect(old.decode(old.encode(text))).toBe(modern.decode(modern.encode(text)));
    }
    expect(old.encode("hlo hé")).toEqual([2, 3, 11, 12, 13]);
    expect([old.bos_token_id, old.eos_token_id, old.pad_token_id, old.unk_token_id]).toEqual([2, 2, 1, 2]);
    expect(old.decode([2, 3, 1], { skip_special_tokens: true })).toBe("h");
  });

  it("takes class and special tokens from config.json's model_type", async () => {
    const gpt2 = await loadTokenizer(
      folder({
        "vocab.json": { a: 0, "<|endoftext|>": 1 },
        "merges.txt": "",
        "tokenizer_config.json": { model_max_length: 1024 },
        "config.json": { model_type: "gpt2" },
      }),
    );
    expect([gpt2.eos_token, gpt2.pad_token, gpt2.model_max_length]).toEqual(["<|endoftext|>", null, 1024]);
    expect(gpt2.encode("a<|endoftext|>a")).toEqual([0, 1, 0]);
    expect(gpt2.decode([0, 1], { skip_special_tokens: true })).toBe("a");
  });

  it("reads vocab.txt as BERT's WordPiece", async () => {
    const words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "wor", "##ld", "!", ","];
    const bert = await loadTokenizer(folder({ "vocab.txt": `${words.join("\n")}\n` }));
    const { input_ids, token_type_ids } = bert("Héllo, WORLD! xyz");
    expect(input_ids).toEqual([2, 5, 9, 6, 7, 8, 1, 3]);
    expect(token_type_ids).toEqual(input_ids.map(() => 0));
    expect(bert.decode(input_ids, { skip_special_tokens: true })).toBe("hello, world!"); // [UNK] is special, too
  });

  it("refuses classes it cannot build", async () => {
    const files = {
      "vocab.json": VOCAB,
      "merges.txt": "",
      "tokenizer_config.json": { tokenizer_class: "BartphoTokenizer" },
    };
    await expect(loadTokenizer(folder(files))).rejects.toThrow(UnsupportedModelError);
  });

  it.each([
    [{}, /no tokenizer.json, vocab.json/],
    [{ "vocab.json": "{}" }, /there is vocab.json, which is not enough/],
    [{ "other.tiktoken": "x" }, /there is other.tiktoken, which is not enough/],
  ])("says what is there: %o", async (files, message) => {
    const loading = loadTokenizer(folder(files as Record<string, string>));
    await expect(loading).rejects.toThrow(NotFoundError);
    await expect(loading).rejects.toThrow(message);
  });
});

describe("settings", () => {
  it("reads special tokens as strings or objects, from either file, and options over both", async () => {
    const path = folder({
      "tokenizer.json": BPE,
      "tokenizer_config.json": { eos_token: null, padding_side: "left" },
      "special_tokens_map.json": {
        eos_token: { content: "</s>" },
        pad_token: "<pad>",
        additional_special_tokens: ["<s>"],
      },
    });
    const tokenizer = await loadTokenizer(path);
    expect(tokenizer.special_tokens_map).toEqual({ eos_token: "</s>", pad_token: "<pad>" });
    expect(tokenizer.all_special_ids).toEqual([2, 1, 0]);
    expect(tokenizer.padding_side).toBe("left");
    expect(tokenizer.model_max_length).toBe(Number.POSITIVE_INFINITY);
    expect(tokenizer.encode("<s>h<pad>", { add_special_tokens: false })).toEqual([0, 3, 1]);
    const other = await loadTokenizer(path, { padding_side: "right", pad_token: "</s>", model_max_length: 9 });
    expect([other.padding_side, other.pad_token_id, other.model_max_length]).toEqual(["right", 2, 9]);
  });

  // As transformers 4.57 and 5.18 do it.
  it("the map of special tokens has the last word, unless added tokens are listed", async () => {
    const files = {
      "tokenizer.json": BPE,
      "tokenizer_config.json": { bos_token: "<s>", eos_token: "<pad>", pad_token: "<pad>" },
      "special_tokens_map.json": { eos_token: { content: "</s>" }, pad_token: "</s>" },
    };
    const named = async (more: object): Promise<object> => {
      const config = { ...files["tokenizer_config.json"], ...more };
      return (await loadTokenizer(folder({ ...files, "tokenizer_config.json": config }))).special_tokens_map;
    };
    expect(await named({})).toEqual({ bos_token: "<s>", eos_token: "</s>", pad_token: "</s>" });
    const added_tokens_decoder = { 1: { content: "<pad>", special: true } };
    expect(await named({ added_tokens_decoder })).toEqual({ bos_token: "<s>", eos_token: "<pad>", pad_token: "<pad>" });
  });

  it("appends special tokens that the vocabulary lacks, as Python does", async () => {
    const tokenizer = await loadTokenizer(
      folder({ "tokenizer.json": BPE, "tokenizer_config.json": { pad_token: "[PAD]" } }),
    );
    expect([tokenizer.pad_token_id, tokenizer.vocab_size, tokenizer.size]).toEqual([14, 14, 15]);
    expect(tokenizer.decode([3, 14])).toBe("h[PAD]");
  });

  it("carries chat templates", async () => {
    const chat_template = [{ name: "default", template: "{{ messages }}" }];
    const named = await loadTokenizer(folder({ "tokenizer.json": BPE, "tokenizer_config.json": { chat_template } }));
    expect(named.chat_template).toEqual({ default: "{{ messages }}" });
    const file = await loadTokenizer(folder({ "tokenizer.json": BPE, "chat_template.jinja": "x" }));
    expect(file.chat_template).toBe("x");
  });

  it("refuses unknown options with a suggestion", async () => {
    const loading = loadTokenizer(STORYTELLER, { paddding_side: "left" } as object);
    await expect(loading).rejects.toThrow(OptionError);
    await expect(loading).rejects.toThrow(/did you mean `padding_side`/);
  });
});

describe("malformed files", () => {
  const model = (change: object) => ({ ...BPE, model: { ...BPE.model, ...change } });
  const unigram = (change: object) => ({ model: { type: "Unigram", unk_id: 0, vocab: [["a", 0]], ...change } });
  const split = (pattern: object) => ({ ...BPE, pre_tokenizer: { type: "Split", pattern, behavior: "Isolated" } });
  it.each<[string, Content, RegExp]>([
    ["no JSON", "{", /expected a key in quotes at byte 1/],
    ["a comment", '{"model": 1} // x', /expected nothing more at byte 13/],
    ["no UTF-8", Uint8Array.of(0x7b, 0xff, 0x7d), /not valid UTF-8, but other text from byte 1 on/],
    ["UTF-16", Buffer.from("\ufeff{}", "utf16le"), /not valid UTF-8, but UTF-16 text/],
    ["no object", "[]", /expected a JSON object, got an array/],
    ["no model", {}, /model: expected an object, got undefined/],
    ["no vocab", { model: { type: "BPE" } }, /model.vocab: is missing/],
    ["unknown model", { model: { type: "Magic", vocab: {} } }, /model.type: "Magic" is not supported/],
    ["vocab of another kind", model({ vocab: [] }), /model.vocab: expected an object/],
    ["negative id", model({ vocab: { a: -1 } }), /id of "a" must be an integer/],
    ["fractional id", model({ vocab: { a: 1.5 } }), /id of "a" must be an integer/],
    ["huge id", model({ vocab: { a: 2 ** 31 } }), /id of "a" must be an integer/],
    ["id twice", model({ vocab: { a: 0, b: 0 }, merges: [] }), /"a" and "b" share id 0/],
    ["no merges", model({ merges: null }), /model.merges: expected an array/],
    ["merge of one", model({ merges: ["l"] }), /model.merges\[0\]: expected two tokens/],
    ["merge of three", model({ merges: ["l o h"] }), /model.merges\[0\]: expected two tokens/],
    ["merge of numbers", model({ merges: [[1, 2]] }), /model.merges\[0\]: expected two tokens/],
    ["merge of strangers", model({ merges: ["l o", "x y"] }), /model.merges\[1\]: token "x" is not in the vocabulary/],
    ["merge into a stranger", model({ merges: ["l h"] }), /token "lh" is not in the vocabulary/],
    ["score not a number", unigram({ vocab: [["a", null]] }), /model.vocab\[0\]: expected \[token, finite score\]/],
    ["empty Unigram", unigram({ vocab: [] }), /model.vocab: is empty/],
    ["unk_id outside", unigram({ unk_id: 5 }), /model.unk_id: must be null or an id below 1/],
    ["added token of no kind", { ...BPE, added_tokens: [{ id: 1, content: 4 }] }, /added_tokens\[0\].content/],
    ["padding of no side", { ...BPE, padding: { direction: "Up" } }, /padding.direction: expected "Left" or "Right"/],
    ["added token without id", { ...BPE, added_tokens: [{ content: "x" }] }, /added_tokens\[0\].id/],
    ["unknown normalizer", { ...BPE, normalizer: { type: "Nmt" } }, /normalizer: type "Nmt" is not supported/],
    [
      "unknown inside",
      { ...BPE, normalizer: { type: "Sequence", normalizers: [{ type: "Nmt" }] } },
      /normalizers\[0\]: type "Nmt"/,
    ],
    [
      "null inside",
      { ...BPE, decoder: { type: "Sequence", decoders: [null] } },
      /decoders\[0\]: expected an object, got null/,
    ],
    ["unknown decoder", { ...BPE, decoder: { type: "Zip" } }, /decoder: type "Zip" is not supported/],
    [
      "template of strangers",
      { ...BPE, post_processor: { ...BPE.post_processor, special_tokens: { "</s>": { ids: [99] } } } },
      /post_processor: token "<\/s>" does not exist/,
    ],
    ["template missing", { ...BPE, post_processor: { type: "TemplateProcessing" } }, /post_processor: malformed/],
    ["template without text", { ...BPE, post_processor: { ...BPE.post_processor, single: [] } }, /must hold \$A once/],
    ["no pattern", split({}), /pre_tokenizer.pattern: expected/],
    ["bad pattern", split({ Regex: "(" }), /the tokenizer cannot be built/],
    ["hostile pattern", split({ Regex: "^(a+)+$" }), /nests unbounded repetitions/],
    ["long pattern", split({ Regex: "a".repeat(20_000) }), /20000 characters/],
  ])("refuses %s", async (_name, content, message) => {
    const path = folder({ "tokenizer.json": content });
    const loading = loadTokenizer(path);
    await expect(loading).rejects.toThrow(FormatError);
    await expect(loading).rejects.toThrow(message);
    await expect(loading).rejects.toThrow(/tokenizer\.json/);
  });

  const LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 9085657\n";
  const PAGE = "<!DOCTYPE html><html><head><title>Sign in</title></head></html>";
  it.each([
    ["tokenizer.json", {}],
    ["tokenizer_config.json", { "tokenizer.json": BPE }],
    ["special_tokens_map.json", { "tokenizer.json": BPE }],
    ["vocab.json", { "merges.txt": "l o\n" }],
    ["merges.txt", { "vocab.json": VOCAB }],
    ["vocab.txt", {}],
    ["chat_template.jinja", { "tokenizer.json": BPE }],
  ] as [string, Record<string, Content>][])("names what stands in place of %s", async (name, others) => {
    for (const [content, kind, hint] of [
      [LFS, "git-lfs pointer", "git lfs pull"],
      [PAGE, "HTML", "download it again"],
    ] as const) {
      const error = await loadTokenizer(folder({ ...others, [name]: content })).catch((e: unknown) => e);
      expect(error).toBeInstanceOf(FormatError);
      expect((error as FormatError).message).toContain(`${name}: expected a tokenizer file, got `);
      expect((error as FormatError).message).toContain(kind);
      expect((error as FormatError).hint).toContain(hint);
    }
    if (!name.endsWith(".json")) return;
    for (const empty of ["", " \n"]) {
      await expect(loadTokenizer(folder({ ...others, [name]: empty }))).rejects.toThrow(`${name}: the file is empty`);
    }
  });

  it("reads settings that Python's json module wrote", async () => {
    const text = '{"model_max_length": Infinity, "padding_side": "right", "x": NaN, "padding_side": "left"}';
    const tokenizer = await loadTokenizer(folder({ "tokenizer.json": BPE, "tokenizer_config.json": text }));
    expect([tokenizer.model_max_length, tokenizer.padding_side]).toEqual([Number.POSITIVE_INFINITY, "left"]);
  });

  it("names the line of a malformed merges.txt or vocab.txt", async () => {
    await expect(loadTokenizer(folder({ "vocab.json": VOCAB, "merges.txt": "l o\nx\n" }))).rejects.toThrow(
      /merges.txt: line 2/,
    );
    await expect(loadTokenizer(folder({ "vocab.txt": "a\na\n" }))).rejects.toThrow(
      /vocab.txt: line 2: "a" stands twice/,
    );
  });

  it("accepts the nested class of BLOOM's pattern", async () => {
    const pattern = { Regex: " ?[^(\\s|[.,!?…。，、।۔،])]+" };
    await expect(loadTokenizer(folder({ "tokenizer.json": split(pattern) }))).resolves.toBeDefined();
  });
});

// Work that grows with the square of the text's length would run past the test's time limit.
describe("long and hostile text", () => {
  const n = 3 << 14;
  it.each(["storyteller", "llama2", "unigram", "unigram-fallback", "wordpiece", "llama3"])("%s", (name) => {
    const { tokenizer } = golden(name);
    for (const text of ["a".repeat(n), " ".repeat(n), "^".repeat(n), "\u0000".repeat(n), "ab ".repeat(n / 3)]) {
      expect(tokenizer.encode(text).length).toBeGreaterThan(0);
    }
  });
});
