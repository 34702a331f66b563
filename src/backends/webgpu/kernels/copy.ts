// copy: any strides to any strides, any dtype to any but u4; the same dtype is copied bit for bit. Contiguous rows are
// written word by word; scattered narrow elements are merged into their words atomically.

import { bitsOf, type DType } from "../../../core/dtype.js";
import { copyOp } from "../../../ops/copy.js";
import { groupsFor, type Kernel } from "../kernel.js";
import { along } from "../schedule/split.js";
import {
  bitsReader,
  decodeBits,
  encodeBits,
  family,
  reads,
  WORKGROUP,
  wordsFor,
  wordWriter,
  writes,
} from "../shader.js";
import { FLOATS } from "../wgsl.js";
import { DIMS, fourDims, locate, strideParams } from "./elementwise.js";

const TYPES = ["f32", "f16", "bf16", "i32", "i8", "u8"] as const satisfies readonly DType[];
type CopyType = (typeof TYPES)[number];

/** Bits of `to` for the bits of `from`. */
function convert(from: DType, to: DType, bits: string): string {
  if (from === to) return bits;
  const whole = (dtype: DType): boolean => dtype === "i32" || dtype === "i8" || dtype === "u8";
  if (!whole(from) || !whole(to)) return encodeBits(to, decodeBits(from, bits));
  const wide = from === "i8" ? `bitcast<u32>(extractBits(bitcast<i32>(${bits}), 0u, 8u))` : bits;
  return to === "i32" ? wide : `(${wide} & 0xffu)`;
}

const rows = family("copy", ({ from, to }: { from: CopyType; to: CopyType; rows: true }) => ({
  bindings: [reads("x"), writes("y", "array<u32>")],
  params: ["count", "offset", ...DIMS, ...strideParams("x")],
  declarations: [FLOATS, bitsReader("x", from), locate("x")],
  body: wordWriter("y", to, (e) => convert(from, to, `x_bits(x_index(${e}))`)),
}));

const scattered = family("copy", ({ from, to }: { from: CopyType; to: CopyType; rows: false }) => {
  const width = bitsOf(to);
  const mask = `${2 ** width - 1}u`;
  const per = 32 / width;
  const store =
    width === 32
      ? "y[at] = bits;"
      : `let shift = (at % ${per}u) * ${width}u;
  atomicAnd(&y[at / ${per}u], ~(${mask} << shift));
  atomicOr(&y[at / ${per}u], bits << shift);`;
  return {
    bindings: [reads("x"), writes("y", width === 32 ? "array<u32>" : "array<atomic<u32>>")],
    params: ["count", ...DIMS, ...strideParams("x"), ...strideParams("y")],
    declarations: [FLOATS, bitsReader("x", from), locate("x"), locate("y")],
    body: `if (gid >= P.count) { return; }
  let bits = ${convert(from, to, "x_bits(x_index(gid))")};
  let at = y_index(gid);
  ${store}`,
  };
});

export const copy: Kernel = {
  op: copyOp,
  record({ operands: [x, y] }, recorder) {
    const from = x!.dtype as CopyType;
    const to = y!.dtype as CopyType;
    const { count, offset } = y!;
    if (y!.contiguous) {
      const dims = fourDims({ x: x! });
      if (!dims) return "more than four dims that do not fold";
      const groups = groupsFor(wordsFor(to, offset, count), WORKGROUP);
      recorder.dispatch(rows({ from, to, rows: true }), [x!, y!], { ...dims, count, offset }, groups);
      return undefined;
    }
    const dims = fourDims({ x: x!, y: y! });
    if (!dims) return "more than four dims that do not fold";
    recorder.dispatch(scattered({ from, to, rows: false }), [x!, y!], { ...dims, count }, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes: ({ operands: [x, y] }) => x!.shape.map((size, dim) => along(size, { 0: [x, dim], 1: [y, dim] })),
  shaders: () =>
    TYPES.flatMap((from) =>
      TYPES.flatMap((to) => [rows({ from, to, rows: true }), scattered({ from, to, rows: false })]),
    ),
};
