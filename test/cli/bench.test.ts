// `octavo bench` as users run it, on the smallest shape: what it reports, not how fast anything is. And how it stays
// bearable on slow devices.

import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { benchChartText, benchTable, kernelTable, type VariantReport } from "../../src/cli/bench-report.js";
import type { Device } from "../../src/core/device.js";
import { FULL_PLAN, fittedPlan } from "../../src/eval/bench.js";
import { beside, shareOf } from "../../src/eval/machine.js";
import { decodeTimes, prefillTimes, recordTimes } from "../../src/eval/speed.js";
import { limitOf } from "../../src/eval/units.js";
import { fillRandomly } from "../../src/load/random.js";
import { buildModel } from "../../src/models/index.js";
import type { CausalLM } from "../../src/nn/decoder.js";
import { octavo, octavoHere, READY_TIMEOUT, ready } from "../support/cli.js";
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
      // XS fits in caches, which may be faster than memory: then there is no share, and never one above all there is.
      expect(decode[0]!.noisy).toBe(false);
      expect(decode[0]!.read).toBeGreaterThanOrEqual(decode[0]!.read_least);
      for (const { share } of [...decode, ...prefill]) expect(share ?? 1).toBeLessThanOrEqual(1);
      for (const { share, noisy } of prefill) expect(noisy).toBe(share === null);
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
    // Few rows wait for memory; many rows for the unit that multiplies them, where a probe measures it.
    for (const { kernel, shape, limit, most, share, noisy } of kernels) {
      if (shape.startsWith("1x256") || shape === "1x1+2048") expect(limit, kernel).toBe("read");
      else expect(["f32", "int8", "bf16", null], kernel).toContain(limit);
      if (share === null) expect(most, kernel).toBeGreaterThan(0);
      else expect(share > 0, kernel).toBe(most > 0);
      expect(share ?? 1, kernel).toBeLessThanOrEqual(1);
      expect(noisy && share !== null, kernel).toBe(false);
    }
  });

  it.each([
    [["--shape", "XXL"], "unknown shape"],
    [[], "needs a model or a --shape"],
    [["--shape", "XS", "--compare", "bf16,int9"], "int9"],
    [["--kernels", "--shape", "XXL"], "unknown shape"],
    [["--kernels", "--chart"], "cannot be used with option '--chart'"],
    [["--kernels", "--load-in-8bit"], "cannot be used with option '--load-in-8bit'"],
    [["--kernels", "--compare", "int8"], "cannot be used with option '--compare <list>'"],
    [["--kernels", "--from-file"], "cannot be used with option '--from-file'"],
    [["models/storyteller", "--kernels"], "no model"],
    [["--shape", "XS", "--load-in-8bit", "--load-in-4bit"], "cannot be used with option '--load-in-4bit'"],
    [["--shape", "XS", "--load-in-4bit", "--compare", "f32"], "cannot be used with option '--compare <list>'"],
    [["models/storyteller", "--from-file"], "a model is already on disk"],
    [["--shape", "XS", "--hub", "http://127.0.0.1:9"], "--hub is of a model, and none is read"],
  ])("refuses %j", async (args, words) => {
    const { code, stdout, stderr } = await octavoHere(["bench", ...args]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: "" });
    expect(stderr).toContain(words);
  });
});

describe("what ends a benchmark early", () => {
  beforeAll(ready, READY_TIMEOUT);

  it("a model that is not there, before the machine is measured", async () => {
    const { code, stdout, stderr } = await octavo(["bench", "./no/such/model"]);
    expect({ code, stdout }).toEqual({ code: 3, stdout: "" });
    expect(stderr).toMatch(/^error: \.\/no\/such\/model: no such folder/);
    expect(stderr.match(/error:/g)).toHaveLength(1);
    expect(stderr).not.toContain("measuring");
    const asked = await octavo(["bench", "org/name", "--hub", "http://127.0.0.1:9"]);
    expect(asked.stderr).toContain("http://127.0.0.1:9");
  });

  // Windows has no signals to send.
  it.skipIf(process.platform === "win32")("Ctrl-C, which leaves neither a checkpoint nor a process", async () => {
    const temporary = await mkdtemp(join(tmpdir(), "octavo-interrupted-"));
    try {
      let sent = false;
      const { code, stderr } = await octavo(["bench", "--shape", "XS", "--from-file", "--compare", "f32"], {
        env: { TMPDIR: temporary },
        // The process that measures has begun: the checkpoint is written.
        watch: (child, _, said) => {
          if (!sent && said.includes("f32: loading")) sent = child.kill("SIGINT");
        },
      });
      expect(code).toBe(130);
      expect(stderr).toMatch(/interrupted\n$/);
      expect(await readdir(temporary)).toEqual([]);
    } finally {
      await rm(temporary, { recursive: true, force: true });
    }
  });
});

describe("models with a table of positions", () => {
  beforeAll(ready, READY_TIMEOUT);

  it("are measured as far as it goes, and what is left out is said", { timeout: 120_000 }, async () => {
    const { code, stdout, stderr } = await octavo(
      ["bench", "test/fixtures/models/gpt2", "--quick", "--compare", "f32", "--json"], //
    );
    expect({ code, stderr }).toMatchObject({
      code: 0,
      stderr: expect.stringMatching(/prefill of 128 tokens.*left out/),
    });
    const [{ decode, prefill }] = JSON.parse(stdout).storages as [VariantReport];
    expect(decode.map(({ batch }) => batch)).toEqual([1, 8]);
    expect(prefill).toHaveLength(1);
  });

  it("keep the points that fit", () => {
    const { plan, left_out } = fittedPlan(FULL_PLAN, 1024);
    expect(plan).toMatchObject({ batches: [1, 8, 32], contexts: [0], prompts: [128, 512] });
    expect(left_out).toEqual(["context 2048", "prefill of 2048 tokens"]);
    expect(fittedPlan(FULL_PLAN, Number.POSITIVE_INFINITY)).toEqual({ plan: FULL_PLAN, left_out: [] });
    expect(fittedPlan(FULL_PLAN, 64).plan.prompts).toEqual([64]);
  });
});

describe("what a kernel is drawn beside", () => {
  const on = (name: string, backend: object, probes: string[]): Device =>
    ({ name, backend, supports: (probe: string) => probes.includes(probe) }) as unknown as Device;

  it("is memory for few rows, else the unit that multiplies, and nothing where no probe measures that", () => {
    const zen = on("cpu", { isa: "avx512bf16" }, ["probe_f32", "probe_int8", "probe_bf16"]);
    const old = on("cpu", { isa: "avx2" }, ["probe_f32", "probe_int8"]);
    const tiles = on("cpu", { isa: "amx" }, ["probe_f32", "probe_int8", "probe_bf16"]);
    const gpu = on("webgpu", { matrices: false }, ["probe_f32", "probe_f16", "probe_int8"]);
    const matrices = on("webgpu", { matrices: true, matrices8: true }, ["probe_f32", "probe_f16", "probe_int8"]);
    const units = (kernel: string) => [zen, old, tiles, gpu, matrices].map((device) => limitOf(device, kernel, 512));
    expect(limitOf(zen, "bf16", 1)).toBe("read");
    expect(units("f16")).toEqual(["f32", "f32", "f32", "f32", undefined]);
    expect(units("bf16")).toEqual(["bf16", "f32", undefined, "f16", undefined]);
    expect(units("int8")).toEqual(["int8", "int8", undefined, "int8", undefined]);
    expect(units("nf4 bf16")).toEqual(["bf16", "f32", undefined, "f16", undefined]);
    expect(units("nf4 int8")).toEqual(["int8", "int8", undefined, "f16", undefined]);
    expect(units("attention i8")).toEqual(["int8", "f32", undefined, "f32", "f32"]);
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
    model = await buildModel(config, "causal-lm");
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
    const decode = [
      { batch: 1, context: 0, ms: 50_000, bandwidth: 0.0123, read: 0.25, read_least: 0.24, share: 0.05, noisy: false },
      { batch: 1, context: 2048, ms: 1, bandwidth: 50, read: 20, read_least: 20, share: null, noisy: false },
    ];
    const common = { decode, record_ms: 1, replay_ms: 1, dispatches: 3, peak_rss: 1e8, weight_bytes: 1e6 };
    const timed = {
      first_token_ms: 7,
      operations: 0.5,
      unit: "bf16",
      peak: 2,
      peak_least: 1.5,
      share: 0.25,
      noisy: false,
    } as const;
    const point = (tokens: number) => ({ tokens, tokens_per_s: 100 + tokens, ...timed });
    const reports: VariantReport[] = [
      { ...common, storage: "f32", kv_cache: "float32", prefill: [point(128)] },
      { ...common, storage: "int8", kv_cache: "float32", prefill: [point(128), point(512)] },
    ];
    const limits = { read: 0.25, copy: 0, f32: 1, int8: 1, bf16: 0, f16: 0 };
    const lines = benchTable("shape XS", { machine: "a machine", limits }, reports).split("\n");
    expect(lines.find((line) => line.startsWith("prefill 512"))).toMatch(/too slow +612$/);
    const shares = lines.filter((line) => line.trim().startsWith("of memory"));
    expect(shares[0]).toMatch(/5 % of 0\.250 +5 % of 0\.250$/);
    expect(shares[1]).toMatch(/in cache +in cache$/); // 50 MB a step: a cache may hold that
    expect(lines.filter((line) => line.trim().startsWith("of the unit"))[1]).toMatch(
      /too slow +25 % of bf16's 1\.5-2\.0$/,
    );
    expect(lines.join("\n")).not.toContain("noisy");
  });

  it("what is faster than its limit is noisy, in words and never as a share", () => {
    const decode = [{ batch: 1, context: 0, ms: 5, bandwidth: 20, read: 18, read_least: 9, share: null, noisy: true }];
    const prefill = [
      {
        ...{
          tokens: 128,
          tokens_per_s: 1,
          first_token_ms: 1,
          operations: 3,
          unit: "int8" as const,
          peak: 2,
          peak_least: 2,
        },
        ...{ share: null, noisy: true },
      },
    ];
    const common = { record_ms: 1, replay_ms: 1, dispatches: 0, peak_rss: 1, weight_bytes: 1, kv_cache: "float32" };
    const reports: VariantReport[] = [{ ...common, storage: "int8", decode, prefill }];
    const limits = { read: 9, copy: 0, f32: 1, int8: 2, bf16: 0, f16: 0 };
    const text = benchTable("shape XS", { machine: "a machine", limits }, reports);
    expect(text).toMatch(/of memory's GB\/s +noisy of 9\.0-18\.0\n/);
    expect(text).toMatch(/of the unit's GOP\/s +noisy of int8's 2\.0\n/);
    expect(text).toMatch(/\nnoisy: faster than the limit measured around it.*measure again\n$/);
    expect(text).not.toMatch(/\d %/);
    const { notes } = benchChartText("shape XS", { machine: "a machine", limits }, reports);
    expect(notes.at(-1)).toMatch(/^noisy.*: int8 decode, context 0; int8 prefill 128$/);
    const kernel = {
      kernel: "int8",
      shape: "1x2x3",
      microseconds: 1,
      bandwidth: 5,
      operations: 1,
      limit: "read",
    } as const;
    const row = (noisy: boolean) => ({ ...kernel, most: 4, least: 4, share: null, noisy });
    expect(kernelTable("a machine", limits, [row(true)])).toMatch(/noisy +4\.0 GB\/s read\n\nnoisy: /);
    expect(kernelTable("a machine", limits, [row(false)])).toMatch(/in cache +4\.0 GB\/s read\n$/);
  });
});

describe("a share", () => {
  it("is of the best measurement, and none above that", () => {
    expect(shareOf(5, [8, 10])).toEqual({ most: 10, least: 8, share: 0.5, noisy: false });
    expect(shareOf(12, [8, 10])).toEqual({ most: 10, least: 8, share: null, noisy: true });
    expect(shareOf(12, [8, 10], true)).toEqual({ most: 10, least: 8, share: null, noisy: false });
    expect(shareOf(10, [8, 10])).toEqual({ most: 10, least: 8, share: 1, noisy: false });
    expect(shareOf(3, [])).toEqual({ most: 0, least: 0, share: 0, noisy: false });
  });

  it("has its limit measured again where it would be above it", async () => {
    await using device = openTestDevice("cpu");
    let asked = 0;
    const body = async (): Promise<number> => ++asked;
    const none = await beside(device, undefined, body, () => ({ speed: 1 }));
    expect(none).toEqual({ made: 1, most: 0, least: 0, share: 0, noisy: false });
    const slow = await beside(device, "f32", body, () => ({ speed: 1e-9 }));
    expect(slow).toMatchObject({ made: 2, noisy: false });
    expect(slow.share).toBeLessThan(1e-6);
    const impossible = await beside(device, "f32", body, () => ({ speed: 1e9 }));
    expect(impossible).toMatchObject({ made: 3, share: null, noisy: true });
    expect(impossible.most).toBeGreaterThanOrEqual(impossible.least);
  });
});
