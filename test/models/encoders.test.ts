// Encoders through the same checks against what the real libraries computed (test/fixtures/README.md): logits and hidden
// states in f32, padded batches, logits in 8 and 4 bits, footprints, quantized modules.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { loadModel } from "../../src/load/index.js";
import { quantizedModules } from "../../src/load/plan.js";
import type { Task } from "../../src/nn/architecture.js";
import type { EncoderModel } from "../../src/nn/encoder.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../../src/quant/config.js";
import { Disk } from "../../src/sources/disk.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, type Golden, readArrays, readJson } from "../support/fixtures.js";
import { expectQuantized, QUANTIZED, type Tolerance } from "../support/golden.js";

const MODELS: readonly [name: string, task: Extract<Task, "masked-lm" | "sequence-classification">, outputs: string][] =
  [
    ["bert", "masked-lm", "bert"],
    ["bert_old", "masked-lm", "bert"],
    ["bert-classifier", "sequence-classification", "bert-classifier"],
  ];

interface Case {
  input_ids: number[][];
  attention_mask?: number[][];
  token_type_ids?: number[][];
}
interface Expected {
  inputs: Record<string, Case>;
  tolerance_fp32: number;
  quantized_modules: string[];
  /** Absent where the fixture has no quantized results. */
  quantized?: Record<string, { suggested_tolerance?: Record<string, Tolerance> }>;
  memory_footprint: Record<string, { without_buffers: number }>;
}

for (const deviceName of ALL_DEVICES) {
  describe.each(MODELS)(`${deviceName}: %s`, (name, task, outputs) => {
    const expected = readJson<Expected>("models", outputs, "expected.json");
    const arrays = readArrays("models", outputs, "expected.safetensors");
    const golden = (key: string): Golden => {
      const array = arrays.get(key);
      if (!array) throw new Error(`no ${key} in the fixture`);
      return array;
    };
    let device: Device;
    let model: EncoderModel;

    const load = async (
      options: { dtype?: string; quantization?: BitsAndBytesOptions } = {},
    ): Promise<EncoderModel> => {
      const quantization = options.quantization && new BitsAndBytesConfig(options.quantization);
      const source = new Disk(join(FIXTURES, "models", name));
      return (await loadModel(source, task, { device, name, dtype: options.dtype ?? "auto", quantization })).model;
    };
    /** Output of the head and, if they are captured, hidden states. */
    const run = async (of: EncoderModel, inputs: Case, capture = false): Promise<Float32Array[]> => {
      const { input_ids, attention_mask, token_type_ids } = inputs;
      const shape = [input_ids.length, input_ids[0]!.length];
      const ints = (rows: number[][]): Tensor => Tensor.from(device, Int32Array.from(rows.flat()), shape);
      const tensors = scope(() => {
        const positions = ints(input_ids.map((row) => row.map((_, t) => t)));
        const mask = attention_mask && Tensor.from(device, Uint8Array.from(attention_mask.flat()), shape);
        using pass = of.pass({ positions, mask, token_types: token_type_ids && ints(token_type_ids) }, { capture });
        const hidden = of.hidden(pass, ints(input_ids));
        pass.capture(hidden);
        return [of.head(hidden), ...pass.take_hidden_states()];
      });
      try {
        return await Promise.all(tensors.map((tensor) => tensor.readFloats()));
      } finally {
        for (const tensor of tensors) tensor.dispose();
      }
    };

    beforeAll(async () => {
      device = await requestTestDevice(deviceName);
      model = await load();
    });
    afterAll(async () => {
      model.dispose();
      expectNoLeaks(device);
      await device.close();
    });

    test.each(["single", "batch"] as const)("f32 output of %s", async (key) => {
      const inputs = expected.inputs[key]!;
      const [got] = await run(model, inputs);
      const { values, shape } = golden(`fp32.${key}.logits`);
      const perToken = shape.length === 3;
      // The fixture stores zeros where a token is padding.
      const real = inputs.attention_mask?.flat();
      const pick = (all: ArrayLike<number>): number[] =>
        Array.from(all).filter((_, i) => !perToken || !real || real[Math.floor(i / shape.at(-1)!)] === 1);
      expect(difference(pick(got!), pick(values)).max).toBeLessThan(expected.tolerance_fp32);
    });

    test("rows of a padded batch are those of each row alone", async () => {
      const { input_ids, attention_mask, token_type_ids } = expected.inputs.batch!;
      const [together] = await run(model, expected.inputs.batch!);
      const width = together!.length / input_ids.flat().length;
      for (const [row, ids] of input_ids.entries()) {
        const length = attention_mask![row]!.reduce((sum, one) => sum + one, 0);
        const cut = (rows: number[][]): number[][] => [rows[row]!.slice(0, length)];
        const [alone] = await run(model, { input_ids: cut(input_ids), token_type_ids: cut(token_type_ids!) });
        const at = task === "masked-lm" ? row * ids.length * width : (row * together!.length) / input_ids.length;
        const part = together!.subarray(at, at + alone!.length);
        expect(difference(part, alone!).max).toBeLessThan(expected.tolerance_fp32);
      }
    });

    test("hidden states", async () => {
      const [, ...states] = await run(model, expected.inputs.single!, true);
      expect(states.length).toBe(model.geometry.layers + 1);
      for (const [i, state] of states.entries()) {
        expect(difference(state, golden(`fp32.single.hidden.${i}`).values).max).toBeLessThan(expected.tolerance_fp32);
      }
    });

    test("the same modules are quantized as in Python", () => {
      expect(quantizedModules(model, null).sort()).toEqual([...expected.quantized_modules].sort());
    });

    test("footprints", async () => {
      const bytes = (of: EncoderModel): number => [...of.parameters()].reduce((sum, one) => sum + one.footprint, 0);
      expect(bytes(model)).toBe(expected.memory_footprint.fp32!.without_buffers);
      for (const [key, quantization] of [
        ["bf16", undefined],
        ["int8_rest_bf16", QUANTIZED.int8_t6],
        ["nf4_rest_bf16", QUANTIZED.nf4],
      ] as const) {
        const want = expected.memory_footprint[key]?.without_buffers;
        if (want === undefined) continue;
        const other = await load({ dtype: "bfloat16", quantization });
        expect(bytes(other), key).toBe(want);
        other.dispose();
      }
    });

    test.each(Object.keys(expected.quantized ?? {}))("%s", async (scheme) => {
      const quantized = await load({ quantization: QUANTIZED[scheme]! });
      try {
        const [got] = await run(quantized, expected.inputs.single!);
        const tolerance = expected.quantized![scheme]!.suggested_tolerance?.single;
        const [stored, full] = [golden(`${scheme}.single.logits`).values, golden("fp32.single.logits").values];
        expectQuantized(got!, stored, full, tolerance, expected.tolerance_fp32);
      } finally {
        quantized.dispose();
      }
    });
  });
}
