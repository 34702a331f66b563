// Encoder-decoders through the same checks against what the real libraries computed (test/fixtures/README.md): logits and
// hidden states of both stacks in f32, 8 and 4 bits, greedy generation of a padded batch, footprints, quantized modules.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { generationConfig } from "../../src/generate/config.js";
import { readBatch } from "../../src/generate/inputs.js";
import { seq2seqSteps } from "../../src/generate/seq2seq.js";
import { loadModel } from "../../src/load/index.js";
import { quantizedModules } from "../../src/load/storage.js";
import { distanceBuckets } from "../../src/nn/buckets.js";
import type { CacheDType } from "../../src/nn/cache.js";
import { logits } from "../../src/nn/decoder.js";
import type { Seq2SeqLM } from "../../src/nn/seq2seq.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../../src/quant/config.js";
import { Disk } from "../../src/sources/disk.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, type Golden, readArrays, readJson } from "../support/fixtures.js";
import { expectQuantized, QUANTIZED, type Tolerance } from "../support/golden.js";

interface Case {
  input_ids: number[][];
  attention_mask?: number[][];
  decoder_input_ids: number[][];
}
interface Expected {
  inputs: Record<"batch" | "single", Case>;
  tolerance_fp32: number;
  quantized_modules: string[];
  quantized: Record<string, { suggested_tolerance?: Record<string, Tolerance> }>;
  memory_footprint: Record<string, { without_buffers: number }>;
  generation: {
    max_new_tokens: number;
    pad_token_id: number;
    eos_token_id: number;
    greedy: { new_tokens: number[][] };
    greedy_with_eos: { eos_token_id: number; new_tokens: number[][] };
  };
}

for (const deviceName of ALL_DEVICES) {
  // A GPU in software takes minutes for all of it; what differs there are the kernels, not the model.
  const slow = deviceName === "webgpu";
  describe.each(slow ? ["t5"] : ["t5", "t5-v1_1-like"])(`${deviceName}: %s`, (name) => {
    const expected = readJson<Expected>("models", name, "expected.json");
    const arrays = readArrays("models", name, "expected.safetensors");
    const golden = (key: string): Golden => {
      const array = arrays.get(key);
      if (!array) throw new Error(`no ${key} in the fixture`);
      return array;
    };
    let device: Device;
    let model: Seq2SeqLM;

    const load = async (options: { dtype?: string; quantization?: BitsAndBytesOptions } = {}): Promise<Seq2SeqLM> => {
      const quantization = options.quantization && new BitsAndBytesConfig(options.quantization);
      const source = new Disk(join(FIXTURES, "models", name));
      const own = { device, name, dtype: options.dtype ?? "auto", quantization };
      return (await loadModel(source, "seq2seq-lm", own)).model;
    };
    /** Encoder's last hidden state, logits, and captured hidden states of encoder and decoder. */
    const run = async (of: Seq2SeqLM, inputs: Case): Promise<Float32Array[]> => {
      const ints = (rows: number[][]): Tensor => Tensor.from(device, Int32Array.from(rows.flat()), shapeOf(rows));
      const places = (rows: number[][]): Tensor => ints(rows.map((row) => row.map((_, t) => t)));
      const tensors = scope(() => {
        const { input_ids, attention_mask, decoder_input_ids } = inputs;
        const mask =
          attention_mask && Tensor.from(device, Uint8Array.from(attention_mask.flat()), shapeOf(input_ids), "u8");
        using encoding = of.pass({ positions: places(input_ids), mask }, { capture: true });
        const hidden = of.encode(encoding, ints(input_ids));
        encoding.capture(hidden);
        using decoding = of.pass(
          { positions: places(decoder_input_ids), encoded: { hidden, mask } },
          { capture: true },
        );
        const scores = logits(of, decoding, ints(decoder_input_ids));
        return [hidden, scores, ...encoding.take_hidden_states(), ...decoding.take_hidden_states()];
      });
      try {
        return await Promise.all(tensors.map((tensor) => tensor.readFloats()));
      } finally {
        for (const tensor of tensors) tensor.dispose();
      }
    };
    const shapeOf = (rows: number[][]): number[] => [rows.length, rows[0]!.length];
    const generate = async (
      input: Case,
      options: { eos_token_id: number | null; cache_dtype?: CacheDType },
    ): Promise<number[][]> => {
      const { max_new_tokens, pad_token_id } = expected.generation;
      const { vocab } = model.geometry;
      const encoder = readBatch(input.input_ids, input.attention_mask, vocab);
      const starts = input.input_ids.map(() => [0]);
      const decoder = readBatch(starts, undefined, vocab);
      const own = { max_new_tokens, pad_token_id, eos_token_id: options.eos_token_id };
      const config = generationConfig(own, {}, {}, 1, vocab);
      const rows: number[][] = input.input_ids.map(() => []);
      const loop = { config, cache_dtype: options.cache_dtype ?? "f32" };
      for await (const { token_ids } of seq2seqSteps(device, model, encoder, decoder, loop)) {
        token_ids.forEach((id, row) => {
          rows[row]!.push(id);
        });
      }
      return rows;
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

    test.each(["single", "batch"] as const)("f32 logits and encoder of %s", async (key) => {
      const inputs = expected.inputs[key];
      const [encoded, scores] = await run(model, inputs);
      const want = golden(`fp32.${key}.encoder_last_hidden_state`);
      // The fixture stores zeros where a token is padding.
      const real = inputs.attention_mask?.flat();
      const pick = (all: ArrayLike<number>): number[] =>
        Array.from(all).filter((_, i) => !real || real[Math.floor(i / want.shape.at(-1)!)] === 1);
      expect(difference(pick(encoded!), pick(want.values)).max).toBeLessThan(expected.tolerance_fp32);
      expect(difference(scores!, golden(`fp32.${key}.logits`).values).max).toBeLessThan(expected.tolerance_fp32);
    });

    test("hidden states of both stacks", async () => {
      const [, , ...states] = await run(model, expected.inputs.single);
      const layers = model.blocks.map((stack) => stack.length + 1);
      expect(states.length).toBe(layers[0]! + layers[1]!);
      for (const [i, state] of states.entries()) {
        const key = i < layers[0]! ? `encoder_hidden.${i}` : `decoder_hidden.${i - layers[0]!}`;
        const { max } = difference(state, golden(`fp32.single.${key}`).values);
        expect(max, key).toBeLessThan(expected.tolerance_fp32);
      }
    });

    test.each(["f32", "bf16", "i8"] as const)(
      "greedy generation of a padded batch, cache in %s",
      async (cache_dtype) => {
        const { greedy, eos_token_id } = expected.generation;
        const got = await generate(expected.inputs.batch, { eos_token_id, cache_dtype });
        if (cache_dtype === "f32") {
          for (const [row, want] of greedy.new_tokens.entries()) {
            const end = want.indexOf(eos_token_id);
            const length = end < 0 ? got[row]!.length : end + 1;
            expect(got[row]!.slice(0, length)).toEqual(want.slice(0, length));
          }
        } else {
          // Caches that round may turn a close choice; the first token has no keys of the decoder behind it but its own.
          expect(got.map(([first]) => first)).toEqual(greedy.new_tokens.map(([first]) => first));
        }
      },
    );

    test("rows that end early are padded", async () => {
      const { greedy_with_eos } = expected.generation;
      const { eos_token_id, new_tokens } = greedy_with_eos;
      expect(await generate(expected.inputs.batch, { eos_token_id })).toEqual(new_tokens);
    });

    test.skipIf(slow)("each text alone gives what it gives in the batch", async () => {
      const { input_ids, attention_mask } = expected.inputs.batch;
      const together = await generate(expected.inputs.batch, { eos_token_id: null });
      for (const [row, ids] of input_ids.entries()) {
        const own = ids.filter((_, t) => attention_mask![row]![t] === 1);
        const alone = await generate({ input_ids: [own], decoder_input_ids: [[0]] }, { eos_token_id: null });
        expect(alone[0]).toEqual(together[row]);
      }
    });

    test("the same modules are quantized as in Python", () => {
      expect(quantizedModules(model, null).sort()).toEqual([...expected.quantized_modules].sort());
    });

    test("footprints", async () => {
      const bytes = (of: Seq2SeqLM): number => [...of.parameters()].reduce((sum, one) => sum + one.footprint, 0);
      expect(bytes(model)).toBe(expected.memory_footprint.fp32!.without_buffers);
      for (const [key, quantization] of [
        ["bf16", undefined],
        ["int8_rest_bf16", QUANTIZED.int8_t6],
        ["nf4_rest_bf16", QUANTIZED.nf4],
      ] as const) {
        const other = await load({ dtype: "bfloat16", quantization });
        expect(bytes(other), key).toBe(expected.memory_footprint[key]!.without_buffers);
        other.dispose();
      }
    });

    test.each(slow ? ["int8_t6", "nf4"] : Object.keys(QUANTIZED))("%s", async (scheme) => {
      const quantized = await load({ quantization: QUANTIZED[scheme]! });
      try {
        const [, got] = await run(quantized, expected.inputs.single);
        const tolerance = expected.quantized[scheme]!.suggested_tolerance?.single;
        const [stored, full] = [golden(`${scheme}.single.logits`).values, golden("fp32.single.logits").values];
        expectQuantized(got!, stored, full, tolerance, expected.tolerance_fp32);
      } finally {
        quantized.dispose();
      }
    });
  });
}

// Values of transformers' T5Attention._relative_position_bucket.
test("distances fall into the buckets of the original", () => {
  const both = distanceBuckets({ count: 32, max: 128, both: true });
  const at = (distance: number): number => both[128 + distance]!;
  expect([0, 1, 7, 8, 12, 16, 64, 127, 128].map(at)).toEqual([0, 17, 23, 24, 25, 26, 30, 31, 31]);
  expect([-1, -7, -8, -12, -16, -64, -127, -128].map(at)).toEqual([1, 7, 8, 9, 10, 14, 15, 15]);
  const past = distanceBuckets({ count: 32, max: 128, both: false });
  expect([0, 5].map((d) => past[128 + d])).toEqual([0, 0]);
  expect([-1, -15, -16, -20, -32, -64, -127, -128].map((d) => past[128 + d])).toEqual([1, 15, 16, 17, 21, 26, 31, 31]);
});
