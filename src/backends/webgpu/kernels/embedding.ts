// embedding: rows of a table, widened to f32. One invocation per element.

import type { DType } from "../../../core/dtype.js";
import { embeddingOp } from "../../../ops/embedding.js";
import { FAILURE } from "../errors.js";
import { groupsFor, type Kernel } from "../kernel.js";
import { family, reader, reads, WORKGROUP, writes } from "../shader.js";
import { FLOATS } from "../wgsl.js";

const shader = family("embedding", ({ weight }: { weight: DType }) => ({
  bindings: [reads("w"), reads("ids", "array<i32>"), writes("y")],
  params: ["count", "columns", "vocabulary:i32", "w", "ids", "y"],
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
  y[P.y + gid] = w_at(P.w + u32(id) * P.columns + k);`,
}));

export const embedding: Kernel = {
  op: embeddingOp,
  record({ operands: [weight, ids, y] }, queue) {
    const [vocabulary = 0, columns = 0] = weight!.shape;
    const numbers = { count: y!.count, columns, vocabulary, w: weight!.offset, ids: ids!.offset, y: y!.offset };
    queue.dispatch(shader({ weight: weight!.dtype }), [weight!, ids!, y!], numbers, groupsFor(y!.count, WORKGROUP));
    return undefined;
  },
  shaders: () => (["f32", "f16", "bf16"] as const).map((weight) => shader({ weight })),
};
