// penalize and append_token: the tokens that rows have seen.

import { appendTokenOp } from "../../../ops/append-token.js";
import { penalizeOp } from "../../../ops/penalize.js";
import { FAILURE } from "../device/errors.js";
import { groupsFor, type Kernel } from "../kernel.js";
import { along } from "../schedule/split.js";
import { family, reads, WORKGROUP, writes } from "../shader.js";

const WIDTH = 256;

// For each id that a row has seen, `counts` holds one plus the number of times that the row generated it. The invocation
// that exchanges a count for zero applies the penalties. Only counts of ids in the history are used, and these are set
// first, so nothing has to be cleared.
const penalizeShader = family("penalize", () => ({
  bindings: [
    writes("logits"),
    reads("history", "array<i32>"),
    reads("lengths", "array<i32>"),
    reads("penalties", "array<f32>"),
    writes("counts", "array<atomic<u32>>"),
  ],
  params: ["rows", "vocabulary", "room:i32", "logits", "history", "lengths", "penalties"],
  reports: true,
  workgroup: WIDTH,
  body: `if (group >= P.rows) { return; }
  let start = lengths[P.lengths + 2u * group];
  let end = lengths[P.lengths + 2u * group + 1u];
  if (end < 0) { return; }
  if (start < 0 || start > end || end > P.room) {
    if (lid == 0u) { report(${FAILURE.historyRange}u, bitcast<u32>(start), bitcast<u32>(end), bitcast<u32>(P.room)); }
    return;
  }
  let row = P.history + group * u32(P.room);
  let own = group * P.vocabulary;
  for (var j = lid; j < u32(end); j += ${WIDTH}u) {
    let id = history[row + j];
    if (id < 0) { continue; }
    if (id >= i32(P.vocabulary)) { report(${FAILURE.tokenId}u, bitcast<u32>(id), P.vocabulary, 0u); continue; }
    atomicStore(&counts[own + u32(id)], 1u);
  }
  storageBarrier();
  for (var j = u32(start) + lid; j < u32(end); j += ${WIDTH}u) {
    let id = history[row + j];
    if (id >= 0 && id < i32(P.vocabulary)) { atomicAdd(&counts[own + u32(id)], 1u); }
  }
  storageBarrier();
  let repetition = penalties[P.penalties + 3u * group];
  let presence = penalties[P.penalties + 3u * group + 1u];
  let frequency = penalties[P.penalties + 3u * group + 2u];
  for (var j = lid; j < u32(end); j += ${WIDTH}u) {
    let id = history[row + j];
    if (id < 0 || id >= i32(P.vocabulary)) { continue; }
    let count = atomicExchange(&counts[own + u32(id)], 0u);
    if (count == 0u) { continue; }
    let at = P.logits + own + u32(id);
    var score = logits[at];
    score = select(score / repetition, score * repetition, score < 0.0);
    if (count > 1u) { score = score - frequency * f32(count - 1u) - presence; }
    logits[at] = score;
  }`,
}));

export const penalize: Kernel = {
  op: penalizeOp,
  record({ operands: [logits, history, lengths, penalties] }, recorder) {
    const [rows = 0, vocabulary = 0] = logits!.shape;
    const size = Math.max(16, Math.ceil((rows * vocabulary) / 4) * 16);
    const counts = { block: recorder.buffers.scratch("counts", size), start: 0, size };
    const numbers = {
      rows,
      vocabulary,
      room: history!.shape[1]!,
      logits: logits!.offset,
      history: history!.offset,
      lengths: lengths!.offset,
      penalties: penalties!.offset,
    };
    recorder.dispatch(penalizeShader({}), [logits!, history!, lengths!, penalties!, counts], numbers, rows);
    return undefined;
  },
  axes: ({ operands: [logits, history, lengths, penalties] }) => [
    along(logits!.shape[0]!, { 0: [logits, 0], 1: [history, 0], 2: [lengths, 0], 3: [penalties, 0] }),
  ],
  shaders: () => [penalizeShader({})],
};

const appendShader = family("append_token", () => ({
  bindings: [reads("ids", "array<i32>"), writes("history", "array<i32>"), writes("lengths", "array<i32>")],
  params: ["count", "room:i32", "ids", "history", "lengths"],
  reports: true,
  body: `if (gid >= P.count) { return; }
  let at = lengths[P.lengths + 2u * gid + 1u];
  if (at < 0) { return; }
  if (at >= P.room) { report(${FAILURE.historyOverflow}u, bitcast<u32>(at), bitcast<u32>(P.room), 0u); return; }
  history[P.history + gid * u32(P.room) + u32(at)] = ids[P.ids + gid];
  lengths[P.lengths + 2u * gid + 1u] = at + 1;`,
}));

export const appendToken: Kernel = {
  op: appendTokenOp,
  record({ operands: [ids, history, lengths] }, recorder) {
    const count = ids!.count;
    const offsets = { ids: ids!.offset, history: history!.offset, lengths: lengths!.offset };
    const numbers = { count, room: history!.shape[1]!, ...offsets };
    recorder.dispatch(appendShader({}), [ids!, history!, lengths!], numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [ids, history, lengths] }) => [
    along(ids!.count, { 0: [ids, 0], 1: [history, 0], 2: [lengths, 0] }),
  ],
  shaders: () => [appendShader({})],
};
