// Models of images and sound against what the real libraries computed (test/fixtures/README.md), through the public classes:
// outputs and hidden states in f32, 8 and 4 bits, footprints, quantized modules.

import { cpSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import {
  AutoModel,
  AutoModelForAudioClassification,
  AutoModelForCTC,
  AutoModelForImageClassification,
} from "../../src/generate/auto.js";
import type { PreTrainedFeatureModel } from "../../src/generate/feature-model.js";
import type { FromPretrainedOptions } from "../../src/generate/loading-options.js";
import type { FeatureForwardOptions } from "../../src/generate/options.js";
import { quantizedModules } from "../../src/load/storage.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, type Golden, largest, readArrays, readJson } from "../support/fixtures.js";
import { expectQuantized, QUANTIZED, type Tolerance } from "../support/golden.js";

interface Expected {
  inputs: Record<string, Record<string, { tensor: string } | number[][]>>;
  fp32: { max_abs: number };
  tolerance_fp32: number;
  quantized_modules: string[];
  quantized?: Record<string, { suggested_tolerance?: Record<string, Tolerance> }>;
  memory_footprint: Record<string, { without_buffers: number }>;
}

interface Model {
  /** Folder of the results, if it is another one than that of the weights. */
  outputs?: string;
  load: (folder: string, options: FromPretrainedOptions) => Promise<PreTrainedFeatureModel>;
  /** Devices beside the native one. */
  also?: readonly string[];
}

const MODELS: Readonly<Record<string, Model>> = {
  vit: {
    load: (folder, options) => AutoModelForImageClassification.from_pretrained(folder, options),
    also: ["reference", "wasm", "webgpu"],
  },
  wav2vec2: { load: (folder, options) => AutoModelForCTC.from_pretrained(folder, options) },
  wav2vec2_parametrized: {
    outputs: "wav2vec2",
    load: (folder, options) => AutoModelForCTC.from_pretrained(folder, options),
  },
  "wav2vec2-stable": { load: (folder, options) => AutoModelForCTC.from_pretrained(folder, options) },
  "wav2vec2-language": { load: (folder, options) => AutoModelForCTC.from_pretrained(folder, options) },
  "wav2vec2-adapter": { load: (folder, options) => AutoModelForCTC.from_pretrained(folder, options) },
  hubert: { load: (folder, options) => AutoModelForCTC.from_pretrained(folder, options) },
  "hubert-labels": { load: (folder, options) => AutoModelForAudioClassification.from_pretrained(folder, options) },
  dinov2: { load: (folder, options) => AutoModelForImageClassification.from_pretrained(folder, options) },
  "dinov2-swiglu": { load: (folder, options) => AutoModelForImageClassification.from_pretrained(folder, options) },
};

for (const [name, { outputs = name, load, also = [] }] of Object.entries(MODELS)) {
  const folder = join(FIXTURES, "models", name);
  const expected = readJson<Expected>("models", outputs, "expected.json");
  const arrays = readArrays("models", outputs, "expected.safetensors");
  const golden = (key: string): Golden => {
    const array = arrays.get(key);
    if (!array) throw new Error(`no ${key} in the fixture`);
    return array;
  };
  const inputsOf = (key: string): FeatureForwardOptions =>
    Object.fromEntries(
      Object.entries(expected.inputs[key]!).map(([input, value]) => {
        if (Array.isArray(value)) return [input, value];
        const { values, shape } = golden(value.tensor);
        return [input, { data: values, shape }];
      }),
    );
  /** Outputs of a case by their names, hidden states as hidden.0 and so on. */
  const run = async (
    model: PreTrainedFeatureModel,
    key: string,
    capture = false,
  ): Promise<Map<string, Float32Array>> => {
    const result = model.forward({ ...inputsOf(key), output_hidden_states: capture });
    const found = new Map<string, Float32Array>();
    for (const [output, value] of Object.entries(result)) {
      for (const [i, tensor] of [value].flat().entries()) {
        if (!Tensor.is(tensor)) continue;
        found.set(output === "hidden_states" ? `hidden.${i}` : output, await tensor.readFloats());
        tensor.dispose();
      }
    }
    return found;
  };

  describe.each(["cpu", ...ALL_DEVICES.filter((device) => also.includes(device))])(`%s: ${name}`, (deviceName) => {
    let device: Device;
    let model: PreTrainedFeatureModel;
    beforeAll(async () => {
      device = await requestTestDevice(deviceName);
      model = await load(folder, { device });
    });
    afterAll(async () => {
      model.dispose();
      expectNoLeaks(device);
      await device.close();
    });

    test.each(Object.keys(expected.inputs))("f32 outputs of %s", async (key) => {
      for (const [output, got] of await run(model, key)) {
        const { max } = difference(got, golden(`fp32.${key}.${output}`).values);
        expect(max, output).toBeLessThan(expected.tolerance_fp32);
      }
    });

    const scheme = "int8_t6";
    test.runIf(expected.quantized)(scheme, async () => {
      const quantized = await load(folder, { device, quantization_config: QUANTIZED[scheme]! });
      try {
        const got = (await run(quantized, "single")).get("logits")!;
        const tolerance = expected.quantized![scheme]!.suggested_tolerance?.single;
        const [stored, full] = [golden(`${scheme}.single.logits`).values, golden("fp32.single.logits").values];
        expectQuantized(got, stored, full, tolerance, expected.tolerance_fp32);
      } finally {
        quantized.dispose();
      }
    });

    if (deviceName !== "cpu") return;

    test("hidden states", async () => {
      const found = await run(model, "single", true);
      const keys = [...arrays.keys()].filter((key) => /^fp32\.single\.hidden\.\d+$/.test(key));
      expect(keys.length).toBe(model.module.blocks[0]!.length + 1);
      for (const key of keys) {
        const got = found.get(key.slice("fp32.single.".length))!;
        // The tolerance is that of the logits; larger states have larger errors.
        const tolerance = expected.tolerance_fp32 * Math.max(1, largest(golden(key).values) / expected.fp32.max_abs);
        expect(difference(got, golden(key).values).max, key).toBeLessThan(tolerance);
      }
    });

    test("the same modules are quantized as in Python", () => {
      expect(quantizedModules(model.module, null).sort()).toEqual([...expected.quantized_modules].sort());
    });

    test("footprints", async () => {
      expect(model.get_memory_footprint()).toBe(expected.memory_footprint.fp32!.without_buffers);
      for (const [key, options] of [
        ["bf16", {}],
        ["int8_rest_bf16", { load_in_8bit: true }],
      ] as const) {
        if (!expected.memory_footprint[key]) continue;
        const other = await load(folder, { device, dtype: "bfloat16", ...options });
        expect(other.get_memory_footprint(), key).toBe(expected.memory_footprint[key]!.without_buffers);
        other.dispose();
      }
    });

    test.each(Object.keys(expected.quantized ?? {}).filter((other) => other !== scheme))("%s", async (other) => {
      const quantized = await load(folder, { device, quantization_config: QUANTIZED[other]! });
      try {
        const got = (await run(quantized, "single")).get("logits")!;
        const tolerance = expected.quantized![other]!.suggested_tolerance?.single;
        const [stored, full] = [golden(`${other}.single.logits`).values, golden("fp32.single.logits").values];
        expectQuantized(got, stored, full, tolerance, expected.tolerance_fp32);
      } finally {
        quantized.dispose();
      }
    });
  });
}

describe("inputs", () => {
  const vit = join(FIXTURES, "models", "vit");
  const image = (size: number): number[][][] =>
    Array.from({ length: 3 }, (_, c) =>
      Array.from({ length: size }, (_, y) => Array.from({ length: size }, (_, x) => Math.sin(c + x + 2 * y))),
    );

  test("nested lists, data with a shape, a tensor, and one image without a batch are the same", async () => {
    const model = await AutoModelForImageClassification.from_pretrained(vit, { device: "cpu" });
    const nested = image(32);
    const data = Float32Array.from(nested.flat(2));
    using tensor = Tensor.from(model.device, data, [1, 3, 32, 32]);
    const logits = async (given: Parameters<typeof model.forward>[0]): Promise<Float32Array> => {
      using result = model.forward(given).logits;
      return result.readFloats();
    };
    const want = await logits({ pixel_values: [nested] });
    expect(want.length).toBe(10);
    expect(await logits({ pixel_values: { data, shape: [1, 3, 32, 32] } })).toEqual(want);
    expect(await logits({ pixel_values: tensor })).toEqual(want);
    expect(await logits(tensor)).toEqual(want);
    expect(await logits([[nested.map((rows) => rows.map((row) => Float32Array.from(row)))]].flat())).toEqual(want);
    expect(await logits(nested)).toEqual(want);
    expect(() => model.forward({ pixel_values: [image(16)] })).toThrow(/16 x 16: this model reads images of 32 x 32/);
    expect(() => model.forward({ pixel_values: [nested.slice(1)] })).toThrow(
      /must have the shape \[batch, 3, height, width\], got \[1, 2, 32, 32\]/,
    );
    expect(() => model.forward({ pixel_values: [[...nested.slice(1), [[1]]]] })).toThrow(
      /lists of 32 and of 1 entries/,
    );
    expect(() => model.forward({ input_values: [[1]] })).toThrow(/reads pixel_values, not input_values/);
    expect(() => model.forward({ pixel_values: [nested], attention_mask: [[1]] })).toThrow(/has no attention_mask/);
    expect(() => model.forward({})).toThrow(/pixel_values are missing/);
    model.dispose();
  });

  test("AutoModel reads a classifier's file: its features, without the pooler that the file lacks", async () => {
    const model = await AutoModel.from_pretrained(vit, { device: "cpu" });
    const { last_hidden_state, ...rest } = model.forward([image(32)]);
    expect(last_hidden_state.shape).toEqual([1, 17, 48]);
    expect(Object.keys(rest)).toEqual([]);
    expect([...model.module.named_modules()].map(([path]) => path)).toContain("encoder.layer.0.attention.output.dense");
    last_hidden_state.dispose();
    model.dispose();
  });

  test("a waveform: rows of a padded batch are those of each alone, and what is too short is refused", async () => {
    const model = await AutoModel.from_pretrained(join(FIXTURES, "models", "wav2vec2-stable"), { device: "cpu" });
    const wave = Float32Array.from({ length: 400 }, (_, t) => Math.sin(t / 3) + Math.sin(t / 7));
    const short = wave.slice(0, 260);
    const read = async (outputs: ReturnType<typeof model.forward>): Promise<Float32Array> => {
      const { last_hidden_state, extract_features } = outputs;
      extract_features!.dispose();
      using hidden = last_hidden_state;
      return hidden.readFloats();
    };
    const alone = await read(model.forward(short));
    const mask = [Array(400).fill(1), Array.from({ length: 400 }, (_, t) => Number(t < 260))];
    const both = await read(
      model.forward({ input_values: [wave, wave.map((value, t) => (t < 260 ? value : 0))], attention_mask: mask }),
    );
    const row = both.subarray(both.length / 2);
    expect(difference(row.subarray(0, alone.length), alone).max).toBeLessThan(2e-5); // the same sums in another order
    expect(() => model.forward([1, 2, 3])).toThrow(/3 samples are too few for one position/);
    expect(() => model.forward({ input_values: [wave], attention_mask: [Array(400).fill(0)] })).toThrow(
      /row 0 has 0 samples/,
    );
    model.dispose();
  });

  test("half of a normalised weight is not enough", async () => {
    const folder = mkdtempSync(join(tmpdir(), "octavo-normed-"));
    const name = join(FIXTURES, "models", "wav2vec2");
    const bytes = readFileSync(join(name, "model.safetensors"));
    // Another name for the magnitudes, of the same length.
    const header = bytes.toString("latin1").replace("conv.weight_g", "conv.weight_x");
    writeFileSync(join(folder, "model.safetensors"), Buffer.from(header, "latin1"));
    cpSync(join(name, "config.json"), join(folder, "config.json"));
    await expect(AutoModelForCTC.from_pretrained(folder, { device: "cpu" })).rejects.toThrow(
      /lacks 1 of \d+ tensors of the model: .*pos_conv_embed.conv.weight \(its magnitude\)/,
    );
  });
});
