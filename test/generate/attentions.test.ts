// output_attentions: the weights that a forward pass gives, for every kind of model. Values of encoders and of BART are compared
// with the real library in test/models/.

import { join } from "node:path";
import { expect, test } from "vitest";
import type { Tensor } from "../../src/core/tensor.js";
import { AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM } from "../../src/generate/auto.js";
import { expectNoLeaks, openTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const device = openTestDevice("cpu");
const folder = (name: string): string => join(FIXTURES, "models", name);
const free = (outputs: object): void => {
  for (const one of Object.values(outputs).flat() as Tensor[]) one.dispose();
};

/** Weights [B,H,T,S] that are below 0, do not sum to 1 in their row, or belong to a key that `seen` denies. */
async function wrong(weights: Tensor, seen: (query: number, key: number) => boolean): Promise<number> {
  const [, , queries = 0, keys = 0] = weights.shape;
  const values = await weights.readFloats();
  let count = 0;
  for (let at = 0; at < values.length; at += keys) {
    const row = values.subarray(at, at + keys);
    const query = (at / keys) % queries;
    const sum = row.reduce((all, one) => all + one, 0);
    if (Math.abs(sum - 1) > 1e-5 || row.some((one, key) => one < 0 || (one !== 0 && !seen(query, key)))) count++;
  }
  return count;
}

test.each([
  ["llama", Number.POSITIVE_INFINITY],
  ["mistral", 5],
  ["bloom", Number.POSITIVE_INFINITY],
  ["falcon-rw-like", Number.POSITIVE_INFINITY],
  ["gemma2", Number.POSITIVE_INFINITY],
])("%s", async (name, window) => {
  const model = await AutoModelForCausalLM.from_pretrained(folder(name), { device });
  const input_ids = [[20, 30, 40, 50, 60, 70, 80, 90, 100]];
  const plain = model.forward({ input_ids });
  const { attentions = [], ...rest } = model.forward({ input_ids, output_attentions: true });
  expect(await rest.logits.readFloats()).toEqual(await plain.logits.readFloats());
  expect(attentions.length).toBe(model.module.geometry.layers);
  for (const weights of attentions) {
    expect(weights.shape).toEqual([1, model.module.geometry.heads, 9, 9]);
    expect(await wrong(weights, (query, key) => key <= query && key > query - window)).toBe(0);
  }
  free({ plain: plain.logits, attentions, ...rest });
  model.dispose();
  expectNoLeaks(device);
});

test("an encoder-decoder: both stacks, and between them", async () => {
  const model = await AutoModelForSeq2SeqLM.from_pretrained(folder("t5"), { device });
  const outputs = model.forward({
    input_ids: [
      [20, 30, 40, 50],
      [60, 70, 0, 0],
    ],
    attention_mask: [
      [1, 1, 1, 1],
      [1, 1, 0, 0],
    ],
    decoder_input_ids: [
      [0, 9, 8],
      [0, 7, 6],
    ],
    output_attentions: true,
  });
  const { encoder_attentions = [], decoder_attentions = [], cross_attentions = [] } = outputs;
  expect([encoder_attentions, decoder_attentions, cross_attentions].map(({ length }) => length)).toEqual([2, 2, 2]);
  expect(cross_attentions[0]!.shape).toEqual([2, 4, 3, 4]);
  for (const weights of decoder_attentions) expect(await wrong(weights, (query, key) => key <= query)).toBe(0);
  for (const weights of cross_attentions) {
    expect(await wrong(weights, () => true)).toBe(0);
    const second = (await weights.readFloats()).subarray(4 * 3 * 4);
    expect(second.every((one, i) => i % 4 < 2 || one === 0)).toBe(true); // padding
  }
  free(outputs);
  model.dispose();
  expectNoLeaks(device);
});

test("images, and two towers", async () => {
  const pixel_values = [
    Array.from({ length: 3 }, () => Array.from({ length: 32 }, () => new Array<number>(32).fill(0.5))),
  ];
  const vit = await AutoModel.from_pretrained(folder("vit"), { device });
  const seen = vit.forward({ pixel_values, output_attentions: true });
  expect((seen as { attentions?: Tensor[] }).attentions!.map(({ shape }) => shape[2])).toEqual([17, 17]);
  free(seen);
  vit.dispose();
  const clip = await AutoModel.from_pretrained(folder("clip"), { device });
  const both = clip.forward({ pixel_values, input_ids: [[5, 6, 2]], output_attentions: true } as never) as object;
  expect(Object.keys(both)).toEqual(expect.arrayContaining(["text_attentions", "vision_attentions"]));
  free(both);
  clip.dispose();
  expectNoLeaks(device);
  await device.close();
});
