// Files of people who mean harm: whatever they hold, there is an answer or a typed error, and soon. Work that grows with the
// square of what is there would run past the tests' time limit.

import { describe, expect, it } from "vitest";
import { FormatError } from "../../src/core/errors.js";
import { StreamDecoder } from "../../src/tokenizer/stream.js";
import { added, make, open, problem, WORDS } from "./support.js";

const replace = (from: string, content: string) => ({ type: "Replace", pattern: { String: from }, content });
const N = 100_000;

describe("files nested too deeply", () => {
  const list = `${"[".repeat(10_000)}${"]".repeat(10_000)}`;
  const object = `${'{"a":'.repeat(10_000)}1${"}".repeat(10_000)}`;
  const inside = (section: string, key: string, type: string) =>
    `${`{"type":"${type}","${key}":[`.repeat(5000)}{"type":"${section}"}${"]}".repeat(5000)}`;
  const file = (key: string, value: string) => `{"model":${JSON.stringify(WORDS)},"${key}":${value}}`;
  it.each([
    ...["added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder", "padding", "truncation"].flatMap(
      (key) => [file(key, list), file(key, object)],
    ),
    file("normalizer", inside("NFC", "normalizers", "Sequence")),
    file("decoder", inside("Fuse", "decoders", "Sequence")),
    file("pre_tokenizer", inside("ByteLevel", "pretokenizers", "ByteLevel")),
    file("normalizer", `{"type":"Replace","pattern":${object},"content":""}`),
    file("normalizer", `{"type":${list}}`),
    `{"model":{"type":"BPE","vocab":{"a":${list}},"merges":[]}}`,
    `{"model":{"type":"BPE","vocab":{"a":0},"merges":[${list}]}}`,
    `{"model":{"type":${object},"vocab":{}}}`,
  ])("%#", async (text) => {
    for (const name of ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]) {
      const files = { "tokenizer.json": { model: WORDS }, [name]: text };
      await expect(open(files)).rejects.toThrow(/expected at most 128 levels of nesting/);
      await expect(open(files)).rejects.toThrow(FormatError);
    }
  });

  it("counts only brackets outside of strings", async () => {
    const vocab = { "<unk>": 0, ['"[{\\'.repeat(500)]: 1 };
    await expect(open({ "tokenizer.json": { model: { ...WORDS, vocab } } })).resolves.toBeDefined();
  });
});

describe("files that would take long", () => {
  const pieces = (n: number) => Array.from({ length: n }, (_, i) => "a".repeat(i + 1));

  it("added tokens that nearly match everywhere", () => {
    for (const tokens of [["a", `${"a".repeat(N)}b`], pieces(3000).map((piece) => `${piece}b`), pieces(1000)]) {
      const tokenizer = make({ added_tokens: tokens.map((token, i) => added(token, i + 2)) });
      expect(tokenizer.encode("a".repeat(N)).length).toBeGreaterThan(0);
    }
    const spaces = make({
      added_tokens: [added(" ", 2, { lstrip: true, rstrip: true }), added("  b", 3, { lstrip: true })],
    });
    expect(spaces.encode(" ".repeat(N))).toHaveLength(N);
  });

  it("as many added tokens as a vocabulary has", async () => {
    const tokens = Array.from({ length: N }, (_, i) => `<extra ${i}>`);
    const config = { additional_special_tokens: tokens };
    const decoder = { added_tokens_decoder: Object.fromEntries(tokens.map((content, i) => [i + 2, { content }])) };
    for (const files of [
      { "tokenizer.json": { model: WORDS, added_tokens: tokens.map((token, i) => added(token, i + 2)) } },
      { "tokenizer.json": { model: WORDS }, "tokenizer_config.json": config },
      { "tokenizer.json": { model: WORDS }, "tokenizer_config.json": decoder },
    ]) {
      expect((await open(files)).encode("a<extra 99999>")).toEqual([1, N + 1]);
    }
  });

  it("models with tokens of every length", () => {
    const unigram = (n: number) => ({ type: "Unigram", unk_id: 0, vocab: pieces(n).map((piece, i) => [piece, -i]) });
    expect(make({ model: unigram(500) }).encode("a".repeat(20_000)).length).toBeGreaterThan(0);
    expect(() => make({ model: unigram(3000) })).toThrow(/513 characters, at most 512 are taken/);
    const words = (long: number) => ({
      type: "WordPiece",
      unk_token: "?",
      max_input_chars_per_word: 1e9,
      vocab: { "?": 0, a: 1, "##a": 2, [`##${"a".repeat(long)}b`]: 3 },
    });
    expect(make({ model: words(400) }).encode("a".repeat(20_000))).toHaveLength(20_000);
    expect(() => make({ model: words(3000) })).toThrow(/at most 512 are taken/);
    const vocab = Object.fromEntries(pieces(2000).map((piece, i) => [piece, i]));
    const merges = pieces(1999).map((piece) => [piece, "a"]);
    expect(make({ model: { type: "BPE", vocab, merges } }).encode("a".repeat(N)).length).toBeGreaterThan(0);
  });

  it("templates that add without end", () => {
    const token = { SpecialToken: { id: "<s>", type_id: 0 } };
    const a = { Sequence: { id: "A", type_id: 0 } };
    const many = Array<number>(N).fill(0);
    const special_tokens = { "<s>": { id: "<s>", ids: many, tokens: many.map(() => "<s>") } };
    const template = (single: readonly object[]) => ({ type: "TemplateProcessing", single, pair: [], special_tokens });
    for (const post_processor of [
      template([a, ...Array<object>(1000).fill(token)]),
      { type: "Sequence", processors: Array<object>(60).fill(template([a, a])) },
    ]) {
      const refused = problem(() => make({ post_processor }).encode("a"));
      expect(refused).toBeInstanceOf(FormatError);
      expect(refused!.message).toContain("post_processor: the template adds more than 1024");
    }
  });

  it("texts that grow", () => {
    const twice = replace("a", "aa");
    const doubling = { type: "Sequence", normalizers: new Array(40).fill(twice) };
    expect(() => make({ normalizer: doubling }).encode("aaaa")).toThrow(/Replace makes more than 8320 characters/);
    const prepending = new Array(1000).fill({ type: "Prepend", prepend: "x".repeat(1000) });
    expect(() => make({ normalizer: { type: "Sequence", normalizers: prepending } })).toThrow(
      /more than 64 components/,
    );
    expect(() => make({ normalizer: replace("a", "x".repeat(1 << 20)) })).toThrow(/at most 4096 are taken/);
    expect(() => make({ normalizer: replace("a", "x".repeat(4096)) }).encode("a".repeat(N))).toThrow(
      /which is the most/,
    );
    const copies = { type: "Sequence", decoders: new Array(40).fill(twice) };
    const joined = { type: "Sequence", decoders: [{ type: "Fuse" }, ...new Array(40).fill(twice)] };
    for (const decoder of [copies, joined]) {
      const tokenizer = make({ decoder });
      expect(problem(() => tokenizer.decode([1]))).toBeInstanceOf(FormatError);
      const stream = new StreamDecoder(tokenizer);
      expect(problem(() => stream.push(1) + stream.end())).toBeInstanceOf(FormatError);
    }
    const growing = { type: "Sequence", normalizers: [...new Array(13).fill(twice), replace("a", "")] };
    const tokens = Array.from({ length: 40_000 }, (_, i) => added(`a${i}`, i + 2, { normalized: true }));
    expect(() => make({ normalizer: growing, added_tokens: tokens })).toThrow(/makes the added tokens too long/);
  });

  it.each([
    "(a+)+$",
    "(a|a)*$",
    "(a|aa)+$",
    "([a-z]+)*1",
    "(.*)*x",
    "(?:a?){30}a{30}",
    "(a*?)*?b",
    "^(\\w+\\s?)*$",
    "(?<=(a+)+)b",
    "(?=(a+)+b)c",
    "(\\w|\\d)+x",
    "((a{1,50}){1,50}){1,50}b",
    ".*.*.*.*=",
    "(?>a+)+b",
    "(?i:(a|A)+)b",
    "(?:".repeat(200),
  ])("the pattern %s", (Regex) => {
    const json = { pre_tokenizer: { type: "Split", pattern: { Regex }, behavior: "Isolated" } };
    expect(() => make(json)).toThrow(/nests unbounded repetitions|nests more than 128 groups/);
  });

  it.each([
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)",
    "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lm}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{M}]+(?i:'s|'t)?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*",
    "\\p{N}{1,3}(?=(?:\\p{N}{3})*(\\P{N}|$))",
    "(?:\\p{L}|\\p{M})+",
    "(?:'?\\p{L})+",
    "\\d{1,3}(?:,\\d{3})*",
    "(\\r\\n|\\n)+",
    "a++b",
    "[[:alpha:]]+",
    "x{2,1",
    "[]a]+",
    "\\p{L}{,3}",
  ])("but not the pattern %s", (Regex) => {
    expect(make({ pre_tokenizer: { type: "Split", pattern: { Regex }, behavior: "Isolated" } })).toBeDefined();
  });
});

it("tokens with names of JavaScript's own are tokens like others", async () => {
  const names = ["__proto__", "constructor", "toString", "hasOwnProperty"];
  const vocab = Object.fromEntries(["<unk>", ...names].map((name, id) => [name, id]));
  const tokenizer = await open({
    "tokenizer.json": {
      model: { type: "WordLevel", unk_token: "<unk>", vocab },
      pre_tokenizer: { type: "WhitespaceSplit" },
      added_tokens: [added("__proto__", 1, { special: true }), added("valueOf", 5, { special: true })],
    },
    "tokenizer_config.json": { bos_token: "__proto__", eos_token: "constructor", unk_token: "<unk>" },
    "special_tokens_map.json": { pad_token: "toString", additional_special_tokens: ["valueOf"] },
  });
  expect(tokenizer.encode(`${names.join(" ")} valueOf isPrototypeOf`)).toEqual([1, 2, 3, 4, 5, 0]);
  expect(tokenizer.decode([1, 2, 3, 4, 5])).toBe(`${names.join(" ")} valueOf`);
  expect([tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]).toEqual([1, 2, 3]);
  expect([...tokenizer.all_special_tokens].sort()).toEqual(
    ["__proto__", "constructor", "toString", "<unk>", "valueOf"].sort(),
  );
});
