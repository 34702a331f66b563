// edit: changes the scores of some tokens of each row, one workgroup per row. Infinities are told by their bits, because WGSL
// implementations may assume that there are none.

import { editOp } from "../../../ops/edit.js";
import { FAILURE } from "../device/errors.js";
import type { Kernel } from "../kernel.js";
import { along } from "../schedule/split.js";
import { family, reads, writes } from "../shader.js";

const WIDTH = 256;
const NEVER = "0xff800000u";

const shader = family("edit", () => ({
  bindings: [
    writes("logits", "array<u32>"),
    reads("ids", "array<i32>"),
    reads("edits", "array<u32>"),
    reads("only", "array<i32>"),
  ],
  params: ["rows", "vocabulary", "count", "logits", "ids", "edits", "only"],
  reports: true,
  workgroup: WIDTH,
  body: `if (group >= P.rows) { return; }
  let row = P.logits + group * P.vocabulary;
  let forced = only[P.only + group] != 0;
  if (forced) {
    for (var v = lid; v < P.vocabulary; v += ${WIDTH}u) { logits[row + v] = ${NEVER}; }
  }
  storageBarrier();
  for (var n = group * P.count + lid; n < (group + 1u) * P.count; n += ${WIDTH}u) {
    let id = ids[P.ids + n];
    if (id < 0) { continue; }
    if (id >= i32(P.vocabulary)) { report(${FAILURE.tokenId}u, bitcast<u32>(id), P.vocabulary, 0u); continue; }
    let at = row + u32(id);
    let own = P.edits + 3u * n;
    if (forced || edits[own] == ${NEVER} || logits[at] == ${NEVER}) {
      logits[at] = select(${NEVER}, edits[own], forced);
      continue;
    }
    var score = bitcast<f32>(logits[at]) + bitcast<f32>(edits[own]);
    let penalty = bitcast<f32>(edits[own + 1u]);
    if (penalty != 1.0) { score = select(score / penalty, score * penalty, score < 0.0); }
    let growth = bitcast<f32>(edits[own + 2u]);
    if (growth != 0.0) { score = score + abs(score) * growth; }
    logits[at] = bitcast<u32>(score);
  }`,
}));

export const edit: Kernel = {
  op: editOp,
  record({ operands: [logits, ids, edits, only] }, recorder) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    const offsets = { logits: logits!.offset, ids: ids!.offset, edits: edits!.offset, only: only!.offset };
    const numbers = { rows, vocabulary, count: ids!.shape[1]!, ...offsets };
    recorder.dispatch(shader({}), [logits!, ids!, edits!, only!], numbers, rows);
    return undefined;
  },
  axes: ({ operands: [logits, ids, edits, only] }) => [
    along(logits!.shape[0]!, { 0: [logits, 0], 1: [ids, 0], 2: [edits, 0], 3: [only, 0] }),
  ],
  shaders: () => [shader({})],
};
