// Tensors as text, against what torch prints (test/fixtures/make_text.py).

import { afterAll, expect, test } from "vitest";
import { isDType } from "../../src/core/dtype.js";
import { OptionError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { stateTensor } from "../../src/nn/state.js";
import { type TextOptions, text } from "../../src/nn/tensor-text.js";
import { expectNoLeaks } from "../support/devices.js";
import { readJson } from "../support/fixtures.js";

const device = openDevice("reference");
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

interface Case {
  readonly name: string;
  readonly shape: number[];
  readonly dtype: string;
  readonly values: (number | "nan" | "inf" | "-inf")[];
  readonly options: TextOptions;
  readonly text: string;
}

const { tensors } = readJson<{ tensors: Case[] }>("text", "torch.json");
const ODD = { nan: Number.NaN, inf: Number.POSITIVE_INFINITY, "-inf": Number.NEGATIVE_INFINITY };
const SHORT: Readonly<Record<string, string>> = {
  float32: "f32",
  float16: "f16",
  bfloat16: "bf16",
  uint8: "u8",
  int8: "i8",
};

test.each(tensors)("$name", async ({ shape, dtype, values, options, text: wanted }) => {
  const short = SHORT[dtype];
  if (!isDType(short)) throw new Error(dtype);
  using tensor = Tensor.from(
    device,
    values.map((value) => (typeof value === "number" ? value : ODD[value])),
    shape,
    short,
  );
  const size = `size=(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
  // torch names only what is not usual; here all of it is named.
  const values_ = wanted.replace(/, dtype=[\w.]+\)$/, ")").slice(0, -1);
  expect(await text(tensor, options)).toBe(`${values_}, device='reference', ${size}, dtype=torch.${dtype})`);
  const stored = await text(stateTensor(tensor), options);
  expect(stored).toBe(`${values_}, ${size}, dtype=torch.${dtype})`);
});

test("no elements, panels, views, whole numbers", async () => {
  using none = Tensor.from(device, [], [0, 3]);
  expect(await text(none)).toBe("tensor([], device='reference', size=(0, 3), dtype=torch.float32)");
  using ids = Tensor.from(device, Int32Array.of(1, -2), [2]);
  expect(await text(ids)).toBe("tensor([ 1, -2], device='reference', size=(2,), dtype=torch.int32)");
  using all = Tensor.from(device, [1, 2, 3, 4], [2, 2]);
  using turned = all.permute(1, 0);
  expect(await text(turned)).toContain("[[1., 3.],\n        [2., 4.]]");
  await expect(text("x" as never)).rejects.toThrow(OptionError);
  await expect(text(all, { digits: 3 } as never)).rejects.toThrow(OptionError);
});
