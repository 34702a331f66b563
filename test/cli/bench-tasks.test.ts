// Speed of models that are not plain decoders: what is counted, and that every kind runs.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { announcementTable } from "../../src/cli/bench-announcement.js";
import type { Device } from "../../src/core/device.js";
import { type DecodingModel, weightsPerStep } from "../../src/eval/speed.js";
import { encodeSpeed, stepSpeed, TASK_SHAPES } from "../../src/eval/tasks.js";
import { fillRandomly } from "../../src/load/random.js";
import { buildModel } from "../../src/models/index.js";
import { EncoderModel } from "../../src/nn/encoder.js";
import type { Model } from "../../src/nn/model.js";
import { octavo, READY_TIMEOUT, ready } from "../support/cli.js";
import { expectNoLeaks, openTestDevice } from "../support/devices.js";

/** A shape with few and narrow layers. */
function small(name: string): Promise<Model> {
  const { task, config } = TASK_SHAPES[name]!;
  const narrow = {
    d_model: 64,
    d_ff: 96,
    num_layers: 2,
    num_heads: 2,
    d_kv: 32,
    num_hidden_layers: 2,
    vocab_size: 320,
  };
  const sizes = { hidden_size: 64, intermediate_size: 96, num_attention_heads: 4, num_key_value_heads: 2 };
  return buildModel({ ...config, ...narrow, ...sizes }, task);
}

describe("speed of tasks", () => {
  let device: Device;
  beforeAll(() => {
    device = openTestDevice("cpu");
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  it("a step of experts counts those that it chooses", async () => {
    const model = (await small("MOE")) as DecodingModel;
    await fillRandomly(device, model, { dtype: "bf16" });
    const [one, all] = [weightsPerStep(model, 1), weightsPerStep(model, 1e9)];
    const experts = 2 * 8 * 3 * 64 * 96 * 2; // layers, experts, matrices, bytes
    expect(all - one).toBeCloseTo(experts * (1 - 2 / 8), -3);
    expect(weightsPerStep(model, 2) - one).toBeCloseTo(experts * (2 / 8) * (6 / 8), -3);
    for (const batch of [1, 3]) {
      const speed = await stepSpeed(device, model, { batch, steps: 4, cache_dtype: "bf16" });
      expect(speed.ms).toBeGreaterThan(0);
      expect(speed.bytes).toBeGreaterThan(one);
    }
    model.dispose();
  });

  it("a step of an encoder-decoder counts the decoder alone, without what its encoder's output meets", async () => {
    const model = (await small("T5-LARGE")) as DecodingModel;
    await fillRandomly(device, model, { dtype: "f32" });
    // Two layers of q, k, v, o and q, o of the cross-attention, wi and wo, then the head.
    expect(weightsPerStep(model, 1)).toBe(4 * (2 * (6 * 64 * 64 + 2 * 64 * 96) + 64 * 320));
    const speed = await stepSpeed(device, model, { batch: 2, steps: 4, cache_dtype: "f32" });
    expect(speed.ms).toBeGreaterThan(0);
    model.dispose();
  });

  it("an encoder pays for real tokens", async () => {
    const model = await small("BERT-BASE");
    await fillRandomly(device, model, { dtype: "bf16" });
    if (!(model instanceof EncoderModel)) throw new Error("BERT is no encoder");
    expect(await encodeSpeed(device, model, "equal", 1)).toMatchObject({ rows: "equal", tokens: 32 * 128 });
    expect(await encodeSpeed(device, model, "ragged", 1)).toMatchObject({ rows: "ragged", tokens: (32 * 33 * 4) / 2 });
    model.dispose();
  });
});

describe("octavo bench --shape", () => {
  beforeAll(ready, READY_TIMEOUT);
  it.each([["--from-file"], ["--kv-cache", "int8"], ["--load-in-8bit"]])(
    "%s is refused for these shapes",
    async (...flag) => {
      const { code, stderr } = await octavo(["bench", "--shape", "t5-large", ...flag]);
      expect(code).toBe(2);
      expect(stderr).toContain(`error: ${flag[0]} is for decoders`);
    },
  );
});

it("the announcement's table says per token, and against the first storage", () => {
  const storage = (name: string, times: readonly number[]) => ({
    ...{ storage: name, weight_bytes: 2e9, decoder_bytes: 2e9, encode: [] },
    decode: [1, 8, 32].map((batch, i) => ({
      ...{ batch, ms: times[i]!, bandwidth: 1, bytes: 1, weights: 1, most: 0, least: 0, share: 0, noisy: false },
    })),
  });
  const text = announcementTable([
    { model: "M", storages: [storage("bf16", [50, 80, 160]), storage("int8", [25, 40, 320])] },
  ]);
  expect(text).toMatch(/M +bf16 +2\.00 GB +50\.00 +10\.00 +5\.00/);
  expect(text).toMatch(/M +int8 +2\.00 GB +25\.00 \(2\.00x\) +5\.00 \(2\.00x\) +10\.00 \(0\.50x\)/);
});
