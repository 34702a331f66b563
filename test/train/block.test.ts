// Gradients of a whole decoder: embedding, blocks, norm, head and loss. In double precision against central differences; then
// every device against double precision.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { scope } from "../../src/core/tensor.js";
import type { CausalLM } from "../../src/nn/decoder.js";
import { valueAndGradients } from "../../src/ops/gradient.js";
import { ALL_DEVICES, DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { differences, openDoubles, valuesOf } from "../support/doubles.js";
import { type LossOptions, lossOf, trainableOf } from "../support/losses.js";
import { randomModel } from "../support/models.js";

/** Odd sizes, grouped heads, more than one row, an id twice in a row and one in both rows. */
const CONFIG = {
  vocab_size: 23,
  hidden_size: 20,
  intermediate_size: 17,
  num_hidden_layers: 2,
  num_attention_heads: 6,
  num_key_value_heads: 3,
  head_dim: 6,
  attention_bias: true,
};
const IDS = [
  [3, 7, 7, 1, 22, 9, 14],
  [0, 5, 12, 3, 8, 19, 2],
];
const GEMMA = { sliding_window: 3, final_logit_softcapping: 2, query_pre_attn_scalar: 5, sliding_window_pattern: 2 };
/** A software adapter takes its time to compile shaders: one case is enough for it. */
const CASES: readonly (readonly [string, Record<string, unknown>, LossOptions, readonly string[]])[] = [
  ["its own head, in pieces of rows, smoothed", CONFIG, { rows: 5, smoothing: 0.1 }, ALL_DEVICES],
  ["a tied head", { ...CONFIG, tie_word_embeddings: true, hidden_act: "gelu" }, {}, DEVICES],
  [
    "fused projections (phi3)",
    { ...CONFIG, model_type: "phi3", attention_bias: false, sliding_window: 3 },
    {},
    ["cpu"],
  ],
  ["two sets of frequencies (gemma3_text)", { ...CONFIG, ...GEMMA, model_type: "gemma3_text" }, {}, ["cpu"]],
];

describe.each(CASES)("a model with %s", (_, config, options, devices) => {
  const doubles = openDoubles();
  let model: CausalLM;
  const want = new Map<string, Float64Array>();
  let loss = 0;

  beforeAll(async () => {
    model = await randomModel(doubles, config, "f32");
  });
  afterAll(() => {
    model.dispose();
    expectNoLeaks(doubles);
  });

  test("the gradient of every parameter is the slope of the loss", () => {
    const by = trainableOf(model);
    scope(() => {
      const { value, gradients } = valueAndGradients([...by.values()], () => lossOf(doubles, model, IDS, options));
      loss = valuesOf(value)[0]!;
      [...by.keys()].forEach((name, i) => {
        want.set(name, valuesOf(gradients[i]!).slice());
      });
    });
    for (const [name, tensor] of by) {
      const gradient = want.get(name)!;
      const largest = gradient.reduce((most, g) => Math.max(most, Math.abs(g)), 0);
      expect(largest, name).toBeGreaterThan(0);
      const at = [0, 1, 2, 3, 4].map((i) => Math.floor(((i * 0.237 + 0.05) % 1) * tensor.size));
      const slopes = differences(tensor, at, () => lossOf(doubles, model, IDS, options));
      // A loss of about 3 in doubles, over 2e-6, has 3e-10 of rounding; keys' biases hardly matter to it at all.
      for (const [i, slope] of slopes.entries()) {
        const off = Math.abs(gradient[at[i]!]! - slope);
        expect(off, `${name}[${at[i]}]`).toBeLessThan(1e-6 * largest + 2e-9);
      }
    }
  });

  test.each(devices)("%s agrees with double precision", { timeout: 240_000 }, async (name) => {
    const device: Device = await requestTestDevice(name);
    const own = await randomModel(device, config, "f32");
    const by = trainableOf(own);
    const { value, gradients } = valueAndGradients([...by.values()], () => lossOf(device, own, IDS, options));
    expect(Math.abs((await value.readFloats())[0]! - loss)).toBeLessThan(1e-5);
    for (const [i, key] of [...by.keys()].entries()) {
      const got = await gradients[i]!.readFloats();
      const exact = want.get(key)!;
      const largest = exact.reduce((most, g) => Math.max(most, Math.abs(g)), 0);
      const off = got.reduce((most, g, e) => Math.max(most, Math.abs(g - exact[e]!)), 0);
      // f32 sums of some hundred terms through two blocks, the bar of the attention fixture; keys' biases are all rounding.
      expect(off, key).toBeLessThan(5e-5 * largest + 1e-7);
      gradients[i]!.dispose();
    }
    value.dispose();
    own.dispose();
    expectNoLeaks(device);
    await device.close();
  });
});
