// Elementwise ops: add, scale, activation, gated, clamped_gated, advance, advance_lanes. One invocation per element.

import { ACT, activationOp } from "../../../ops/activation.js";
import { addOp } from "../../../ops/add.js";
import { advanceLanesOp, advanceOp } from "../../../ops/advance.js";
import { clampedGatedOp, gatedOp } from "../../../ops/gated.js";
import { scaleOp } from "../../../ops/scale.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { groupsFor, type Kernel } from "../kernel.js";
import { asFlat, type Operand } from "../schedule/call.js";
import { firstDim } from "../schedule/split.js";
import { family, reads, WORKGROUP, writes } from "../shader.js";
import { ACTIVATIONS } from "../wgsl.js";

const GUARD = "if (gid >= P.count) { return; }";

const addShader = family("add", () => ({
  bindings: [reads("a", "array<f32>"), reads("b", "array<f32>"), writes("y")],
  params: ["count", "a", "b", "y"],
  body: `${GUARD}
  y[P.y + gid] = a[P.a + gid] + b[P.b + gid];`,
}));

const addRows = family("add", (_: { inPlace: true }) => ({
  bindings: [reads("b", "array<f32>"), writes("y")],
  params: ["count", "columns", "width", "b", "y"],
  body: `${GUARD}
  let at = (gid / P.columns) * P.width + gid % P.columns;
  y[P.y + at] += b[P.b + at];`,
}));

/** y += b, for a residual that does not fit the bindings of a product. Rows of both have the same stride. */
export function addInPlace(recorder: CommandRecorder, b: Operand, y: Operand): void {
  const { count } = y;
  const columns = y.shape.at(-1)!;
  const numbers = { count, columns, width: y.strides.at(-2) ?? columns, b: b.offset, y: y.offset };
  recorder.dispatch(addRows({ inPlace: true }), [b, y], numbers, groupsFor(count, WORKGROUP));
}

export const add: Kernel = {
  op: addOp,
  record({ operands: [a, b, y] }, recorder) {
    const { count } = y!;
    const numbers = { count, a: a!.offset, b: b!.offset, y: y!.offset };
    recorder.dispatch(addShader({}), [a!, b!, y!], numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [a, b, y] }) => firstDim({ 0: asFlat(a!), 1: asFlat(b!), 2: asFlat(y!) }),
  shaders: () => [addShader({}), addRows({ inPlace: true })],
};

const scaleShader = family("scale", () => ({
  bindings: [reads("x", "array<f32>"), writes("y")],
  params: ["count", "x", "y", "factor:f32", "softcap:f32"],
  declarations: [ACTIVATIONS],
  body: `${GUARD}
  let value = x[P.x + gid] * P.factor;
  y[P.y + gid] = value;
  if (P.softcap > 0.0) { y[P.y + gid] = P.softcap * tanh_of(value / P.softcap); }`,
}));

export const scale: Kernel = {
  op: scaleOp,
  record({ operands: [x, y], attributes: [factor = 1, softcap = 0] }, recorder) {
    const numbers = { count: y!.count, x: x!.offset, y: y!.offset, factor, softcap };
    recorder.dispatch(scaleShader({}), [x!, y!], numbers, groupsFor(y!.count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [x, y] }) => firstDim({ 0: asFlat(x!), 1: asFlat(y!) }),
  shaders: () => [scaleShader({})],
};

const activationShader = family("activation", () => ({
  bindings: [reads("x", "array<f32>"), writes("y")],
  params: ["count", "x", "y", "act:i32"],
  declarations: [ACTIVATIONS],
  body: `${GUARD}
  y[P.y + gid] = activate(P.act, x[P.x + gid]);`,
}));

export const activation: Kernel = {
  op: activationOp,
  record({ operands: [x, y], attributes: [act = 0] }, recorder) {
    const numbers = { count: y!.count, x: x!.offset, y: y!.offset, act };
    recorder.dispatch(activationShader({}), [x!, y!], numbers, groupsFor(y!.count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [x, y] }) => firstDim({ 0: asFlat(x!), 1: asFlat(y!) }),
  shaders: () => [activationShader({})],
};

/** WGSL of `<name>_index(i)`, the offset of element i in a tensor of up to four dims. Needs `strideParams` and `DIMS`. */
export function locate(name: string): string {
  return `
fn ${name}_index(i: u32) -> u32 {
  let i3 = i % P.d3;
  let r3 = i / P.d3;
  let i2 = r3 % P.d2;
  let r2 = r3 / P.d2;
  return P.${name} + (r2 / P.d1) * P.${name}0 + (r2 % P.d1) * P.${name}1 + i2 * P.${name}2 + i3 * P.${name}3;
}`;
}

export const DIMS = ["d1", "d2", "d3"];

export function strideParams(name: string): string[] {
  return [name, `${name}0`, `${name}1`, `${name}2`, `${name}3`];
}

/**
 * Shape and strides of operands of one shape, folded into four dims: neighbouring dims that have a common stride in all
 * operands become one. Undefined if more than four dims are left.
 */
export function fourDims(operands: Readonly<Record<string, Operand>>): Record<string, number> | undefined {
  const names = Object.keys(operands);
  const { shape } = operands[names[0]!]!;
  const sizes: number[] = [];
  const strides: number[][] = names.map(() => []);
  for (let d = shape.length - 1; d >= 0; d--) {
    if (shape[d] === 1) continue;
    const last = sizes.length - 1;
    const joins =
      last >= 0 && names.every((name, n) => operands[name]!.strides[d] === strides[n]![last]! * sizes[last]!);
    if (joins) sizes[last] = sizes[last]! * shape[d]!;
    else {
      sizes.push(shape[d]!);
      names.forEach((name, n) => {
        strides[n]!.push(operands[name]!.strides[d]!);
      });
    }
  }
  if (sizes.length > 4) return undefined;
  const numbers: Record<string, number> = { d3: sizes[0] ?? 1, d2: sizes[1] ?? 1, d1: sizes[2] ?? 1 };
  names.forEach((name, n) => {
    numbers[name] = operands[name]!.offset;
    for (let d = 0; d < 4; d++) numbers[`${name}${3 - d}`] = strides[n]![d] ?? 0;
  });
  return numbers;
}

const gatedShader = family("gated", () => ({
  bindings: [reads("gate", "array<f32>"), reads("up", "array<f32>"), writes("y")],
  params: ["count", "act:i32", ...DIMS, ...strideParams("g"), ...strideParams("u"), "y"],
  declarations: [ACTIVATIONS, locate("g"), locate("u")],
  body: `${GUARD}
  y[P.y + gid] = activate(P.act, gate[g_index(gid)]) * up[u_index(gid)];`,
}));

export const gated: Kernel = {
  op: gatedOp,
  record({ operands: [gate, up, y], attributes: [act = 0] }, recorder) {
    const dims = fourDims({ g: gate!, u: up! });
    if (!dims) return "more than four dims that do not fold";
    const numbers = { ...dims, count: y!.count, act, y: y!.offset };
    recorder.dispatch(gatedShader({}), [gate!, up!, y!], numbers, groupsFor(y!.count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [gate, up, y] }) => firstDim({ 0: gate, 1: up, 2: y }),
  shaders: () => [gatedShader({})],
};

const clampedShader = family("clamped_gated", () => ({
  bindings: [reads("gate", "array<f32>"), reads("up", "array<f32>"), writes("y")],
  params: ["count", "limit:f32", ...DIMS, ...strideParams("g"), ...strideParams("u"), "y"],
  declarations: [
    ACTIVATIONS,
    locate("g"),
    locate("u"),
    `fn is_nan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }`,
  ],
  body: `${GUARD}
  let g = gate[g_index(gid)];
  let u = up[u_index(gid)];
  let open = select(min(g, P.limit), g, is_nan(g));
  let held = select(clamp(u, -P.limit, P.limit), u, is_nan(u));
  y[P.y + gid] = activate(${ACT.quick_gelu}, open) * (held + 1.0);`,
}));

export const clampedGated: Kernel = {
  op: clampedGatedOp,
  record({ operands: [gate, up, y], attributes: [limit = 0] }, recorder) {
    const dims = fourDims({ g: gate!, u: up! });
    if (!dims) return "more than four dims that do not fold";
    const numbers = { ...dims, count: y!.count, limit, y: y!.offset };
    recorder.dispatch(clampedShader({}), [gate!, up!, y!], numbers, groupsFor(y!.count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [gate, up, y] }) => firstDim({ 0: gate, 1: up, 2: y }),
  shaders: () => [clampedShader({})],
};

const advanceShader = family("advance", () => ({
  bindings: [writes("x", "array<i32>")],
  params: ["count", "x", "by:i32"],
  body: `${GUARD}
  x[P.x + gid] += P.by;`,
}));

export const advance: Kernel = {
  op: advanceOp,
  record({ operands: [x], attributes: [by = 0] }, recorder) {
    recorder.dispatch(advanceShader({}), [x!], { count: x!.count, x: x!.offset, by }, groupsFor(x!.count, WORKGROUP));
    return undefined;
  },
  shaders: () => [advanceShader({})],
};

const advanceLanesShader = family("advance_lanes", () => ({
  bindings: [writes("lanes", "array<i32>")],
  params: ["count", "lanes", "by:i32"],
  body: `${GUARD}
  if (lanes[P.lanes + gid] >= 0) { lanes[P.lanes + P.count + gid] += P.by; }`,
}));

export const advanceLanes: Kernel = {
  op: advanceLanesOp,
  record({ operands: [lanes], attributes: [by = 0] }, recorder) {
    const count = lanes!.count / 2;
    const numbers = { count, lanes: lanes!.offset, by };
    recorder.dispatch(advanceLanesShader({}), [lanes!], numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  shaders: () => [advanceLanesShader({})],
};
