// A file with a head of its own whose config.json says that it is tied: the numbers of the file count.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { CheckpointError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { copyOf, editHeader, editJson, type Header } from "../support/checkpoints.js";

const HEAD = "lm_head.weight";
const EMBEDDING = "model.embed_tokens.weight";

/** A copy of the llama fixture, whose head is its own; `edit` changes its file. */
function llama(tie_word_embeddings: boolean, edit?: (file: string) => void): string {
  const folder = copyOf("models", "llama");
  editJson(join(folder, "config.json"), { tie_word_embeddings });
  edit?.(join(folder, "model.safetensors"));
  return folder;
}

/** Overwrites the head with the embedding, except its last number if `but` is given. */
function sameHead(file: string, but?: number): void {
  const bytes = readFileSync(file);
  const data = 8 + Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, data)) as Header;
  const [from, end] = header[EMBEDDING]!.data_offsets;
  const [to] = header[HEAD]!.data_offsets;
  bytes.copyWithin(data + to, data + from, data + end);
  if (but !== undefined) bytes.writeFloatLE(but, data + to + end - from - 4);
  writeFileSync(file, bytes);
}

async function load(folder: string, options: FromPretrainedOptions = {}) {
  const model = await AutoModelForCausalLM.from_pretrained(folder, { device: "reference", ...options });
  const { logits } = model.forward({ input_ids: [[5, 9, 3, 7]] });
  const values = await logits.readFloats();
  logits.dispose();
  const { warnings, weight_bytes } = model;
  await model[Symbol.asyncDispose]();
  return { values, warnings, weight_bytes };
}

describe.each<[string, FromPretrainedOptions]>([
  ["float32", {}],
  ["int8", { load_in_8bit: true }],
  ["a head in int8", { head_dtype: "int8" }],
])("%s", (_, options) => {
  test("a head with other values is used, and said", async () => {
    const own = await load(llama(false), options);
    const said = await load(llama(true), options);
    expect(own.warnings).toEqual([]);
    expect(said.warnings).toEqual([
      `config.json says tie_word_embeddings, but ${HEAD} differs from ${EMBEDDING}: the file's own ${HEAD} is used`,
    ]);
    expect(said.values).toEqual(own.values);
    expect(said.weight_bytes).toBe(own.weight_bytes);
  });

  test("one number is enough", async () => {
    const edit = (file: string) => sameHead(file, 3);
    const said = await load(llama(true, edit), options);
    expect(said.warnings).toHaveLength(1);
    expect(said.values).toEqual((await load(llama(false, edit), options)).values);
  });

  test("an equal head is the tied one, without a word", async () => {
    const tied = await load(llama(true, sameHead), options);
    const apart = await load(llama(false, sameHead), options);
    expect(tied.warnings).toEqual([]);
    expect(tied.values).toEqual(apart.values);
    if (!options.head_dtype) expect(tied.weight_bytes).toBeLessThan(apart.weight_bytes);
  });
});

test("a head of another shape is refused", async () => {
  const folder = llama(true, (file) =>
    editHeader(file, (header) => {
      header[HEAD] = { ...header[HEAD]!, shape: [80, 128] };
    }),
  );
  const refused = load(folder);
  await expect(refused).rejects.toThrow(CheckpointError);
  await expect(refused).rejects.toThrow(/lm_head\.weight: expected shape \[160, 64\].* got \[80, 128\]/);
});
