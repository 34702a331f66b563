// Every architecture through the same checks against what the real libraries computed (test/fixtures/README.md):
// logits in f32, int8 and 4 bits, padded batches, caches, greedy generation, footprints. One row of MODELS a model.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { generationConfig } from "../../src/generate/config.js";
import { leftPadded, readBatch } from "../../src/generate/inputs.js";
import { generateSteps } from "../../src/generate/loop.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { quantizedModules } from "../../src/load/storage.js";
import { tokenLogprobs } from "../../src/ops/token-logprobs.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, type Golden, readArrays, readJson } from "../support/fixtures.js";
import { QUANTIZED, type Tolerance } from "../support/golden.js";

/** On every device. */
const MODELS = ["llama", "llama-rope-llama3", "mixtral", "bloom", "opt", "opt-350m-like", "gpt2"];
/** Compositions of the same ops, which conformance has on every device: these run on the native one. */
const MORE = [
  "qwen3-yarn",
  "qwen3_moe",
  "gpt_oss",
  "gemma",
  "olmo3",
  "phi3-longrope",
  "llama-rope-dynamic",
  "gemma3_text-v5",
  "granite",
  "smollm3",
  "phi3",
  "gemma2",
  "gemma3_text",
  "mistral",
  "qwen2",
  "qwen3",
  "codegen",
  "falcon-7b-like",
  "falcon-40b-like",
  "falcon-rw-like",
  "falcon-rw-sdpa",
  "falcon2-like",
  "gpt_neox",
  "gpt_neox-serial",
  "gptj",
  "mpt",
  "mpt-clip",
  "olmo2",
  "stablelm",
  "stablelm-heads",
  "phi",
  "starcoder2",
  "gpt_neo",
  "cohere",
  "olmo",
  "glm4",
  "ernie4_5",
];
/** Keys are told apart by their distance in the cache: positions that are given have no effect. (Falcon's are looked at.) */
const ALIBI = ["bloom", "mpt", "mpt-clip"];

interface Case {
  input_ids: number[][];
  attention_mask?: number[][];
  position_ids?: number[][];
}
interface Expected {
  inputs: Record<"batch" | "single" | "text", Case>;
  tolerance_fp32: number;
  quantized_modules: string[];
  quantized: Record<string, { suggested_tolerance?: Record<string, Tolerance> }>;
  memory_footprint: Record<string, { without_buffers: number }>;
  generation: {
    max_new_tokens: number;
    pad_token_id: number;
    eos_token_id: number;
    greedy: { new_tokens: number[][]; sequences: number[][] };
    greedy_with_eos: { eos_token_id: number; new_tokens: number[][] };
  };
}

/** transformers adds ALiBi to Falcon's scores once with "sdpa", and this fixture's results are computed so; others by "eager". */
const SDPA = ["falcon-rw-sdpa"];
const FIRST_OF_EXPERT = /\.experts\.\d+\.(w1|gate_proj|gate_up_proj)$/;

const quantizedBy = (name: string): FromPretrainedOptions => ({ quantization_config: QUANTIZED[name]! });

for (const deviceName of ALL_DEVICES) {
  describe.each(deviceName === "cpu" ? [...MODELS, ...MORE] : MODELS)(`${deviceName}: %s`, (name) => {
    const folder = join(FIXTURES, "models", name);
    const expected = readJson<Expected>("models", name, "expected.json");
    const attention: FromPretrainedOptions = SDPA.includes(name) ? { attn_implementation: "sdpa" } : {};
    const arrays = readArrays("models", name, "expected.safetensors");
    const golden = (key: string): Golden => {
      const array = arrays.get(key);
      if (!array) throw new Error(`no ${key} in the fixture`);
      return array;
    };
    let device: Device;
    let model: PreTrainedModel;

    beforeAll(async () => {
      device = await requestTestDevice(deviceName);
      model = await AutoModelForCausalLM.from_pretrained(folder, { device, ...attention });
    });
    afterAll(async () => {
      model.dispose();
      expectNoLeaks(device);
      await device.close();
    });

    const logitsOf = async (of: PreTrainedModel, inputs: Case): Promise<Float32Array> => {
      const { logits } = of.forward(inputs);
      try {
        return await logits.readFloats();
      } finally {
        logits.dispose();
      }
    };
    /** Differences where the mask is 1: padding is stored as zeros. */
    const compare = (got: Float32Array, key: string, inputs: Case): { max: number; mean: number } => {
      const want = golden(key);
      const width = want.shape.at(-1)!;
      const real = (inputs.attention_mask ?? inputs.input_ids.map((row) => row.map(() => 1))).flat();
      const pick = (values: ArrayLike<number>): number[] =>
        Array.from(values).filter((_, i) => real[Math.floor(i / width)] === 1);
      return difference(pick(got), pick(want.values));
    };

    test.each(["single", "batch", "text"] as const)("f32 logits of %s", async (key) => {
      const inputs = expected.inputs[key];
      const got = await logitsOf(model, inputs);
      if (key === "text") {
        const { logits } = model.forward(inputs);
        const [, steps = 0, vocab = 0] = logits.shape;
        const rows = logits.view(steps, vocab);
        const targets = [...inputs.input_ids[0]!.slice(1), 0];
        const ids = (await import("../../src/core/tensor.js")).Tensor.from(device, Int32Array.from(targets), [steps]);
        const logprobs = tokenLogprobs(rows, ids);
        const values = (await logprobs.readFloats()).subarray(0, steps - 1);
        for (const tensor of [logits, rows, ids, logprobs]) tensor.dispose();
        expect(difference(values, golden("fp32.text.token_logprobs").values).max).toBeLessThan(expected.tolerance_fp32);
        return;
      }
      expect(compare(got, `fp32.${key}.logits`, inputs).max).toBeLessThan(expected.tolerance_fp32);
    });

    test("position_ids given are used", async () => {
      const inputs = expected.inputs.batch;
      const without = await logitsOf(model, { ...inputs, position_ids: undefined });
      const given = await logitsOf(model, inputs);
      expect(difference(without, given).max).toBe(0);
      // Other positions give other logits, except where keys are told apart by their distance in the cache (ALiBi).
      const position_ids = inputs.attention_mask!.map((row) => {
        let next = 0;
        return row.map((real) => (real ? 2 * next++ : 0));
      });
      const apart = await logitsOf(model, { ...inputs, position_ids });
      if (ALIBI.includes(name)) expect(difference(without, apart).max).toBe(0);
      else expect(difference(without, apart).max).toBeGreaterThan(0.01);
    });

    test("greedy generation of a padded batch, and of each row alone", async () => {
      const { greedy, max_new_tokens, pad_token_id, eos_token_id } = expected.generation;
      const { input_ids, attention_mask } = expected.inputs.batch;
      const options = { max_new_tokens, do_sample: false, eos_token_id, pad_token_id };
      expect(await model.generate({ input_ids, attention_mask, ...options })).toEqual(greedy.sequences);
      for (const [row, ids] of input_ids.entries()) {
        const alone = ids.filter((_, t) => attention_mask![row]![t] === 1);
        const [sequence] = await model.generate({ input_ids: [alone], ...options });
        const added = sequence!.slice(alone.length);
        expect(added).toEqual(greedy.new_tokens[row]!.slice(0, added.length));
        expect(added.length === max_new_tokens || added.at(-1) === eos_token_id).toBe(true);
      }
    });

    // Chunks of one token take a GPU in software twenty steps of 50 ms; three leave as odd a rest.
    test.each(deviceName === "webgpu" ? [3] : [1, 3])(
      "a padded prompt in chunks of %i generates the same",
      async (chunk) => {
        const { greedy, max_new_tokens, pad_token_id } = expected.generation;
        const { input_ids, attention_mask } = expected.inputs.batch;
        const batch = leftPadded(readBatch(input_ids, attention_mask, model.module.geometry.vocab));
        const config = generationConfig(
          { max_new_tokens, pad_token_id, eos_token_id: null },
          {},
          {},
          batch.steps,
          1000,
        );
        const steps: (readonly number[])[] = [];
        const options = { config, cache_dtype: "f32", chunk } as const;
        for await (const { token_ids } of generateSteps(device, model.module, batch, options)) steps.push(token_ids);
        const eos = expected.generation.eos_token_id;
        for (const [row, want] of greedy.new_tokens.entries()) {
          const got = steps.map((ids) => ids[row]!);
          const end = want.indexOf(eos);
          expect(got.slice(0, end < 0 ? undefined : end + 1)).toEqual(want.slice(0, end < 0 ? undefined : end + 1));
        }
      },
    );

    // What the host does with rows is the same whatever computes them, and a GPU in software takes 50 ms for a step.
    if (deviceName !== "webgpu") {
      test("rows that end early are padded", async () => {
        const { greedy_with_eos, max_new_tokens, pad_token_id } = expected.generation;
        const { input_ids, attention_mask } = expected.inputs.batch;
        const { eos_token_id } = greedy_with_eos;
        const got = await model.generate({
          input_ids,
          attention_mask,
          max_new_tokens,
          do_sample: false,
          eos_token_id,
          pad_token_id,
        });
        expect(got.map((row) => row.slice(input_ids[0]!.length))).toEqual(greedy_with_eos.new_tokens);
      });

      test("right padding generates the same as left padding", async () => {
        const { greedy, max_new_tokens, pad_token_id, eos_token_id } = expected.generation;
        const { input_ids, attention_mask } = expected.inputs.batch;
        const flip = (rows: number[][]): number[][] =>
          rows.map((row, r) => {
            const real = attention_mask![r]!.indexOf(1);
            return [...row.slice(real), ...row.slice(0, real)];
          });
        const got = await model.generate({
          input_ids: flip(input_ids),
          attention_mask: flip(attention_mask!),
          max_new_tokens,
          do_sample: false,
          eos_token_id,
          pad_token_id,
        });
        expect(got.map((row) => row.slice(input_ids[0]!.length))).toEqual(greedy.new_tokens);
      });
    }

    test("the same modules are quantized as in Python", async () => {
      const paths = quantizedModules(model.module, null);
      // The matrices of all experts are one stack here, each of them a module there.
      const stacks = expected.quantized_modules.map((path) => path.replace(/\.experts\.\d+\./, ".experts."));
      expect(paths.sort()).toEqual([...new Set(stacks)].sort());
      const quantized = await AutoModelForCausalLM.from_pretrained(folder, { device, load_in_8bit: true });
      try {
        expect([...quantized.quantized_modules].sort()).toEqual([...expected.quantized_modules].sort());
      } finally {
        quantized.dispose();
      }
    });

    test("some experts of a stack cannot be spared, all of them can", async () => {
      const experts = expected.quantized_modules.filter((path) => FIRST_OF_EXPERT.test(path));
      if (experts.length === 0) return;
      const load = (llm_int8_skip_modules: string[]): Promise<PreTrainedModel> =>
        AutoModelForCausalLM.from_pretrained(folder, {
          device,
          quantization_config: { load_in_8bit: true, llm_int8_skip_modules },
        });
      await expect(load(["lm_head", experts[0]!])).rejects.toThrow(/names 1 of the 4 experts/);
      const spared = await load(["lm_head", ...experts]);
      expect(spared.quantized_modules.filter((path) => FIRST_OF_EXPERT.test(path))).toEqual([]);
      expect(spared.warnings).toEqual([]);
      spared.dispose();
    });

    test("footprints", async () => {
      expect(model.get_memory_footprint()).toBe(expected.memory_footprint.fp32!.without_buffers);
      for (const [key, options] of [
        ["bf16", {}],
        ["int8_rest_bf16", { load_in_8bit: true }],
        ["nf4_rest_bf16", quantizedBy("nf4")],
      ] as const) {
        const other = await AutoModelForCausalLM.from_pretrained(folder, { device, dtype: "bfloat16", ...options });
        expect(other.get_memory_footprint(), key).toBe(expected.memory_footprint[key]!.without_buffers);
        other.dispose();
      }
    });

    test.each(Object.keys(QUANTIZED))("%s", async (scheme) => {
      const quantized = await AutoModelForCausalLM.from_pretrained(folder, {
        device,
        ...attention,
        ...quantizedBy(scheme),
      });
      try {
        const inputs = expected.inputs.single;
        const got = await logitsOf(quantized, inputs);
        const toGolden = compare(got, `${scheme}.single.logits`, inputs);
        const tolerance = expected.quantized[scheme]!.suggested_tolerance?.single;
        if (tolerance) {
          expect(toGolden.max).toBeLessThan(tolerance.max);
          expect(toGolden.mean).toBeLessThan(tolerance.mean);
          const toFull = compare(got, "fp32.single.logits", inputs).mean;
          expect(toFull).toBeGreaterThan(tolerance.mean_to_fp32_range[0]);
          expect(toFull).toBeLessThan(tolerance.mean_to_fp32_range[1]);
        } else expect(toGolden.max).toBeLessThan(expected.tolerance_fp32); // exact decoding, f32 products
      } finally {
        quantized.dispose();
      }
    });
  });
}
