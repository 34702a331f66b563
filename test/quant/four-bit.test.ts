// NF4, FP4 and double quantization against bitsandbytes' own numbers (test/fixtures/README.md): tables, codes, values,
// layers, and weights that arrive in pieces.

import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import type { FloatDType, Weight } from "../../src/nn/weight.js";
import { contiguous } from "../../src/ops/copy.js";
import { doubleQuantize } from "../../src/ops/double-quantize.js";
import { type BnbKind, FOUR_BIT_TABLES, fourBitDequantize } from "../../src/ops/four-bit.js";
import { FP4_THRESHOLDS, fourBitQuantize, NF4_THRESHOLDS } from "../../src/ops/four-bit-quantize.js";
import { dynamicMap } from "../../src/quant/_dynamic-map.js";
import { type FourBitOptions, fourBitScheme } from "../../src/quant/four-bit.js";
import { ALL_DEVICES } from "../support/devices.js";
import { difference, type Golden, readArrays, readJson } from "../support/fixtures.js";
import { normals } from "../support/random.js";
import { onDevice } from "../support/suites.js";

interface CodesCase {
  name: string;
  quant_type: BnbKind;
  blocksize: number;
  /** Elements; the cases made by hand say neither kind nor dtype. */
  n?: number;
  shape?: number[];
  dtype?: "float16" | "bfloat16";
  input_nonzero?: Record<string, number>;
  packed_hex?: string;
  absmax?: number[];
}

const tables = readArrays("quant", "tables.safetensors");
const hashes = readJson<{ sha256_of_little_endian_bytes: Record<string, string> }>("quant", "tables.json");
const codes = readArrays("quant", "fourbit.safetensors");
const codeCases = readJson<{ cases: CodesCase[] }>("quant", "fourbit.json").cases;
const doubles = readArrays("quant", "double_quant.safetensors");
const layers = readArrays("quant", "linear4bit.safetensors");
const layerFile = readJson<{
  tolerance: number;
  cases: { case: number; quant_type: BnbKind; double_quant: boolean; bias: boolean; blocksize: number }[];
}>("quant", "linear4bit.json");
const embeddings = readArrays("quant", "embedding.safetensors");

function get(arrays: ReadonlyMap<string, Golden>, name: string): Golden {
  const array = arrays.get(name);
  if (!array) throw new Error(`no ${name} in the fixture`);
  return array;
}

test.each<[string, Float32Array]>([
  ["nf4", FOUR_BIT_TABLES[0]!],
  ["fp4", FOUR_BIT_TABLES[1]!.map((x) => x + 0)], // torch's tables hold +0 for code 8
  ["dynamic_signed", dynamicMap(true)],
  ["dynamic_unsigned", dynamicMap(false)],
])("table %s, bit for bit", (name, table) => {
  const bytes = Buffer.from(table.buffer, table.byteOffset, table.byteLength);
  expect([...table]).toEqual([...get(tables, name).values]);
  expect(createHash("sha256").update(bytes).digest("hex")).toBe(hashes.sha256_of_little_endian_bytes[name]);
});

test("codes change in the middle between two values", () => {
  const middles = (values: readonly number[]): number[] =>
    values.slice(1).map((x, i) => Math.fround((Math.fround(x) + Math.fround(values[i]!)) / 2));
  expect([...NF4_THRESHOLDS]).toEqual(middles([...FOUR_BIT_TABLES[0]!]));
  expect([...FP4_THRESHOLDS]).toEqual(middles([...FOUR_BIT_TABLES[1]!.subarray(0, 8)].sort((a, b) => a - b)));
});

test("a block size that the format does not have is refused", () => {
  for (const blocksize of [0, 16, 63, 100, 8192, Number.NaN]) {
    expect(() => fourBitScheme({ kind: "nf4", blocksize, double_quant: false, compute: "f32" })).toThrow(OptionError);
  }
});

/** FP4 codes 0 and 8 are both zero; which one a tiny number gets differs between backends upstream. */
function comparable(kind: BnbKind, packed: ArrayLike<number>): number[] {
  const plain = (code: number): number => (kind === "fp4" && code === 8 ? 0 : code);
  return Array.from(packed, (byte) => (plain(byte >>> 4) << 4) | plain(byte & 15));
}

describe.each(ALL_DEVICES)("4 bits on %s", (name) => {
  let device: Device;
  onDevice(name, (opened) => (device = opened));

  const floats = async (tensor: Tensor): Promise<Float32Array> => {
    try {
      return await tensor.readFloats();
    } finally {
      tensor.dispose();
    }
  };

  /** Quantizes a matrix in one piece: codes, absmax, and the values again in `dtype`. */
  const quantized = (
    values: Float32Array,
    [N, K]: readonly [number, number],
    kind: BnbKind,
    blocksize: number,
    dtype: FloatDType = "f32",
    search = false,
  ): { packed: Tensor; absmax: Tensor; values: Tensor } =>
    scope(() => {
      const packed = Tensor.empty(device, [N, K], "u4");
      const absmax = Tensor.empty(device, [Math.ceil((N * K) / blocksize)], "f32");
      fourBitQuantize(Tensor.from(device, values, [N, K], dtype), packed, absmax, kind, blocksize, 0, search);
      return {
        packed,
        absmax,
        values: contiguous(fourBitDequantize({ codes: packed, absmax, kind, blocksize, rounding: "f32" }), dtype),
      };
    });

  describe("scales that are searched", () => {
    /** Squared errors by block. */
    const errorsOf = (values: Float32Array, decoded: Float32Array, blocksize: number): number[] => {
      const sums = new Array<number>(Math.ceil(values.length / blocksize)).fill(0);
      values.forEach((value, i) => {
        sums[Math.floor(i / blocksize)]! += (decoded[i]! - value) ** 2;
      });
      return sums;
    };
    // Student's t with 3 degrees of freedom: weights with a few that are very large.
    const heavy = (seed: number, count: number): Float32Array => {
      const [a, b, c, d] = [0, 1, 2, 3].map((i) => normals(seed + i, count));
      return a!.map((x, i) => x / Math.sqrt((b![i]! ** 2 + c![i]! ** 2 + d![i]! ** 2) / 3));
    };

    test.each([
      ["nf4", "normal", 0.9],
      ["fp4", "normal", 0.9],
      ["nf4", "heavy-tailed", 0.96],
      ["fp4", "heavy-tailed", 0.92],
    ] as const)("%s of %s numbers: no block is worse, all together are better", async (kind, which, most) => {
      const shape = [64, 160] as const;
      const values = which === "normal" ? normals(5, 64 * 160) : heavy(5, 64 * 160);
      for (const blocksize of [64, 256]) {
        const [plain, searched] = [false, true].map((search) =>
          quantized(values, shape, kind, blocksize, "f32", search),
        );
        const before = errorsOf(values, await floats(plain!.values), blocksize);
        const after = errorsOf(values, await floats(searched!.values), blocksize);
        // Errors are compared in f32.
        after.forEach((error, b) => {
          expect(error).toBeLessThanOrEqual(before[b]! * (1 + 1e-5));
        });
        const sum = (list: number[]): number => list.reduce((total, one) => total + one, 0);
        expect(sum(after) / sum(before)).toBeLessThan(most);
        const scales = [await floats(plain!.absmax), await floats(searched!.absmax)];
        for (const [b, scale] of scales[1]!.entries()) {
          expect(scale / scales[0]![b]!).toBeGreaterThan(0.7999);
          expect(scale / scales[0]![b]!).toBeLessThan(1.1001);
        }
        plain!.packed.dispose();
        searched!.packed.dispose();
      }
    });
  });

  test.each(codeCases.filter((one) => one.n !== undefined && !one.packed_hex))(
    "$name: bytes, absmax, values",
    async (one) => {
      const { quant_type, blocksize, n = 0 } = one;
      const input = (get(codes, "input").values as Float32Array).slice(0, n);
      const got = quantized(input, [1, n], quant_type, blocksize);
      expect(comparable(quant_type, await got.packed.read())).toEqual(
        comparable(quant_type, get(codes, `${one.name}.packed`).values),
      );
      expect(await floats(got.absmax)).toEqual(get(codes, `${one.name}.absmax`).values);
      expect([...(await floats(got.values))].map((x) => x + 0)).toEqual(
        [...get(codes, `${one.name}.dequantized`).values].map((x) => x + 0),
      );
      got.packed.dispose();
    },
  );

  test.each(codeCases.filter((one) => one.dtype))("$name: from and to half precision", async (one) => {
    const dtype = one.dtype === "float16" ? "f16" : "bf16";
    const input = get(codes, `${one.name}.input`);
    const got = quantized(input.values as Float32Array, [40, 48], one.quant_type, one.blocksize, dtype);
    expect(comparable(one.quant_type, await got.packed.read())).toEqual(
      comparable(one.quant_type, get(codes, `${one.name}.packed`).values),
    );
    expect(await floats(got.absmax)).toEqual(get(codes, `${one.name}.absmax`).values);
    expect([...(await floats(got.values))].map((x) => x + 0)).toEqual(
      [...get(codes, `${one.name}.dequantized`).values].map((x) => x + 0),
    );
    got.packed.dispose();
  });

  test.each(codeCases.filter((one) => one.packed_hex))("$name: bytes made by hand", async (one) => {
    const input = new Float32Array(64);
    for (const [at, value] of Object.entries(one.input_nonzero!)) input[Number(at)] = value;
    const got = quantized(input, [1, 64], one.name === "hand_fp4" ? "fp4" : "nf4", 64);
    expect(Buffer.from((await got.packed.read()) as Uint8Array).toString("hex")).toBe(one.packed_hex);
    expect([...(await floats(got.absmax))]).toEqual(one.absmax);
    for (const tensor of [got.packed, got.values]) tensor.dispose();
  });

  test.each(["nf4", "fp4"] as const)("double quantization of %s", async (kind) => {
    const absmax = get(doubles, `${kind}.absmax`);
    const blocks = absmax.values.length;
    const packed = get(doubles, `${kind}.packed`);
    const all = scope(() => {
      const small = Tensor.empty(device, [blocks], "u8");
      const nested = Tensor.empty(device, [Math.ceil(blocks / 256)], "f32");
      const map = Tensor.from(device, dynamicMap(true), [256]);
      const offset = Tensor.empty(device, [1], "f32");
      doubleQuantize(Tensor.from(device, absmax.values, [blocks]), map, small, nested, offset);
      const matrix = Tensor.from(device, packed.values, [blocks, 64], "u4");
      const values = fourBitDequantize({
        codes: matrix,
        absmax: small,
        nested,
        map,
        offset,
        kind,
        blocksize: 64,
        rounding: "f32",
      });
      return { small, nested, offset, values };
    });
    expect([...(await all.small.read())]).toEqual([...get(doubles, `${kind}.absmax_codes`).values]);
    all.small.dispose();
    expect(difference(await floats(all.nested), get(doubles, `${kind}.nested_absmax`).values).max).toBeLessThan(1e-6);
    expect(difference(await floats(all.offset), get(doubles, `${kind}.offset`).values).max).toBeLessThan(1e-6);
    expect(difference(await floats(all.values), get(doubles, `${kind}.dequantized`).values).max).toBeLessThan(1e-6);
  });

  /** A weight through the scheme's builder, rows arriving in pieces of the given sizes (in units of the granularity). */
  const build = (
    values: Float32Array,
    [N, K]: readonly [number, number],
    options: FourBitOptions,
    pieces: readonly number[] = [1000],
  ): Weight =>
    scope(() => {
      const builder = fourBitScheme(options).begin(device, [N, K], "weight");
      let next = 0;
      for (let at = 0; at < N; ) {
        const count = Math.min(N - at, pieces[next++ % pieces.length]! * builder.granularity);
        builder.put(Tensor.from(device, values.subarray(at * K, (at + count) * K), [count, K]), at);
        at += count;
      }
      return builder.finish();
    });

  test.each(layerFile.cases)("layer $case ($quant_type)", async (one) => {
    const key = one.case;
    const { values, shape } = get(layers, `${key}.weight`);
    const weight = build(values as Float32Array, shape as [number, number], {
      kind: one.quant_type,
      blocksize: one.blocksize,
      double_quant: one.double_quant,
      compute: "f32",
    });
    const dense = await floats(weight.dense("f32"));
    const want = get(layers, `${key}.weight_dequantized`).values;
    // Exact, but for the mean of the absmax values, whose last bit depends on the order of a sum.
    expect(difference(dense, want).max).toBeLessThanOrEqual(one.double_quant ? 1e-6 : 0);
    const y = scope(() => {
      const x = get(layers, `${key}.x`);
      const bias = layers.get(`${key}.bias`);
      return weight.linear(Tensor.from(device, x.values, x.shape), {
        bias: bias && Tensor.from(device, bias.values, bias.shape),
      });
    });
    expect(difference(await floats(y), get(layers, `${key}.y`).values).max).toBeLessThan(layerFile.tolerance);
    weight.dispose();
  });

  test.each([0, 1, 2])("lookups of quantized table %i", async (index) => {
    const { values, shape } = get(embeddings, `${index}.weight`);
    const ids = get(embeddings, `${index}.ids`).values;
    for (const kind of ["nf4", "fp4"] as const) {
      const got = quantized(values as Float32Array, shape as [number, number], kind, 64);
      const rows = await floats(got.values);
      const picked = [...ids].flatMap((id) => [...rows.subarray(id * shape[1]!, (id + 1) * shape[1]!)]);
      expect(difference(picked, get(embeddings, `${index}.${kind}_lookup`).values).max).toBeLessThan(1e-6);
      for (const tensor of [got.packed, got.absmax]) tensor.dispose();
    }
  });

  test.each([
    [70, 64, 64],
    [70, 128, 64],
    [33, 45, 32],
    [100, 7, 64],
    [40, 96, 128],
    [5, 130, 4096],
    [129, 33, 4096],
  ])("a %i x %i weight in blocks of %i is the same however its rows arrive", async (N, K, blocksize) => {
    const values = normals(N * K, N * K);
    for (const kind of ["nf4", "fp4"] as const) {
      const single = quantized(values, [N, K], kind, blocksize);
      const want = await floats(single.values);
      for (const tensor of [single.packed, single.absmax]) tensor.dispose();
      const twice: Float32Array[] = [];
      for (const pieces of [[1000], [1], [2, 1]]) {
        const plain = build(values, [N, K], { kind, blocksize, double_quant: false, compute: "f32" }, pieces);
        expect(plain.scheme).toBe(kind);
        expect(plain.footprint).toBe(Math.ceil((N * K) / 2));
        expect(await floats(plain.dense("f32"))).toEqual(want);
        plain.dispose();
        const double = build(values, [N, K], { kind, blocksize, double_quant: true, compute: "f32" }, pieces);
        twice.push(await floats(double.dense("f32")));
        double.dispose();
      }
      expect(twice[1]).toEqual(twice[0]);
      expect(twice[2]).toEqual(twice[0]);
    }
  });

  test("plans count the bytes that weights take", () => {
    for (const [N, K, blocksize] of [
      [64, 128, 64],
      [33, 45, 32],
    ] as const) {
      for (const double_quant of [false, true]) {
        const options = { kind: "nf4", blocksize, double_quant, compute: "f32" } as const;
        const weight = build(normals(1, N * K), [N, K], options);
        // Panels round the rows up to a multiple of sixteen.
        const padding = Math.ceil((Math.ceil(N / 16) * 16 - N) * K * 0.5);
        expect(weight.nbytes - fourBitScheme(options).bytes([N, K])).toBeGreaterThanOrEqual(0);
        expect(weight.nbytes - fourBitScheme(options).bytes([N, K])).toBeLessThanOrEqual(padding + 16);
        weight.dispose();
      }
    }
  });
});
