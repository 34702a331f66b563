// Checkpoints in the formats of other quantizers: their matrices are what the layout says (test/fixtures/make_packed.py), whatever they
// are read into; what does not fit is refused before anything is read.

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test, vi } from "vitest";
import { packedFormat, unpackCheckpoint } from "../../src/checkpoints/packed/index.js";
import { MXFP4 } from "../../src/checkpoints/packed/mxfp4.js";
import { tableOf } from "../../src/checkpoints/packed/scaled.js";
import type { ReadTensor, StoredTensor } from "../../src/checkpoints/stored.js";
import { ConfigError, FormatError, OutOfMemoryError, UnsupportedModelError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import type { Matrix } from "../../src/nn/module.js";
import { denseScheme, storeRows, type Weight } from "../../src/nn/weight.js";
import { codesScheme } from "../../src/quant/four-bit.js";
import { editHeader, editJson } from "../support/checkpoints.js";
import { expectNoLeaks } from "../support/devices.js";
import { difference, FIXTURES, largest, readArrays } from "../support/fixtures.js";
import { openCheckpoint } from "../support/source-tools.js";
import { temporary } from "../support/temporary.js";

const device = openDevice("cpu", { threads: 2 });
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

const folderOf = (format: string): string => join(FIXTURES, "packed", format);
const load = (folder: string, options: FromPretrainedOptions = {}) =>
  AutoModelForCausalLM.from_pretrained(folder, { device, ...options });

async function matrix(model: Awaited<ReturnType<typeof load>>, name: string): Promise<Float32Array> {
  const parameter = new Map(model.module.named_parameters()).get(name) as Matrix;
  using dense = parameter.weight.dense("f32");
  return dense.readFloats();
}

const readTensor: ReadTensor = async ({ file, offset, bytes }, at = 0, count = bytes) =>
  new Uint8Array(readFileSync(file).subarray(offset + at, offset + at + count));

const FORMATS = {
  gptq: "gptq, 4 bits",
  "gptq-asymmetric": "gptq, 4 bits",
  "gptq-act-order": "gptq, 4 bits",
  "gptq-3bit": "gptq, 3 bits",
  "gptq-v2-8bit": "gptq, 8 bits",
  awq: "awq, 4 bits",
  "fp8-block": "fp8 in blocks of 48 x 32",
  "fbgemm-fp8": "fbgemm_fp8",
  "ct-int4": "compressed-tensors, 4 bits",
  "ct-int4-asymmetric": "compressed-tensors, 4 bits",
  "ct-int4-act-order": "compressed-tensors, 4 bits",
  "ct-int8": "compressed-tensors, 8 bits",
  "ct-fp8": "compressed-tensors, 8 bits",
};

/** Their codes are stored as they are: integers, with a scale and a zero point for groups of neighbours. */
const FOUR = ["gptq", "gptq-asymmetric", "awq", "ct-int4", "ct-int4-asymmetric"];

describe.each(Object.entries(FORMATS))("%s", (format, name) => {
  test("its matrices are the layout's, in f32 bit for bit, and a warning says what became of them", async () => {
    await using model = await load(folderOf(format), { dtype: "float32" });
    const kept = FOUR.includes(format);
    expect(model.warnings).toEqual([
      `the file's matrices (${name}) are ${kept ? "kept in 4 bits" : "decoded into float32"}`,
    ]);
    expect(model.quantized_modules).toHaveLength(kept ? 7 : 0);
    for (const [key, { values }] of readArrays("packed", format, "expected.safetensors")) {
      expect(difference(await matrix(model, key), values).max, key).toBe(0);
    }
  });

  test("in the file's dtype, and in 8 bits if asked for", async () => {
    await using half = await load(folderOf(format));
    await using int8 = await load(folderOf(format), { load_in_8bit: true });
    expect(half.dtype).toBe("f16");
    expect(int8.quantized_modules).toHaveLength(7);
    for (const [key, { values }] of readArrays("packed", format, "expected.safetensors")) {
      const step = FOUR.includes(format) ? 0 : 2 ** -11;
      expect(difference(await matrix(half, key), values).max).toBeLessThanOrEqual(step * largest(values));
      // Half a step of a row's 127.
      expect(difference(await matrix(int8, key), values).max).toBeLessThanOrEqual(largest(values) / 253);
    }
  });
});

test.each(["gptq", "awq"])(
  "%s: codes in 4 bits multiply as the floats that they stand for, and are not saved as something else",
  async (format) => {
    await using model = await load(folderOf(format), { dtype: "float32" });
    const logits = async (): Promise<Float32Array> => {
      using output = model.forward({ input_ids: [[3, 7, 1, 40, 22]] }).logits;
      return output.readFloats();
    };
    const codes = await logits();
    await expect(model.save_pretrained(temporary("int4"))).rejects.toThrow(/is stored as int4/);
    model.dequantize();
    const floats = await logits();
    // Sums of f32 in another order.
    expect(difference(codes, floats).max).toBeLessThanOrEqual(1e-5 * largest(floats));
  },
);

test.each([true, false, undefined])("gptq with sym: %s is planned with zero points, or without", (sym) => {
  const tensor = (name: string, dtype: StoredTensor["dtype"], shape: number[]): StoredTensor => {
    return { name, dtype, shape, file: "", offset: 0, bytes: 0 };
  };
  const all = [
    tensor("a.qweight", "I32", [8, 16]),
    tensor("a.qzeros", "I32", [2, 2]),
    tensor("a.scales", "F16", [2, 16]),
  ];
  const format = packedFormat({ quant_method: "gptq", bits: 4, group_size: 32, sym }, "config.json");
  const { packed } = format.claim(all[0]!, new Map(all.map((one) => [one.name, one])))!;
  expect(packed.codes!.zero_points).toBe(sym !== true);
});

test.each([{ format: "gptq_v2" }, { format: "gptq", checkpoint_format: "GPTQ_V2" }])(
  "gptq: %o says how zero points are stored",
  async (version) => {
    const folder = temporary("gptq-version");
    cpSync(folderOf("gptq-v2-8bit"), folder, { recursive: true });
    const quantization_config = { quant_method: "gptq", bits: 8, group_size: 32, ...version };
    editJson(join(folder, "config.json"), { quantization_config });
    await using model = await load(folder, { dtype: "float32" });
    for (const [key, { values }] of readArrays("packed", "gptq-v2-8bit", "expected.safetensors")) {
      expect(difference(await matrix(model, key), values).max, key).toBe(0);
    }
  },
);

test.each([
  ["128 x 128 where the config names none", { quant_method: "fp8" }, "weight_scale_inv", "F32", [2, 2]],
  ["exponents as scales", { quant_method: "fp8" }, "weight_scale_inv", "F8_E8M0", [2, 2]],
  ["one scale, whatever the blocks would be", { quant_method: "fp8" }, "weight_scale_inv", "F32", []],
  ["a block as a text", { quant_method: "compressed-tensors" }, "weight_scale", "F32", [2, 2]],
] as const)("8-bit floats: %s", async (_, fields, name, dtype, shape) => {
  const weights = { num_bits: 8, type: "float", strategy: "block", block_structure: "128x128" };
  const config = { ...fields, format: "float-quantized", config_groups: { group_0: { weights } } };
  const [rows, columns] = [130, 200];
  const count = shape.length === 0 ? 1 : 4;
  const main: StoredTensor = {
    ...{ name: "a.weight", dtype: "F8_E4M3", shape: [rows, columns], file: "", offset: 0, bytes: rows * columns },
  };
  const scales: StoredTensor = { name: `a.${name}`, dtype, shape, file: "", offset: 0, bytes: 4 * count };
  const { packed } = packedFormat(config, "config.json").claim(main, new Map([[scales.name, scales]]))!;
  const factors = [0.5, 2, 4, 8].slice(0, count);
  const stored =
    dtype === "F32" ? new Uint8Array(Float32Array.from(factors).buffer) : Uint8Array.of(126, 128, 129, 130);
  const decoder = await packed.open(async (tensor, at = 0, bytes = tensor.bytes) =>
    tensor === scales ? stored : new Uint8Array(rows * columns).fill(0x38).subarray(at, at + bytes),
  );
  const got = await decoder.rows(127, 2); // the last row of the first blocks, and the first row of the next ones
  const corners = [got[0], got[127], got[128], got[columns], got[columns + 199]];
  expect(corners).toEqual(count === 1 ? [0.5, 0.5, 0.5, 0.5, 0.5] : [0.5, 0.5, 2, 4, 8]);
});

test("a stack with zero points: products of chosen experts with every epilogue, rows, and a copy on another device", async () => {
  const [E, N, K, blocksize] = [2, 32, 64, 32];
  const scheme = codesScheme({ kind: "int4", blocksize, compute: "f32", zero_points: true });
  const random = (size: number): Float32Array =>
    Float32Array.from({ length: size }, (_, i) => Math.sin(i * 1.7 + size));
  const make = (experts: number): Weight => {
    const rows = (experts * N * K) / blocksize;
    const builder = scheme.beginCodes!(device, [experts * N, K], "codes", true, experts);
    using codes = Tensor.empty(device, [experts * N, K], "u4");
    codes.writeBytes(Uint8Array.from({ length: (experts * N * K) / 2 }, (_, i) => (i * 73) & 255));
    using scales = Tensor.from(device, random(rows), [rows]);
    using shifts = Tensor.from(
      device,
      random(rows).map((x) => 3 * x),
      [rows],
    );
    builder.put(codes, { scales, shifts }, 0);
    return builder.finish();
  };
  const same = async (run: (weight: Weight) => Tensor, weight: Weight): Promise<void> => {
    using floats = weight.dense("f32");
    using plain = storeRows(denseScheme("f32"), floats, "floats", weight.experts);
    using got = run(weight);
    using want = run(plain);
    const values = await want.readFloats();
    expect(difference(await got.readFloats(), values).max).toBeLessThanOrEqual(1e-5 * largest(values));
  };
  using one = make(1);
  using x = Tensor.from(device, random(6 * K), [2, 3, K]);
  using bias = Tensor.from(device, random(N), [N]);
  using residual = Tensor.from(device, random(6 * N), [2, 3, N]);
  using ids = Tensor.from(device, Int32Array.of(31, 0, 7), [3], "i32");
  for (const options of [{}, { bias, residual }, { bias, act: "silu" as const }, { act: "gelu" as const, residual }]) {
    await same((weight) => weight.linear(x, options), one);
  }
  await same((weight) => weight.rows(ids), one);
  using stack = make(E);
  using tokens = Tensor.from(device, random(3 * K), [3, K]);
  using experts = Tensor.from(device, Int32Array.of(0, 1, 1, 0, 1, 1), [3, 2], "i32");
  await same((weight) => weight.linear(tokens, { experts }), stack);
  await same((weight) => weight.linear(tokens, { experts, act: "relu" }), stack);
  await using other = openDevice("reference");
  using there = stack.moved!(other);
  using here = stack.dense("f32");
  using copy = there.dense("f32");
  expect(await copy.readFloats()).toEqual(await here.readFloats());
  // In two pieces, and together again.
  const pieces = one.divided!([
    { at: 0, rows: one.divisor!, to: other },
    { at: one.divisor!, rows: N - one.divisor!, to: device },
  ]);
  {
    using whole = pieces[0]!.joined!(pieces, other);
    using got = whole.dense("f32");
    using want = one.dense("f32");
    expect(await got.readFloats()).toEqual(await want.readFloats());
  }
  for (const piece of pieces) piece.dispose();
  // Wherever memory ends, nothing is left.
  const { live } = other.memory;
  const allocate = other.backend.allocate.bind(other.backend);
  for (const make of [() => [one.moved!(other)], () => one.divided!([{ at: 0, rows: N, to: other }])]) {
    let made: Weight[] = [];
    for (let most = 0; made.length === 0; most++) {
      other.arena.trim();
      let count = 0;
      using _ = vi.spyOn(other.backend, "allocate").mockImplementation((bytes) => {
        if (count++ >= most) throw new OutOfMemoryError("there is no more");
        return allocate(bytes);
      });
      try {
        made = make();
        expect(most).toBeGreaterThan(3);
      } catch (error) {
        expect(error).toBeInstanceOf(OutOfMemoryError);
        expect(other.memory.live).toBe(live);
      }
    }
    for (const weight of made) weight.dispose();
  }
});

test("MXFP4 codes in 4 bits are the values, of both experts", async () => {
  const { checkpoint } = unpackCheckpoint(await openCheckpoint(folderOf("mxfp4")), MXFP4);
  const { packed, shape } = checkpoint.tensors.get("experts.gate_up_proj")!;
  const [experts, , inputs] = shape as [number, number, number];
  const { kind, blocksize, open } = packed!.codes!;
  const reader = (await open(readTensor))!;
  const scheme = codesScheme({ kind, blocksize, compute: "f32", zero_points: false });
  const builder = scheme.beginCodes!(device, [12, inputs], "codes", false, experts);
  const rows = await reader.rows(0, 12);
  using codes = Tensor.empty(device, [12, inputs], "u4");
  codes.writeBytes(rows.codes);
  using scales = Tensor.from(device, rows.absmax, [rows.absmax.length]);
  builder.put(codes, { scales }, 0);
  const weight = builder.finish();
  using dense = weight.dense("f32");
  const { values } = readArrays("packed", "mxfp4", "expected.safetensors").get("experts.gate_up_proj")!;
  expect(difference(await dense.readFloats(), values).max).toBe(0);
  weight.dispose();
});

test("a model read from such a file is saved as what it is now", async () => {
  const copy = temporary("saved");
  await using model = await load(folderOf("awq"), { load_in_8bit: true });
  await model.save_pretrained(copy);
  const { quantization_config } = JSON.parse(readFileSync(join(copy, "config.json"), "utf8"));
  expect(quantization_config).toMatchObject({ quant_method: "bitsandbytes", load_in_8bit: true });
  await using again = await load(copy);
  expect(again.warnings).toEqual([]);
  const dense = temporary("dense");
  model.dequantize();
  await model.save_pretrained(dense);
  expect(JSON.parse(readFileSync(join(dense, "config.json"), "utf8"))).not.toHaveProperty("quantization_config");
});

test("MXFP4: the values are transformers'", async () => {
  const { checkpoint, matrices } = unpackCheckpoint(await openCheckpoint(folderOf("mxfp4")), MXFP4);
  expect(matrices).toBe(1);
  const { shape, packed } = checkpoint.tensors.get("experts.gate_up_proj")!;
  expect(shape).toEqual([2, 6, 96]);
  const decoder = await packed!.open(readTensor);
  const { values: data } = readArrays("packed", "mxfp4", "expected.safetensors").get("experts.gate_up_proj")!;
  expect(await decoder.rows(0, 12)).toEqual(data);
  expect(await decoder.rows(5, 3)).toEqual(data.slice(5 * 96, 8 * 96));
});

test("8-bit floats: ends and middle of both kinds (OCP 8-bit floating point, tables 1 and 2)", () => {
  const [e4m3, e5m2] = [tableOf({ dtype: "F8_E4M3" })!, tableOf({ dtype: "F8_E5M2" })!];
  expect(tableOf({ dtype: "F8_E4M3" })).toBe(e4m3); // made once, not for each matrix
  expect([e4m3[0x7e], e4m3[0x08], e4m3[0x01], e4m3[0xfe], e4m3[0x38]]).toEqual([448, 2 ** -6, 2 ** -9, -448, 1]);
  expect([e5m2[0x7b], e5m2[0x04], e5m2[0x01], e5m2[0x3c], e5m2[0x7c]]).toEqual([
    57344,
    2 ** -14,
    2 ** -16,
    1,
    Infinity,
  ]);
  expect([e4m3[0x7f], e4m3[0xff], e5m2[0x7d]].every((value) => Number.isNaN(value))).toBe(true);
});

describe("what does not fit is refused", () => {
  const KEY = "model.layers.0.mlp.down_proj";
  function copied(format: string): string {
    const folder = temporary(format);
    cpSync(folderOf(format), folder, { recursive: true });
    return folder;
  }
  /** Overwrites the first bytes of a tensor. */
  async function overwrite(folder: string, name: string, bytes: Uint8Array): Promise<void> {
    const { file, offset } = (await openCheckpoint(folder)).tensors.get(name)!;
    const content = readFileSync(file);
    content.set(bytes, offset);
    writeFileSync(file, content);
  }

  test.each([
    ["gptq", `${KEY}.qzeros`],
    ["gptq", `${KEY}.scales`],
    ["awq", `${KEY}.scales`],
    ["ct-int4", `${KEY}.weight_scale`],
  ])("%s without %s", async (format, name) => {
    const folder = copied(format);
    editHeader(join(folder, "model.safetensors"), (header) => {
      header[`${name}_`] = header[name]!;
      delete header[name];
    });
    await expect(load(folder)).rejects.toThrow(FormatError);
    await expect(load(folder)).rejects.toThrow(/is missing/);
  });

  test.each([
    ["gptq", { group_size: 16 }, /scales: expected/],
    ["gptq", { bits: 8 }, /scales: expected|qzeros: expected/],
    ["awq", { group_size: 64 }, /scales: expected/],
    ["fp8-block", { weight_block_size: [128, 128] }, /weight_scale_inv: expected/],
  ])("%s with %o", async (format, change, message) => {
    const folder = copied(format);
    const file = join(folder, "config.json");
    const { quantization_config } = JSON.parse(readFileSync(file, "utf8"));
    editJson(file, { quantization_config: { ...quantization_config, ...change } });
    await expect(load(folder)).rejects.toThrow(message);
  });

  test.each([
    [{ quant_method: "gptq", bits: 5 }, UnsupportedModelError, /bits 5 is not read; known are 2, 3, 4, 8/],
    [{ quant_method: "gptq", bits: 4, checkpoint_format: "marlin" }, UnsupportedModelError, /marlin/],
    [{ quant_method: "gptq", bits: 4, format: "marlin" }, UnsupportedModelError, /format "marlin"/],
    [{ quant_method: "gptq", bits: 4, group_size: 0 }, ConfigError, /group_size/],
    [{ quant_method: "awq", bits: 4, version: "gemv" }, UnsupportedModelError, /version "gemv"/],
    [{ quant_method: "awq", bits: 4, format: "gemv" }, UnsupportedModelError, /format "gemv"/],
    [{ quant_method: "awq", bits: 4, backend: "llm-awq" }, UnsupportedModelError, /backend "llm-awq"/],
    [{ quant_method: "fp8", weight_block_size: "big" }, ConfigError, /block must be/],
    [{ quant_method: "compressed-tensors", format: "marlin-24" }, UnsupportedModelError, /marlin-24/],
    [{ quant_method: "compressed-tensors", config_groups: {} }, ConfigError, /names no weights/],
    [
      { quant_method: "compressed-tensors", config_groups: { a: { weights: { num_bits: 3 } } } },
      UnsupportedModelError,
      /num_bits 3/,
    ],
    [
      { quant_method: "compressed-tensors", sparsity_config: { format: "sparse-24-bitmask" } },
      UnsupportedModelError,
      /sparse-24-bitmask/,
    ],
    [{ quant_method: "hqq" }, UnsupportedModelError, /"hqq"/],
    [{ bits: 4, group_size: 32 }, UnsupportedModelError, /names no quant_method/],
  ])("quantization_config %o", async (quantization_config, type, message) => {
    const folder = copied("gptq");
    editJson(join(folder, "config.json"), { quantization_config });
    await expect(load(folder)).rejects.toThrow(type);
    await expect(load(folder)).rejects.toThrow(message);
  });

  test("an input in a group that has no scales", async () => {
    const folder = copied("gptq-act-order");
    await overwrite(folder, `${KEY}.g_idx`, new Uint8Array(Int32Array.of(4).buffer));
    await expect(load(folder)).rejects.toThrow(/g_idx: input 0 is in group 4, of 4/);
  });

  test("one matrix whose groups are not of neighbours is decoded, and said apart from the others", async () => {
    const folder = copied("gptq");
    await overwrite(folder, `${KEY}.g_idx`, new Uint8Array(Int32Array.of(1).buffer));
    await using model = await load(folder, { dtype: "float32" });
    expect(model.warnings).toEqual([
      "6 of the file's 7 matrices (gptq, 4 bits) are kept in 4 bits; the others are decoded into float32",
    ]);
  });

  test("a shape beside the words that is another", async () => {
    const folder = copied("ct-int4");
    await overwrite(folder, `${KEY}.weight_shape`, new Uint8Array(BigInt64Array.of(64n, 96n).buffer));
    await expect(load(folder)).rejects.toThrow(
      /weight_shape: expected 64 x 128, as the packed words have it, got 64 x 96/,
    );
  });

  test("a config that says gptq beside plain floats", async () => {
    const folder = temporary("plain");
    cpSync(join(FIXTURES, "models", "llama"), folder, { recursive: true });
    editJson(join(folder, "config.json"), { quantization_config: { quant_method: "gptq", bits: 4, group_size: 128 } });
    await expect(load(folder)).rejects.toThrow(/says gptq, 4 bits, but no tensor is quantized that way/);
  });
});
