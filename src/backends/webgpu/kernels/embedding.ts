// embedding: rows of a table, widened to f32. One invocation per element.

import type { DType } from "../../../core/dtype.js";
import { embeddingOp } from "../../../ops/embedding.js";
import { FAILURE } from "../device/errors.js";
import { groupsFor, type Kernel } from "../kernel.js";
import { asFlat, asRows } from "../schedule/call.js";
import { along, firstDim } from "../schedule/split.js";
import { family, reader, reads, WORKGROUP, writes } from "../shader.js";
import { FLOATS } from "../wgsl.js";

const shader = family("embedding", ({ weight }: { weight: DType }) => ({
  bindings: [reads("w"), reads("ids", "array<i32>"), writes("y")],
  // The table may be a part of a larger one: `size` rows from `first` on.
  params: ["count", "columns", "vocabulary:i32", "first:i32", "size:i32", "w", "ids", "y"],
  reports: true,
  declarations: [FLOATS, reader("w", weight)],
  body: `if (gid >= P.count) { return; }
  let row = gid / P.columns;
  let k = gid % P.columns;
  let id = ids[P.ids + row];
  if (id < 0 || id >= P.vocabulary) {
    if (k == 0u) { report(${FAILURE.tokenId}u, bitcast<u32>(id), bitcast<u32>(P.vocabulary), 0u); }
    return;
  }
  if (id < P.first || id >= P.first + P.size) { return; }
  y[P.y + gid] = w_at(P.w + u32(id - P.first) * P.columns + k);`,
}));

export const embedding: Kernel = {
  op: embeddingOp,
  record({ operands: [weight, ids, y], attributes: [first = 0, all] }, queue) {
    const [size = 0, columns = 0] = weight!.shape;
    const offsets = { w: weight!.offset, ids: ids!.offset, y: y!.offset };
    const numbers = { count: y!.count, columns, vocabulary: all ?? size, first, size, ...offsets };
    queue.dispatch(shader({ weight: weight!.dtype }), [weight!, ids!, y!], numbers, groupsFor(y!.count, WORKGROUP));
    return undefined;
  },
  axes({ operands: [weight, ids, y], attributes: [before = 0, all] }) {
    const [size = 0] = weight!.shape;
    const rows = along(size, { 0: [weight, 0] });
    return [
      { ...rows, attributes: (begin: number) => [before + begin, all ?? size] },
      firstDim({ 1: asFlat(ids!), 2: asRows(y!) })[0]!,
    ].filter((axis) => axis !== undefined);
  },
  shaders: () => (["f32", "f16", "bf16"] as const).map((weight) => shader({ weight })),
};
