// CLIP against what transformers computed: embeddings, similarities and hidden states of both towers in f32, embeddings in 8 and
// 4 bits, footprints; and which token stands for a text.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModel, CLIPModel } from "../../src/generate/auto.js";
import type { PreTrainedClipModel } from "../../src/generate/clip-model.js";
import type { ClipForwardOptions } from "../../src/generate/options.js";
import { quantizedModules } from "../../src/load/storage.js";
import { buildModel } from "../../src/models/index.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, largest, readArrays, readJson } from "../support/fixtures.js";
import { expectQuantized, QUANTIZED, type Tolerance } from "../support/golden.js";

interface Expected {
  inputs: Record<"batch" | "single", { input_ids: number[][]; attention_mask?: number[][] }>;
  fp32: { max_abs: number };
  tolerance_fp32: number;
  quantized_modules: string[];
  quantized: Record<string, { suggested_tolerance?: Record<string, Tolerance> }>;
  memory_footprint: Record<string, { without_buffers: number }>;
}

const folder = join(FIXTURES, "models", "clip");
const expected = readJson<Expected>("models", "clip", "expected.json");
const arrays = readArrays("models", "clip", "expected.safetensors");
const inputsOf = (key: "batch" | "single"): ClipForwardOptions => {
  const { values, shape } = arrays.get(`inputs.${key}.pixel_values`)!;
  return { ...expected.inputs[key], pixel_values: { data: values, shape } };
};

describe("cpu", () => {
  let device: Device;
  let model: PreTrainedClipModel;
  /** Results by the fixture's names. */
  const run = async (of: PreTrainedClipModel, key: "batch" | "single", capture = false) => {
    const found = new Map<string, Float32Array>();
    for (const [name, value] of Object.entries(of.forward({ ...inputsOf(key), output_hidden_states: capture }))) {
      for (const [i, tensor] of [value].flat().entries()) {
        if (!Tensor.is(tensor)) continue;
        const tower = /^(text|vision)_hidden_states$/.exec(name)?.[1];
        found.set(tower ? `${tower}_hidden.${i}` : name, await tensor.readFloats());
        tensor.dispose();
      }
    }
    return found;
  };

  beforeAll(async () => {
    device = await requestTestDevice("cpu");
    model = await CLIPModel.from_pretrained(folder, { device });
  });
  afterAll(async () => {
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test.each(["single", "batch"] as const)("f32 outputs of %s", async (key) => {
    const found = await run(model, key);
    for (const [output, name] of [
      ["logits", "logits_per_text"],
      ["text_embeds", "text_embeds"],
      ["image_embeds", "image_embeds"],
    ] as const) {
      const { values } = arrays.get(`fp32.${key}.${output}`)!;
      // The tolerance is that of embeddings; similarities are larger by the model's factor, and their errors with them.
      const tolerance = expected.tolerance_fp32 * Math.max(1, largest(values) / expected.fp32.max_abs);
      expect(difference(found.get(name)!, values).max, output).toBeLessThan(tolerance);
    }
    const [texts, images] = [found.get("logits_per_text")!, found.get("logits_per_image")!];
    const rows = expected.inputs[key].input_ids.length;
    const columns = texts.length / rows;
    const turned = Float32Array.from(texts, (_, at) => images[(at % columns) * rows + Math.floor(at / columns)]!);
    expect(difference(turned, texts).max).toBeLessThan(expected.tolerance_fp32);
  });

  test("hidden states of both towers", async () => {
    const found = await run(model, "single", true);
    const keys = [...arrays.keys()].filter((key) => /^fp32\.single\.\w+_hidden\.\d+$/.test(key));
    expect(keys.length).toBe(6);
    for (const key of keys) {
      const { values } = arrays.get(key)!;
      const tolerance = expected.tolerance_fp32 * Math.max(1, largest(values) / expected.fp32.max_abs);
      expect(difference(found.get(key.slice("fp32.single.".length))!, values).max, key).toBeLessThan(tolerance);
    }
  });

  test.each(Object.keys(QUANTIZED))("%s", async (scheme) => {
    const quantized = await AutoModel.from_pretrained<PreTrainedClipModel>(folder, {
      device,
      quantization_config: QUANTIZED[scheme]!,
    });
    const found = await run(quantized, "single");
    quantized.dispose();
    const got = [...found.get("text_embeds")!, ...found.get("image_embeds")!];
    const tolerance = expected.quantized[scheme]!.suggested_tolerance?.single;
    const [stored, full] = [scheme, "fp32"].map((weights) => arrays.get(`${weights}.single.embeds`)!.values);
    expectQuantized(got, stored!, full!, tolerance, expected.tolerance_fp32);
  });

  test("each tower alone gives what it gives together, before it is normalised", async () => {
    const { pixel_values, ...texts } = inputsOf("batch");
    using text = model.get_text_features(texts);
    using image = model.get_image_features({ pixel_values });
    const unit = (all: Float32Array, width: number): number[] =>
      Array.from(all, (value, at) => {
        const row = all.subarray(Math.floor(at / width) * width, (Math.floor(at / width) + 1) * width);
        return value / Math.hypot(...row);
      });
    for (const [name, tensor] of [
      ["text_embeds", text],
      ["image_embeds", image],
    ] as const) {
      const got = unit(await tensor.readFloats(), tensor.shape[1]!);
      expect(difference(got, arrays.get(`fp32.batch.${name}`)!.values).max).toBeLessThan(2 * expected.tolerance_fp32);
    }
  });

  test("the same modules are quantized as in Python, footprints", async () => {
    expect(quantizedModules(model.module, null).sort()).toEqual([...expected.quantized_modules].sort());
    expect(model.get_memory_footprint()).toBe(expected.memory_footprint.fp32!.without_buffers);
    const other = await CLIPModel.from_pretrained(folder, { device, dtype: "bfloat16", load_in_8bit: true });
    expect(other.get_memory_footprint()).toBe(expected.memory_footprint.int8_rest_bf16!.without_buffers);
    other.dispose();
  });

  test("what does not fit is refused", () => {
    const { pixel_values } = inputsOf("single");
    expect(() => model.forward({ pixel_values } as never)).toThrow(/input_ids are missing/);
    expect(() => model.forward({ input_ids: [[1]] } as never)).toThrow(/pixel_values are missing/);
    expect(() => model.get_text_features({ input_ids: [Array(25).fill(1)] })).toThrow(/25 tokens .* 24 positions/);
  });
});

test("a text's state is that of its first end, or of its largest id in old files", async () => {
  const config = readJson<{ text_config: object }>("models", "clip", "config.json");
  const at = async (eos_token_id: number | undefined, ids: number[]): Promise<number> => {
    const model = await buildModel({ ...config, text_config: { ...config.text_config, eos_token_id } }, "clip");
    return model.pooledAt(Int32Array.from(ids), 1, ids.length)[0]!;
  };
  const ids = [0, 60, 149, 140, 5, 140];
  expect(await at(2, ids)).toBe(2);
  expect(await at(140, ids)).toBe(3);
  expect(await at(7, ids)).toBe(0);
  expect(await at(undefined, ids)).toBe(0); // 49407, which is not among them
});
