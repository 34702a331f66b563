// What generate() does to the logits, against a loop on the host: forward over the whole text, the rule written out, the
// next token. The sampling rule itself is the op's reference; this proves that its options and its history reach it.

import { describe, expect, test } from "vitest";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { sampleOp } from "../../src/ops/sample.js";
import { ALL_DEVICES } from "../support/devices.js";
import { onModel } from "../support/suites.js";

const PROMPT = [93, 19, 56, 136, 145, 90, 155];
const NEW = 24;

describe.each(ALL_DEVICES)("%s", (name) => {
  let model: PreTrainedModel;
  onModel(name, "llama", (_, loaded) => (model = loaded));

  const lastLogits = async (ids: number[]): Promise<Float32Array> => {
    const { logits } = model.forward({ input_ids: [ids] });
    const all = await logits.readFloats();
    const vocab = logits.shape[2]!;
    logits.dispose();
    return all.slice(-vocab);
  };
  const byHand = async (
    next: (logits: Float32Array, ids: readonly number[], step: number) => number,
  ): Promise<number[]> => {
    const ids = [...PROMPT];
    for (let step = 0; step < NEW; step++) ids.push(next(await lastLogits(ids), ids, step));
    return ids;
  };
  const penalized = (logits: Float32Array, ids: readonly number[], penalty: number): Float32Array => {
    for (const id of new Set(ids)) logits[id] = logits[id]! < 0 ? logits[id]! * penalty : logits[id]! / penalty;
    return logits;
  };
  const largest = (logits: Float32Array): number => logits.indexOf(Math.max(...logits));
  const common = { input_ids: [PROMPT], max_new_tokens: NEW, eos_token_id: null };

  test("repetition penalty counts the prompt and every new token", async () => {
    const plain = await model.generate({ ...common, do_sample: false });
    const [got] = await model.generate({ ...common, do_sample: false, repetition_penalty: 1.8 });
    expect(got).toEqual(await byHand((logits, ids) => largest(penalized(logits, ids, 1.8))));
    expect(got).not.toEqual(plain[0]);
  });

  test.each([
    { temperature: 0.7 },
    { temperature: 1.5, top_k: 5 },
    { top_k: 0, top_p: 0.6 },
    { top_k: 0, min_p: 0.2 },
    { temperature: 0.9, top_k: 30, top_p: 0.9, repetition_penalty: 1.3 },
  ])("sampling with %j", async (options) => {
    const seed = 11;
    const all = { temperature: 1, top_k: 50, top_p: 1, min_p: 0, repetition_penalty: 1, ...options };
    const want = await byHand((logits, ids, step) => {
      const host = (data: Float32Array | Int32Array, shape: number[], dtype: "f32" | "i32") => ({ shape, dtype, data });
      const scores = penalized(logits, ids, all.repetition_penalty);
      const drawn = host(new Int32Array(1), [1], "i32");
      const operands = {
        logits: host(scores, [1, scores.length], "f32"),
        params: host(Float32Array.of(all.temperature, all.top_k, all.top_p, all.min_p), [1, 4], "f32"),
        draws: host(Int32Array.of(seed, 0, step), [1, 3], "i32"),
        ids: drawn,
      };
      sampleOp.definition.reference(operands, {});
      return drawn.data[0]!;
    });
    const [got] = await model.generate({ ...common, ...options, do_sample: true, seed });
    expect(got).toEqual(want);
  });

  test("presence and frequency penalties count new tokens alone", async () => {
    const counted = (logits: Float32Array, ids: readonly number[]): Float32Array => {
      for (const id of ids.slice(PROMPT.length)) logits[id] = logits[id]! - 0.5;
      for (const id of new Set(ids.slice(PROMPT.length))) logits[id] = logits[id]! - 0.25;
      return logits;
    };
    const [got] = await model.generate({ ...common, presence_penalty: 0.25, frequency_penalty: 0.5 });
    expect(got).toEqual(await byHand((logits, ids) => largest(counted(logits, ids))));
    expect(got).not.toEqual((await model.generate(common))[0]);
  });

  test("steps say why rows ended, and log-probabilities where asked", async () => {
    const [whole] = await model.generate(common);
    const eos = whole![PROMPT.length + 2]!;
    const options = { ...common, input_ids: [PROMPT, PROMPT.toReversed()], max_new_tokens: 6, eos_token_id: eos };
    const steps = [];
    for await (const step of model.stream({ ...options, logprobs: true })) steps.push(step);
    const reasons = steps.at(-1)!.finish_reasons;
    expect(reasons[0]).toBe("eos");
    expect(reasons[1]).toBeDefined();
    for (const { scores, finish_reasons, finished } of steps) {
      expect(finished).toEqual(finish_reasons.map((reason) => reason !== undefined));
      expect(scores!.every((score) => Number.isNaN(score) || score <= 0)).toBe(true);
    }
    const logits = await lastLogits(PROMPT);
    const high = Math.max(...logits);
    const total = logits.reduce((sum, x) => sum + Math.exp(x - high), 0);
    expect(steps[0]!.scores![0]).toBeCloseTo(-Math.log(total), 4);
    for await (const step of model.stream(options)) expect(step.scores).toBeUndefined();
  });
});
