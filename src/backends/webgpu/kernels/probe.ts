// Measures the adapter's limits with shaders that only read or copy memory, or multiply and add in registers. `octavo
// bench` shows kernels beside them. These are no ops of Octavo; only benchmarks run them.

import { Op } from "../../../ops/op.js";
import type { Kernel, Target } from "../kernel.js";
import { asFlat } from "../schedule/call.js";
import { firstDim } from "../schedule/split.js";
import { type Family, family, reads, type Shader, writes } from "../shader.js";
import { fold } from "../wgsl.js";

const WIDTH = 256;
/** Workgroups that share the reads. */
const READERS = 4096;
/** Independent chains per invocation, so that units need not wait for their previous result. */
const CHAINS = 8;

function unmeasured(): string {
  return "a probe has no reference";
}

// Sums are compared with this value, which they never have, so that compilers keep the reads.
const IMPROBABLE = "1.2345678e30";

const readShader = family("probe_read", () => ({
  bindings: [reads("x", "array<vec4<f32>>"), writes("y")],
  params: ["count", "x", "y", "readers"],
  workgroup: WIDTH,
  declarations: [fold("whole", "f32", WIDTH, (a, b) => `${a} + ${b}`)],
  body: `var sum = vec4<f32>();
  for (var i = gid; i < P.count; i += P.readers * ${WIDTH}u) { sum += x[P.x + i]; }
  let total = whole(sum.x + sum.y + sum.z + sum.w, lid);
  if (total == ${IMPROBABLE} && lid == 0u) { y[P.y] = total; }`,
}));

const probeRead: Kernel = {
  op: new Op({ signature: "probe_read: x[N]:f32 -> y[1]:f32", reference: unmeasured }),
  record({ operands: [x, y] }, recorder) {
    const numbers = { count: Math.floor(x!.count / 4), x: x!.offset / 4, y: y!.offset, readers: READERS };
    recorder.dispatch(readShader({}), [x!, y!], numbers, READERS);
    return undefined;
  },
  axes: ({ operands: [x] }) => firstDim({ 0: asFlat(x!) }).map((axis) => ({ ...axis, step: 64 })),
  shaders: () => [readShader({})],
};

const copyShader = family("probe_copy", () => ({
  bindings: [reads("x", "array<vec4<f32>>"), writes("y", "array<vec4<f32>>")],
  params: ["count", "x", "y"],
  workgroup: WIDTH,
  body: "if (gid < P.count) { y[P.y + gid] = x[P.x + gid]; }",
}));

const probeCopy: Kernel = {
  op: new Op({ signature: "probe_copy: x[N]:f32 y[N]:f32! ->", reference: unmeasured }),
  record({ operands: [x, y] }, recorder) {
    const count = Math.floor(x!.count / 4);
    const numbers = { count, x: x!.offset / 4, y: y!.offset / 4 };
    recorder.dispatch(copyShader({}), [x!, y!], numbers, Math.ceil(count / WIDTH));
    return undefined;
  },
  axes: ({ operands: [x, y] }) => firstDim({ 0: asFlat(x!), 1: asFlat(y!) }).map((axis) => ({ ...axis, step: 64 })),
  shaders: () => [copyShader({})],
};

interface Unit {
  /** Type, initial value and step of a chain. */
  readonly type: string;
  readonly start: (i: number) => string;
  readonly step: (chain: string) => string;
  readonly total: (chains: readonly string[]) => string;
  /** Operations of one step; a multiply-add counts as two. */
  readonly operations: number;
  readonly f16?: boolean;
}

const UNITS: Readonly<Record<string, Unit>> = {
  probe_f32: {
    type: "vec4<f32>",
    start: (i) => `vec4<f32>(f32(lid + ${i}u) * 1e-3)`,
    step: (c) => `fma(${c}, vec4<f32>(0.999), vec4<f32>(1e-3))`,
    total: (chains) => `dot(${chains.join(" + ")}, vec4<f32>(1.0))`,
    operations: 8,
  },
  probe_f16: {
    type: "vec4<f16>",
    start: (i) => `vec4<f16>(f16(lid + ${i}u) * 1e-3h)`,
    step: (c) => `fma(${c}, vec4<f16>(0.99h), vec4<f16>(1e-3h))`,
    total: (chains) => `f32(dot(${chains.join(" + ")}, vec4<f16>(1.0h)))`,
    operations: 8,
    f16: true,
  },
  probe_int8: {
    type: "i32",
    start: (i) => `i32(lid + ${i}u)`,
    step: (c) => `${c} + dot4I8Packed(bitcast<u32>(${c}), 0x01020304u)`,
    total: (chains) => `f32(${chains.join(" + ")})`,
    operations: 8,
  },
};

function unitKernel(name: string, offered: (target: Target) => boolean): Kernel {
  const { type, start, step, total, operations, f16 = false } = UNITS[name]!;
  const chains = Array.from({ length: CHAINS }, (_, i) => `c${i}`);
  const shader: Family<Record<never, never>> = family(name, () => ({
    bindings: [writes("y")],
    params: ["rounds", "y"],
    workgroup: WIDTH,
    f16,
    body: `${chains.map((c, i) => `var ${c} = ${type}(${start(i)});`).join(" ")}
  for (var r = 0u; r < P.rounds; r++) { ${chains.map((c) => `${c} = ${step(c)};`).join(" ")} }
  if (${total(chains)} == ${IMPROBABLE}) { y[P.y] = 1.0; }
  if (gid == 0u) { y[P.y + 1u] = ${operations * CHAINS * WIDTH}.0; }`,
  }));
  const shaders = (target: Target): Shader[] => (offered(target) ? [shader({})] : []);
  return {
    op: new Op({ signature: `${name}: y[2]:f32! ; pieces:i32 rounds:i32 ->`, reference: unmeasured }),
    record({ operands: [y], attributes: [pieces = 0, rounds = 0] }, recorder, target) {
      if (!offered(target)) return "this adapter does not have what the probe measures";
      recorder.dispatch(shader({}), [y!], { rounds, y: y!.offset }, pieces);
      return undefined;
    },
    shaders,
  };
}

/** The probes that a device can run. */
export function probes(target: Target): readonly Kernel[] {
  const kernels = [probeRead, probeCopy, unitKernel("probe_f32", () => true)];
  if (target.f16) kernels.push(unitKernel("probe_f16", ({ f16 }) => f16));
  if (target.dot4) kernels.push(unitKernel("probe_int8", ({ dot4 }) => dot4));
  return kernels;
}
