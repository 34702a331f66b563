// max_rows and its gradient: one invocation per column of a sequence. NaN is detected by its bits, because WGSL implementations
// may assume that there is none.

import { maxRowsBackOp, maxRowsOp } from "../../../ops/max-rows.js";
import { groupsFor, type Kernel } from "../kernel.js";
import type { Operand } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import { bitsReader, family, reads, type Shader, WORKGROUP, writes } from "../shader.js";

type Options = {
  readonly masked: boolean;
  /** The gradient. */
  readonly back: boolean;
};

const broken = (bits: string): string => `(${bits} & 0x7fffffffu) > 0x7f800000u`;

const shader: (options: Options) => Shader = family("max_rows", ({ masked, back }: Options) => ({
  bindings: [reads("x"), ...(masked ? [reads("mask")] : []), ...(back ? [reads("dy")] : []), writes("y", "array<u32>")],
  params: ["count", "T", "K", "x", "mask", "dy", "y"],
  declarations: masked ? [bitsReader("mask", "u8")] : [],
  body: `if (gid >= P.count) { return; }
  let b = gid / P.K;
  let k = gid % P.K;
  var row = -1;
  var most = 0u;
  for (var t = 0u; t < P.T; t++) {
    ${masked ? "if (mask_bits(P.mask + b * P.T + t) == 0u) { continue; }" : ""}
    let bits = x[P.x + (b * P.T + t) * P.K + k];
    let more = ${broken("bits")} || bitcast<f32>(bits) > bitcast<f32>(most);
    if (row < 0 || (more && !(${broken("most")}))) {
      row = i32(t);
      most = bits;
    }
  }
  ${
    back
      ? "for (var t = 0u; t < P.T; t++) { y[P.y + (b * P.T + t) * P.K + k] = select(0u, dy[P.dy + gid], i32(t) == row); }"
      : "y[P.y + gid] = most;"
  }`,
}));

const MASKED = [false, true];

function numbersOf(x: Operand, mask: Operand | undefined, dy: Operand | undefined, y: Operand): Record<string, number> {
  const [B = 0, T = 0, K = 0] = x.shape;
  return { count: B * K, T, K, x: x.offset, mask: mask?.offset ?? 0, dy: dy?.offset ?? 0, y: y.offset };
}

export const maxRows: Kernel = {
  op: maxRowsOp,
  record({ operands: [x, mask, y] }, recorder) {
    const numbers = numbersOf(x!, mask, undefined, y!);
    const bindings = [x!, ...(mask ? [mask] : []), y!];
    const groups = groupsFor(numbers.count!, WORKGROUP);
    recorder.dispatch(shader({ masked: mask !== undefined, back: false }), bindings, numbers, groups);
    return undefined;
  },
  axes: ({ operands: [x, mask, y] }) => [along(x!.shape[0]!, { 0: [x, 0], 1: [mask, 0], 2: [y, 0] })],
  shaders: () => MASKED.map((masked) => shader({ masked, back: false })),
};

export const maxRowsBack: Kernel = {
  op: maxRowsBackOp,
  record({ operands: [x, mask, dy, dx] }, recorder) {
    const numbers = numbersOf(x!, mask, dy, dx!);
    const bindings = [x!, ...(mask ? [mask] : []), dy!, dx!];
    const groups = groupsFor(numbers.count!, WORKGROUP);
    recorder.dispatch(shader({ masked: mask !== undefined, back: true }), bindings, numbers, groups);
    return undefined;
  },
  axes: ({ operands: [x, mask, dy, dx] }) => [along(x!.shape[0]!, { 0: [x, 0], 1: [mask, 0], 2: [dy, 0], 3: [dx, 0] })],
  shaders: () => MASKED.map((masked) => shader({ masked, back: true })),
};
