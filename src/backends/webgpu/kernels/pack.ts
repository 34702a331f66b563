// pack and unpack: this backend keeps matrices in plain rows, so both copy bits into a range of rows.

import type { DType } from "../../../core/dtype.js";
import { packOp, unpackOp } from "../../../ops/pack.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { groupsFor, type Kernel } from "../kernel.js";
import type { Operand } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import { bitsReader, family, reads, type Shader, WORKGROUP, wordsFor, wordWriter, writes } from "../shader.js";

const TYPES = ["f32", "f16", "bf16", "i8", "u4"] as const satisfies readonly DType[];

const shader = family("pack", ({ dtype }: { dtype: DType }) => ({
  bindings: [reads("x"), writes("y", "array<u32>")],
  params: ["count", "offset", "x"],
  declarations: [bitsReader("x", dtype)],
  body: wordWriter("y", dtype, (e) => `x_bits(P.x + ${e})`),
}));

/** Copies the elements of `x` contiguously into `y`, from element `at` on. */
function into(recorder: CommandRecorder, x: Operand, y: Operand, at: number): void {
  const { dtype } = x;
  // An odd number of 4-bit codes ends in half a byte; its other half is copied too.
  const ragged = dtype === "u4" && x.count % 2 === 1 && at + x.count === y.count;
  const count = x.count + (ragged ? 1 : 0);
  const offset = y.offset + at;
  recorder.dispatch(
    shader({ dtype }),
    [x, y],
    { count, offset, x: x.offset },
    groupsFor(wordsFor(dtype, offset, count), WORKGROUP),
  );
}

function misplaced(w: Operand, packed: Operand, row: number): string | undefined {
  const [rows = 0, columns = 0] = w.shape;
  if (row + rows > packed.shape[0]!) return `rows ${row} + ${rows} do not fit ${packed.shape[0]}`;
  if (w.dtype === "u4" && (row * columns) % 2 !== 0) {
    return `row ${row} of ${columns} 4-bit columns does not begin a byte`;
  }
  return undefined;
}

/** Number of rows that fill whole bytes. */
function wholeBytes({ dtype }: Operand, columns: number): number {
  return dtype === "u4" && columns % 2 === 1 ? 2 : 1;
}

const shaders = (): Shader[] => TYPES.map((dtype) => shader({ dtype }));

export const pack: Kernel = {
  op: packOp,
  record({ operands: [w, packed], attributes: [row = 0] }, recorder) {
    const problem = misplaced(w!, packed!, row);
    if (problem) return problem;
    into(recorder, w!, packed!, row * w!.shape[1]!);
    return undefined;
  },
  axes({ operands: [w, packed], attributes: [row = 0] }) {
    const [rows = 0, columns = 0] = w!.shape;
    const problem = misplaced(w!, packed!, row);
    if (problem) return problem;
    const range = (begin: number, count: number): [number, number] => [row + begin, count];
    const parts = { 0: { operand: w!, dim: 0 }, 1: { operand: packed!, dim: 0, range } };
    return [{ size: rows, step: wholeBytes(w!, columns), parts, attributes: () => [0] }];
  },
  shaders,
};

export const unpack: Kernel = {
  op: unpackOp,
  record({ operands: [packed, w] }, recorder) {
    into(recorder, packed!, w!, 0);
    return undefined;
  },
  axes({ operands: [packed, w] }) {
    const [rows = 0, columns = 0] = w!.shape;
    return [along(rows, { 0: [packed, 0], 1: [w, 0] }, wholeBytes(w!, columns))];
  },
  shaders,
};
