// Shaders as data: the bindings, params and WGSL of a compute shader. A family of shaders is a function of a few options;
// each variant is built once. Nothing here needs a GPU, so all variants can be listed.

import { bitsOf, type DType } from "../../core/dtype.js";
import { FLAG_SLOTS, FLAG_WORDS } from "./device/errors.js";

/** Invocations per workgroup unless a shader says otherwise; the default limit is 256. */
export const WORKGROUP = 64;

export type ParamType = "u32" | "i32" | "f32";

export interface BindingSpec {
  readonly name: string;
  readonly access: "read" | "read_write";
  /** WGSL type, such as `array<u32>`. */
  readonly type: string;
}

export interface ShaderSpec {
  /** Binding 0 holds the numbers; these follow from 1. */
  readonly bindings: readonly BindingSpec[];
  /** Numbers per call, as `name` (u32) or `name:type`; in WGSL `P.name`. At most 60. */
  readonly params: readonly string[];
  readonly workgroup?: number;
  /** True if it reports failures (see errors.ts); `flag` is then bound last. */
  readonly reports?: boolean;
  /** True if it uses subgroups; the body then also sees `lane`, `sg` (number of the subgroup) and `sgs` (their count). */
  readonly subgroups?: boolean;
  /** True if it computes with 16-bit floats. */
  readonly f16?: boolean;
  /** True if it uses subgroup matrices, an experimental feature of Dawn; only with `subgroups`. */
  readonly subgroupMatrix?: boolean;
  /** Functions, constants and workgroup variables. */
  readonly declarations?: readonly string[];
  /**
   * Body of `main`; sees `lid` (invocation in the workgroup), `group` (number of the workgroup) and `gid`
   * (group * workgroup size + lid), all u32.
   */
  readonly body: string;
}

export interface Shader {
  readonly key: string;
  readonly op: string;
  /** One letter per binding after the numbers: r or w. */
  readonly access: string;
  readonly params: readonly { readonly name: string; readonly type: ParamType }[];
  readonly reports: boolean;
  readonly workgroup: number;
  readonly code: string;
}

export type Option = string | number | boolean | undefined;

/** A shader for each set of options, built on first use. */
export interface Family<O extends Readonly<Record<string, Option>>> {
  (options: O): Shader;
  readonly op: string;
}

export function family<O extends Readonly<Record<string, Option>>>(
  op: string,
  build: (options: O) => ShaderSpec,
): Family<O> {
  const built = new Map<string, Shader>();
  const make = (options: O): Shader => {
    let key = op;
    for (const name in options) key += ` ${name}=${String(options[name])}`;
    let shader = built.get(key);
    if (!shader) built.set(key, (shader = assemble(op, key, build(options))));
    return shader;
  };
  return Object.assign(make, { op });
}

function assemble(op: string, key: string, spec: ShaderSpec): Shader {
  const params = spec.params.map((text) => {
    const [name = "", type = "u32"] = text.split(":");
    return { name, type: type as ParamType };
  });
  const bindings: BindingSpec[] = [...spec.bindings];
  if (spec.reports) bindings.push({ name: "flag", access: "read_write", type: "array<atomic<u32>>" });
  const workgroup = spec.workgroup ?? WORKGROUP;
  // The number of the call comes first, for reports.
  const fields = [{ name: "call", type: "u32" }, ...params];
  const code = [
    spec.subgroups ? "enable subgroups;" : "",
    spec.f16 ? "enable f16;" : "",
    spec.subgroupMatrix ? "enable chromium_experimental_subgroup_matrix;" : "",
    `struct Numbers { ${fields.map(({ name, type }) => `${name}: ${type}`).join(", ")} }`,
    "@group(0) @binding(0) var<uniform> P: Numbers;",
    ...bindings.map(
      ({ name, access, type }, at) => `@group(0) @binding(${at + 1}) var<storage, ${access}> ${name}: ${type};`,
    ),
    spec.reports ? REPORT : "",
    ...(spec.declarations ?? []),
    `@compute @workgroup_size(${workgroup})`,
    "fn main(@builtin(local_invocation_index) lid: u32, @builtin(workgroup_id) wid: vec3<u32>, @builtin(num_workgroups) wgs: vec3<u32>",
    spec.subgroups ? SUBGROUPS : "",
    ") {",
    "  let group = wid.x + wid.y * wgs.x;",
    `  let gid = group * ${workgroup}u + lid;`,
    spec.body,
    "}",
  ].join("\n");
  return {
    key,
    op,
    access: bindings.map(({ access }) => (access === "read" ? "r" : "w")).join(""),
    params,
    reports: spec.reports ?? false,
    workgroup,
    code,
  };
}

const SUBGROUPS =
  ", @builtin(subgroup_invocation_id) lane: u32, @builtin(subgroup_id) sg: u32, @builtin(num_subgroups) sgs: u32";

/**
 * `report(code, a, b, c)`: the first failure of each call stays in the call's slot (errors.ts). If a dispatch runs several
 * calls, `report_of(call, ...)` names one, and `call_behind(n)` is the number of the n-th call after its first (tags skip
 * 0).
 */
const REPORT = `
fn call_behind(n: u32) -> u32 {
  let call = P.call + n;
  return select(call, call + 1u, call < P.call);
}
fn report(code: u32, a: u32, b: u32, c: u32) { report_of(P.call, code, a, b, c); }
fn report_of(call: u32, code: u32, a: u32, b: u32, c: u32) {
  let at = ${FLAG_WORDS}u * (1u + call % ${FLAG_SLOTS}u);
  if (atomicExchange(&flag[at], call) == call) { return; }
  atomicStore(&flag[at + 1u], code);
  atomicStore(&flag[at + 2u], a);
  atomicStore(&flag[at + 3u], b);
  atomicStore(&flag[at + 4u], c);
  atomicAdd(&flag[0], 1u);
}`;

export function reads(name: string, type = "array<u32>"): BindingSpec {
  return { name, access: "read", type };
}

export function writes(name: string, type = "array<f32>"): BindingSpec {
  return { name, access: "read_write", type };
}

/** `name_bits(i)`: the raw bits of element i of an array<u32> that holds `dtype`. */
export function bitsReader(name: string, dtype: DType): string {
  switch (bitsOf(dtype)) {
    case 32:
      return `fn ${name}_bits(i: u32) -> u32 { return ${name}[i]; }`;
    case 16:
      return `fn ${name}_bits(i: u32) -> u32 { return (${name}[i >> 1u] >> ((i & 1u) * 16u)) & 0xffffu; }`;
    case 8:
      return `fn ${name}_bits(i: u32) -> u32 { return (${name}[i >> 2u] >> ((i & 3u) * 8u)) & 0xffu; }`;
    default:
      return `fn ${name}_bits(i: u32) -> u32 { return (${name}[i >> 3u] >> (((i >> 1u) & 3u) * 8u + (1u - (i & 1u)) * 4u)) & 15u; }`;
  }
}

/** WGSL expression that turns bits of a float dtype into f32. */
export function decodeBits(dtype: DType, bits: string): string {
  switch (dtype) {
    case "f32":
      return `bitcast<f32>(${bits})`;
    case "f16":
      return `from_f16(${bits})`;
    case "bf16":
      return `bitcast<f32>((${bits}) << 16u)`;
    case "i32":
      return `f32(bitcast<i32>(${bits}))`;
    case "i8":
      return `f32(extractBits(bitcast<i32>(${bits}), 0u, 8u))`;
    default:
      return `f32(${bits})`;
  }
}

/** WGSL expression that turns an f32 into bits of a dtype (round half to even; integers truncate). */
export function encodeBits(dtype: DType, value: string): string {
  switch (dtype) {
    case "f32":
      return `bitcast<u32>(${value})`;
    case "f16":
      return `to_f16(${value})`;
    case "bf16":
      return `to_bf16(${value})`;
    case "i32":
      return `bitcast<u32>(i32(${value}))`;
    default:
      return `(bitcast<u32>(i32(${value})) & ${dtype === "u4" ? "15u" : "0xffu"})`;
  }
}

/** `name_at(i)`: element i as f32, from an array<u32>. Needs FLOATS. */
export function reader(name: string, dtype: DType): string {
  return `${bitsReader(name, dtype)}
fn ${name}_at(i: u32) -> f32 { return ${decodeBits(dtype, `${name}_bits(i)`)}; }`;
}

/** WGSL type of an array of floats or i8 codes that is read four at a time by `quadReader`. */
export function quadType(dtype: DType): string {
  return dtype === "f32" ? "array<vec4<f32>>" : dtype === "i8" ? "array<u32>" : "array<vec2<u32>>";
}

/** `name_quad(i)`: elements 4i to 4i+3 of an array bound as `quadType`. */
export function quadReader(name: string, dtype: DType): string {
  const code = (at: number): string => `f32(extractBits(bitcast<i32>(${name}[i]), ${at * 8}u, 8u))`;
  const value =
    dtype === "f32"
      ? `${name}[i]`
      : dtype === "i8"
        ? `vec4<f32>(${code(0)}, ${code(1)}, ${code(2)}, ${code(3)})`
        : dtype === "bf16"
          ? `vec4<f32>(bitcast<f32>(${name}[i].x << 16u), bitcast<f32>(${name}[i].x & 0xffff0000u), bitcast<f32>(${name}[i].y << 16u), bitcast<f32>(${name}[i].y & 0xffff0000u))`
          : `vec4<f32>(unpack2x16float(${name}[i].x), unpack2x16float(${name}[i].y))`;
  return `fn ${name}_quad(i: u32) -> vec4<f32> { return ${value}; }`;
}

/** Elements of a dtype in a 32-bit word. */
function perWord(dtype: DType): number {
  return 32 / bitsOf(dtype);
}

/**
 * Body that writes `count` elements from element `offset` on, with one invocation per word, so that no word is written by
 * two. `bits(e)` gives the bits of element e. Other elements in the first and last word are kept. Needs P.count, P.offset.
 */
export function wordWriter(name: string, dtype: DType, bits: (e: string) => string): string {
  const per = perWord(dtype);
  if (per === 1) {
    return `if (gid >= P.count) { return; }
    ${name}[P.offset + gid] = ${bits("gid")};`;
  }
  const width = bitsOf(dtype);
  const mask = `${2 ** width - 1}u`;
  const shift = dtype === "u4" ? "(l >> 1u) * 8u + (1u - (l & 1u)) * 4u" : `l * ${width}u`;
  return `let word = P.offset / ${per}u + gid;
  if (word * ${per}u >= P.offset + P.count) { return; }
  var kept = 0u;
  var value = 0u;
  for (var l = 0u; l < ${per}u; l++) {
    let at = word * ${per}u + l;
    let shift = ${shift};
    if (at >= P.offset && at < P.offset + P.count) {
      let e = at - P.offset;
      value |= (${bits("e")}) << shift;
    } else { kept |= ${mask} << shift; }
  }
  if (kept != 0u) { value |= ${name}[word] & kept; }
  ${name}[word] = value;`;
}

/** Invocations that `wordWriter` needs. */
export function wordsFor(dtype: DType, offset: number, count: number): number {
  const per = perWord(dtype);
  return count === 0 ? 0 : Math.ceil((offset + count) / per) - Math.floor(offset / per);
}
