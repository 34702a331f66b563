// route chooses experts, and route_back gives the gradient of their scores, one invocation per token; mix computes the weighted
// sum of their results, one invocation per element.

import { mixOp, routeOp } from "../../../ops/experts.js";
import { routeBackOp } from "../../../ops/experts-back.js";
import { FAILURE } from "../device/errors.js";
import { groupsFor, type Kernel } from "../kernel.js";
import { leading } from "../schedule/call.js";
import { along, firstDim } from "../schedule/split.js";
import { family, reads, WORKGROUP, writes } from "../shader.js";

const routeShader = family("route", () => ({
  bindings: [reads("logits"), writes("experts", "array<i32>"), writes("weights")],
  params: ["M", "E", "A", "logits", "experts", "weights", "normalize"],
  reports: true,
  declarations: ["fn score(i: u32) -> f32 { return bitcast<f32>(logits[i]); }"],
  body: `if (gid >= P.M) { return; }
  let row = P.logits + gid * P.E;
  for (var e = 0u; e < P.E; e++) {
    if ((logits[row + e] & 0x7fffffffu) > 0x7f800000u) { report(${FAILURE.nan}u, 0u, 0u, 0u); return; }
  }
  var before = 0u;
  var top = 0.0;
  var total = 0.0;
  for (var a = 0u; a < P.A; a++) {
    var best = P.E;
    for (var e = 0u; e < P.E; e++) {
      let s = score(row + e);
      if (a > 0u) {
        let last = score(row + before);
        if (!(s < last || (s == last && e > before))) { continue; }
      }
      if (best == P.E || s > score(row + best)) { best = e; }
    }
    if (a == 0u) { top = score(row + best); }
    experts[P.experts + gid * P.A + a] = i32(best);
    if (P.normalize != 0u) { total += exp(score(row + best) - top); }
    before = best;
  }
  if (P.normalize == 0u) {
    for (var e = 0u; e < P.E; e++) { total += exp(score(row + e) - top); }
  }
  for (var a = 0u; a < P.A; a++) {
    let chosen = u32(experts[P.experts + gid * P.A + a]);
    weights[P.weights + gid * P.A + a] = exp(score(row + chosen) - top) / total;
  }`,
}));

export const route: Kernel = {
  op: routeOp,
  record({ operands: [logits, experts, weights], attributes: [normalize = 0] }, recorder) {
    const [M = 0, E = 0] = logits!.shape;
    const offsets = { logits: logits!.offset, experts: experts!.offset, weights: weights!.offset };
    const numbers = { M, E, A: experts!.shape[1]!, normalize, ...offsets };
    recorder.dispatch(routeShader({}), [logits!, experts!, weights!], numbers, groupsFor(M, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [logits, experts, weights] }) => [
    along(logits!.shape[0]!, { 0: [logits, 0], 1: [experts, 0], 2: [weights, 0] }),
  ],
  shaders: () => [routeShader({})],
};

const backShader = family("route_back", () => ({
  bindings: [
    reads("logits", "array<f32>"),
    reads("experts", "array<i32>"),
    reads("dweights", "array<f32>"),
    writes("dlogits"),
  ],
  params: ["M", "E", "A", "logits", "experts", "dweights", "dlogits", "normalize"],
  reports: true,
  declarations: [
    "fn chosen(m: u32, a: u32) -> u32 { return u32(experts[P.experts + m * P.A + a]); }",
    "fn among(m: u32, i: u32) -> u32 { if (P.normalize != 0u) { return chosen(m, i); } return i; }",
  ],
  body: `if (gid >= P.M) { return; }
  for (var a = 0u; a < P.A; a++) {
    let e = experts[P.experts + gid * P.A + a];
    if (e < 0 || u32(e) >= P.E) { report(${FAILURE.expert}u, bitcast<u32>(e), P.E, 0u); return; }
  }
  let row = P.logits + gid * P.E;
  let into = P.dlogits + gid * P.E;
  let count = select(P.E, P.A, P.normalize != 0u);
  var top = logits[row + among(gid, 0u)];
  for (var i = 1u; i < count; i++) { top = max(top, logits[row + among(gid, i)]); }
  var total = 0.0;
  for (var i = 0u; i < count; i++) { total += exp(logits[row + among(gid, i)] - top); }
  var mean = 0.0;
  for (var a = 0u; a < P.A; a++) {
    mean += exp(logits[row + chosen(gid, a)] - top) / total * dweights[P.dweights + gid * P.A + a];
  }
  for (var e = 0u; e < P.E; e++) {
    dlogits[into + e] = select(-exp(logits[row + e] - top) / total * mean, 0.0, P.normalize != 0u);
  }
  for (var a = 0u; a < P.A; a++) {
    let e = chosen(gid, a);
    dlogits[into + e] = exp(logits[row + e] - top) / total * (dweights[P.dweights + gid * P.A + a] - mean);
  }`,
}));

export const routeBack: Kernel = {
  op: routeBackOp,
  record({ operands: [logits, experts, dweights, dlogits], attributes: [normalize = 0] }, recorder) {
    const [M = 0, E = 0] = logits!.shape;
    const places = {
      logits: logits!.offset,
      experts: experts!.offset,
      dweights: dweights!.offset,
      dlogits: dlogits!.offset,
    };
    const numbers = { M, E, A: experts!.shape[1]!, normalize, ...places };
    recorder.dispatch(backShader({}), [logits!, experts!, dweights!, dlogits!], numbers, groupsFor(M, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [logits, experts, dweights, dlogits] }) => [
    along(logits!.shape[0]!, { 0: [logits, 0], 1: [experts, 0], 2: [dweights, 0], 3: [dlogits, 0] }),
  ],
  shaders: () => [backShader({})],
};

const mixShader = family("mix", ({ residual }: { residual: boolean }) => ({
  bindings: [
    reads("x", "array<f32>"),
    reads("weights", "array<f32>"),
    ...(residual ? [reads("residual", "array<f32>")] : []),
    writes("y"),
  ],
  params: ["count", "A", "N", "x", "weights", "residual", "y"],
  body: `if (gid >= P.count) { return; }
  let token = gid / P.N;
  var sum = 0.0;
  for (var a = 0u; a < P.A; a++) {
    sum += weights[P.weights + token * P.A + a] * x[P.x + (token * P.A + a) * P.N + gid % P.N];
  }
  y[P.y + gid] = sum${residual ? " + residual[P.residual + gid]" : ""};`,
}));

export const mix: Kernel = {
  op: mixOp,
  record({ operands: [x, weights, residual, y] }, recorder) {
    const [A = 0, N = 0] = x!.shape.slice(-2);
    const offsets = { x: x!.offset, weights: weights!.offset, residual: residual?.offset ?? 0, y: y!.offset };
    const bindings = [x!, weights!, ...(residual ? [residual] : []), y!];
    const groups = groupsFor(y!.count, WORKGROUP);
    recorder.dispatch(
      mixShader({ residual: residual !== undefined }),
      bindings,
      { count: y!.count, A, N, ...offsets },
      groups,
    );
    return undefined;
  },
  // With all leading dims 1 there is nothing to cut: a device must be able to bind a token's row.
  axes: ({ operands: [x, weights, residual, y] }) =>
    leading(y!.shape) > 1 ? firstDim({ 3: y, 0: x, 1: weights, 2: residual }) : [],
  shaders: () => [true, false].map((residual) => mixShader({ residual })),
};
