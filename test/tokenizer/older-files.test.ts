// Repositories without tokenizer.json give the ids and texts that transformers gives (fixtures/tokenizers, by make_tokenizers.py).

import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { Charsmap } from "../../src/tokenizer/charsmap.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { readSentencePiece } from "../../src/tokenizer/sentencepiece.js";
import { MemorySource } from "../fuzz/support/memory-source.js";

const FOLDER = new URL("../fixtures/tokenizers/", import.meta.url);
/** A folder with more texts than the repository's 40, by `make_tokenizers.py --texts N --out FOLDER`. */
const MANY = process.env.OCTAVO_TOKENIZER_CASES;

interface Kind {
  readonly name: string;
  readonly files: Readonly<Record<string, string>>;
  readonly settings: Readonly<Record<string, object>>;
  readonly encoded: readonly [ids: number[], plain: number[], decoded: string, skipped: string][];
  readonly pair: readonly number[];
  readonly special: Readonly<Record<string, string>>;
  readonly size: number;
  readonly padding_side: string;
}

const cases = MANY === undefined ? new URL("cases.jsonl", FOLDER) : `${MANY}/cases.jsonl`;
const [texts, ...kinds] = readFileSync(cases, "utf8")
  .trimEnd()
  .split("\n")
  .map((line) => JSON.parse(line)) as [string[], ...Kind[]];

function open({ files, settings }: Kind) {
  const contents = Object.entries(files).map(([name, file]) => [name, readFileSync(new URL(file, FOLDER))] as const);
  const json = Object.entries(settings).map(([name, value]) => [name, Buffer.from(JSON.stringify(value))] as const);
  return loadTokenizer(new MemorySource(Object.fromEntries([...contents, ...json])));
}

describe.each(kinds.map((kind) => [kind.name, kind] as const))("%s", (_name, kind) => {
  it("is the tokenizer that Python makes of the files", async () => {
    const tokenizer = await open(kind);
    expect(texts.length).toBe(kind.encoded.length);
    expect(tokenizer.special_tokens_map).toEqual(kind.special);
    // Python's class does not count its hundred languages, though texts have their ids.
    const languages = kind.name.startsWith("m2m") ? 100 : 0;
    expect([tokenizer.size - languages, tokenizer.padding_side]).toEqual([kind.size, kind.padding_side]);
    for (const [i, [ids, plain, decoded, skipped]] of kind.encoded.entries()) {
      const text = texts[i]!;
      expect([text, tokenizer.encode(text)]).toEqual([text, ids]);
      expect([text, tokenizer.encode(text, { add_special_tokens: false })]).toEqual([text, plain]);
      expect([text, tokenizer.decode(ids)]).toEqual([text, decoded]);
      expect([text, tokenizer.decode(ids, { skip_special_tokens: true })]).toEqual([text, skipped]);
    }
    expect(tokenizer.encode("a b", { text_pair: "c d" })).toEqual(kind.pair);
  });
});

it("CLIP's texts lose what Python calls white space at their ends: separators of ASCII, too", async () => {
  const tokenizer = await open(kinds.find(({ name }) => name === "clip")!);
  const ids = [710, 386, 370, 397, 221];
  expect(tokenizer.convert_ids_to_tokens(ids.slice(3))).toEqual(["co", "\u011F"]); // byte 0x1F
  expect(tokenizer.decode(ids)).toBe("stood wast co");
});

describe("SentencePiece's rules of normalization", () => {
  const t5 = kinds.find(({ name }) => name === "plain-unigram")!;

  it("see graphemes wherever a long text is cut", () => {
    const { charsmap } = readSentencePiece(readFileSync(new URL("t5.model", FOLDER)), "t5.model");
    const rules = new Charsmap("t5.model", Buffer.from(charsmap).toString("base64"));
    const apply = (text: string) => rules.apply(text, Number.POSITIVE_INFINITY);
    expect(apply("e\u0301\uFB01")).toBe("\u00e9fi");
    for (const part of [
      "e\u0301",
      "\u{1F1E9}\u{1F1EA}",
      "\u{1F469}\u200D\u{1F469}\u200D\u{1F467}",
      "\u1100\u1161",
      "\uFF71\u0301",
    ]) {
      for (const padding of ["", "a", "ab", "\u0301", "\u{1F600}"]) {
        expect(apply(padding + part.repeat(500))).toBe(apply(padding) + apply(part).repeat(500));
      }
    }
  });

  it("take linear time, of which the engine's segmenter takes more", async () => {
    const tokenizer = await open(t5);
    const begun = process.cpuUsage();
    for (const part of ["e\u0301", "\u0301", "\u{1F469}\u200D", "\u0915\u094D", "\r"]) {
      tokenizer.encode(part.repeat(2 ** 18 / part.length));
    }
    const { user } = process.cpuUsage(begun);
    expect(user / 1000).toBeLessThan(15_000); // some 1000; with the whole text at once it is minutes
  });
});

it("has cases", () => {
  expect(existsSync(cases)).toBe(true);
  expect(kinds.length).toBeGreaterThan(30);
});
