// Parameters that are filled from parts: several stored tensors, rows of a fused one, other layouts, typed and strided
// elements; names that say so; and what is in memory meanwhile.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openCheckpoint } from "../../src/checkpoints/checkpoint.js";
import { type TensorToWrite, writeSafetensors } from "../../src/checkpoints/safetensors-write.js";
import type { StoredDType, StoredTensor } from "../../src/checkpoints/stored.js";
import type { Device } from "../../src/core/device.js";
import { CheckpointError, FormatError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { fill } from "../../src/load/fill.js";
import { type Part, type PlanItem, plan } from "../../src/load/plan.js";
import { gather } from "../../src/load/read.js";
import { type Architecture, type NameRule, placeOf } from "../../src/nn/architecture.js";
import { Model } from "../../src/nn/model.js";
import { Linear, Matrix, type Module, Parameter } from "../../src/nn/module.js";
import { denseScheme } from "../../src/nn/weight.js";
import { fourBitScheme } from "../../src/quant/four-bit.js";
import { llmInt8Scheme } from "../../src/quant/llm-int8.js";
import { Disk } from "../../src/sources/disk.js";
import { copyOf, editJson } from "../support/checkpoints.js";
import { DEVICES, expectNoLeaks, openTestDevice } from "../support/devices.js";
import { readArrays } from "../support/fixtures.js";
import { normals } from "../support/random.js";
import { temporary } from "../support/temporary.js";

class Tree extends Model {
  a: Linear;
  b: Linear;
  experts: Linear;
  table: Parameter;

  constructor() {
    super();
    this.a = new Linear(24, 20, { bias: true });
    this.b = new Linear(24, 12, { bias: true });
    this.experts = new Linear(24, 16, { experts: 3 });
    this.table = new Parameter(5, 6);
    this.name_tree();
  }

  get blocks(): readonly (readonly Module[])[] {
    return [];
  }
}

const RULES: readonly NameRule[] = [
  { fused: /^ab\.(weight|bias)$/, to: ["a.$1", "b.$1"] },
  { expert: /^one\.(?<expert>\d+)$/, to: "experts.weight" },
  { transposed: /^turned$/ },
  { rename: /^turned$/, to: "a.weight" },
];

const architecture: Architecture = { model_type: "tree", tasks: {}, names: RULES };

const bytesOf = (values: Float32Array): Uint8Array => new Uint8Array(values.slice().buffer);
const f32 = (name: string, shape: number[], values: Float32Array): TensorToWrite => ({
  name,
  dtype: "F32",
  shape,
  data: bytesOf(values),
});

const ab = normals(1, 32 * 24);
const bias = normals(2, 32);
const stack = normals(3, 3 * 16 * 24);
const table = normals(4, 30);

describe.each(DEVICES)("on %s", (name) => {
  let device: Device;
  beforeAll(() => {
    device = openTestDevice(name);
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  const filled = async (tensors: TensorToWrite[], names = RULES, tree = new Tree()): Promise<Tree> => {
    const folder = temporary("parts");
    mkdirSync(folder);
    await writeSafetensors(join(folder, "model.safetensors"), tensors);
    const steps = plan(tree, { ...architecture, names }, await openCheckpoint(new Disk(folder)), { dtype: "f32" });
    expect(steps.unexpected).toEqual([]);
    await fill(device, steps, { name: "tree", dtype: "f32" });
    return tree;
  };
  const rows = async (matrix: Matrix): Promise<Float32Array> => {
    const dense = matrix.weight.dense("f32");
    try {
      return await dense.readFloats();
    } finally {
      dense.dispose();
    }
  };
  const experts = (): TensorToWrite[] =>
    [2, 0, 1].map((e) => f32(`one.${e}`, [16, 24], stack.subarray(e * 384, (e + 1) * 384)));

  test("rows of a fused tensor, experts in any order, tables of rank 2", async () => {
    const tree = await filled([
      f32("ab.weight", [32, 24], ab),
      f32("ab.bias", [32], bias),
      ...experts(),
      f32("table", [5, 6], table),
    ]);
    expect(await rows(tree.a.weight)).toEqual(ab.slice(0, 480));
    expect(await rows(tree.b.weight)).toEqual(ab.slice(480));
    expect(await tree.a.bias!.value.readFloats()).toEqual(bias.slice(0, 20));
    expect(await tree.b.bias!.value.readFloats()).toEqual(bias.slice(20));
    expect(await rows(tree.experts.weight)).toEqual(stack);
    expect(await tree.table.value.readFloats()).toEqual(table);
    tree.dispose();
  });

  test("elements that cannot be read, of a matrix or of one expert, leave nothing on the device", async () => {
    const packed = (name: string): TensorToWrite => ({
      name,
      dtype: "F6_E3M2",
      shape: [16, 24],
      data: new Uint8Array(288),
    });
    const all = [f32("ab.weight", [32, 24], ab), f32("ab.bias", [32], bias), ...experts(), f32("table", [5, 6], table)];
    const { live } = device.memory;
    for (const [unread, kept] of [
      [packed("one.1"), all.filter(({ name }) => name !== "one.1")],
      [{ ...packed("ab.bias"), shape: [32], data: new Uint8Array(24) }, all.filter(({ name }) => name !== "ab.bias")],
    ] as const) {
      const tree = new Tree();
      const failure = await filled([...kept, unread], RULES, tree).catch((error: unknown) => error);
      expect(failure).toBeInstanceOf(FormatError);
      expect(String(failure)).toContain("F6_E3M2 cannot be read as a float");
      tree.dispose();
      await device.synchronize();
      expect(device.memory.live).toBe(live);
    }
  });

  test("a stack in one tensor, a matrix that is stored transposed", async () => {
    const turned = Float32Array.from({ length: 480 }, (_, i) => ab[(i % 20) * 24 + Math.floor(i / 20)]!);
    const tree = await filled([
      f32("turned", [24, 20], turned),
      f32("b.weight", [12, 24], ab.subarray(480)),
      f32("a.bias", [20], bias.subarray(0, 20)),
      f32("b.bias", [12], bias.subarray(20)),
      f32("experts.weight", [3, 16, 24], stack),
      f32("table", [5, 6], table),
    ]);
    expect(await rows(tree.a.weight)).toEqual(ab.slice(0, 480));
    expect(await rows(tree.experts.weight)).toEqual(stack);
    tree.dispose();
  });

  test("what is missing of a stack is named, and shapes that do not fit", async () => {
    const others = [f32("ab.weight", [32, 24], ab), f32("ab.bias", [32], bias), f32("table", [5, 6], table)];
    await expect(filled([...others, ...experts().slice(1)])).rejects.toThrow(/experts.weight \(of expert 2\)/);
    const wrong = [f32("one.0", [16, 23], normals(1, 368)), ...experts().slice(0, 1), ...experts().slice(2)];
    await expect(filled([...others, ...wrong])).rejects.toThrow(/expected shape \[16, 24\] for experts.weight/);
    await expect(
      filled([f32("ab.weight", [31, 24], normals(1, 744)), ...others.slice(1), ...experts()]),
    ).rejects.toThrow(CheckpointError);
  });

  /** Fills matrix `a` of a tree from one part of raw bytes. */
  const fillFrom = async (
    raw: Uint8Array,
    from: Omit<StoredTensor, "name" | "file" | "offset" | "bytes">,
    more: Partial<Part> = {},
  ): Promise<Float32Array> => {
    const file = temporary("raw");
    writeFileSync(file, raw);
    const matrix = new Matrix(20, 24);
    const part: Part = {
      from: { name: "raw", file, offset: 0, bytes: raw.length, ...from },
      ...{ at: 0, rows: 20, columns: 24, first: 0 },
      ...more,
    };
    const item: PlanItem = { name: "a", parameter: matrix, parts: [part], scheme: denseScheme("f32") };
    const steps = { source: new Disk(temporary("none")), items: [item], unexpected: [], bytes: raw.length };
    try {
      await fill(device, steps, { name: "raw", dtype: "f32" });
      return await rows(matrix);
    } finally {
      matrix.dispose();
    }
  };

  test.each<[string, number[], number]>([
    ["columns side by side", [1, 20], 480],
    ["rows with gaps", [30, 1], 600],
    ["elements with gaps", [48, 2], 960],
  ])("strided: %s", async (_, strides, count) => {
    const raw = new Float32Array(count);
    for (let i = 0; i < 480; i++) raw[Math.floor(i / 24) * strides[0]! + (i % 24) * strides[1]!] = ab[i]!;
    expect(await fillFrom(bytesOf(raw), { dtype: "F32", shape: [20, 24], strides })).toEqual(ab.slice(0, 480));
  });

  test.each<[string, number[], number[]]>([
    ["a stack with gaps", [4, 5, 24], [150, 30, 1]],
    ["kernels whose channels lie side by side", [20, 4, 6], [24, 1, 4]],
    ["a stack of transposed matrices", [4, 5, 24], [120, 1, 5]],
    ["one that lies in several turns", [4, 5, 24], [1, 4, 20]],
  ])("strided and flat: %s", async (_, shape, strides) => {
    const raw = new Float32Array(1000);
    for (let i = 0; i < 480; i++) {
      const [b, c] = [shape[1]!, shape[2]!];
      const index = [Math.floor(i / (b * c)), Math.floor(i / c) % b, i % c];
      raw[index.reduce((at, n, d) => at + n * strides[d]!, 0)] = ab[i]!;
    }
    const got = await fillFrom(bytesOf(raw), { dtype: "F32", shape, strides }, { view: "flat" });
    expect(got).toEqual(ab.slice(0, 480));
  });

  test("other element types are exact or refused", async () => {
    const halves = Float32Array.from(ab.subarray(0, 480), (x) => Math.fround(x));
    const double = new Uint8Array(Float64Array.from(halves).buffer);
    expect(await fillFrom(double, { dtype: "F64", shape: [20, 24] })).toEqual(halves);
    const whole = Int32Array.from({ length: 480 }, (_, i) => i * 37 - 5000);
    const dtype: StoredDType = "I64";
    const long = new Uint8Array(BigInt64Array.from([...whole].map(BigInt)).buffer);
    expect(await fillFrom(long, { dtype, shape: [20, 24] })).toEqual(Float32Array.from(whole));
    const large = new Uint8Array(BigInt64Array.from([...whole].map((x) => BigInt(x) + 2n ** 40n)).buffer);
    await expect(fillFrom(large, { dtype, shape: [20, 24] })).rejects.toThrow(FormatError);
  });

  test("stacks are quantized expert by expert", async () => {
    // 16 x 24 elements are no whole number of blocks of 256: the next expert begins a block of its own.
    const input = normals(9, 4 * 24);
    for (const scheme of [
      denseScheme("f32"),
      llmInt8Scheme(6),
      ...[false, true].map((double_quant) =>
        fourBitScheme({ kind: "nf4", blocksize: 256, double_quant, compute: "f32" }),
      ),
    ]) {
      const make = (values: Float32Array, count: number) => {
        const builder = scheme.begin(device, [16 * count, 24], "test", count);
        for (let e = 0; e < count; e++) {
          using piece = Tensor.from(device, values.slice(e * 384, (e + 1) * 384), [16, 24]);
          builder.put(piece, e * 16);
        }
        return builder.finish();
      };
      using all = make(stack, 3);
      expect(all.nbytes).toBeGreaterThan(0);
      using x = Tensor.from(device, input, [4, 24]);
      using chosen = Tensor.from(device, Int32Array.of(0, 2, 1, 0, 2, 1, 1, 2), [4, 2]);
      using y = all.linear(x, { experts: chosen });
      expect(y.shape).toEqual([4, 2, 16]);
      const got = await y.readFloats();
      const dense = await (async () => {
        using values = all.dense("f32");
        return values.readFloats();
      })();
      for (let e = 0; e < 3; e++) {
        using one = make(stack.subarray(e * 384, (e + 1) * 384), 1);
        using alone = one.linear(x);
        const want = await alone.readFloats();
        using values = one.dense("f32");
        expect(await values.readFloats()).toEqual(dense.slice(e * 384, (e + 1) * 384));
        [0, 2, 1, 0, 2, 1, 1, 2].forEach((expert, row) => {
          if (expert !== e) return;
          const token = Math.floor(row / 2);
          const close = want.slice(token * 16, (token + 1) * 16);
          got.slice(row * 16, (row + 1) * 16).forEach((value, n) => {
            expect(Math.abs(value - close[n]!)).toBeLessThan(1e-5);
          });
        });
      }
      expect(() => all.linear(x)).toThrow(/needs `experts`/);
    }
  });

  test("a row of LLM.int8() experts has the same bits alone and in a batch", async () => {
    const builder = llmInt8Scheme(2).begin(device, [16 * 3, 24], "test", 3);
    using values = Tensor.from(device, stack, [48, 24]);
    builder.put(values, 0);
    using weight = builder.finish();
    const rowsOf = 40;
    const input = normals(11, rowsOf * 24, 2);
    const chosen = Int32Array.from({ length: rowsOf * 2 }, (_, i) => (i * 7) % 3);
    using x = Tensor.from(device, input, [rowsOf, 24]);
    using experts = Tensor.from(device, chosen, [rowsOf, 2]);
    using y = weight.linear(x, { experts });
    const all = await y.readFloats();
    for (const row of [0, 1, 17, 39]) {
      using one = Tensor.from(device, input.slice(row * 24, (row + 1) * 24), [1, 24]);
      using own = Tensor.from(device, chosen.slice(row * 2, row * 2 + 2), [1, 2]);
      using alone = weight.linear(one, { experts: own });
      expect(await alone.readFloats()).toEqual(all.slice(row * 32, (row + 1) * 32));
    }
  });
});

test("names", () => {
  expect(placeOf("ab.bias", RULES)).toEqual({ targets: [["a.bias"], ["b.bias"]], transposed: false });
  expect(placeOf("one.12", RULES)).toEqual({ targets: [["experts.weight"]], expert: 12, transposed: false });
  expect(placeOf("turned", RULES)).toEqual({ targets: [["a.weight"]], transposed: true });
  expect(placeOf("x", [{ ignore: /^x$/ }])).toBeUndefined();
});

test("gather", () => {
  const raw = Uint8Array.from({ length: 24 }, (_, i) => i);
  expect([...gather(raw, 1, [2, 3], [1, 4])]).toEqual([0, 4, 8, 1, 5, 9]);
  expect([...gather(raw, 2, [2, 2, 1], [1, 4, 9])]).toEqual([0, 1, 8, 9, 2, 3, 10, 11]);
});

describe("stacked layout of transformers 5", () => {
  test.each([
    { name: "mixtral", block: "block_sparse_moe", parts: ["w1", "w3", "w2"], layers: [0, 1], hidden: 48, inner: 64 },
    {
      ...{ name: "qwen3_moe", block: "mlp", parts: ["gate_proj", "up_proj", "down_proj"] },
      ...{ layers: [0, 2], hidden: 32, inner: 24 },
    },
  ])("is the same $name", async ({ name: model_type, block, parts, layers, hidden, inner }) => {
    const [gate = "", up = "", down = ""] = parts;
    const device = openDevice("reference");
    const folder = copyOf("models", model_type);
    const arrays = readArrays("models", model_type, "model.safetensors");
    const values = (name: string): Float32Array => Float32Array.from(arrays.get(name)!.values);
    const tensors: TensorToWrite[] = [];
    for (const [name, { shape }] of arrays) {
      if (!name.includes(".experts.") && !name.includes(`${block}.gate.`))
        tensors.push(f32(name, [...shape], values(name)));
    }
    for (const layer of layers) {
      const old = `model.layers.${layer}.${block}`;
      const now = `model.layers.${layer}.mlp`;
      tensors.push(f32(`${now}.gate.weight`, [4, hidden], values(`${old}.gate.weight`)));
      const join = (parts: Float32Array[]): Float32Array => Float32Array.from(parts.flatMap((part) => [...part]));
      const one = (e: number, w: string): Float32Array => values(`${old}.experts.${e}.${w}.weight`);
      const both = join([0, 1, 2, 3].flatMap((e) => [one(e, gate), one(e, up)]));
      const downs = join([0, 1, 2, 3].map((e) => one(e, down)));
      tensors.push(f32(`${now}.experts.gate_up_proj`, [4, 2 * inner, hidden], both));
      tensors.push(f32(`${now}.experts.down_proj`, [4, hidden, inner], downs));
    }
    await writeSafetensors(join(folder, "model.safetensors"), tensors);
    const ids = [[31, 33, 89, 21]];
    const logits: Float32Array[] = [];
    for (const path of [folder, copyOf("models", model_type)]) {
      for (const options of [{}, { load_in_8bit: true }]) {
        const model = await AutoModelForCausalLM.from_pretrained(path, { device, ...options });
        const { logits: tensor } = model.forward({ input_ids: ids });
        logits.push(await tensor.readFloats());
        tensor.dispose();
        model.dispose();
      }
    }
    expect(logits[0]).toEqual(logits[2]);
    expect(logits[1]).toEqual(logits[3]);
    expectNoLeaks(device);
    await device.close();
  });
});

test.skipIf(!DEVICES.includes("cpu"))("experts hold the finished stack and a few pieces, no more", async () => {
  const [hidden, ffn, vocab, count] = [256, 6144, 500, 4] as const;
  const folder = copyOf("models", "mixtral");
  editJson(join(folder, "config.json"), {
    ...{ hidden_size: hidden, intermediate_size: ffn, vocab_size: vocab, num_local_experts: count },
    ...{ num_hidden_layers: 1, num_attention_heads: 4, num_key_value_heads: 4 },
  });
  const layer = "model.layers.0";
  const shapes = new Map<string, readonly number[]>([
    ["model.embed_tokens.weight", [vocab, hidden]],
    ...["q", "k", "v", "o"].map((p) => [`${layer}.self_attn.${p}_proj.weight`, [hidden, hidden]] as const),
    [`${layer}.block_sparse_moe.gate.weight`, [count, hidden]],
    ...[0, 1, 2, 3].flatMap((e) =>
      (["w1", "w3", "w2"] as const).map(
        (w) =>
          [`${layer}.block_sparse_moe.experts.${e}.${w}.weight`, w === "w2" ? [hidden, ffn] : [ffn, hidden]] as const,
      ),
    ),
    [`${layer}.input_layernorm.weight`, [hidden]],
    [`${layer}.post_attention_layernorm.weight`, [hidden]],
    ["model.norm.weight", [hidden]],
    ["lm_head.weight", [vocab, hidden]],
  ]);
  await writeSafetensors(
    join(folder, "model.safetensors"),
    [...shapes].map(([name, shape]) => {
      const data = (): Uint8Array => new Uint8Array(4 * shape.reduce((n, size) => n * size, 1));
      return { name, dtype: "F32", shape, data };
    }),
  );
  const device = openDevice("cpu", { threads: 2 });
  for (const options of [{}, { load_in_8bit: true }]) {
    device.arena.trim();
    device.arena.resetPeak();
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device, ...options });
    // A stack is 25 MB in f32, one expert of it 6.3 MB: what is there beside the weights is a piece of 8 MiB, and its
    // rows in the stored dtype or their codes.
    expect(device.memory.peak).toBeLessThan(model.weight_bytes + 2 * (8 << 20));
    expect(model.checkpoint_bytes).toBeGreaterThan(70e6);
    model.dispose();
  }
  expectNoLeaks(device);
  await device.close();
});
