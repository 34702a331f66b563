// How far a model's predictions are from another one's, against plain loops over the logits of both.

import { afterAll, beforeAll, expect, test } from "vitest";
import { divergence, perplexity } from "../../src/eval/index.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { DEVICES } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const device = DEVICES.includes("cpu") ? "cpu" : "wasm";
let exact: PreTrainedModel;
let int8: PreTrainedModel;
beforeAll(async () => {
  const folder = `${FIXTURES}/models/llama`;
  exact = await AutoModelForCausalLM.from_pretrained(folder, { dtype: "float32", device });
  int8 = await AutoModelForCausalLM.from_pretrained(folder, {
    dtype: "float32",
    device,
    quantization_config: { load_in_8bit: true },
  });
});
afterAll(async () => {
  await exact[Symbol.asyncDispose]();
  await int8[Symbol.asyncDispose]();
});

const ids = Array.from({ length: 37 }, (_, i) => (i * 7919 + 5) % 90);

interface Read {
  readonly logits: Float32Array;
  readonly states: readonly Float32Array[];
}
async function read(model: PreTrainedModel): Promise<Read> {
  const { logits, hidden_states } = model.forward({ input_ids: [ids], output_hidden_states: true });
  const all = [logits, ...hidden_states!];
  const [first, ...states] = await Promise.all(all.map((tensor) => tensor.readFloats()));
  for (const tensor of all) tensor.dispose();
  return { logits: first!, states };
}

function softmax(values: Float32Array): number[] {
  const most = Math.max(...values);
  const raised = [...values].map((value) => Math.exp(value - most));
  const sum = raised.reduce((total, one) => total + one, 0);
  return raised.map((one) => one / sum);
}

test("is the mean of the tokens' divergences, their spread, and the share of equal choices", async () => {
  const [a, b] = [await read(exact), await read(int8)];
  const vocab = a.logits.length / ids.length;
  const tokens = ids.length - 1;
  const kls: number[] = [];
  let same = 0;
  for (let t = 0; t < tokens; t++) {
    const [p, q] = [a, b].map(({ logits }) => softmax(logits.subarray(t * vocab, (t + 1) * vocab))) as [
      number[],
      number[],
    ];
    kls.push(p.reduce((sum, one, v) => sum + one * Math.log(one / q[v]!), 0));
    if (p.indexOf(Math.max(...p)) === q.indexOf(Math.max(...q))) same++;
  }
  const found = await divergence(int8, exact, ids, { layers: true });
  const mean = kls.reduce((sum, one) => sum + one, 0) / tokens;
  expect(found.tokens).toBe(tokens);
  // Sums of some hundred terms in f64.
  expect(found.kl / mean).toBeCloseTo(1, 6);
  expect(found.kl_max / Math.max(...kls)).toBeCloseTo(1, 6);
  expect(found.kl_median).toBeLessThan(found.kl_99);
  const variance = kls.reduce((sum, one) => sum + (one - mean) ** 2, 0) / tokens;
  expect(found.kl_standard_error / Math.sqrt(variance / tokens)).toBeCloseTo(1, 6);
  expect(found.same_top).toBe(same / tokens);
  const { perplexity: own } = await perplexity(int8, ids);
  const { perplexity: reference } = await perplexity(exact, ids);
  expect([found.perplexity, found.reference_perplexity]).toEqual([own, reference]);

  expect(found.layers!.map(({ layer }) => layer)).toEqual(a.states.slice(1).map((_, n) => `model.layers.${n}`));
  for (const [n, { error }] of found.layers!.entries()) {
    const [h, h2] = [a.states[n + 1]!, b.states[n + 1]!];
    let [off, norm] = [0, 0];
    // The last token predicts none, but its states are compared as those of all others.
    for (let i = 0; i < h.length; i++) {
      off += (h2[i]! - h[i]!) ** 2;
      norm += h[i]! ** 2;
    }
    expect(error / Math.sqrt(off / norm)).toBeCloseTo(1, 6);
    expect(error).toBeGreaterThan(0);
  }
});

test("counts each token once in windows that overlap, and runs the model through a cache", async () => {
  const windows = { window: 16, stride: 5 };
  const found = await divergence(int8, exact, ids, windows);
  expect(found.tokens).toBe(ids.length - 1);
  expect(found.reference_perplexity).toBe((await perplexity(exact, ids, windows)).perplexity);
  const cached = await divergence(exact, exact, ids, { ...windows, cache_dtype: "i8" });
  expect(cached.perplexity).toBe((await perplexity(exact, ids, { ...windows, cache_dtype: "i8" })).perplexity);
  expect(cached.kl).toBeGreaterThan(0);
});

test("of a model with itself there is none", async () => {
  const found = await divergence(exact, exact, ids, { layers: true, window: 20, stride: 10 });
  expect(found).toMatchObject({ kl: 0, kl_max: 0, same_top: 1, kl_standard_error: 0, same_top_standard_error: 0 });
  expect(found.layers!.every(({ error }) => error === 0)).toBe(true);
});

test("holds its models: what would change their weights waits, and a disposed one ends it", async () => {
  const model = await AutoModelForCausalLM.from_pretrained(`${FIXTURES}/models/llama`, { dtype: "float32", device });
  const call = { window: 16, stride: 8, cache_dtype: "f32" } as const;
  const told: string[] = [];
  const change = () => {
    try {
      model.resize_token_embeddings(200);
    } catch (error) {
      told.push((error as { code: string }).code);
    }
  };
  await perplexity(model, ids, { ...call, progress: change });
  await divergence(model, exact, ids, { ...call, progress: change });
  expect(new Set(told)).toEqual(new Set(["ERR_IN_USE"]));
  const ended = perplexity(model, ids, { ...call, progress: () => model.dispose() });
  await expect(ended).rejects.toMatchObject({ code: "ERR_DISPOSED" });
});

test("refuses what cannot be compared", async () => {
  for (const [name, options, message] of [
    ["stablelm", {}, "must be alike, got 2 blocks and a vocabulary of 144"],
    ["gpt2", { layers: true }, "different widths"],
  ] as const) {
    const other = await AutoModelForCausalLM.from_pretrained(`${FIXTURES}/models/${name}`, { device });
    await expect(divergence(other, exact, ids, options)).rejects.toThrow(message);
    await other[Symbol.asyncDispose]();
  }
  await expect(divergence(int8, {} as PreTrainedModel, ids)).rejects.toThrow("must be a causal language model");
  await expect(divergence(int8, exact, ids, { layers: true, cache_dtype: "f32" })).rejects.toThrow("without a cache");
  await expect(divergence(int8, exact, [1])).rejects.toThrow("at least two tokens");
});
