// What `octavo explain` measures, against outliers that are planted, plain loops, and models that are loaded quantized.

import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { type Explanation, explain } from "../../src/eval/explain.js";
import type { MethodName } from "../../src/eval/explain-methods.js";
import { logitsGap } from "../../src/eval/logits-gap.js";
import { StandIn } from "../../src/eval/stand-in.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { openDevice } from "../../src/load/device.js";
import { surveyModel } from "../../src/load/survey.js";
import type { Linear, Parameter } from "../../src/nn/module.js";
import { denseScheme, storeRows } from "../../src/nn/weight.js";
import { Disk } from "../../src/sources/disk.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const device = openDevice("cpu", { threads: 2 });
const reference = openDevice("reference");
afterAll(async () => {
  for (const one of [device, reference]) {
    expectNoLeaks(one);
    await one.close();
  }
});

const folder = (name: string): string => join(FIXTURES, "models", name);
const TEXT = [3, 44, 17, 90, 5, 121, 8, 63, 77, 30, 12, 150, 9, 41, 2, 99];
const load = (name: string, options: object = {}): Promise<PreTrainedModel> =>
  AutoModelForCausalLM.from_pretrained(folder(name), { device, dtype: "float32", ...options });

const linearAt = (model: PreTrainedModel, path: string): Linear => model.module.get_submodule(path) as Linear;
const factsOf = ({ linears }: Explanation, path: string) => linears.find((one) => one.path === path)!;

/** Logits of the text. */
function logits(model: PreTrainedModel): Tensor {
  return model.forward({ input_ids: [TEXT] }).logits;
}

/** Multiplies some columns of a linear's weight. */
async function scaleColumns(linear: Linear, columns: readonly number[], factor: number): Promise<void> {
  const [N, K] = linear.weight.shape;
  using before = linear.weight.dequantize();
  const values = await before.readFloats();
  for (let n = 0; n < N; n++) for (const k of columns) values[n * K + k]! *= factor;
  using rows = Tensor.from(device, values, [N, K]);
  linear.weight.fill(storeRows(denseScheme("f32"), rows, "weight"));
}

describe("planted outliers", () => {
  // A norm's weight times s in a few channels, and the columns that read them divided by s: the same function.
  const PLANTED = [5, 40];
  const READERS = ["q_proj", "k_proj", "v_proj"].map((name) => `model.layers.1.self_attn.${name}`);

  test("their columns are found, and cost plain int8 precision, but not LLM.int8()", async () => {
    await using model = await load("llama");
    const before = await explain(model, TEXT, { threshold: 1e9 });
    using exact = logits(model);
    const norm = (model.module.get_submodule("model.layers.1.input_layernorm") as unknown as { weight: Parameter })
      .weight;
    const weights = await norm.value.readFloats();
    for (const k of PLANTED) weights[k]! *= 200;
    norm.fill(Tensor.from(device, weights, [weights.length]));
    for (const path of READERS) await scaleColumns(linearAt(model, path), PLANTED, 1 / 200);
    using same = logits(model);
    const gap = await logitsGap(exact, same);
    expect(Math.sqrt(gap.off / gap.norm)).toBeLessThan(1e-5);

    // Above everything that was there, below most of what was planted.
    const threshold = 1.01 * Math.max(...READERS.map((path) => factsOf(before, path).largest));
    const after = await explain(model, TEXT, { threshold });
    for (const path of READERS) {
      const { columns, outlier_columns, outlier_share, largest, errors } = factsOf(after, path);
      expect(outlier_columns).toBe(2);
      expect(columns.map(({ column }) => column).sort((a, b) => a - b)).toEqual(PLANTED);
      expect(columns[0]!.largest).toBe(largest);
      expect(columns[0]!.largest).toBeGreaterThanOrEqual(columns[1]!.largest);
      for (const { share } of columns) expect(share).toBeLessThanOrEqual(outlier_share);
      expect(outlier_share).toBeGreaterThan(0.5);
      const was = factsOf(before, path).errors;
      expect(errors.absmax_row).toBeGreaterThan(5 * was.absmax_row);
      expect(errors.absmax_tensor).toBeGreaterThan(errors.absmax_row);
      // Weights in 8 bits by row: the divided columns are coarser than they were.
      expect(errors.llm_int8).toBeLessThan(errors.absmax_row / 3);
    }
    const kl = (found: Explanation, name: MethodName): number => found.methods.find((one) => one.name === name)!.kl;
    expect(kl(after, "absmax_row")).toBeGreaterThan(5 * kl(after, "llm_int8"));
    for (const other of before.linears.filter(({ path }) => path.startsWith("model.layers.0."))) {
      expect(factsOf(after, other.path).errors.nf4).toBeCloseTo(other.errors.nf4, 6);
    }
  });
});

/** The input of a linear, its weight, and its exact product, row by row on the host. */
async function captured(model: PreTrainedModel, path: string) {
  const { weight } = linearAt(model, path);
  let seen: Tensor | undefined;
  weight.wrap((inner) => {
    return new StandIn(inner, (x, _, options) => {
      seen ??= x.alias().keep();
      return inner.linear(x, options);
    });
  });
  logits(model).dispose();
  weight.unwrap();
  using input = seen!;
  using dense = weight.dequantize();
  return { x: await input.readFloats(), w: await dense.readFloats(), K: weight.shape[1] };
}

function product(x: ArrayLike<number>, w: ArrayLike<number>, K: number): Float64Array {
  const [M, N] = [x.length / K, w.length / K];
  const y = new Float64Array(M * N);
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) for (let k = 0; k < K; k++) y[m * N + n]! += x[m * K + k]! * w[n * K + k]!;
  }
  return y;
}

function relative(y: Float64Array, exact: Float64Array): number {
  let [off, norm] = [0, 0];
  exact.forEach((value, i) => {
    off += (y[i]! - value) ** 2;
    norm += value ** 2;
  });
  return Math.sqrt(off / norm);
}

describe("errors", () => {
  test("of a linear: those of plain loops", async () => {
    const path = "model.layers.1.mlp.down_proj";
    await using model = await load("llama");
    const { x, w, K } = await captured(model, path);
    const { errors, largest, outlier_columns } = factsOf(await explain(model, TEXT), path);
    const exact = product(x, w, K);
    const rounded = (values: Float32Array, block: number): Float64Array => {
      const out = new Float64Array(values.length);
      for (let at = 0; at < values.length; at += block) {
        const absmax = values.subarray(at, at + block).reduce((most, one) => Math.max(most, Math.abs(one)), 0);
        for (let i = at; i < at + block; i++) out[i] = (Math.round((values[i]! * 127) / absmax) * absmax) / 127;
      }
      return out;
    };
    // Codes at a half may go either way: a few of thousands.
    const near = (is: number, want: number): void => expect(Math.abs(is / want - 1)).toBeLessThan(0.02);
    near(errors.absmax_tensor, relative(product(rounded(x, x.length), rounded(w, w.length), K), exact));
    near(errors.absmax_row, relative(product(rounded(x, K), rounded(w, K), K), exact));
    expect(largest).toBe(x.reduce((most, one) => Math.max(most, Math.abs(one)), 0));
    const columns = new Set([...x.keys()].filter((i) => Math.abs(x[i]!) >= 6).map((i) => i % K));
    expect(outlier_columns).toBe(columns.size);
    await using stored = await load("llama", {
      quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" },
    });
    using dense = linearAt(stored, path).weight.dequantize();
    near(errors.nf4, relative(product(x, await dense.readFloats(), K), exact));
  });

  test.each([
    ["llm_int8", { load_in_8bit: true }],
    ["nf4", { load_in_4bit: true, bnb_4bit_quant_type: "nf4" }],
    ["fp4", { load_in_4bit: true }],
  ] as const)("%s: logits and memory are those of the model that is loaded so", async (name, quantization_config) => {
    await using model = await load("gpt2"); // a tied head
    await using stored = await load("gpt2", { quantization_config });
    const found = await explain(model, TEXT, { window: 7 });
    const { kl, logits_error, same_top, bytes } = found.methods.find((one) => one.name === name)!;
    let [off, norm, divergence, same] = [0, 0, 0, 0];
    for (let at = 0; at < TEXT.length; at += 7) {
      const input_ids = [TEXT.slice(at, at + 7)];
      using a = model.forward({ input_ids }).logits;
      using b = stored.forward({ input_ids }).logits;
      const [, T = 0, V = 0] = a.shape;
      const [p, q] = [await a.readFloats(), await b.readFloats()];
      for (let t = 0; t < T; t++) {
        const [x, y] = [p, q].map((values) => values.subarray(t * V, (t + 1) * V));
        const chances = [x!, y!].map((values) => {
          const sum = values.reduce((total, value) => total + Math.exp(value), 0);
          return Array.from(values, (value) => Math.exp(value) / sum);
        });
        chances[0]!.forEach((chance, v) => {
          divergence += chance * Math.log(chance / chances[1]![v]!);
          off += (y![v]! - x![v]!) ** 2;
          norm += x![v]! ** 2;
        });
        if (x!.indexOf(Math.max(...x!)) === y!.indexOf(Math.max(...y!))) same++;
      }
    }
    expect(kl).toBeCloseTo(divergence / TEXT.length, 6);
    expect(logits_error).toBeCloseTo(Math.sqrt(off / norm), 5);
    expect(same_top).toBe(same / TEXT.length);
    const key = name === "llm_int8" ? "int8" : name;
    const { sizes } = await surveyModel(new Disk(folder("gpt2")), { dtype: "float32" });
    expect(bytes).toBe(sizes.find((size) => size.name === key)!.bytes);
    expect(found.bytes).toBe(sizes.find((size) => size.name === "float32")!.bytes);
  });

  test("stacks of experts, and another device", async () => {
    await using model = await load("mixtral");
    await using plain = await load("mixtral", { device: reference });
    const [ours, theirs] = [await explain(model, TEXT.slice(0, 3)), await explain(plain, TEXT.slice(0, 3))];
    expect(ours.linears.map(({ path }) => path)).toContain("model.layers.0.block_sparse_moe.experts.w1");
    for (const [i, { errors, columns, experts }] of ours.linears.entries()) {
      const other = theirs.linears[i]!;
      expect(experts).toBe(other.experts);
      expect(columns.map(({ column }) => column)).toEqual(other.columns.map(({ column }) => column));
      // Sums in another order move codes that lie at a half.
      for (const [name, error] of Object.entries(errors)) {
        expect(Math.abs(error / other.errors[name as MethodName] - 1)).toBeLessThan(0.05);
      }
    }
  });
});

test("the model is as it was, progress ends at 1, and an abort ends it", async () => {
  await using model = await load("llama");
  using before = logits(model);
  const shares: number[] = [];
  await explain(model, TEXT, { window: 8, progress: (share) => shares.push(share) });
  expect(shares).toHaveLength(14);
  expect(shares.at(-1)).toBe(1);
  const abort = new AbortController();
  const work = explain(model, TEXT, { signal: abort.signal, progress: () => abort.abort() });
  await expect(work).rejects.toThrow(/abort/i);
  using after = logits(model);
  expect(await after.readFloats()).toEqual(await before.readFloats());
  for (const parameter of model.module.parameters()) {
    if ("inner" in parameter) expect(parameter.inner).toBe(parameter.weight);
  }
});

test("what cannot be explained", async () => {
  await using model = await load("llama");
  await expect(explain(model, [1])).rejects.toThrow(/at least two tokens/);
  await expect(explain(model, TEXT, { window: 513 })).rejects.toBeInstanceOf(OptionError);
  await expect(explain(model, TEXT, { threshold: 0 })).rejects.toBeInstanceOf(OptionError);
  await using stored = await load("llama", { load_in_8bit: true });
  await expect(explain(stored, TEXT)).rejects.toThrow(/original weights.*llm_int8/);
});
