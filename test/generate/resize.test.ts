// resize_token_embeddings: what stays stays to the bit, what is new is where transformers draws it, and it is saved and found again.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { OctavoError, OptionError } from "../../src/core/errors.js";
import type { Tensor } from "../../src/core/tensor.js";
import { AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM } from "../../src/index.js";
import { openDevice } from "../../src/load/device.js";
import { manual_seed } from "../../src/nn/init.js";
import type { Matrix } from "../../src/nn/module.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES, largest } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const device = openDevice("cpu", { threads: 2 });
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});
const folderOf = (name: string): string => join(FIXTURES, "models", name);

const KINDS = [
  ["llama", AutoModelForCausalLM],
  ["gptj", AutoModelForCausalLM],
  ["opt", AutoModelForCausalLM],
  ["bart", AutoModelForSeq2SeqLM],
  ["bert", AutoModelForMaskedLM],
] as const;

describe.each(KINDS)("%s", (name, Auto) => {
  const open = async (folder: string) =>
    (await Auto.from_pretrained(folder, { device, dtype: "float32" })) as never as Model;
  interface Model extends AsyncDisposable {
    readonly module: { vocabulary(): { words: { weight: Matrix }; geometry: { vocab: number } } };
    readonly config: Record<string, unknown>;
    forward(inputs: object): { readonly logits: Tensor; readonly encoder_last_hidden_state?: Tensor };
    resize_token_embeddings(tokens?: number, options?: object): { readonly weight: Matrix };
    save_pretrained(folder: string): Promise<unknown>;
  }
  const inputs =
    Auto === AutoModelForSeq2SeqLM
      ? { input_ids: [[5, 6, 7]], decoder_input_ids: [[2, 8, 9]] }
      : {
          input_ids: [
            [5, 6, 7],
            [8, 9, 3],
          ],
        };
  async function logits(model: Model, all: object = inputs): Promise<Float32Array[]> {
    const { logits, ...others } = model.forward(all);
    const values = await logits.readFloats();
    for (const one of [logits, ...Object.values(others)]) one.dispose();
    const { vocab } = model.module.vocabulary().geometry;
    return Array.from({ length: values.length / vocab }, (_, i) => values.slice(i * vocab, (i + 1) * vocab));
  }
  const table = async ({ weight }: { readonly weight: Matrix }): Promise<Float32Array> => {
    using dense = weight.weight.dense("f32");
    return dense.readFloats();
  };

  test("grows by a multiple, keeps its scores, and is saved as it is; cut again, it is the old one", async () => {
    manual_seed(3);
    await using model = await open(folderOf(name));
    const old = model.module.vocabulary().geometry.vocab;
    const before = await logits(model);
    const tokens = 24 * Math.ceil((old + 5) / 24);
    const words = model.resize_token_embeddings(old + 5, { pad_to_multiple_of: 24 });
    expect(words.weight.shape[0]).toBe(tokens);
    expect(model.config.vocab_size).toBe(tokens);
    const after = await logits(model);
    for (const [i, row] of after.entries()) expect(row.subarray(0, old)).toEqual(before[i]);
    const width = words.weight.shape[1];
    const rows = await table(words);
    // Around the mean: transformers' deviation is that of the rows times the root of 1e-9.
    for (let k = 0; k < width; k++) {
      let mean = 0;
      for (let n = 0; n < old; n++) mean += rows[n * width + k]! / old;
      expect(Math.abs(rows[old * width + k]! - mean)).toBeLessThan(2e-4 * largest(rows));
    }
    const used = { ...inputs, input_ids: [[old, tokens - 1, 4]] };
    const beyond = await logits(model, used);
    const folder = temporary(name);
    await model.save_pretrained(folder);
    expect(JSON.parse(readFileSync(join(folder, "config.json"), "utf8")).vocab_size).toBe(tokens);
    {
      await using again = await open(folder);
      expect(await logits(again, used)).toEqual(beyond);
    }
    model.resize_token_embeddings(old);
    expect(await logits(model)).toEqual(before);
  });
});

test("without the mean, new rows are as wide as the config says; texts are generated with them", async () => {
  await using model = await AutoModelForCausalLM.from_pretrained(folderOf("llama"), { device, load_in_8bit: true });
  const { words, geometry } = model.module.vocabulary()!;
  const old = geometry.vocab;
  await expect(model.generate({ input_ids: [[old]], max_new_tokens: 2 })).rejects.toThrow(OptionError);
  model.resize_token_embeddings(old + 400, { mean_resizing: false });
  using dense = words.weight.weight.dense("f32");
  const added = (await dense.readFloats()).subarray(old * words.weight.shape[1]);
  const deviation = Math.sqrt(added.reduce((sum, x) => sum + x * x, 0) / added.length);
  // More than 12,000 numbers: their deviation is within 4 standard errors.
  expect(added.length).toBeGreaterThan(12_000);
  expect(deviation / (model.config.initializer_range as number)).toBeCloseTo(1, 1.2);
  const [ids] = await model.generate({ input_ids: [[old + 399]], max_new_tokens: 3, do_sample: true, seed: 1 });
  expect(ids).toHaveLength(4);
});

test("products round as before", async () => {
  const how = { device, dtype: "bfloat16", compute_dtype: "float32" } as const;
  await using model = await AutoModelForCausalLM.from_pretrained(folderOf("llama"), how);
  const old = model.module.vocabulary()!.geometry.vocab;
  const scores = async (): Promise<number[]> => {
    const { logits } = model.forward({ input_ids: [Array.from({ length: 32 }, (_, i) => i + 1)] });
    const values = await logits.readFloats();
    logits.dispose();
    return [...values.slice(-model.module.vocabulary()!.geometry.vocab)].slice(0, old);
  };
  const before = await scores();
  model.resize_token_embeddings(old + 16);
  expect(await scores()).toEqual(before);
});

test("what cannot be resized says why, and stays", async () => {
  await using model = await AutoModelForCausalLM.from_pretrained(folderOf("llama"), { device, head_dtype: "int8" });
  expect(() => model.resize_token_embeddings(900)).toThrow(/stored as llm_int8\n.*dequantize\(\) first/s);
  for (const wrong of [0, -1, 1.5, Number.NaN, 2 ** 40, "9" as never, {} as never]) {
    expect(() => model.resize_token_embeddings(wrong)).toThrow(OptionError);
  }
  expect(() => model.resize_token_embeddings(9, { pad_to_multiple_of: 0 })).toThrow(OptionError);
  expect(() => model.resize_token_embeddings(9, { pad: 8 } as never)).toThrow(OptionError);
  const words = model.resize_token_embeddings();
  expect(words.weight.shape[0]).toBe(model.config.vocab_size);
  await using image = await AutoModel.from_pretrained(folderOf("dinov2"), { device });
  expect(() => image.resize_token_embeddings(9)).toThrow(OctavoError);
});
