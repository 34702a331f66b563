// Conformance cases: an op runs on a device and on the reference backend, with the same inputs. Cases are independent of
// devices (targets.ts).

import type { Device } from "../../src/core/device.js";
import { type DType, type HostArray, isFloat } from "../../src/core/dtype.js";
import { Tensor } from "../../src/core/tensor.js";
import type { Op } from "../../src/ops/op.js";
import { pack, unpack } from "../../src/ops/pack.js";
import { product } from "./random.js";

/** Unit roundoff of f32: the largest relative error of one rounding. */
export const UNIT = 2 ** -24;

/** A view of a stored tensor, on the way to the op's operand. */
export type ViewStep =
  | readonly ["narrow", dim: number, start: number, length: number]
  | readonly ["permute", ...order: number[]]
  | readonly ["expand", ...shape: number[]];

export interface Operand {
  /** Shape as stored, before `view`. */
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly data: HostArray;
  readonly view?: readonly ViewStep[];
  /** False where the format does not allow panels (a block that straddles rows). */
  readonly panels?: boolean;
  /** True for a float operand whose dtype is part of the case. */
  readonly fixed?: boolean;
}

/** Largest error of a result: one number for all elements, or one for each. Absent: bit for bit. */
export type Bound = number | ((i: number) => number);

export interface Case {
  /** Names the shape and the features; includes the seed, if any, so that the case can be reproduced. */
  readonly name: string;
  readonly inputs: readonly (Operand | undefined)[];
  readonly attrs: readonly number[];
  /** Largest error of an output or of an operand written, given the reference's result and its name. */
  readonly bound?: (want: ArrayLike<number>, name: string) => Bound;
  /** The bound of a product of `rows` rows in 8-bit codes on targets that multiply as many in floats. */
  readonly inFloats?: { readonly rows: number; readonly bound: Case["bound"] } | undefined;
  /** The op must fail on this data: reading rejects with a KernelError that names the op. */
  readonly fails?: boolean;
}

/** All cases of one op: a table that covers its features, and an arbitrary one for fuzzing. */
export interface Family {
  readonly op: Op;
  readonly table: readonly Case[];
  readonly fuzz: import("fast-check").Arbitrary<Case>;
  /** Float operands must have one dtype. */
  readonly sameDType?: boolean;
}

export const FLOATS = ["f32", "f16", "bf16"] as const;
/** A dtype for all float operands, or "mixed": each operand another one. */
export type Floats = (typeof FLOATS)[number] | "mixed";

/** Ops with the most shader variants: a software adapter takes a second to compile one. */
export const SLOW_TO_COMPILE: readonly string[] = ["attention", "linear", "four_bit_linear", "llm_int8_linear"];

/** Dtypes that a family's float operands can have. */
export function floatsOf({ op, sameDType }: Family): Floats[] {
  const many = op.signature.inputs.filter((spec) => spec.dtypes.filter(isFloat).length > 1).length;
  if (many === 0) return ["f32"];
  return many > 1 && !sameDType ? [...FLOATS, "mixed"] : [...FLOATS];
}

/** The case with its float operands in other dtypes, where the signature allows them. */
export function withFloats(op: Op, one: Case, floats: Floats): Case {
  if (floats === "f32") return one;
  const inputs = one.inputs.map((operand, i) => {
    const spec = op.signature.inputs[i]!;
    if (!operand || operand.fixed || !isFloat(operand.dtype)) return operand;
    const dtype = floats === "mixed" ? FLOATS[(i + 1) % 3]! : floats;
    return spec.dtypes.includes(dtype) ? { ...operand, dtype } : operand;
  });
  return { ...one, name: `${one.name} ${floats}`, inputs };
}

/** An operand from numbers. */
export function operand(
  shape: readonly number[],
  data: HostArray,
  dtype: DType = data instanceof Float32Array
    ? "f32"
    : data instanceof Int32Array
      ? "i32"
      : data instanceof Int8Array
        ? "i8"
        : "u8",
  more: Partial<Operand> = {},
): Operand {
  return { shape, dtype, data, ...more };
}

/** Results by operand name: the outputs, and operands written in place, as stored (gaps included). */
export type Results = Map<string, HostArray>;

/** Runs a case on a device. With `panels`, every operand that may be in panels is. */
export async function runCase(device: Device, op: Op, one: Case, panels: boolean): Promise<Results> {
  const mine: Tensor[] = [];
  const own = <T extends Tensor>(tensor: T): T => {
    mine.push(tensor);
    return tensor;
  };
  try {
    const stored = one.inputs.map((given, i) => given && own(place(device, given, panelsFor(op, i, given, panels))));
    const seen = stored.map((tensor, i) => {
      if (!tensor) return tensor;
      let view = tensor;
      for (const step of one.inputs[i]!.view ?? []) view = own(apply(view, step));
      return view;
    });
    const outputs = op.runAll(seen, one.attrs).map(own);
    const results: Results = new Map();
    for (const [i, { name }] of op.signature.outputs.entries()) results.set(name, await outputs[i]!.read());
    for (const [i, spec] of op.signature.inputs.entries()) {
      const tensor = stored[i];
      if (!spec.mutated || !tensor) continue;
      const rows = unpack(tensor);
      if (rows !== tensor) own(rows);
      results.set(spec.name, await rows.read());
    }
    return results;
  } finally {
    for (const tensor of mine) tensor.dispose();
  }
}

function panelsFor(op: Op, index: number, given: Operand, panels: boolean): boolean {
  // Matrices of a stack may be in panels where each begins with one of its own.
  const whole = given.shape.length === 2 || (given.shape.length === 3 && given.shape[1]! % 16 === 0);
  return panels && op.signature.inputs[index]!.panels && given.panels !== false && whole;
}

function place(device: Device, given: Operand, panels: boolean): Tensor {
  const { shape, dtype, data } = given;
  const rows = Tensor.from(device, data, shape, dtype, "case");
  if (!panels) return rows;
  const columns = shape.at(-1)!;
  const packed = Tensor.panels(device, product(shape.slice(0, -1)), columns, dtype, "case");
  try {
    if (!packed.panels) return rows.alias();
    using matrix = rows.view(-1, columns);
    pack(matrix, packed);
    return packed.view(...shape);
  } finally {
    packed.dispose();
    rows.dispose();
  }
}

function apply(tensor: Tensor, step: ViewStep): Tensor {
  const [kind, ...numbers] = step;
  if (kind === "narrow") return tensor.narrow(numbers[0]!, numbers[1]!, numbers[2]!);
  return kind === "permute" ? tensor.permute(...numbers) : tensor.expand(...numbers);
}

/** Sentences that describe differences above the tolerance; none if all is well. */
export function compare(one: Case, want: Results, got: Results): string[] {
  const complaints: string[] = [];
  for (const [name, expected] of want) {
    const actual = got.get(name);
    if (!actual || actual.length !== expected.length) {
      complaints.push(`${one.name}: ${name} has ${actual?.length} values, not ${expected.length}`);
      continue;
    }
    const bound = one.bound && expected instanceof Float32Array ? one.bound(expected, name) : 0;
    let worst = 0;
    let at = -1;
    for (let i = 0; i < expected.length; i++) {
      const e = expected[i]!;
      const a = actual[i]!;
      if (Object.is(e, a) || e === a || (Number.isNaN(e) && Number.isNaN(a))) continue;
      const allowed = typeof bound === "number" ? bound : bound(i);
      const excess = Math.abs(a - e) / allowed;
      if (excess <= 1) continue;
      if (at < 0 || !(excess <= worst)) {
        worst = excess;
        at = i;
      }
    }
    if (at >= 0) {
      const allowed = typeof bound === "number" ? bound : bound(at);
      complaints.push(
        `${one.name}: ${name}[${at}] is ${actual[at]}, wanted ${expected[at]} (allowed ${allowed.toExponential(2)})`,
      );
    }
  }
  return complaints;
}
