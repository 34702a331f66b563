// Pure numbers: maps, data types, and lists of numbers as the introductions to 8-bit models show them.

import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import * as bnb from "../../src/bnb/index.js";
import { fromBf16, fromF16 } from "../../src/core/dtype.js";
import { OptionError } from "../../src/core/errors.js";
import { FLOAT_FORMATS } from "../../src/core/float-formats.js";
import { readJson } from "../support/fixtures.js";
import { uniforms } from "../support/random.js";

test("D15: maps are the same everywhere, bit for bit", () => {
  const { sha256_of_little_endian_bytes: want } = readJson<{ sha256_of_little_endian_bytes: Record<string, string> }>(
    "quant",
    "tables.json",
  );
  const maps: Record<string, Float32Array> = {
    nf4: bnb.get_4bit_type("nf4"),
    fp4: bnb.get_4bit_type("fp4"),
    dynamic_signed: bnb.create_dynamic_map(),
    dynamic_unsigned: bnb.create_dynamic_map(false),
    dynamic_signed_4bit: bnb.create_dynamic_map(true, 3, 4),
    dynamic_signed_6bit: bnb.create_dynamic_map(true, 5, 6),
    linear_signed_8bit: bnb.create_linear_map(),
    linear_unsigned_8bit: bnb.create_linear_map(false),
  };
  for (const [name, map] of Object.entries(maps)) {
    expect(createHash("sha256").update(new Uint8Array(map.buffer)).digest("hex"), name).toBe(want[name]);
  }
});

test("maps of fewer bits ascend and have as many values", () => {
  for (let bits = 2; bits <= 8; bits++) {
    const exponent = Math.ceil(bits / 2);
    for (const [map, least] of [
      [bnb.create_linear_map(true, bits), 2 ** bits - 1],
      [bnb.create_linear_map(false, bits), 2 ** bits],
      [bnb.create_dynamic_map(true, bits - 1, bits), 2 ** bits],
      [bnb.create_fp8_map(true, exponent, bits - 1 - exponent, bits), 2 ** bits - 1],
    ] as const) {
      expect(map.length).toBe(256);
      expect([...map]).toEqual([...map].sort((a, b) => a - b));
      expect(new Set([...map].map((v) => v + 0)).size).toBeGreaterThanOrEqual(least);
    }
  }
  expect(() => bnb.create_dynamic_map(true, 8, 8)).toThrow(OptionError);
  expect(() => bnb.create_fp8_map(true, 4, 4)).toThrow(OptionError);
});

test("NF4 is the map of normal quantiles; D14: FP4 is not that of its bits", () => {
  expect([...new Set(bnb.create_normal_map())]).toEqual([...bnb.get_4bit_type("nf4")]);
  expect(new Set(bnb.create_normal_map(0.9677083, false)).size).toBe(15);
  const smallest = (map: Float32Array): number => Math.min(...map.filter((v) => v > 0));
  expect(smallest(bnb.create_fp8_map(true, 2, 1, 4))).toBeCloseTo(0.25 / 12, 7);
  expect(smallest(bnb.get_4bit_type("fp4"))).toBeCloseTo(0.0625 / 12, 7);
});

test("the announcement's numbers", () => {
  const x = [1.2, -0.5, -4.3, 1.2, -3.1, 0.8, 2.4, 5.4];
  const [codes, state] = bnb.quantize_absmax(x);
  expect(codes).toEqual([28, -12, -101, 28, -73, 19, 56, 127]);
  const back = bnb.dequantize_absmax(codes, state);
  expect(Math.max(...back.map((v, i) => Math.abs(v - x[i]!)))).toBeLessThan(5.4 / 254);
  for (const odd of [300, 1.5, Number.NaN]) {
    expect(() => bnb.dequantize_absmax([odd, ...codes.slice(1)], state)).toThrow("from -128 to 127");
  }
  expect(() => bnb.dequantize_absmax(codes.slice(1), state)).toThrow("the codes are 7");
  const [one, about] = bnb.quantize_zeropoint([0.3], { range: [-1, 1], symmetric: true });
  expect(one).toEqual([38]);
  expect(bnb.dequantize_zeropoint(one, about)[0]).toBeCloseTo(0.2992, 4);
  // Without a sign to spend, the whole range is used.
  const [positive, shifted] = bnb.quantize_zeropoint([0, 1, 2]);
  expect([positive, shifted.zero_point]).toEqual([[-128, -1, 127], [-128]]);
  expect(bnb.round_to(10_000 * 10_000, "float16")).toBe(Number.POSITIVE_INFINITY);
  expect(bnb.round_to(10_000 * 10_000, "bfloat16")).toBe(100139008);
  expect(bnb.finfo("float16").max).toBe(65504);
});

test("what types hold, as torch says it", () => {
  const known: Record<string, [eps: number, max: number, tiny: number, resolution: number]> = {
    float64: [2.220446049250313e-16, 1.7976931348623157e308, 2.2250738585072014e-308, 1e-15],
    float32: [1.1920928955078125e-7, 3.4028234663852886e38, 1.1754943508222875e-38, 1e-6],
    "torch.float16": [0.0009765625, 65504, 6.103515625e-5, 0.001],
    bf16: [0.0078125, 3.3895313892515355e38, 1.1754943508222875e-38, 0.01],
    float8_e4m3fn: [0.125, 448, 0.015625, 1],
    float8_e5m2: [0.25, 57344, 6.103515625e-5, 1],
    tf32: [0.0009765625, 3.4011621342146535e38, 1.1754943508222875e-38, 0.001],
  };
  for (const [name, [eps, max, tiny, resolution]] of Object.entries(known)) {
    expect(bnb.finfo(name as bnb.FloatTypeName)).toMatchObject({
      eps,
      max,
      min: -max,
      tiny,
      smallest_normal: tiny,
      resolution,
    });
  }
  expect(bnb.iinfo("int8")).toEqual({ dtype: "int8", bits: 8, min: -128, max: 127 });
  expect(bnb.iinfo("int64").max).toBe(9223372036854775807n);
  expect(() => bnb.finfo("float1" as never)).toThrow(OptionError);
  expect(() => bnb.iinfo("float16" as never)).toThrow(OptionError);
});

/** An 8-bit float by the tables of the OCP's paper: E4M3 has no infinities, E5M2 has IEEE's. */
function float8(code: number, mantissaBits: 2 | 3): number {
  const [sign, exponent] = [code & 0x80 ? -1 : 1, (code & 0x7f) >> mantissaBits];
  const fraction = (code & (2 ** mantissaBits - 1)) / 2 ** mantissaBits;
  if (mantissaBits === 2 && exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  if (mantissaBits === 3 && (code & 0x7f) === 0x7f) return Number.NaN;
  const bias = mantissaBits === 2 ? 15 : 7;
  return sign * (exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias));
}

test("every code of 8 and 16 bits is the number that it stands for, and comes back", () => {
  const tables: Partial<Record<bnb.FloatTypeName, (code: number) => number>> = {
    float16: fromF16,
    bfloat16: fromBf16,
    float8_e4m3fn: (code) => float8(code, 3),
    float8_e5m2: (code) => float8(code, 2),
  };
  for (const [key, table] of Object.entries(tables)) {
    const name = key as bnb.FloatTypeName;
    const codes = Array.from({ length: 2 ** bnb.finfo(name).bits }, (_, code) => code);
    const numbers = bnb.from_bits(codes, name);
    const values = name.startsWith("float8") ? codes.map(table) : codes.map((code) => table(code));
    expect(numbers.every((v, i) => Object.is(v, values[i]) || (Number.isNaN(v) && Number.isNaN(values[i])))).toBe(true);
    const back = bnb.to_bits(numbers, name);
    expect(codes.filter((code) => back[code] !== code && !Number.isNaN(numbers[code]!))).toEqual([]);
  }
});

test("numbers are rounded once, to the nearest, halves to even", () => {
  const next = uniforms(5);
  const numbers = Array.from({ length: 20_000 }, () => (next() - 0.5) * 2 ** ((next() - 0.5) * 300));
  expect(bnb.round_to(numbers, "f32")).toEqual(numbers.map(Math.fround));
  const edges = [5e-324, 7e-46, 7.1e-46, 1.4e-45, 3.5e38, 3.4028235e38, 3.40282356e38, -0];
  expect(bnb.round_to(edges, "f32")).toEqual(edges.map(Math.fround));
  for (const name of Object.keys(FLOAT_FORMATS) as bnb.FloatTypeName[]) {
    const held = bnb.round_to(numbers, name);
    expect(bnb.round_to(held, name)).toEqual(held);
    if (name !== "float64") expect(bnb.from_bits(bnb.to_bits(held, name), name)).toEqual(held);
  }
  // By way of f32 it would be a half, and go to the even neighbour.
  expect(bnb.round_to(1 + 2 ** -11 + 2 ** -40, "float16")).toBe(1 + 2 ** -10);
  expect(bnb.round_to([464, 465, -1e9], "e4m3")).toEqual([448, Number.NaN, Number.NaN]);
  expect(bnb.round_to([465, Number.NEGATIVE_INFINITY], "e4m3", { saturate: true })).toEqual([448, -448]);
  expect(bnb.round_to([61439, 61440], "e5m2")).toEqual([57344, Number.POSITIVE_INFINITY]);
  expect(bnb.round_to(Number.NaN, "tf32")).toBeNaN();
});
