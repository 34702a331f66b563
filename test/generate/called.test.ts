// `model(inputs)` is `model.forward(inputs)`, for models of every kind; otherwise they are as they were before they could be called.

import { inspect } from "node:util";
import { afterAll, expect, test } from "vitest";
import type { Tensor } from "../../src/core/tensor.js";
import {
  AutoModel,
  AutoModelForCausalLM,
  AutoModelForMaskedLM,
  AutoModelForSeq2SeqLM,
} from "../../src/generate/auto.js";
import { LoadedModel } from "../../src/generate/base.js";
import { openDevice } from "../../src/load/device.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const device = openDevice("cpu");
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

const folder = (name: string): string => `${FIXTURES}/models/${name}`;
const input_ids = [
  [5, 9, 12],
  [7, 3, 11],
];

/** Disposes all outputs of a pass. */
function drop(outputs: object): void {
  for (const tensor of Object.values(outputs).flat()) (tensor as Tensor).dispose();
}

async function same(called: { logits: Tensor }, passed: { logits: Tensor }): Promise<void> {
  const [one, other] = [await called.logits.readFloats(), await passed.logits.readFloats()];
  expect(one.length).toBeGreaterThan(0);
  expect(one).toEqual(other);
  for (const outputs of [called, passed]) drop(outputs);
}

test("a decoder, with options in one object or behind the inputs", async () => {
  const model = await AutoModelForCausalLM.from_pretrained(folder("llama"), { device });
  await same(model({ input_ids }), model.forward({ input_ids }));
  await same(model({ input_ids }, { logits_to_keep: 1 }), model.forward({ input_ids, logits_to_keep: 1 }));
  expect(() => model({ input_ids: [[1_000_000]] })).toThrow("the vocabulary has ids 0 to 159");
  expect(() => model({ input_ids, positions: 3 } as never)).toThrow("unknown option `positions`");
  expect(LoadedModel.is(model)).toBe(true);
  expect(LoadedModel.is(() => {})).toBe(false);
  expect(inspect(model)).toContain("embed_tokens");
  model.dispose();
  expect(() => model({ input_ids })).toThrow("used after dispose()");
});

test("an encoder", async () => {
  const model = await AutoModelForMaskedLM.from_pretrained(folder("bert"), { device });
  await same(model({ input_ids }), model.forward({ input_ids }));
  model.dispose();
});

test("an encoder-decoder", async () => {
  const model = await AutoModelForSeq2SeqLM.from_pretrained(folder("t5"), { device });
  const inputs = { input_ids, decoder_input_ids: [[0], [0]] };
  await same(model(inputs), model.forward(inputs));
  model.dispose();
});

test("an encoder of images", async () => {
  const model = await AutoModel.from_pretrained(folder("dinov2"), { device });
  const { num_channels, image_size } = model.config as { num_channels: number; image_size: number };
  const shape = [1, num_channels, image_size, image_size];
  const data = Float32Array.from({ length: num_channels * image_size ** 2 }, (_, i) => Math.sin(i));
  const called = model({ pixel_values: { data, shape } });
  const passed = model.forward({ pixel_values: { data, shape } });
  expect(await called.last_hidden_state.readFloats()).toEqual(await passed.last_hidden_state.readFloats());
  for (const outputs of [called, passed]) drop(outputs);
  model.dispose();
});
