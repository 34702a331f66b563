// argmax and token_logprobs: one workgroup per row of logits. NaN is detected by its bits, because WGSL implementations may
// assume that there is none.

import { argmaxOp } from "../../../ops/argmax.js";
import { tokenLogprobsOp } from "../../../ops/token-logprobs.js";
import { FAILURE } from "../device/errors.js";
import type { Kernel } from "../kernel.js";
import { along } from "../schedule/split.js";
import { family, reads, writes } from "../shader.js";
import { fold, LOWEST } from "../wgsl.js";

const WIDTH = 256;
const NAN = "(bits & 0x7fffffffu) > 0x7f800000u";

const argmaxShader = family("argmax", () => ({
  bindings: [reads("logits"), writes("ids", "array<i32>")],
  params: ["rows", "vocabulary", "logits", "ids"],
  reports: true,
  workgroup: WIDTH,
  declarations: [
    `struct Best { score: f32, id: u32 }
fn better(a: Best, b: Best) -> Best {
  if (b.id != 0xffffffffu && (a.id == 0xffffffffu || b.score > a.score || (b.score == a.score && b.id < a.id))) { return b; }
  return a;
}`,
    fold("best_of", "Best", WIDTH, (a, b) => `better(${a}, ${b})`),
  ],
  body: `if (group >= P.rows) { return; }
  var best = Best(0.0, 0xffffffffu);
  for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) {
    let bits = logits[P.logits + group * P.vocabulary + v];
    if (${NAN}) { report(${FAILURE.nan}u, 0u, 0u, 0u); }
    best = better(best, Best(bitcast<f32>(bits), v));
  }
  let found = best_of(best, lid);
  if (lid == 0u) { ids[P.ids + group] = i32(found.id); }`,
}));

export const argmax: Kernel = {
  op: argmaxOp,
  record({ operands: [logits, ids] }, recorder) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    const numbers = { rows, vocabulary, logits: logits!.offset, ids: ids!.offset };
    recorder.dispatch(argmaxShader({}), [logits!, ids!], numbers, rows);
    return undefined;
  },
  axes: ({ operands: [logits, ids] }) => [along(logits!.shape[0]!, { 0: [logits, 0], 1: [ids, 0] })],
  shaders: () => [argmaxShader({})],
};

const logprobsShader = family("token_logprobs", () => ({
  bindings: [reads("logits", "array<f32>"), reads("targets", "array<i32>"), writes("y")],
  params: ["rows", "vocabulary", "logits", "targets", "y"],
  reports: true,
  workgroup: WIDTH,
  declarations: [
    fold("highest", "f32", WIDTH, (a, b) => `max(${a}, ${b})`),
    fold("sum", "f32", WIDTH, (a, b) => `${a} + ${b}`),
  ],
  body: `if (group >= P.rows) { return; }
  let target_id = targets[P.targets + group];
  if (target_id < 0 || target_id >= i32(P.vocabulary)) {
    if (lid == 0u) { report(${FAILURE.target}u, bitcast<u32>(target_id), P.vocabulary, 0u); }
    return;
  }
  let at = P.logits + group * P.vocabulary;
  var most = ${LOWEST};
  for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) { most = max(most, logits[at + v]); }
  let top = highest(most, lid);
  var mass = 0.0;
  for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) { mass += exp(logits[at + v] - top); }
  let whole = sum(mass, lid);
  if (lid == 0u) { y[P.y + group] = logits[at + u32(target_id)] - top - log(whole); }`,
}));

export const tokenLogprobs: Kernel = {
  op: tokenLogprobsOp,
  record({ operands: [logits, targets, y] }, recorder) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    const numbers = { rows, vocabulary, logits: logits!.offset, targets: targets!.offset, y: y!.offset };
    recorder.dispatch(logprobsShader({}), [logits!, targets!, y!], numbers, rows);
    return undefined;
  },
  axes: ({ operands: [logits, targets, y] }) => [
    along(logits!.shape[0]!, { 0: [logits, 0], 1: [targets, 0], 2: [y, 0] }),
  ],
  shaders: () => [logprobsShader({})],
};
