// File dtypes to device dtypes: exact, or refused with the tensor's name.

import { describe, expect, test } from "vitest";
import { SAFETENSORS_DTYPES } from "../../src/checkpoints/safetensors.js";
import { convertBytes, deviceDType } from "../../src/checkpoints/values.js";
import type { DType } from "../../src/core/dtype.js";
import { refusal } from "../support/source-tools.js";

const bytes = (array: ArrayBufferView) => new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
const i32 = (result: Uint8Array) => [...new Int32Array(result.buffer, result.byteOffset, result.length / 4)];
const f32 = (result: Uint8Array) => [...new Float32Array(result.buffer, result.byteOffset, result.length / 4)];

test("dtypes that devices have", () => {
  const same = SAFETENSORS_DTYPES.flatMap((dtype) => deviceDType(dtype) ?? []).sort();
  expect(same).toEqual(["bf16", "f16", "f32", "i32", "i8", "u8", "u8"]);
  expect(deviceDType("BOOL")).toBe("u8");
  expect(deviceDType("F64")).toBeUndefined();
  const data = new Uint8Array([1, 2, 3, 4]);
  expect(convertBytes("F32", data, "f32")).toBe(data);
  expect(convertBytes("I8", data, "i8")).toBe(data);
});

test("integers", () => {
  expect(i32(convertBytes("I64", bytes(new BigInt64Array([-2147483648n, 2147483647n, 0n])), "i32"))).toEqual([
    -2147483648, 2147483647, 0,
  ]);
  expect(i32(convertBytes("U32", bytes(new Uint32Array([2147483647])), "i32"))).toEqual([2147483647]);
  expect(i32(convertBytes("U16", bytes(new Uint16Array([65535])), "i32"))).toEqual([65535]);
  expect(i32(convertBytes("I16", bytes(new Int16Array([-32768])), "i32"))).toEqual([-32768]);
  expect(i32(convertBytes("BOOL", new Uint8Array([0, 1, 255]), "i32"))).toEqual([0, 1, 1]);
  expect([...convertBytes("I64", bytes(new BigInt64Array([255n])), "u8")]).toEqual([255]);
  expect([...convertBytes("BOOL", new Uint8Array([0, 7]), "u8")]).toEqual([0, 1]);
  expect(f32(convertBytes("I64", bytes(new BigInt64Array([-16777216n, 7n])), "f32"))).toEqual([-16777216, 7]);
});

test("floats", () => {
  const values = [0.1, -0, Number.NaN, Number.POSITIVE_INFINITY, 5e-324, 3.4028234663852886e38];
  expect(f32(convertBytes("F64", bytes(new Float64Array(values)), "f32"))).toEqual(values.map(Math.fround));
  expect(f32(convertBytes("BF16", new Uint8Array([0x80, 0x3f, 0x00, 0xc0]), "f32"))).toEqual([1, -2]);
  expect(f32(convertBytes("F16", new Uint8Array([0x00, 0x3c, 0x01, 0x00]), "f32"))).toEqual([1, 2 ** -24]);
  expect([...convertBytes("F64", bytes(new Float64Array([1, -2])), "bf16")]).toEqual([0x80, 0x3f, 0x00, 0xc0]);
  expect([...convertBytes("BF16", new Uint8Array([0x80, 0x3f]), "f16")]).toEqual([0x00, 0x3c]);
});

test("bytes at any alignment, of any kind of byte array", () => {
  const buffer = Buffer.alloc(64);
  buffer.writeDoubleLE(1.5, 3);
  expect(f32(convertBytes("F64", buffer.subarray(3, 11), "f32"))).toEqual([1.5]);
  buffer.writeUInt16LE(0x3f80, 33);
  expect(f32(convertBytes("BF16", buffer.subarray(33, 35), "f32"))).toEqual([1]);
  expect(buffer.readDoubleLE(3)).toBe(1.5);
});

describe("refused with the tensor's name", () => {
  const big = (value: bigint) => bytes(new BigInt64Array([0n, value]));
  const bad: [string, () => Uint8Array][] = [
    ["I64 above i32", () => convertBytes("I64", big(2147483648n), "i32", "t")],
    ["I64 below i32", () => convertBytes("I64", big(-2147483649n), "i32", "t")],
    ["I64 that wraps to 0", () => convertBytes("I64", big(4294967296n), "i32", "t")],
    ["U64 max", () => convertBytes("U64", bytes(new BigUint64Array([2n ** 64n - 1n])), "i32", "t")],
    ["U32 above i32", () => convertBytes("U32", bytes(new Uint32Array([2147483648])), "i32", "t")],
    ["I64 inexact in f32", () => convertBytes("I64", big(16777217n), "f32", "t")],
    ["I16 inexact in bf16", () => convertBytes("I16", bytes(new Int16Array([257])), "bf16", "t")],
    ["I16 below u8", () => convertBytes("I16", bytes(new Int16Array([-1])), "u8", "t")],
    ["U8 above i8", () => convertBytes("U8", new Uint8Array([128]), "i8", "t")],
    ["F64 above f32", () => convertBytes("F64", bytes(new Float64Array([1e39])), "f32", "t")],
    ["floats as integers", () => convertBytes("F32", new Uint8Array(4), "i32", "t")],
    ["half an element", () => convertBytes("F64", new Uint8Array(12), "f32", "t")],
    ["to u4", () => convertBytes("U8", new Uint8Array(4), "u4", "t")],
    ...(
      ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F4", "F6_E2M3", "F6_E3M2", "C64"] as const
    ).map((dtype): [string, () => Uint8Array] => [
      dtype,
      () => convertBytes(dtype, new Uint8Array(8), "f32" as DType, "t"),
    ]),
  ];
  test.each(bad)("%s", async (_, work) => {
    const error = await refusal(work);
    expect(error.details.key).toBe("t");
    expect(error.message).toContain('tensor "t"');
  });
});
