// cross_entropy and its gradient: one workgroup per row of logits.

import { crossEntropyBackOp, crossEntropyOp } from "../../../ops/cross-entropy.js";
import { FAILURE } from "../device/errors.js";
import type { Kernel } from "../kernel.js";
import { along } from "../schedule/split.js";
import { family, reads, writes } from "../shader.js";
import { fold, LOWEST } from "../wgsl.js";

const WIDTH = 256;
const EACH = `for (var v = lid; v < P.vocabulary; v += ${WIDTH}u)`;

/** Reads the row's target into `id`; reports it and returns if it is invalid. */
const TARGET = `if (group >= P.rows) { return; }
  let id = targets[P.targets + group];
  if (id != P.ignored && (id < 0 || id >= i32(P.vocabulary))) {
    if (lid == 0u) { report(${FAILURE.target}u, bitcast<u32>(id), P.vocabulary, 0u); }
    return;
  }
  let at = P.logits + group * P.vocabulary;`;

const lossShader = family("cross_entropy", () => ({
  bindings: [reads("logits", "array<f32>"), reads("targets", "array<i32>"), writes("loss"), writes("lse")],
  params: ["rows", "vocabulary", "logits", "targets", "loss", "lse", "smoothing:f32", "ignored:i32"],
  reports: true,
  workgroup: WIDTH,
  declarations: [
    fold("highest", "f32", WIDTH, (a, b) => `max(${a}, ${b})`),
    fold("sum", "f32", WIDTH, (a, b) => `${a} + ${b}`),
  ],
  body: `${TARGET}
  if (id == P.ignored) {
    if (lid == 0u) {
      loss[P.loss + group] = 0.0;
      lse[P.lse + group] = 0.0;
    }
    return;
  }
  var most = ${LOWEST};
  ${EACH} { most = max(most, logits[at + v]); }
  let top = highest(most, lid);
  var mass = 0.0;
  var below = 0.0;
  ${EACH} {
    mass += exp(logits[at + v] - top);
    if (P.smoothing > 0.0) { below += top - logits[at + v]; }
  }
  let whole = log(sum(mass, lid));
  let mean = sum(below, lid) / f32(P.vocabulary);
  if (lid == 0u) {
    let hit = whole + (top - logits[at + u32(id)]);
    loss[P.loss + group] = hit;
    if (P.smoothing > 0.0) { loss[P.loss + group] = (1.0 - P.smoothing) * hit + P.smoothing * (whole + mean); }
    lse[P.lse + group] = top + whole;
  }`,
}));

export const crossEntropy: Kernel = {
  op: crossEntropyOp,
  record({ operands: [logits, targets, loss, lse], attributes: [smoothing = 0, ignored = 0] }, recorder) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    const places = { logits: logits!.offset, targets: targets!.offset, loss: loss!.offset, lse: lse!.offset };
    const numbers = { rows, vocabulary, ...places, smoothing, ignored };
    recorder.dispatch(lossShader({}), [logits!, targets!, loss!, lse!], numbers, rows);
    return undefined;
  },
  axes: ({ operands: [logits, targets, loss, lse] }) => [
    along(logits!.shape[0]!, { 0: [logits, 0], 1: [targets, 0], 2: [loss, 0], 3: [lse, 0] }),
  ],
  shaders: () => [lossShader({})],
};

const backShader = family("cross_entropy_back", ({ more }: { more: boolean }) => ({
  bindings: [
    reads("logits", "array<f32>"),
    reads("targets", "array<i32>"),
    reads("lse", "array<f32>"),
    reads("dloss", "array<f32>"),
    ...(more ? [reads("dlse", "array<f32>")] : []),
    writes("out"),
  ],
  params: ["rows", "vocabulary", "logits", "targets", "lse", "dloss", "dlse", "out", "smoothing:f32", "ignored:i32"],
  reports: true,
  workgroup: WIDTH,
  body: `${TARGET}
  let to = P.out + group * P.vocabulary;
  if (id == P.ignored) {
    ${EACH} { out[to + v] = 0.0; }
    return;
  }
  let gradient = dloss[P.dloss + group];
  let more = ${more ? "dlse[P.dlse + group]" : "0.0"};
  let even = gradient * P.smoothing / f32(P.vocabulary);
  ${EACH} {
    let p = exp(logits[at + v] - lse[P.lse + group]);
    let hit = select(0.0, 1.0 - P.smoothing, v == u32(id));
    out[to + v] = gradient * (p - hit) - even + more * p;
  }`,
}));

export const crossEntropyBack: Kernel = {
  op: crossEntropyBackOp,
  record({ operands, attributes: [smoothing = 0, ignored = 0] }, recorder) {
    const [logits, targets, lse, dloss, dlse, out] = operands;
    const [rows = 0, vocabulary = 0] = logits!.shape;
    const numbers = {
      ...{ rows, vocabulary, logits: logits!.offset, targets: targets!.offset, lse: lse!.offset },
      ...{ dloss: dloss!.offset, dlse: dlse?.offset ?? 0, out: out!.offset, smoothing, ignored },
    };
    const bindings = operands.filter((operand) => operand !== undefined);
    recorder.dispatch(backShader({ more: dlse !== undefined }), bindings, numbers, rows);
    return undefined;
  },
  axes: ({ operands: [logits, targets, lse, dloss, dlse, out] }) => [
    along(logits!.shape[0]!, {
      0: [logits, 0],
      1: [targets, 0],
      2: [lse, 0],
      3: [dloss, 0],
      4: [dlse, 0],
      5: [out, 0],
    }),
  ],
  shaders: () => [false, true].map((more) => backShader({ more })),
};
