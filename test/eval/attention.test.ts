// `octavo bench --attention`: what is measured, left out and told, not how fast anything is.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type AttentionReport, attentionPanels, attentionTable } from "../../src/cli/bench-attention.js";
import type { Device } from "../../src/core/device.js";
import { type LayerPoint, type LayerSpeed, layerSpeed, paddedBatch, paddedSpeeds } from "../../src/eval/attention.js";
import { fillRandomly } from "../../src/load/random.js";
import { buildModel } from "../../src/models/index.js";
import type { CausalLM } from "../../src/nn/decoder.js";
import { octavoHere } from "../support/cli.js";
import { expectNoLeaks, openTestDevice } from "../support/devices.js";

const sizes = { hidden: 24, heads: 3, groups: 1, head_dim: 8 };
const point = (given: Partial<LayerPoint> = {}): LayerPoint => {
  return { layer: "tiny", sizes, tokens: 64, batch: 2, training: false, ...given };
};

describe("a layer", () => {
  it("is measured by both kernels, forward and with gradients, and eager attention holds its weights", async () => {
    const devices: Device[] = [];
    const open = async (): Promise<Device> => {
      devices.push(openTestDevice("cpu"));
      return devices.at(-1)!;
    };
    for (const training of [false, true]) {
      const { flash, eager } = await layerSpeed(open, point({ training }), 1e9);
      if (!("ms" in flash && "ms" in eager)) throw new Error("both must be measured");
      expect(Math.min(flash.ms, eager.ms)).toBeGreaterThan(0);
      // Weights of three heads in two rows, 64 x 64 floats each: less than one of the six is scratch that flash has and eager has not.
      if (training) expect(eager.bytes - flash.bytes).toBeGreaterThan(6 * 64 * 64 * 4 * 0.9);
    }
    expect(devices).toHaveLength(4);
    for (const device of devices) expectNoLeaks(device);
  });

  it("that does not fit, or would take too long, is left out without a device", async () => {
    const never = (): Promise<Device> => Promise.reject(new Error("a device was opened"));
    const full = await layerSpeed(never, point({ training: true }), 1000);
    expect(full.flash).toMatchObject({ skipped: "memory" });
    expect(full.eager).toMatchObject({ skipped: "memory" });
    const slow: LayerSpeed = {
      ...point(),
      flash: { ms: 100_000, bytes: 1 },
      eager: { skipped: "time", expected: 130_000 },
    };
    const { flash, eager } = await layerSpeed(never, point({ tokens: 128, batch: 4 }), 1e9, [slow]);
    expect(flash).toEqual({ skipped: "time", expected: 400_000 }); // twice the batch, twice the tokens
    expect(eager).toEqual({ skipped: "time", expected: 1_040_000 }); // and the weights are four times as many
  });
});

describe("padding", () => {
  let device: Device;
  beforeAll(() => void (device = openTestDevice("cpu")));
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  it.each([
    [0, 8 * 512],
    [0.3, 2867],
    [0.6, 1638],
    [0.8, 819],
  ])("of %s leaves %s tokens, of which one text fills the batch", (padding, real) => {
    const { mask } = paddedBatch(8, 512, padding, 100);
    const lengths = Array.from({ length: 8 }, (_, row) =>
      mask!.subarray(row * 512, (row + 1) * 512).reduce((n, one) => n + one),
    );
    expect(Math.max(...lengths)).toBe(512);
    const sum = lengths.reduce((n, one) => n + one);
    expect(Math.abs(sum - real)).toBeLessThan(8); // the other seven are of one length
    expect(mask!.at(-1)).toBe(1);
  });

  it("is measured beside none", async () => {
    const config = { model_type: "llama", hidden_size: 16, num_hidden_layers: 1, intermediate_size: 32 };
    const heads = { num_attention_heads: 2, vocab_size: 50, max_position_embeddings: 32 };
    const model = (await buildModel({ ...config, ...heads }, "causal-lm")) as CausalLM;
    await fillRandomly(device, model, { dtype: "f32" });
    const speeds = await paddedSpeeds(device, model, { rows: 3, steps: 10, runs: 1 });
    model.dispose();
    expect(speeds.map(({ padding, tokens }) => [padding, tokens])).toEqual([
      [0, 30],
      [0.3, 20],
      [0.6, 12],
      [0.8, 12], // the longest text, and a token of each other one
    ]);
    expect(speeds[0]!.relative).toBe(1);
  });
});

describe("the report", () => {
  const layers: LayerSpeed[] = [
    { ...point(), flash: { ms: 10, bytes: 1e6 }, eager: { ms: 25, bytes: 4e6 } },
    { ...point({ training: true }), flash: { ms: 30, bytes: 2e6 }, eager: { skipped: "memory", expected: 9e9 } },
    {
      ...point({ batch: 4, training: true }),
      flash: { ms: 60, bytes: 4e6 },
      eager: { skipped: "time", expected: 9e9 },
    },
  ];

  it("says how many times, and why there is no figure", () => {
    const none = { bandwidth: 1, limit: null, least: 0, share: 0, noisy: false } as const;
    const kernel = { ...none, kernel: "attention bf16", shape: "1x2048+0", microseconds: 1000, most: 0 };
    const report: AttentionReport = {
      machine: "a machine",
      limits: { read: 1, copy: 1, f32: 1, int8: 1, bf16: 1, f16: 0 },
      layers,
      kernels: [{ ...kernel, operations: 250, threads: 1, head_dim: 64 }],
      padding: [{ padding: 0.3, tokens: 7, ms: 2, relative: 1.05 }],
    };
    const text = attentionTable(report);
    expect(text).toMatch(/tiny, forward +64 +2 +25 ms +10 ms +2\.50x +4\.0+ MB +1\.0+ MB +4\.00x/);
    expect(text).toMatch(/tiny, training +64 +2 +needs 9\.0+ GB +30 ms/);
    expect(text).toMatch(/tiny, training +64 +4 +too slow +60 ms/);
    expect(text).toMatch(/attention bf16 +64 +2048 +1 thread +1\.0 ms +0\.250/);
    expect(text).toMatch(/30 % +7 +2\.0 ms +1\.050/);
  });

  it("is drawn as four panels, with dashes", () => {
    const panels = attentionPanels(layers);
    expect(panels.map(({ title }) => title)).toEqual([
      "Forward, speed-up",
      "Forward, memory saved",
      "Training, speed-up",
      "Training, memory saved",
    ]);
    const bars = panels.map(({ groups }) => groups.flatMap((group) => group.bars.map(({ value }) => value)));
    expect(bars).toEqual([[2.5], [75], [undefined, undefined], [undefined, undefined]]);
  });
});

describe("octavo bench --attention", () => {
  it.each([
    [["--attention", "--shape", "S"], "cannot be used with option '--shape <name>'"],
    [["models/storyteller", "--attention"], "no model"],
    [["--contexts", "512"], "--contexts is for --attention"],
    [["--attention", "--contexts", "512,0"], "above 0"],
  ])("refuses %j", async (args, words) => {
    const { code, stdout, stderr } = await octavoHere(["bench", ...args]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(words);
  });

  it("refuses a folder that is not there before it measures", async () => {
    const { code, stderr } = await octavoHere(["bench", "--attention", "--svg", "no/such/folder/chart.svg"]);
    expect(code).toBe(3);
    expect(stderr).not.toContain("measuring");
  });
});
