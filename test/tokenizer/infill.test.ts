// Code Llama's infilling as transformers has it (test/fixtures/make_infill.py), from a SentencePiece model and from tokenizer.json.

import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { AutoTokenizer } from "../../src/generate/auto.js";
import type { CallOptions } from "../../src/tokenizer/options.js";
import { FIXTURES, readJson } from "../support/fixtures.js";

const { config, ids, cases } = readJson<{
  config: object;
  ids: number[];
  cases: {
    config: object;
    text: string | string[];
    call: CallOptions;
    ids: number[] | number[][];
    mask: number[] | number[][];
    types: number[] | number[][];
  }[];
}>("tokenizers", "infill.json");

const work = mkdtempSync(join(tmpdir(), "octavo-infill-"));
afterAll(() => rmSync(work, { recursive: true }));
let count = 0;
const folderOf = (settings: object): string => {
  const folder = mkdtempSync(join(work, `${count++}-`));
  copyFileSync(join(FIXTURES, "tokenizers", "llama.model"), join(folder, "tokenizer.model"));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ ...config, ...settings }));
  return folder;
};

/** The folder with a tokenizer.json as Code Llama's is published: a mark is put before every text. */
const published = async (settings: object): Promise<string> => {
  const folder = folderOf(settings);
  const made = mkdtempSync(join(work, "json-"));
  await (await AutoTokenizer.from_pretrained(folder)).save_pretrained(made);
  const json = JSON.parse(readFileSync(join(made, "tokenizer.json"), "utf8")) as Record<string, unknown>;
  const replace = { type: "Replace", pattern: { String: " " }, content: "\u2581" };
  json.normalizer = { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "\u2581" }, replace] };
  json.pre_tokenizer = null;
  writeFileSync(join(made, "tokenizer.json"), JSON.stringify(json));
  writeFileSync(join(made, "tokenizer_config.json"), JSON.stringify({ ...config, ...settings }));
  return made;
};

describe.each(cases.map((one, n) => ({ ...one, n })))(
  "case $n",
  ({ config: settings, text, call, ids, mask, types }) => {
    // Where a text has no hole a tokenizer.json is taken as it stands, and not built anew by the class, as transformers 5 does it.
    const hole = call.suffix === undefined ? [text].flat().join("").includes("<FILL_ME>") : call.suffix.length > 0;
    const model = { file: "tokenizer.model", make: folderOf };
    const files = [model, { file: "tokenizer.json", make: published }];

    test.each(hole && typeof text === "string" && !("add_prefix_space" in settings) ? files : [model])(
      "$file",
      async ({ make }) => {
        const tokenizer = await AutoTokenizer.from_pretrained(await make(settings));
        const got = tokenizer(text, { return_token_type_ids: true, ...call });
        expect(got.input_ids).toEqual(ids);
        expect(got.attention_mask).toEqual(mask);
        expect(got.token_type_ids).toEqual(types);
        // Again: nothing is left of the first call.
        expect(tokenizer(text, { return_token_type_ids: true, ...call }).input_ids).toEqual(ids);
        if (typeof text === "string") expect(tokenizer.encode(text, call)).toEqual(ids);
      },
    );
  },
);

test("its tokens, and what is refused", async () => {
  const tokenizer = await AutoTokenizer.from_pretrained(folderOf({}));
  expect([tokenizer.prefix_id, tokenizer.middle_id, tokenizer.suffix_id, tokenizer.eot_id]).toEqual(ids);
  expect(() => tokenizer("a<FILL_ME>b<FILL_ME>c")).toThrow(/a text has one <FILL_ME>, got 2/);
  expect(() => tokenizer("a", { suffix: ["b"] })).toThrow(OptionError);
  const none = { prefix_token: null, middle_token: null, suffix_token: null };
  const without = await AutoTokenizer.from_pretrained(folderOf(none));
  expect(without.prefix_id).toBeNull();
  expect(() => without("a<FILL_ME>b")).toThrow(/filling holes needs a prefix_token, got null/);
  const whole = await AutoTokenizer.from_pretrained(folderOf({ ...none, fill_token: null }));
  expect(whole("a b").input_ids).toEqual(tokenizer("a b").input_ids);
  const other = await AutoTokenizer.from_pretrained(folderOf({ tokenizer_class: "LlamaTokenizer" }));
  expect(other.eot_id).toBeNull();
  expect(() => other("a", { suffix: "b" })).toThrow(/this tokenizer fills no holes/);
});
