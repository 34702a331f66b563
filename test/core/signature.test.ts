// Op signatures: what is refused when one is parsed, and what a call says when an operand does not fit.

import { describe, expect, test } from "vitest";
import type { DType } from "../../src/core/dtype.js";
import { DTypeError, OctavoError, ShapeError } from "../../src/core/errors.js";
import { type OperandLike, Signature } from "../../src/core/signature.js";
import { OPS } from "../../src/ops/index.js";

function like(shape: readonly number[], dtype: DType = "f32", more: Partial<OperandLike> = {}): OperandLike {
  return { shape, dtype, contiguous: true, panels: false, ...more };
}

function thrown(body: () => unknown): OctavoError {
  try {
    body();
  } catch (error) {
    if (error instanceof OctavoError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}

describe("parsing", () => {
  test.each([
    ["no arrow", "add: a[..] b[..]"],
    ["no name", "add a[..] -> y[..]"],
    ["no brackets", "add: a -> y[..]"],
    ["unknown dtype", "add: a[..]:f64 -> y[..]"],
    ["unknown flag", "add: a[..]:f32& -> y[..]"],
    ["attribute of another type", "add: a[..] ; by:u8 -> y[..]"],
    ["output of an unknown operand's dtype", "add: a[..] -> y[..]:=b"],
  ])("%s is refused", (_, text) => {
    const error = thrown(() => new Signature(text));
    expect(error.code).toBe("ERR_SIGNATURE");
    expect(error.message).toContain("signature");
  });

  test("reads everything that the grammar has", () => {
    const s = new Signature("f:  x[..,K]:f32~  w[N,K,2]:f16|bf16@ b[N]:f32? h[B]:i32! ; act:i32 eps:f32 -> y[..,N]:=w");
    expect(s.op).toBe("f");
    expect(s.text).toBe("f: x[..,K]:f32~ w[N,K,2]:f16|bf16@ b[N]:f32? h[B]:i32! ; act:i32 eps:f32 -> y[..,N]:=w");
    expect(s.inputs.map((i) => i.name)).toEqual(["x", "w", "b", "h"]);
    expect(s.inputs.map((i) => [i.leading, i.strided, i.panels, i.optional, i.mutated])).toEqual([
      [true, true, false, false, false],
      [false, false, true, false, false],
      [false, false, false, true, false],
      [false, false, false, false, true],
    ]);
    expect(s.inputs[1]!.dims).toEqual(["N", "K", 2]);
    expect(s.attrs).toEqual([
      { name: "act", type: "i32" },
      { name: "eps", type: "f32" },
    ]);
    const inputs = [like([5, 6, 7]), like([3, 7, 2], "bf16"), undefined, like([4], "i32")];
    s.bind(inputs);
    expect(s.outputShape(0)).toEqual([5, 6, 3]);
    expect(s.outputDType(0, inputs)).toBe("bf16");
    expect(s.dim("B")).toBe(4);
    expect(thrown(() => s.dim("Q")).message).toContain("Q");
  });

  test("the signatures of all ops read back as they are written", () => {
    for (const { signature } of OPS) expect(new Signature(signature.text).text).toBe(signature.text);
    expect(new Set(OPS.map(({ name }) => name)).size).toBe(OPS.length);
  });
});

describe("binding", () => {
  const linear = new Signature("linear: x[..,K]:f32 weight[N,K]:f32|f16@ bias[N]:f32? residual[..,N]:f32? -> y[..,N]");

  test.each<[string, (OperandLike | undefined)[], string, string, string]>([
    ["a bound dim", [like([2, 3]), like([4, 5])], "weight", "N=4,K=3", "4,5"],
    ["a rank that is too small", [like([]), like([4, 5])], "x", "..,K", ""],
    ["a rank that is too large", [like([3]), like([1, 4, 3])], "weight", "N,K=3", "1,4,3"],
    ["an optional operand", [like([2, 3]), like([4, 3]), like([5])], "bias", "N=4", "5"],
    ["leading dims", [like([2, 3]), like([4, 3]), undefined, like([7, 4])], "residual", "..=2,N=4", "7,4"],
    [
      "the number of leading dims",
      [like([2, 3]), like([4, 3]), undefined, like([1, 2, 4])],
      "residual",
      "..=2,N=4",
      "1,2,4",
    ],
  ])("%s that does not fit names op, operand, wanted and got", (_, inputs, operand, expected, got) => {
    const error = thrown(() => linear.bind(inputs));
    expect(error).toBeInstanceOf(ShapeError);
    expect(error.details).toEqual({ op: "linear", operand, expected, got });
    expect(error.message).toContain(`linear: operand \`${operand}\` wants [`);
    expect(error.hint).toContain(linear.text);
  });

  test("literal dims must match", () => {
    const s = new Signature("f: m[256]:f32 t[B,2]:f32 ->");
    expect(thrown(() => s.bind([like([255]), like([1, 2])])).details.expected).toBe("256");
    expect(thrown(() => s.bind([like([256]), like([1, 3])])).details.expected).toBe("B=1,2");
    s.bind([like([256]), like([9, 2])]);
  });

  test("a dtype that does not fit", () => {
    const error = thrown(() => linear.bind([like([3]), like([4, 3], "i8")]));
    expect(error).toBeInstanceOf(DTypeError);
    expect(error.message).toBe("linear: operand `weight` wants f32 or f16, got i8");
    expect(error.details).toEqual({ op: "linear", operand: "weight", expected: "f32|f16", got: "i8" });
  });

  test("missing and surplus operands", () => {
    expect(thrown(() => linear.bind([like([3])])).message).toContain("`weight` is missing");
    expect(thrown(() => linear.bind(new Array<OperandLike>(5).fill(like([3, 3])))).message).toContain(
      "takes 4 operands",
    );
  });

  test("strides and panels only where the signature allows them", () => {
    const strided = like([2, 3], "f32", { contiguous: false });
    expect(thrown(() => linear.bind([strided, like([4, 3])])).message).toContain("`x` must be contiguous");
    new Signature("f: x[..]:f32~ ->").bind([strided]);
    const panels = like([4, 3], "f32", { panels: true });
    linear.bind([like([3]), panels]);
    expect(thrown(() => new Signature("f: w[N,K]:f32 ->").bind([panels])).message).toContain("panel");
  });

  test("bindings do not leak from one call into the next", () => {
    linear.bind([like([2, 2, 3]), like([4, 3])]);
    linear.bind([like([7]), like([1, 7])]);
    expect(linear.outputShape(0)).toEqual([1]);
    thrown(() => linear.bind([like([7]), like([1, 8])]));
    linear.bind([like([0, 7]), like([2, 7])]);
    expect(linear.outputShape(0)).toEqual([0, 2]);
  });
});
