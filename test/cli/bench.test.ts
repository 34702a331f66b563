// `octavo bench` as users run it, on the smallest shape: what it reports, not how fast anything is. And how it stays
// bearable on slow devices.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { benchTable, type VariantReport } from "../../src/cli/bench-report.js";
import type { Device } from "../../src/core/device.js";
import { decodeTimes, prefillTimes, recordTimes } from "../../src/eval/speed.js";
import { fillRandomly } from "../../src/load/random.js";
import { architectureOf } from "../../src/models/index.js";
import type { CausalLM } from "../../src/nn/decoder.js";
import { octavo, READY_TIMEOUT, ready } from "../support/cli.js";
import { expectNoLeaks, openTestDevice } from "../support/devices.js";

describe("octavo bench", () => {
  beforeAll(ready, READY_TIMEOUT);

  it("reports each storage beside the machine", { timeout: 120_000 }, async () => {
    const { code, stdout, stderr } = await octavo(
      ["bench", "--shape", "XS", "--quick", "--compare", "bf16,int8", "--json"], // progress is on stderr even so
    );
    expect({ code, stderr }).toMatchObject({ code: 0, stderr: expect.stringContaining("int8: recording") });
    const { limits, storages } = JSON.parse(stdout);
    expect(limits.read).toBeGreaterThan(0);
    expect(storages.map(({ storage }: VariantReport) => storage)).toEqual(["bf16", "int8"]);
    for (const { decode, prefill, replay_ms, peak_rss } of storages as VariantReport[]) {
      expect(decode.map(({ batch }) => batch)).toEqual([1, 8]);
      expect(prefill.map(({ tokens }) => tokens)).toEqual([128, 512]);
      for (const { ms } of decode) expect(ms).toBeGreaterThan(0);
      // Read speed is noisy and XS fits in caches: only nonsense is caught here.
      expect(decode[0]!.share).toBeGreaterThan(0);
      expect(replay_ms).toBeGreaterThan(0);
      expect(peak_rss).toBeGreaterThan(1e7);
    }
    const [bf16, int8] = storages as [VariantReport, VariantReport];
    // A byte less for each number of the four layers' matrices, a little more for scales; head and embedding stay.
    const numbers = 4 * (2 * 256 * 256 + 2 * 256 * 128 + 3 * 256 * 704);
    const saved = (bf16.weight_bytes - int8.weight_bytes) / numbers;
    expect(saved).toBeGreaterThan(0.95);
    expect(saved).toBeLessThan(1);
  });

  it("measures single kernels in the sizes of a shape", { timeout: 120_000 }, async () => {
    const { code, stdout } = await octavo(["bench", "--kernels", "--shape", "XS", "--quick", "--json", "--quiet"]);
    expect(code).toBe(0);
    const { kernels } = JSON.parse(stdout);
    const of = (name: string): string[] =>
      kernels.filter((row: { kernel: string }) => row.kernel === name).map((row: { shape: string }) => row.shape);
    expect(of("int8")).toEqual(["1x256x704", "512x256x704"]);
    expect(of("attention i8")).toEqual(["1x1+2048", "1x512+0"]);
    for (const { microseconds } of kernels) expect(microseconds).toBeGreaterThan(0);
  });

  it.each([
    [["--shape", "XXL"], "unknown shape"],
    [[], "needs a model or a --shape"],
    [["--shape", "XS", "--compare", "bf16,int9"], "int9"],
    [["--kernels", "--shape", "XXL"], "unknown shape"],
    [["--kernels", "--chart"], "charts are of models"],
    [["models/storyteller", "--kernels"], "no model"],
  ])("refuses %j", async (args, words) => {
    const { code, stdout, stderr } = await octavo(["bench", ...args]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(words);
  });
});

describe("timings on slow devices", () => {
  let device: Device;
  let model: CausalLM;
  beforeAll(async () => {
    device = openTestDevice("cpu");
    const config = {
      model_type: "llama",
      hidden_size: 32,
      num_hidden_layers: 1,
      intermediate_size: 64,
      num_attention_heads: 2,
      vocab_size: 50,
      max_position_embeddings: 128,
    };
    model = (await architectureOf(config)).build(config);
    await fillRandomly(device, model, { dtype: "f32" });
  });
  afterAll(async () => {
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  it("stop once patience is over", async () => {
    const decode = { batch: 2, context: 4, steps: 20, cache_dtype: "f32" } as const;
    expect(await decodeTimes(device, model, decode)).toHaveLength(20);
    expect((await decodeTimes(device, model, { ...decode, patience: 0 })).length).toBeLessThan(5);
    const prefill = { batch: 1, tokens: 8, runs: 4, cache_dtype: "f32" } as const;
    expect(await prefillTimes(device, model, prefill)).toHaveLength(4);
    expect(await prefillTimes(device, model, { ...prefill, patience: 0 })).toHaveLength(1);
    expect(await recordTimes(device, model, 1000, 0)).toMatchObject({ dispatches: 0 });
  });

  it("a prompt that one storage was too slow for has its place in the table", () => {
    const decode = [{ batch: 1, context: 0, ms: 5, bandwidth: 0.0123, read: 0.25, share: 0.05 }];
    const common = { decode, record_ms: 1, replay_ms: 1, dispatches: 3, peak_rss: 1e8, weight_bytes: 1e6 };
    const point = (tokens: number) => ({ tokens, tokens_per_s: 100 + tokens, first_token_ms: 7 });
    const reports: VariantReport[] = [
      { ...common, storage: "f32", kv_cache: "float32", prefill: [point(128)] },
      { ...common, storage: "int8", kv_cache: "float32", prefill: [point(128), point(512)] },
    ];
    const limits = { read: 0.25, copy: 0, f32: 1, int8: 1, bf16: 0, f16: 0 };
    const lines = benchTable("shape XS", { machine: "a machine", limits }, reports).split("\n");
    expect(lines.find((line) => line.startsWith("prefill 512"))).toMatch(/too slow +612$/);
    expect(lines.find((line) => line.trim().startsWith("of memory"))).toMatch(/5 % of 0\.250/);
  });
});
