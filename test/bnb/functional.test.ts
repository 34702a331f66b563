// bitsandbytes' functions on every device, against the fixtures; and, one by one, what its own implementation gets wrong (D1 and so
// on: numbers of the list in the issue about them).

import { describe, expect, test } from "vitest";
import * as bnb from "../../src/bnb/index.js";
import type { Device } from "../../src/core/device.js";
import type { DType } from "../../src/core/dtype.js";
import { FormatError, GradientError, OctavoError, OptionError, ShapeError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { valueAndGradients } from "../../src/ops/gradient.js";
import { sumRows } from "../../src/ops/sum-rows.js";
import { ALL_DEVICES } from "../support/devices.js";
import { difference, type Golden, readArrays, readJson } from "../support/fixtures.js";
import { normals, product } from "../support/random.js";
import { onDevice } from "../support/suites.js";

const arrays = Object.fromEntries(
  ["tables", "int8_rows", "int8_linear", "fourbit", "double_quant", "blockwise8", "affine"].map((name) => [
    name,
    readArrays("quant", `${name}.safetensors`),
  ]),
);
const cases = <T>(name: string): T[] => readJson<{ cases: T[] }>("quant", `${name}.json`).cases;
const golden = (file: string, name: string): Golden => {
  const found = arrays[file]!.get(name);
  if (!found) throw new Error(`no ${name} in ${file}`);
  return found;
};

const DTYPES: Readonly<Record<string, DType>> = {
  F32: "f32",
  F16: "f16",
  BF16: "bf16",
  I8: "i8",
  U8: "u8",
  I32: "i32",
};

describe.each(ALL_DEVICES)("on %s", (name) => {
  let device: Device;
  onDevice(name, (opened) => (device = opened));

  const tensor = (values: ArrayLike<number>, shape: readonly number[], dtype: DType = "f32"): Tensor =>
    Tensor.from(device, Array.from(values), shape, dtype);
  const given = ({ values, shape, dtype }: Golden): Tensor => tensor(values, shape, DTYPES[dtype]);
  /** The values of what `body` returns; everything else is freed. */
  const read = async (body: () => Tensor): Promise<number[]> => {
    using result = scope(body);
    return [...(await result.read())];
  };
  /** The values of several tensors. */
  const readAll = async (body: () => Tensor[]): Promise<number[][]> => {
    const results = scope(body);
    const values = [];
    for (const one of results) {
      values.push([...(await one.read())]);
      one.dispose();
    }
    return values;
  };

  test("8-bit blocks with a map", async () => {
    for (const one of cases<{ name: string; input: string; map: string; blocksize: number }>("blockwise8")) {
      const x = golden("blockwise8", one.input);
      const [codes, absmax, values] = await readAll(() => {
        const code = bnb.create_dynamic_map(one.map === "signed");
        const [q, state] = bnb.quantize_blockwise(given(x), { code, blocksize: one.blocksize });
        return [q, state.absmax, bnb.dequantize_blockwise(q, state)];
      });
      expect(absmax).toEqual([...golden("blockwise8", `${one.name}.absmax`).values]);
      // Codes next to a midpoint may be the neighbour's.
      const wanted = golden("blockwise8", `${one.name}.codes`).values;
      expect(codes!.filter((code, i) => code !== wanted[i]).length, one.name).toBeLessThanOrEqual(1);
      expect(difference(values!, golden("blockwise8", `${one.name}.dequantized`).values).mean).toBeLessThan(1e-5);
    }
  });

  test("4 bits", async () => {
    interface One {
      name: string;
      quant_type: "nf4" | "fp4";
      blocksize: 32 | 64;
      n?: number;
      packed_hex?: string;
    }
    for (const { name, quant_type, blocksize, n, packed_hex } of cases<One>("fourbit")) {
      if (packed_hex) continue;
      const own = arrays.fourbit!.get(`${name}.input`);
      const input = golden("fourbit", "input").values.slice(0, n) as Float32Array;
      const x: Golden = own ?? { shape: [n!], dtype: "F32", values: input };
      const [packed, absmax, values] = await readAll(() => {
        const [q, state] = bnb.quantize_4bit(given(x), { quant_type, blocksize });
        return [q, state.absmax, bnb.dequantize_4bit(q, state)];
      });
      const plain = (bytes: ArrayLike<number>): number[] =>
        Array.from(bytes).flatMap((byte) =>
          [byte >> 4, byte & 15].map((c) => (quant_type === "fp4" && c === 8 ? 0 : c)),
        );
      expect(plain(packed!), name).toEqual(plain(golden("fourbit", `${name}.packed`).values));
      expect(absmax).toEqual([...golden("fourbit", `${name}.absmax`).values]);
      expect(difference(values!, golden("fourbit", `${name}.dequantized`).values).max).toBe(0);
    }
  });

  test("statistics in 8 bits, and a state as a checkpoint holds it", async () => {
    const x = golden("double_quant", "nf4.input");
    const [q, state] = scope(() => bnb.quantize_4bit(given(x), { quant_type: "nf4", compress_statistics: true }));
    expect(await state.absmax.read()).toEqual(golden("double_quant", "nf4.absmax_codes").values);
    expect(difference(await state.offset!.readFloats(), golden("double_quant", "nf4.offset").values).max).toBeLessThan(
      1e-6,
    );
    const want = golden("double_quant", "nf4.dequantized").values;
    expect(difference(await read(() => bnb.dequantize_4bit(q, state)), want).max).toBeLessThan(1e-6);

    const dict = (await state.as_dict({ packed: true })) as Record<string, Tensor>;
    expect(Object.keys(dict)).toEqual([
      "absmax",
      "quant_map",
      "nested_absmax",
      "nested_quant_map",
      "quant_state.bitsandbytes__nf4",
    ]);
    const text = new TextDecoder().decode((await dict["quant_state.bitsandbytes__nf4"]!.read()) as Uint8Array);
    expect(text).toMatch(
      /^\{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": \[\d+(, \d+)*\], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": [\d.]+\}$/,
    );
    const prefixed = Object.fromEntries(Object.entries(dict).map(([key, value]) => [`layers.0.weight.${key}`, value]));
    using again = await bnb.QuantState.from_dict(prefixed);
    expect(await read(() => bnb.dequantize_4bit(q, again))).toEqual(await read(() => bnb.dequantize_4bit(q, state)));
    await expect(bnb.QuantState.from_dict({ ...dict, more: q })).rejects.toThrow(FormatError);
    await expect(bnb.QuantState.from_dict({ absmax: q })).rejects.toThrow(FormatError);
    // A state is read by the same rules as those of checkpoints.
    const fields = (more: object) => {
      const bytes = new TextEncoder().encode(JSON.stringify({ ...JSON.parse(text), ...more }));
      return Tensor.from(state.device, bytes, [bytes.length], "u8");
    };
    for (const [more, said] of [
      [{ nested_dtype: "float16" }, /nested_dtype "?float32/],
      [{ nested_blocksize: 128 }, /nested_blocksize 256/],
      [{ quant_type: "fp4" }, /quant_type/],
      [{ shape: [-1] }, /a shape/],
    ] as const) {
      using changed = fields(more);
      const packed = { ...dict, "quant_state.bitsandbytes__nf4": changed };
      await expect(bnb.QuantState.from_dict(packed)).rejects.toThrow(said);
    }
    for (const one of Object.values(dict)) one.dispose();
    const plain = await state.as_dict();
    using plainly = await bnb.QuantState.from_dict(plain);
    expect(String(plainly)).toBe(String(state));
    for (const one of Object.values(plain)) if (Tensor.is(one)) one.dispose();
    q.dispose();
    state.dispose();
  });

  test("rows with outliers", async () => {
    for (const { name, threshold, outlier_cols } of cases<{
      name: string;
      threshold: number;
      outlier_cols: number[] | null;
    }>("int8_rows")) {
      const [codes, stats, cols] = scope(() =>
        bnb.int8_vectorwise_quant(given(golden("int8_rows", `${name}.A`)), { threshold }),
      );
      expect(await codes.read(), name).toEqual(golden("int8_rows", `${name}.codes`).values);
      expect(await stats.read()).toEqual(golden("int8_rows", `${name}.row_stats`).values);
      expect(cols && [...(await cols.read())]).toEqual(outlier_cols);
      const values = await read(() => bnb.int8_vectorwise_dequant(codes, stats));
      const want = golden("int8_rows", `${name}.dequantized`).values;
      expect(difference(values, want).max).toBeLessThanOrEqual(1e-6 * Math.max(1, ...values.map(Math.abs)));
      for (const one of [codes, stats, cols]) one?.dispose();
    }
  });

  test("products of codes", async () => {
    for (const { name, threshold } of cases<{ name: string; threshold: number }>("int8_linear")) {
      if (name === "batch") continue;
      const get = (key: string): Golden => golden("int8_linear", `${name}.${key}`);
      const [sums, y] = await readAll(() => {
        const x = tensor(get("x").values, get("x").shape, "f16");
        const [CA, SCA, outlier_cols] = bnb.int8_vectorwise_quant(x, { threshold });
        const [CB, SCB] = [given(get("CB")), given(get("SCB"))];
        const bias = arrays.int8_linear!.get(`${name}.bias`);
        const options = { outlier_cols, ...(bias && { bias: given(bias) }) };
        // In f32, as what comes back has the dtype of A.
        const wide = tensor(get("x").values, get("x").shape);
        return [bnb.int8_linear_matmul(CA, CB), bnb.int8_mixed_scaled_mm(wide, CA, CB, SCA, SCB, options)];
      });
      expect(sums).toEqual([...get("int32").values]);
      const want = get("y_exact").values;
      expect(difference(y!, want).max, name).toBeLessThan(3e-6 * Math.max(...Array.from(want, Math.abs)));
    }
  });

  test("zero points and absmax", async () => {
    for (const { name, granularity } of cases<{ name: string; granularity: "tensor" | "row" }>("affine")) {
      const x = golden("affine", `${name}.x`);
      const [codes, scale, zero, values] = await readAll(() => {
        const [q, state] = bnb.quantize_zeropoint(given(x), { granularity });
        return [q, state.scale, state.zero_point, bnb.dequantize_zeropoint(q, state)];
      });
      expect(difference(codes!, golden("affine", `${name}.codes`).values).max).toBeLessThanOrEqual(1);
      expect(difference(scale!, golden("affine", `${name}.scale`).values).max).toBeLessThan(1e-8);
      expect(zero).toEqual([...golden("affine", `${name}.zero_point`).values]);
      expect(difference(values!, x.values).max).toBeLessThanOrEqual(Math.max(...scale!) * 0.501);
    }
    const data = normals(3, 6 * 35);
    for (const options of [
      { granularity: "column" },
      { granularity: "block", blocksize: 64 },
      { granularity: "row" },
    ] as const) {
      const [codes, scale, values] = await readAll(() => {
        const [q, state] = bnb.quantize_absmax(tensor(data, [2, 3, 35]), options);
        return [q, state.scale, bnb.dequantize_absmax(q, state)];
      });
      expect(scale!.length).toBe({ column: 35, block: 4, row: 6 }[options.granularity]);
      expect(difference(values!, data).max).toBeLessThanOrEqual(Math.max(...scale!) * 0.501);
      expect(Math.max(...codes!.map(Math.abs))).toBe(127);
    }
  });

  test("D1: zeros stay zeros, and codes are the nearest", async () => {
    const x = normals(5, 3000).map((v, i) => (i % 3 === 0 ? 0 : v ** 5));
    for (const signed of [true, false]) {
      const map = bnb.create_dynamic_map(signed);
      const data = signed ? x : x.map(Math.abs);
      const [codes, absmax] = await readAll(() => {
        const [q, state] = bnb.quantize_blockwise(tensor(data, [3000]), { code: map, blocksize: 256 });
        return [q, state.absmax];
      });
      expect(data.every((v, i) => v !== 0 || map[codes![i]!] === 0)).toBe(true);
      // No other value is nearer, but for the rounding of the quotient.
      const further = codes!.filter((code, i) => {
        const v = data[i]! / absmax![Math.floor(i / 256)]!;
        const nearest = map.reduce((best, one) => Math.min(best, Math.abs(one - v)), 2);
        return Math.abs(map[code]! - v) > nearest + 1e-7;
      });
      expect(further).toEqual([]);
    }
  });

  test("D2, D4, D9: any K, N and rank; D3: products change no weight and give gradients", async () => {
    for (const [N, K, lead, blocksize] of [
      [5, 96, [3], 64],
      [33, 64, [], 64],
      [64, 100, [1, 2, 2], 32],
      [7, 45, [2, 2], 4096],
    ] as const) {
      const shape = [...lead, K];
      const data = normals(1, product(shape));
      const x = tensor(data, shape);
      const [q, state] = scope(() =>
        bnb.quantize_4bit(tensor(normals(2, N * K), [N, K]), {
          quant_type: "nf4",
          blocksize,
          compress_statistics: true,
        }),
      );
      const before = [await q.read(), await state.absmax.read()];
      const dense = await read(() => bnb.dequantize_4bit(q, state));
      const { gradients, value } = scope(() =>
        valueAndGradients([x], () => sumRows(bnb.matmul_4bit(x, q, state).view(-1, 1))),
      );
      const columns = Float32Array.from({ length: K }, (_, k) =>
        dense.reduce((sum, v, i) => sum + (i % K === k ? v : 0), 0),
      );
      const got = await gradients[0]!.readFloats();
      expect(Math.max(...got.map((v, i) => Math.abs(v - columns[i % K]!)))).toBeLessThan(1e-4);
      expect([await q.read(), await state.absmax.read()]).toEqual(before);
      const y = await read(() => bnb.gemv_4bit(x, q, state));
      expect(y.length).toBe(product(lead) * N);
      const want = y.map((_, i) => {
        const [m, n] = [Math.floor(i / N), i % N];
        return dense.slice(n * K, (n + 1) * K).reduce((sum, w, k) => sum + w * data[m * K + k]!, 0);
      });
      expect(difference(y, want).max).toBeLessThan(2e-4);
      for (const one of [x, q, value, ...gradients]) one.dispose();
      state.dispose();
    }
  });

  test("D6, D7: the constant is 1/127², and nothing passes through f16", async () => {
    const options = { dtype: "float32" };
    const one = await read(() =>
      bnb.int8_mm_dequant(tensor([16129 * 7], [1, 1], "i32"), tensor([1], [1]), tensor([1], [1]), options),
    );
    expect(Math.abs(one[0]! - 7)).toBeLessThan(1e-6);
    for (const dtype of ["f32", "bf16"] as const) {
      const large = await read(() =>
        bnb.int8_vectorwise_matmul(tensor([3e5, 1], [1, 2], dtype), tensor([2, 0, 0, 1], [2, 2], dtype)),
      );
      expect(Math.abs(large[0]! / 6e5 - 1)).toBeLessThan(5e-3);
    }
  });

  test("D8: a row of the vector-wise product does not depend on the others", async () => {
    const x = normals(6, 3 * 70, 2).map((v, i) => (i % 70 === 4 && i > 70 ? 9 : v));
    const w = normals(7, 12 * 70);
    const product = (rows: number): Promise<number[]> =>
      read(() =>
        bnb.int8_vectorwise_matmul(tensor(x.slice(0, rows * 70), [rows, 70]), tensor(w, [12, 70]), { threshold: 6 }),
      );
    expect((await product(3)).slice(0, 12)).toEqual(await product(1));
  });

  test("D16: tiny numbers have one code in FP4, the same everywhere", async () => {
    const [q] = await readAll(() => {
      const [packed] = bnb.quantize_fp4(tensor([1, 1e-6, -1e-6, 0], [4]));
      return [packed];
    });
    expect(q).toEqual([0x30, 0x80]);
  });

  test("NaN stays NaN, infinity is none of the numbers, and nothing is needed of empty tensors", async () => {
    for (const bad of [Number.NaN, Number.POSITIVE_INFINITY]) {
      const x = (): Tensor => tensor([1, bad, 2, 3], [2, 2]);
      const back: Record<string, () => Tensor> = {
        blockwise: () => bnb.dequantize_blockwise(...bnb.quantize_blockwise(x(), { blocksize: 2 })),
        nested: () => bnb.dequantize_blockwise(...bnb.quantize_blockwise(x(), { blocksize: 2, nested: true })),
        "4 bits": () => bnb.dequantize_4bit(...bnb.quantize_4bit(x())),
        twice: () => bnb.dequantize_4bit(...bnb.quantize_4bit(x(), { compress_statistics: true })),
        absmax: () => bnb.dequantize_absmax(...bnb.quantize_absmax(x(), { granularity: "row" })),
        "zero point": () => bnb.dequantize_zeropoint(...bnb.quantize_zeropoint(x())),
        int8: () => {
          const [codes, stats] = bnb.int8_vectorwise_quant(x());
          return bnb.int8_vectorwise_dequant(codes, stats);
        },
      };
      for (const [what, body] of Object.entries(back)) {
        const values = await read(body);
        expect(Number.isFinite(values[1]!), `${what} of ${bad}`).toBe(false);
      }
    }
    for (const shape of [[0], [0, 4], [3, 0]]) {
      const x = (): Tensor => tensor([], shape);
      expect(await read(() => bnb.dequantize_blockwise(...bnb.quantize_blockwise(x())))).toEqual([]);
      expect(await read(() => bnb.dequantize_blockwise(...bnb.quantize_blockwise(x(), { nested: true })))).toEqual([]);
      expect(await read(() => bnb.dequantize_4bit(...bnb.quantize_4bit(x())))).toEqual([]);
      for (const granularity of ["tensor", "row", "column"] as const) {
        expect(await read(() => bnb.dequantize_absmax(...bnb.quantize_absmax(x(), { granularity })))).toEqual([]);
      }
      const empty = scope(() => bnb.int8_vectorwise_quant(x(), { threshold: 6 }));
      expect(await empty[2]!.read()).toEqual(new Int32Array(0));
      for (const one of empty) one?.dispose();
    }
    expect(
      await read(() => bnb.int8_linear_matmul(tensor([], [0, 4], "i8"), tensor([1, 2, 3, 4], [1, 4], "i8"))),
    ).toEqual([]);
  });

  test("codes stored as floats, and refusals", async () => {
    const x = tensor(normals(8, 64), [8, 8]);
    const [q, state] = scope(() => bnb.quantize_nf4(x, { quant_storage: "bfloat16" }));
    expect([q.dtype, q.shape]).toEqual(["bf16", [16, 1]]);
    const [plain, plainState] = scope(() => bnb.quantize_nf4(x));
    expect(await q.readBytes()).toEqual(await plain.readBytes());
    expect(await read(() => bnb.dequantize_nf4(q, state))).toEqual(
      await read(() => bnb.dequantize_4bit(plain, plainState)),
    );
    expect(() => bnb.dequantize_fp4(q, state)).toThrow(OptionError);
    expect(() => scope(() => bnb.quantize_nf4(tensor([1, 2], [2]), { quant_storage: "float32" }))).toThrow(OptionError);
    expect(() => bnb.dequantize_blockwise(plain, state)).toThrow(OptionError);
    // Not that number's low 32 bits.
    expect(() => scope(() => bnb.quantize_blockwise(x, { blocksize: 2 ** 32 + 64 }))).toThrow(OctavoError);
    expect(() => scope(() => bnb.quantize_absmax(x, { granularity: "block", blocksize: 2 ** 32 + 64 }))).toThrow(
      OctavoError,
    );
    expect(() => scope(() => void bnb.matmul_4bit(x, plain, state))).not.toThrow();
    expect(() => scope(() => bnb.matmul_4bit(tensor([1], [1, 1]), plain, state))).toThrow(ShapeError);
    expect(() => scope(() => bnb.int8_linear_matmul(tensor([1], [1, 1], "i8"), tensor([1, 2], [1, 2], "i8")))).toThrow(
      ShapeError,
    );
    expect(() => valueAndGradients([x], () => bnb.quantize_absmax(x)[1].scale)).toThrow(GradientError);
    for (const one of [x, q, plain]) one.dispose();
    state.dispose();
    plainState.dispose();
  });
});
