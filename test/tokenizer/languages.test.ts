// Tokenizers of translators: ids of texts and of what is written for them are those of transformers (fixtures/make_languages.py).

import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { NotFoundError, OptionError } from "../../src/core/errors.js";
import { AutoModelForSeq2SeqLM, AutoTokenizer } from "../../src/generate/auto.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { MemorySource } from "../fuzz/support/memory-source.js";
import { readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const FOLDER = new URL("../fixtures/tokenizers/", import.meta.url);

interface Case {
  files: Record<string, string>;
  config: { tokenizer_class: string; legacy_behaviour?: boolean; separate_vocabs?: boolean };
  steps: {
    languages: [string, string] | null;
    input_ids: number[][];
    labels: number[][];
    pair: number[];
    /** Of Marian with two vocabularies: ids, whether special tokens are omitted, and their text; and what its first ids are. */
    decoded?: [ids: number[], skip: boolean, text: string][];
    tokens?: string[];
  }[];
}
const { texts, cases } = readJson<{ texts: string[]; cases: Case[] }>("tokenizers", "languages.json");
const caseOf = (name: string) => cases.find(({ config }) => config.tokenizer_class === name)!;

function contents({ files, config }: Pick<Case, "files" | "config">): Record<string, Buffer> {
  const own = Object.entries(files).map(([name, file]) => [name, readFileSync(new URL(file, FOLDER))]);
  return { ...Object.fromEntries(own), "tokenizer_config.json": Buffer.from(JSON.stringify(config)) };
}

/** The files of a case in a folder. */
function written(one: Case): string {
  const folder = temporary("languages");
  mkdirSync(folder);
  for (const [file, bytes] of Object.entries(contents(one))) writeFileSync(join(folder, file), bytes);
  return folder;
}
const open = (one: Pick<Case, "files" | "config">) => loadTokenizer(new MemorySource(contents(one)));

describe.each(
  cases.map((one) => [
    `${one.config.tokenizer_class}${one.config.legacy_behaviour ? ", legacy" : ""}${one.config.separate_vocabs ? ", two" : ""}`,
    one,
  ]),
)("%s", (_, one) => {
  it("has the ids of transformers", async () => {
    const tokenizer = await open(one as Case);
    for (const { languages, input_ids, labels, pair } of (one as Case).steps) {
      if (languages) [tokenizer.src_lang, tokenizer.tgt_lang] = languages;
      const both = tokenizer(texts, { text_target: [...texts].reverse() });
      expect([both.input_ids, both.labels]).toEqual([input_ids, labels]);
      expect(tokenizer("a b", { text_pair: "c d" }).input_ids).toEqual(pair);
      expect(tokenizer(texts[0]!, { text_target: texts.at(-1)! }).labels).toEqual(labels[0]);
      const tensors = tokenizer(texts, { text_target: texts, padding: true, return_tensors: "pt" });
      expect([tensors.labels!.shape[0], tensors.input_ids.shape[0]]).toEqual([texts.length, texts.length]);
    }
  });
});

it("Marian's models are saved beside the weights", async () => {
  const two = written(cases.find(({ config }) => config.separate_vocabs)!);
  for (const name of ["config.json", "model.safetensors"]) {
    cpSync(new URL(`../fixtures/models/marian-two/${name}`, import.meta.url), join(two, name));
  }
  const model = await AutoModelForSeq2SeqLM.from_pretrained(two, { device: "reference" });
  const out = temporary("whole");
  const { files } = await model.save_pretrained(out);
  model.dispose();
  expect(files).toEqual(expect.arrayContaining(["vocab.json", "target_vocab.json", "source.spm", "target.spm"]));
  expect((await AutoTokenizer.from_pretrained(out))("a").input_ids.length).toBeGreaterThan(1);
});

it("languages have ids, and those that nobody knows are refused", async () => {
  const tokenizer = await open(caseOf("M2M100Tokenizer"));
  expect(tokenizer.src_lang).toBe("en");
  expect(tokenizer.get_lang_id("fr")).toBe(tokenizer.convert_tokens_to_ids("__fr__"));
  const before = tokenizer.encode("a");
  expect(() => {
    tokenizer.src_lang = "eng";
  }).toThrow(/src_lang: "eng" is no language of this tokenizer; did you mean "en"\?/);
  expect(tokenizer.src_lang).toBe("en");
  expect(tokenizer.encode("a")).toEqual(before);
  for (const odd of [null, 7, "", {}]) expect(() => tokenizer.get_lang_id(odd as string)).toThrow(OptionError);
  const t5 = await open(caseOf("T5Tokenizer"));
  expect([t5.src_lang, t5.tgt_lang]).toEqual([null, null]);
  expect(() => t5.get_lang_id("en")).toThrow(/says no language/);
  expect(() => {
    t5.tgt_lang = "en";
  }).toThrow(OptionError);
  const { files, config } = caseOf("MBartTokenizer");
  const silent = await open({ files, config: { ...config, tgt_lang: null } as Case["config"] });
  expect(() => silent("a", { text_target: "b" })).toThrow(/text_target is in no language yet/);
});

it("a language at the beginning of Marian's text is one token", async () => {
  const tokenizer = await open(caseOf("MarianTokenizer"));
  const [code] = tokenizer.encode(">>fra<< the king");
  expect(tokenizer.convert_ids_to_tokens(code!)).toBe(">>fra<<");
  expect(tokenizer.encode(">>fra<< the king").slice(1)).toEqual(tokenizer.encode("the king"));
});

describe("Marian with two vocabularies", () => {
  const two = cases.find(({ config }) => config.separate_vocabs)!;
  const { decoded, tokens, labels } = two.steps[0]!;

  it("writes by the second one", async () => {
    const tokenizer = await open(two);
    expect(decoded!.length).toBeGreaterThan(10);
    for (const [ids, skip_special_tokens, text] of decoded!) {
      expect(tokenizer.decode(ids, { skip_special_tokens })).toBe(text);
      const stream = tokenizer.streamDecoder({ skip_special_tokens });
      expect(ids.map((id) => stream.push(id)).join("") + stream.end()).toBe(text);
    }
    expect(tokenizer.convert_ids_to_tokens(tokens!.keys())).toEqual(tokens);
    expect(tokenizer.vocab_size).toBe(tokenizer.get_vocab().size);
  });

  it("is saved, and opened again", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(written(two));
    const out = temporary("two");
    expect(await tokenizer.save_pretrained(out)).toContain("target_vocab.json");
    const again = await AutoTokenizer.from_pretrained(out);
    expect(again(texts, { text_target: [...texts].reverse() }).labels).toEqual(labels);
    expect(again.batch_decode(labels)).toEqual(tokenizer.batch_decode(labels));
  });

  it("takes new tokens into both", async () => {
    const tokenizer = await open(two);
    expect(tokenizer.add_tokens("<new>")).toBe(1);
    const [id] = tokenizer.encode("<new>");
    // Behind both: in transformers it takes the place of a word of the second one.
    const largest = Math.max(...Object.values(readJson<Record<string, number>>("tokenizers", "m2m-vocab.json")));
    expect([id, tokenizer.decode([id!])]).toEqual([largest + 1, "<new>"]);
    expect(tokenizer("a", { text_target: "<new>" }).labels).toContain(id);
  });

  it("needs the second one", async () => {
    const { "target_vocab.json": _, ...rest } = two.files;
    await expect(open({ files: rest, config: two.config })).rejects.toThrow(/target_vocab\.json beside vocab\.json/);
  });
});

it("Marian needs both of its models", async () => {
  const { files, config } = caseOf("MarianTokenizer");
  const { "target.spm": _, ...rest } = files;
  await expect(open({ files: rest, config })).rejects.toThrow(NotFoundError);
});

it.each(["NllbTokenizer", "MarianTokenizer", "M2M100Tokenizer"])("%s is saved, and opened again", async (name) => {
  const tokenizer = await AutoTokenizer.from_pretrained(written(caseOf(name)));
  if (name === "NllbTokenizer") tokenizer.src_lang = "fra_Latn";
  const out = temporary("saved");
  await tokenizer.save_pretrained(out);
  const again = await AutoTokenizer.from_pretrained(out);
  expect(again.src_lang).toBe(tokenizer.src_lang);
  const asked = { text_target: texts };
  expect(again(texts, asked)).toEqual(tokenizer(texts, asked));
});

it("a call and a load can name the language", async () => {
  const tokenizer = await AutoTokenizer.from_pretrained(written(caseOf("NllbTokenizer")), {
    src_lang: "deu_Latn",
    tgt_lang: "zul_Latn",
  });
  const { input_ids, labels } = caseOf("NllbTokenizer").steps[1]!;
  const both = tokenizer(texts, { text_target: [...texts].reverse() });
  expect([both.input_ids, both.labels]).toEqual([input_ids, labels]);
});

it("Marian cuts punctuation as it is written: transformers makes sacremoses' normaliser, and never calls it", async () => {
  const files = { "source.spm": "t5.model", "target.spm": "xlnet.model", "vocab.json": "marian-vocab.json" };
  const config = { tokenizer_class: "MarianTokenizer", source_lang: "en", target_lang: "de" };
  const tokenizer = await open({ files, config });
  // Ids by transformers 5.18, without sacremoses, and with one whose normaliser raises an error.
  const first = [
    1, 1, 19, 63, 99, 105, 1, 1, 9, 9, 9, 1, 1, 121, 132, 105, 127, 65, 1, 1, 1, 139, 1, 1, 1, 1, 141, 294, 1, 125,
  ];
  expect(
    tokenizer(["«Hello»  …  “quoted” ‘x’ – — it`s 5 % ;a ?b", "Hello … world ！？", "a ， b 。"]).input_ids,
  ).toEqual([
    [...first, 1, 1, 1, 1, 1, 11, 40, 1, 12, 55, 0],
    [153, 99, 105, 1, 9, 9, 9, 470, 1, 2, 12, 0],
    [171, 1, 6, 189, 1, 1, 0],
  ]);
});
