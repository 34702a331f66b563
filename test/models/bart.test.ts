// BART, its descendants, mT5 and UMT5 against the real library: logits and hidden states of both stacks, greedy ids of a padded batch, 8 bits, and
// files without the head's bias.

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import type { Tensor } from "../../src/core/tensor.js";
import { AutoModelForSeq2SeqLM } from "../../src/generate/auto.js";
import { difference, FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { expectQuantized, QUANTIZED, type Tolerance } from "../support/golden.js";
import { temporary } from "../support/temporary.js";

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
  generation: { max_new_tokens: number; greedy: { sequences: number[][] } };
}

describe.each(["bart", "mbart", "marian", "marian-two", "blenderbot", "pegasus", "m2m_100", "mt5", "umt5"])(
  "%s",
  (name) => {
    const folder = join(FIXTURES, "models", name);
    const expected = readJson<Expected>("models", name, "expected.json");
    const arrays = readArrays("models", name, "expected.safetensors");
    // mT5 and UMT5 have as many layers on both sides, and no end of positions.
    const [deep, limited] = name.endsWith("mt5") ? [2, false] : [3, true];
    const worst = async (tensor: Tensor, key: string): Promise<number> =>
      difference(await tensor.readFloats(), arrays.get(key)!.values).max;

    test.each(["cpu", "reference"] as const)("f32 on %s", async (device) => {
      const model = await AutoModelForSeq2SeqLM.from_pretrained(folder, { device });
      expect(model.warnings).toEqual([]);
      const bound = expected.tolerance_fp32;
      for (const key of ["single", "batch"] as const) {
        const {
          logits,
          encoder_last_hidden_state,
          encoder_hidden_states,
          decoder_hidden_states,
          encoder_attentions,
          decoder_attentions,
          cross_attentions,
        } = model.forward({
          ...expected.inputs[key],
          output_hidden_states: true,
          output_attentions: true,
        });
        const weights = { encoder: encoder_attentions!, decoder: decoder_attentions!, cross: cross_attentions! };
        for (const [side, layers] of Object.entries(weights)) {
          expect(layers.length).toBe(side === "encoder" ? 2 : deep);
          for (const [i, one] of layers.entries()) {
            if (key === "single") expect(await worst(one, `fp32.single.${side}_attention.${i}`)).toBeLessThan(1e-5);
            one.dispose();
          }
        }
        expect(await worst(logits, `fp32.${key}.logits`)).toBeLessThan(bound);
        const sides = { encoder: encoder_hidden_states!, decoder: decoder_hidden_states! };
        for (const [side, states] of Object.entries(sides)) {
          for (const [i, state] of states.entries()) {
            if (key === "single") expect(await worst(state, `fp32.single.${side}_hidden.${i}`)).toBeLessThan(bound);
            state.dispose();
          }
        }
        for (const tensor of [logits, encoder_last_hidden_state]) tensor.dispose();
      }
      const { input_ids, attention_mask } = expected.inputs.batch;
      const { max_new_tokens, greedy } = expected.generation;
      // The library's model was made in memory: it has not read what config.json forces.
      const options = { max_new_tokens, do_sample: false, eos_token_id: null, forced_eos_token_id: null };
      expect(await model.generate({ input_ids, attention_mask, ...options })).toEqual(greedy.sequences);
      for (const [row, ids] of input_ids.entries()) {
        const alone = ids.filter((_, t) => attention_mask![row]![t] === 1);
        expect(await model.generate({ input_ids: [alone], ...options })).toEqual([greedy.sequences[row]]);
      }
      if (limited) {
        const long = [new Array<number>(65).fill(5)];
        expect(() => model.forward({ input_ids: long, decoder_input_ids: [[2]] })).toThrow(OptionError);
        await expect(model.generate({ input_ids: long, ...options })).rejects.toThrow(
          /64 positions of this model's encoder/,
        );
      }
      model.dispose();
    });

    test.each(Object.keys(expected.quantized))("%s", async (scheme) => {
      const quantization_config = QUANTIZED[scheme]!;
      const model = await AutoModelForSeq2SeqLM.from_pretrained(folder, { device: "cpu", quantization_config });
      expect([...model.quantized_modules].sort()).toEqual([...expected.quantized_modules].sort());
      const { logits, encoder_last_hidden_state } = model.forward(expected.inputs.single);
      const [stored, full] = [arrays.get(`${scheme}.single.logits`)!.values, arrays.get("fp32.single.logits")!.values];
      const tolerance = expected.quantized[scheme]!.suggested_tolerance?.single;
      expectQuantized(await logits.readFloats(), stored, full, tolerance, expected.tolerance_fp32);
      for (const tensor of [logits, encoder_last_hidden_state]) tensor.dispose();
      model.dispose();
    });
  },
);

test("each stack of Marian has its own vocabulary", async () => {
  const model = await AutoModelForSeq2SeqLM.from_pretrained(join(FIXTURES, "models", "marian-two"), { device: "cpu" });
  const { logits, encoder_last_hidden_state } = model.forward({ input_ids: [[63, 0]], decoder_input_ids: [[63, 79]] });
  expect(logits.shape).toEqual([1, 2, 80]);
  for (const tensor of [logits, encoder_last_hidden_state]) tensor.dispose();
  const wrong = { input_ids: [[64, 0]], decoder_input_ids: [[63, 79]] };
  expect(() => model.forward(wrong)).toThrow(/input_ids\[0\]\[0\] is 64; the vocabulary has ids 0 to 63/);
  expect(() => model.forward({ ...wrong, input_ids: [[1]], decoder_input_ids: [[80]] })).toThrow(/ids 0 to 79/);
  expect(() => model.resize_token_embeddings(90)).toThrow(/has no table of tokens, or more than one/);
  model.dispose();
});

test("a file without final_logits_bias has none", async () => {
  const copy = temporary("bart");
  cpSync(join(FIXTURES, "models", "bart"), copy, { recursive: true });
  const file = join(copy, "model.safetensors");
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.subarray(8, 8 + length).toString()) as Record<string, { shape: number[] }>;
  expect(header.final_logits_bias!.shape).toEqual([1, 160]);
  // Under a name that is not used the tensor is as if it were not there.
  const text = bytes
    .subarray(8, 8 + length)
    .toString()
    .replace('"final_logits_bias"', '"other_logits_bias"');
  writeFileSync(file, Buffer.concat([bytes.subarray(0, 8), Buffer.from(text), bytes.subarray(8 + length)]));
  const model = await AutoModelForSeq2SeqLM.from_pretrained(copy, { device: "cpu" });
  expect(model.warnings.join()).toMatch(/other_logits_bias/);
  const { inputs } = readJson<Expected>("models", "bart", "expected.json");
  const { logits, encoder_last_hidden_state } = model.forward(inputs.single);
  const want = readArrays("models", "bart", "expected.safetensors").get("fp32.single.logits")!.values;
  expect(difference(await logits.readFloats(), want).max).toBeGreaterThan(0.1);
  for (const tensor of [logits, encoder_last_hidden_state]) tensor.dispose();
  model.dispose();
});
