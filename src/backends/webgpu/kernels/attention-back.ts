// attention_back. One workgroup per query computes the softmax statistics and dq. Then one workgroup per key computes dk,
// and another dv, over all query heads that share the key. Each recomputes the scores. Mask, segments and slopes are merged
// into one array, because a shader may bind only eight.

import { attentionBackOp } from "../../../ops/attention-back.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { groupsFor, type Kernel, type Part } from "../kernel.js";
import type { Binding, Operand } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import { family, reads, type Shader, type ShaderSpec, WORKGROUP, writes } from "../shader.js";
import { fold, LOWEST, range } from "../wgsl.js";

const WIDTH = WORKGROUP;
/** Largest head size, in units of 64 dims. */
const MOST = 4;

type Given = Readonly<Record<"mask" | "segments" | "slopes", boolean>>;

/** Writes two words per key, whether the mask hides it and its segment; the slopes, or the sinks, follow. */
const hidesShader = family("attention_back", ({ mask, segments, slopes }: Given & { step: "hides" }) => ({
  bindings: [
    ...(mask ? [reads("mask")] : []),
    ...(segments ? [reads("segments")] : []),
    ...(slopes ? [reads("slopes")] : []),
    writes("hides", "array<u32>"),
  ],
  params: ["keys", "heads", "mask", "segments", "slopes"],
  body: `if (gid >= P.keys + P.heads) { return; }
  if (gid >= P.keys) {
    hides[P.keys + gid] = ${slopes ? "slopes[P.slopes + gid - P.keys]" : "0u"};
    return;
  }
  let byte = P.mask + gid;
  hides[2u * gid] = ${mask ? "select(0u, 1u, ((mask[byte / 4u] >> (8u * (byte % 4u))) & 0xffu) == 0u)" : "0u"};
  hides[2u * gid + 1u] = ${segments ? "segments[P.segments + gid]" : "0u"};`,
}));

type Options = Readonly<{
  hides: boolean;
  bias: boolean;
  /** Size of the heads that are summed (of q and k, or of v), in units of 64 dims. */
  wide: number;
}>;

const OPERANDS = ["q", "k", "v", "dy"] as const;
const strides = (name: string): string[] => [name, `${name}0`, `${name}1`, `${name}2`];
const PARAMS = [
  ...["B", "T", "H", "G", "S", "D", "E", "share", "causal", "window:i32", "scale:f32", "softcap:f32", "sinks"],
  ...OPERANDS.flatMap(strides),
  ...["b", "b0", "b1", "b2", "b3", "o", "o0", "o1", "o2"],
];

/** Whether query t of head h sees key j; if so, the score, and the factor (`slope`) of its gradient. */
const scores = ({ hides, bias }: Options): string => `
struct Score { value: f32, slope: f32, seen: bool }
fn score(b: u32, h: u32, t: u32, j: u32) -> Score {
  let i = i32(P.S + t) - i32(P.T);
  let own = i32(j);
  var result = Score(0.0, 0.0, false);
  if (P.causal != 0u && own > i) { return result; }
  if (P.window > 0 && abs(own - i) >= P.window) { return result; }
  ${
    hides
      ? `if (hides[2u * (b * P.S + j)] != 0u) { return result; }
  if (i >= 0 && hides[2u * (b * P.S + j) + 1u] != hides[2u * (b * P.S + u32(i)) + 1u]) { return result; }`
      : ""
  }
  let at_q = P.q + b * P.q0 + t * P.q1 + h * P.q2;
  let at_k = P.k + b * P.k0 + (h / P.share) * P.k1 + j * P.k2;
  var dot = 0.0;
  for (var d = 0u; d < P.D; d++) { dot += q[at_q + d] * k[at_k + d]; }
  result = Score(dot * P.scale, P.scale, true);
  if (P.softcap > 0.0) {
    let cap = 1.0 - 2.0 / (exp(2.0 * clamp(result.value / P.softcap, -20.0, 20.0)) + 1.0);
    result.value = P.softcap * cap;
    result.slope = P.scale * (1.0 - cap * cap);
  }
  ${hides ? "if (P.sinks == 0u) { result.value += bitcast<f32>(hides[2u * P.B * P.S + h]) * f32(own - i); }" : ""}
  ${bias ? "result.value += bias[P.b + b * P.b0 + h * P.b1 + t * P.b2 + j * P.b3];" : ""}
  return result;
}`;

const PRODUCT = `
fn product(b: u32, h: u32, t: u32, j: u32) -> f32 {
  let at_dy = P.dy + b * P.dy0 + t * P.dy1 + h * P.dy2;
  let at_v = P.v + b * P.v0 + (h / P.share) * P.v1 + j * P.v2;
  var dot = 0.0;
  for (var e = 0u; e < P.E; e++) { dot += dy[at_dy + e] * v[at_v + e]; }
  return dot;
}`;

const shared = ({ hides, bias }: Options, ...names: string[]): ShaderSpec["bindings"] => [
  ...names.map((name) => reads(name, "array<f32>")),
  ...(hides ? [reads("hides")] : []),
  ...(bias ? [reads("bias", "array<f32>")] : []),
];

/** Sums `cells[n]` times row n of an array; each invocation sums its own dims, and finally writes them. */
const sums = (wide: number, size: string) => ({
  start: range(wide)
    .map((c) => `var sum${c} = 0.0;`)
    .join(" "),
  add: (count: string, element: string) => `workgroupBarrier();
    ${range(wide)
      .map(
        (c) => `if (lid + ${c * WIDTH}u < P.${size}) {
      let d = lid + ${c * WIDTH}u;
      for (var n = 0u; n < ${count}; n++) { sum${c} += cells[n] * ${element}; }
    }`,
      )
      .join("\n    ")}
    workgroupBarrier();`,
  write: (at: string) =>
    range(wide)
      .map((c) => `if (lid + ${c * WIDTH}u < P.${size}) { out[${at} + lid + ${c * WIDTH}u] = sum${c}; }`)
      .join("\n  "),
});

const CELLS = `var<workgroup> cells: array<f32, ${WIDTH}>;`;

const queriesShader = family("attention_back", (options: Options & { step: "queries" }) => {
  const dims = sums(options.wide, "D");
  return {
    bindings: [...shared(options, "q", "k", "v", "dy"), writes("statistics"), writes("out")],
    params: PARAMS,
    declarations: [
      scores(options),
      PRODUCT,
      CELLS,
      fold("highest", "f32", WIDTH, (a, b) => `max(${a}, ${b})`),
      fold("total", "f32", WIDTH, (a, b) => `${a} + ${b}`),
    ],
    body: `if (group >= P.B * P.H * P.T) { return; }
  let t = group % P.T;
  let h = (group / P.T) % P.H;
  let b = group / (P.T * P.H);
  var top = ${LOWEST};
  var mass = 0.0;
  var mean = 0.0;
  ${
    options.hides
      ? `if (P.sinks != 0u && lid == 0u) {
    top = max(top, bitcast<f32>(hides[2u * P.B * P.S + h]));
    mass = 1.0;
  }`
      : ""
  }
  for (var j = lid; j < P.S; j += ${WIDTH}u) {
    let one = score(b, h, t, j);
    if (!one.seen) { continue; }
    let most = max(top, one.value);
    let shrink = exp(top - most);
    let p = exp(one.value - most);
    mass = mass * shrink + p;
    mean = mean * shrink + p * product(b, h, t, j);
    top = most;
  }
  let most = highest(top, lid);
  let shrink = exp(top - most);
  let whole = total(mass * shrink, lid);
  let average = total(mean * shrink, lid) / max(whole, 1e-30);
  let lse = most + log(max(whole, 1e-30));
  if (lid == 0u) {
    statistics[2u * group] = lse;
    statistics[2u * group + 1u] = average;
  }
  ${dims.start}
  let row = P.k + b * P.k0 + (h / P.share) * P.k1;
  for (var first = 0u; first < P.S; first += ${WIDTH}u) {
    let j = first + lid;
    cells[lid] = 0.0;
    if (j < P.S) {
      let one = score(b, h, t, j);
      if (one.seen) { cells[lid] = exp(one.value - lse) * (product(b, h, t, j) - average) * one.slope; }
    }
    ${dims.add(`min(${WIDTH}u, P.S - first)`, "k[row + (first + n) * P.k2 + d]")}
  }
  let at = P.o + b * P.o0 + t * P.o1 + h * P.o2;
  ${dims.write("at")}`,
  };
});

/** The gradient of the keys, or of the values. */
const keysShader = family("attention_back", (options: Options & { step: "keys" | "values" }) => {
  const keys = options.step === "keys";
  const dims = sums(options.wide, keys ? "D" : "E");
  const from = keys ? "q" : "dy";
  return {
    bindings: [
      ...(keys ? shared(options, "q", "k", "v", "dy") : shared(options, "q", "k", "dy")),
      reads("statistics", "array<f32>"),
      writes("out"),
    ],
    params: PARAMS,
    declarations: [scores(options), keys ? PRODUCT : "", CELLS],
    body: `if (group >= P.B * P.G * P.S) { return; }
  let j = group % P.S;
  let g = (group / P.S) % P.G;
  let b = group / (P.S * P.G);
  ${dims.start}
  for (var h = g * P.share; h < (g + 1u) * P.share; h++) {
    let row = P.${from} + b * P.${from}0 + h * P.${from}2;
    for (var first = 0u; first < P.T; first += ${WIDTH}u) {
      let t = first + lid;
      cells[lid] = 0.0;
      if (t < P.T) {
        let one = score(b, h, t, j);
        let at = 2u * ((b * P.H + h) * P.T + t);
        if (one.seen) {
          let p = exp(one.value - statistics[at]);
          cells[lid] = ${keys ? "p * (product(b, h, t, j) - statistics[at + 1u]) * one.slope" : "p"};
        }
      }
      ${dims.add(`min(${WIDTH}u, P.T - first)`, `${from}[row + (first + n) * P.${from}1 + d]`)}
    }
  }
  let at = P.o + b * P.o0 + g * P.o1 + j * P.o2;
  ${dims.write("at")}`,
  };
});

/** Offset and strides of an operand's rows; the elements of a row are contiguous. */
function placed(
  name: string,
  { offset, strides: [first = 0, second = 0, third = 0] }: Operand,
): Record<string, number> {
  return { [name]: offset, [`${name}0`]: first, [`${name}1`]: second, [`${name}2`]: third };
}

function scratch(recorder: CommandRecorder, slot: string, words: number): Binding {
  const size = Math.max(16, Math.ceil(words / 4) * 16);
  return { block: recorder.buffers.scratch(slot, size), start: 0, size };
}

export const attentionBack: Kernel = {
  op: attentionBackOp,
  record({ operands, attributes: [scale = 1, causal = 1, window = 0, softcap = 0] }, recorder) {
    const [q, k, v, dy, mask, segments, slopes, bias, sinks, dq, dk, dv] = operands;
    const heads = slopes ?? sinks;
    const [B = 0, T = 0, H = 0, D = 0] = q!.shape;
    const [, G = 1, S = 0, E = 0] = v!.shape;
    const [wide, wideV] = [Math.ceil(D / WIDTH), Math.ceil(E / WIDTH)];
    if (Math.max(wide, wideV) > MOST) return `heads of more than ${MOST * WIDTH} dims have no gradient on this device`;
    const given = { mask: mask !== undefined, segments: segments !== undefined, slopes: heads !== undefined };
    const hides = given.mask || given.segments || given.slopes;
    const numbers = {
      ...{ B, T, H, G, S, D, E, share: H / G, causal, window, scale, softcap, sinks: sinks ? 1 : 0 },
      ...{ ...placed("q", q!), ...placed("k", k!), ...placed("v", v!), ...placed("dy", dy!) },
      ...(bias ? { ...placed("b", bias), b3: bias.strides[3]! } : { b: 0, b0: 0, b1: 0, b2: 0, b3: 0 }),
    };
    const more: Binding[] = [];
    if (hides) {
      const words = scratch(recorder, "hides", 2 * B * S + H);
      const bindings = [mask, segments, heads].filter((operand) => operand !== undefined);
      const places = { mask: mask?.offset ?? 0, segments: segments?.offset ?? 0, slopes: heads?.offset ?? 0 };
      const own = { keys: B * S, heads: H, ...places };
      recorder.dispatch(
        hidesShader({ step: "hides", ...given }),
        [...bindings, words],
        own,
        groupsFor(B * S + H, WIDTH),
      );
      more.push(words);
    }
    if (bias) more.push(bias);
    const statistics = scratch(recorder, "statistics", 2 * B * H * T);
    const options = { hides, bias: bias !== undefined };
    const ownQueries = [q!, k!, v!, dy!, ...more, statistics, dq!];
    const shader = queriesShader({ step: "queries", ...options, wide });
    recorder.dispatch(shader, ownQueries, { ...numbers, ...placed("o", dq!) }, B * H * T);
    const ownKeys = [q!, k!, v!, dy!, ...more, statistics, dk!];
    const keys = keysShader({ step: "keys", ...options, wide });
    recorder.dispatch(keys, ownKeys, { ...numbers, ...placed("o", dk!) }, B * G * S);
    const ownValues = [q!, k!, dy!, ...more, statistics, dv!];
    const values = keysShader({ step: "values", ...options, wide: wideV });
    recorder.dispatch(values, ownValues, { ...numbers, ...placed("o", dv!) }, B * G * S);
    return undefined;
  },
  axes({ operands: [q, k, v, dy, mask, segments, slopes, bias, sinks, dq, dk, dv] }) {
    const [batch = 0, , H = 0] = q!.shape;
    const groups = k!.shape[1]!;
    if (batch > 1) {
      const one = { 0: q, 1: k, 2: v, 3: dy, 4: mask, 5: segments, 7: bias, 9: dq, 10: dk, 11: dv };
      return [along(batch, Object.fromEntries(Object.entries(one).map(([i, operand]) => [i, [operand, 0] as const])))];
    }
    const share = H / groups;
    const heads = (begin: number, count: number): [number, number] => [begin * share, count * share];
    const parts: Record<number, Part> = {
      0: { operand: q!, dim: 2, range: heads },
      1: { operand: k!, dim: 1 },
      2: { operand: v!, dim: 1 },
      3: { operand: dy!, dim: 2, range: heads },
      9: { operand: dq!, dim: 2, range: heads },
      10: { operand: dk!, dim: 1 },
      11: { operand: dv!, dim: 1 },
    };
    if (slopes) parts[6] = { operand: slopes, dim: 0, range: heads };
    if (bias) parts[7] = { operand: bias, dim: 1, range: heads };
    if (sinks) parts[8] = { operand: sinks, dim: 0, range: heads };
    return [{ size: groups, parts }];
  },
  shaders: () => {
    const flags = [false, true];
    const made: Shader[] = flags.flatMap((mask) =>
      flags.flatMap((segments) => flags.map((slopes) => hidesShader({ step: "hides", mask, segments, slopes }))),
    );
    for (const hides of flags) {
      for (const bias of flags) {
        for (const wide of range(MOST).map((c) => c + 1)) {
          made.push(queriesShader({ step: "queries", hides, bias, wide }));
          for (const step of ["keys", "values"] as const) made.push(keysShader({ step, hides, bias, wide }));
        }
      }
    }
    return made;
  },
};
