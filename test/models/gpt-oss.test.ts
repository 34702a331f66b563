// gpt-oss as it is published, with experts in MXFP4: the results of transformers, which decodes them (test/fixtures/make_gpt_oss.py),
// and what is written again.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import type { GenerateOptions } from "../../src/generate/options.js";
import { openDevice } from "../../src/load/device.js";
import { metaModel } from "../../src/load/meta.js";
import { buildModel } from "../../src/models/index.js";
import type { ConfigJson } from "../../src/nn/architecture.js";
import type { Rotary } from "../../src/nn/rotary.js";
import { mxfp4Parts } from "../../src/quant/_mxfp4-files.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const FOLDER = join(FIXTURES, "packed", "gpt-oss");
const DENSE = join(FIXTURES, "models", "gpt_oss");

interface Expected {
  readonly input_ids: number[][];
  readonly attention_mask: number[][];
  readonly sequences: number[][];
  readonly tolerance_fp32: number;
}
const { input_ids, attention_mask, sequences, tolerance_fp32 } = readJson<Expected>(
  "packed",
  "gpt-oss",
  "expected.json",
);
const arrays = readArrays("packed", "gpt-oss", "expected.safetensors");
const rows = input_ids.map((ids, r) => ids.filter((_, t) => attention_mask[r]![t] === 1));
const greedy: GenerateOptions = { input_ids, attention_mask, max_new_tokens: 12, do_sample: false, eos_token_id: null };

// A GPU in software compiles for ten seconds; conformance has each of the ops there.
for (const deviceName of ALL_DEVICES.filter((name) => name !== "webgpu")) {
  describe(deviceName, () => {
    let device: Device;
    beforeAll(async () => {
      device = await requestTestDevice(deviceName);
    });
    afterAll(async () => {
      expectNoLeaks(device);
      await device.close();
    });

    test("logits and greedy ids of experts that stay in 4 bits", async () => {
      await using model = await AutoModelForCausalLM.from_pretrained(FOLDER, { device, dtype: "float32" });
      expect(model.warnings).toEqual(["the file's matrices (mxfp4) are kept in 4 bits"]);
      for (const [r, ids] of rows.entries()) {
        using logits = model.forward({ input_ids: [ids] }).logits;
        const { max } = difference(await logits.readFloats(), arrays.get(`logits.${r}`)!.values);
        expect(max).toBeLessThan(tolerance_fp32);
      }
      expect(await model.generate(greedy)).toEqual(sequences);
    });
  });
}

describe("cpu", () => {
  let device: Device;
  beforeAll(async () => {
    device = await requestTestDevice("cpu");
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });
  const load = (folder: string, options: FromPretrainedOptions = {}) =>
    AutoModelForCausalLM.from_pretrained(folder, { device, ...options });
  type Model = Awaited<ReturnType<typeof load>>;
  const logitsOf = async (model: Model): Promise<Float32Array> => {
    using logits = model.forward({ input_ids: [rows[0]!] }).logits;
    return logits.readFloats();
  };

  test("keys and values of windows and of all keys, in every dtype of a cache", async () => {
    await using model = await load(FOLDER, { dtype: "float32" });
    const caches: Partial<GenerateOptions>[] = [
      { cache_dtype: "float16" },
      { cache_dtype: "bfloat16" },
      { cache_implementation: "quantized" },
    ];
    for (const cache of caches)
      expect(await model.generate({ ...greedy, ...cache }), String(Object.values(cache)[0])).toEqual(sequences);
  });

  test("weights of attention are those beside a sink", async () => {
    await using model = await load(DENSE);
    const { attentions, logits } = model.forward({ input_ids: [rows[0]!], output_attentions: true });
    for (const one of attentions!) {
      const weights = await one.readFloats();
      const steps = one.shape.at(-1)!;
      for (let at = 0; at < weights.length; at += steps) {
        const sum = weights.subarray(at, at + steps).reduce((a, b) => a + b, 0);
        expect(sum).toBeGreaterThan(0);
        expect(sum).toBeLessThan(1);
      }
      one.dispose();
    }
    logits.dispose();
  });

  test.each([
    ["as they were read", {}, "mxfp4"],
    ["in 8 bits", { load_in_8bit: true }, "bitsandbytes"],
    ["in NF4", { load_in_4bit: true }, "bitsandbytes"],
  ] as const)("saved %s and read again", async (_, options, method) => {
    const folder = temporary("gpt-oss");
    await using model = await load(FOLDER, options);
    await model.save_pretrained(folder);
    const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8")) as ConfigJson;
    expect(config.quantization_config).toMatchObject({ quant_method: method });
    await using again = await load(folder);
    expect(await logitsOf(again)).toEqual(await logitsOf(model));
    if (method !== "mxfp4") return;
    const before = readArrays("packed", "gpt-oss", "model.safetensors");
    for (const [name, tensor] of await again.state_dict()) {
      const { dtype, shape, values } = before.get(name)!;
      expect([name, tensor.dtype, tensor.shape]).toEqual([name, dtype, shape]);
      expect(await tensor.read(), name).toEqual(values);
    }
    expect([...before.keys()].sort()).toEqual([...(await again.state_dict()).keys()].sort());
  });

  test("floats are one tensor for all experts, transposed, as transformers has them", async () => {
    const folder = temporary("gpt-oss-dense");
    await using model = await load(DENSE);
    await model.save_pretrained(folder);
    const before = readFileSync(join(DENSE, "model.safetensors"));
    expect(readFileSync(join(folder, "model.safetensors")).equals(before)).toBe(true);
    await using packed = await load(FOLDER, { dtype: "float32" });
    packed.dequantize();
    await packed.save_pretrained(folder);
    await using again = await load(folder);
    expect(again.warnings).toEqual([]);
    // The same values, in sums of another order.
    expect(difference(await logitsOf(again), arrays.get("logits.0")!.values).max).toBeLessThan(tolerance_fp32);
  });

  test("the router stays in floats, and experts are quantized", async () => {
    await using model = await load(DENSE, { load_in_8bit: true });
    expect(model.quantized_modules.filter((path) => path.includes("router"))).toEqual([]);
    expect(model.quantized_modules.filter((path) => path.includes("experts"))).toHaveLength(2 * 4 * 2);
  });
});

test("what is beyond f32 is written as the exponent that is no number", async () => {
  const device = openDevice("cpu", { threads: 1 });
  const operands = {
    ...{ codes: Tensor.empty(device, [1, 128], "u4"), absmax: Tensor.from(device, [8, 2, Infinity, Number.NaN], [4]) },
    ...({ kind: "e2m1", blocksize: 32, compute: "f32", rounding: "f32" } as const),
  };
  const [, scales] = mxfp4Parts("w", operands, [1, 128], 1);
  expect([...(await scales!.bytes())]).toEqual([127, 125, 255, 255]);
  await device.close();
});

describe("config.json", () => {
  const config = readJson<ConfigJson>("packed", "gpt-oss", "config.json");

  test("without a block for rotary positions it is YaRN's, as in transformers' class", async () => {
    const { rope_scaling: _, rope_theta: __, ...rest } = config;
    const device = openDevice("cpu", { threads: 1 });
    const frequencies = async (more: ConfigJson): Promise<Float32Array> => {
      const model = await buildModel({ ...rest, ...more }, "causal-lm");
      const { rotary } = (model as never as { model: { rotary: Rotary } }).model;
      const values = await rotary.on(device).readFloats();
      model.dispose();
      return values;
    };
    const yarn = { rope_type: "yarn", factor: 32, truncate: false, original_max_position_embeddings: 4096 };
    const usual = await frequencies({});
    expect(await frequencies({ rope_parameters: { ...yarn, rope_theta: 150_000 } })).toEqual(usual);
    expect(await frequencies({ rope_scaling: yarn, rope_theta: 150_000 })).toEqual(usual);
    expect(await frequencies({ rope_theta: 10_000 })).not.toEqual(usual);
    expect(await frequencies({ rope_parameters: { ...yarn, truncate: true } })).not.toEqual(usual);
    expect(await frequencies({ rope_parameters: { rope_type: "default" } })).not.toEqual(usual);
    await device.close();
  });

  test("sizes of the published models, and their experts in 4 bits", async () => {
    const large: ConfigJson = {
      ...config,
      ...{ vocab_size: 201_088, hidden_size: 2880, intermediate_size: 2880, num_hidden_layers: 36, layer_types: null },
      ...{ num_attention_heads: 64, num_key_value_heads: 8, head_dim: 64, num_local_experts: 128 },
    };
    const meta = await metaModel(large, "causal-lm", { dtype: "bfloat16" });
    expect(meta.num_parameters()).toBe(116_829_156_672);
    const experts = 36 * 128 * 3 * 2880 * 2880;
    const rest = meta.num_parameters() - experts;
    expect(meta.weight_bytes).toBe(2 * rest + experts / 2 + experts / 8);
  });
});
