// Whisper against what transformers computed: logits and hidden states of both stacks, greedy generation with suppressed
// tokens, 8 and 4 bits, footprints. Logits and int8 on all backends, the rest on the native one.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModelForSpeechSeq2Seq } from "../../src/generate/auto.js";
import type { FromPretrainedOptions } from "../../src/generate/loading-options.js";
import type { PreTrainedSpeechSeq2Seq } from "../../src/generate/speech-model.js";
import { quantizedModules } from "../../src/load/storage.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, type Golden, readArrays, readJson } from "../support/fixtures.js";
import { expectQuantized, QUANTIZED, type Tolerance } from "../support/golden.js";

interface Expected {
  inputs: Record<"batch" | "single", { decoder_input_ids: number[][] }>;
  tolerance_fp32: number;
  quantized_modules: string[];
  quantized: Record<string, { suggested_tolerance?: Record<string, Tolerance> }>;
  memory_footprint: Record<string, { without_buffers: number }>;
  generation: {
    max_new_tokens: number;
    decoder_prompt_length: number;
    greedy: { sequences: number[][] };
    greedy_with_eos: { eos_token_id: number; sequences: number[][] };
  };
}

const folder = join(FIXTURES, "models", "whisper");
const expected = readJson<Expected>("models", "whisper", "expected.json");
const arrays = readArrays("models", "whisper", "expected.safetensors");
const golden = (key: string): Golden => arrays.get(key)!;
type Key = "batch" | "single";
const featuresOf = (key: Key): { data: Golden["values"]; shape: readonly number[] } => {
  const { values, shape } = golden(`inputs.${key}.input_features`);
  return { data: values, shape };
};

describe.each(["cpu", ...ALL_DEVICES.filter((name) => ["reference", "wasm", "webgpu"].includes(name))])(
  "%s",
  (name) => {
    let device: Device;
    let model: PreTrainedSpeechSeq2Seq;
    const load = (options: FromPretrainedOptions = {}): Promise<PreTrainedSpeechSeq2Seq> =>
      AutoModelForSpeechSeq2Seq.from_pretrained(folder, { device, ...options });
    /** All results of a forward pass by the fixture's names. */
    const run = async (of: PreTrainedSpeechSeq2Seq, key: Key, capture = false): Promise<Map<string, Float32Array>> => {
      const { decoder_input_ids } = expected.inputs[key];
      const result = of.forward({ input_features: featuresOf(key), decoder_input_ids, output_hidden_states: capture });
      const found = new Map<string, Float32Array>();
      for (const [output, value] of Object.entries(result)) {
        for (const [i, tensor] of [value].flat().entries()) {
          if (!Tensor.is(tensor)) continue;
          const states = /^(encoder|decoder)_hidden_states$/.exec(output)?.[1];
          found.set(states ? `${states}_hidden.${i}` : output, await tensor.readFloats());
          tensor.dispose();
        }
      }
      return found;
    };

    beforeAll(async () => {
      device = await requestTestDevice(name);
      model = await load();
    });
    afterAll(async () => {
      model.dispose();
      expectNoLeaks(device);
      await device.close();
    });

    test.each(["single", "batch"] as const)("f32 logits and encoder of %s", async (key) => {
      for (const [output, got] of await run(model, key)) {
        expect(difference(got, golden(`fp32.${key}.${output}`).values).max, output).toBeLessThan(
          expected.tolerance_fp32,
        );
      }
    });

    test.each(name === "cpu" ? Object.keys(QUANTIZED) : ["int8_t6"])("%s", async (scheme) => {
      const quantized = await load({ quantization_config: QUANTIZED[scheme]! });
      try {
        const got = (await run(quantized, "single")).get("logits")!;
        const tolerance = expected.quantized[scheme]!.suggested_tolerance?.single;
        const [stored, full] = [golden(`${scheme}.single.logits`).values, golden("fp32.single.logits").values];
        expectQuantized(got, stored, full, tolerance, expected.tolerance_fp32);
      } finally {
        quantized.dispose();
      }
    });

    if (name !== "cpu") return;

    test("hidden states of both stacks", async () => {
      const found = await run(model, "single", true);
      const keys = [...arrays.keys()].filter((key) => /^fp32\.single\.\w+_hidden\.\d+$/.test(key));
      expect(keys.length).toBe(6);
      for (const key of keys) {
        const got = found.get(key.slice("fp32.single.".length))!;
        expect(difference(got, golden(key).values).max, key).toBeLessThan(expected.tolerance_fp32);
      }
    });

    test("greedy generation, with the tokens that generation_config.json suppresses", async () => {
      const { max_new_tokens, decoder_prompt_length, greedy, greedy_with_eos } = expected.generation;
      const decoder_input_ids = expected.inputs.batch.decoder_input_ids.map((row) =>
        row.slice(0, decoder_prompt_length),
      );
      const given = { input_features: featuresOf("batch"), decoder_input_ids, max_new_tokens, pad_token_id: 2 };
      expect(await model.generate(given)).toEqual(greedy.sequences);
      const { eos_token_id, sequences } = greedy_with_eos;
      expect(await model.generate({ ...given, eos_token_id })).toEqual(sequences);
      // By itself it begins with decoder_start_token_id.
      const [own] = await model.generate({ input_features: featuresOf("single"), max_new_tokens: 4 });
      expect(own![0]).toBe(3);
      // Without suppression the likeliest first token of some row is one of the suppressed ones, or the text is the same.
      const { decoder_input_ids: _, ...alone } = given;
      const first = (await model.generate({ ...alone, max_new_tokens: 1 }))[0]![1]!;
      const other = await model.generate({ ...alone, max_new_tokens: 3, begin_suppress_tokens: [first] });
      expect(other[0]![1]).not.toBe(first);
      for (const more of [{ encoder_no_repeat_ngram_size: 2 }, { encoder_repetition_penalty: 1.5, num_beams: 2 }]) {
        await expect(model.generate({ ...alone, ...more })).rejects.toThrow(
          /^encoder_\w+ needs an encoder that reads text/,
        );
      }
      const never = await model.generate({ ...alone, suppress_tokens: greedy.sequences[0]!.slice(3) });
      expect(never[0]!.slice(1).filter((id) => greedy.sequences[0]!.slice(3).includes(id))).toEqual([]);
    });

    test("what does not fit is refused", async () => {
      const { data, shape } = featuresOf("single");
      const short = { data: data.slice(0, data.length / 2), shape: [1, shape[1]!, shape[2]! / 2] };
      await expect(model.generate({ input_features: short })).rejects.toThrow(/must have the shape \[batch, 20, 48\]/);
      await expect(model.generate({ input_features: featuresOf("single"), max_new_tokens: 60 })).rejects.toThrow(
        /61 tokens are more than the 40 positions/,
      );
      await expect(model.generate({ input_features: featuresOf("single"), suppress_tokens: [999] })).rejects.toThrow(
        /suppress_tokens must be a list of token ids below 150/,
      );
      await expect(model.generate({} as never)).rejects.toThrow(/input_features are missing/);
      await expect(model.generate({ input_ids: [[1]] } as never)).rejects.toThrow(/unknown option `input_ids`/);
    });

    test("the same modules are quantized as in Python, footprints", async () => {
      expect(quantizedModules(model.module, null).sort()).toEqual([...expected.quantized_modules].sort());
      expect(model.get_memory_footprint()).toBe(expected.memory_footprint.fp32!.without_buffers);
      const other = await load({ dtype: "bfloat16", load_in_8bit: true });
      expect(other.get_memory_footprint()).toBe(expected.memory_footprint.int8_rest_bf16!.without_buffers);
      other.dispose();
    });
  },
);
