// embedding, llm_int8_embedding, four_bit_embedding: rows of a table in f32. One invocation per element.

import type { DType } from "../../../core/dtype.js";
import { embeddingOp } from "../../../ops/embedding.js";
import { fourBitEmbeddingOp } from "../../../ops/four-bit.js";
import { llmInt8EmbeddingOp } from "../../../ops/llm-int8.js";
import { FAILURE } from "../device/errors.js";
import { groupsFor, type Kernel } from "../kernel.js";
import { asFlat, asRows } from "../schedule/call.js";
import { along, firstDim } from "../schedule/split.js";
import { type BindingSpec, bitsReader, family, reader, reads, type ShaderSpec, WORKGROUP, writes } from "../shader.js";
import { FLOATS, literal } from "../wgsl.js";
import { ABSMAX, type Absmax, codeRows, fill, INCOMPLETE, parts, ROUND, statistics, TABLE } from "./four-bit.js";

/** The table may be part of a larger one: `size` rows from `first` on. `value` is WGSL of element k of row `at`. */
function lookUp(
  bindings: readonly BindingSpec[],
  params: readonly string[],
  declarations: readonly string[],
  value: string,
  prologue = "",
): ShaderSpec {
  return {
    bindings: [...bindings, reads("ids", "array<i32>"), writes("y")],
    params: ["count", "columns", "vocabulary:i32", "first:i32", "size:i32", ...params, "ids", "y"],
    reports: true,
    declarations,
    body: `${prologue}if (gid >= P.count) { return; }
  let row = gid / P.columns;
  let k = gid % P.columns;
  let id = ids[P.ids + row];
  if (id < 0 || id >= P.vocabulary) {
    if (k == 0u) { report(${FAILURE.tokenId}u, bitcast<u32>(id), bitcast<u32>(P.vocabulary), 0u); }
    return;
  }
  if (id < P.first || id >= P.first + P.size) { return; }
  let at = u32(id - P.first);
  y[P.y + gid] = ${value};`,
  };
}

const shader = family("embedding", ({ weight }: { weight: DType }) =>
  lookUp([reads("w")], ["w"], [FLOATS, reader("w", weight)], "w_at(P.w + at * P.columns + k)"),
);

export const embedding: Kernel = {
  op: embeddingOp,
  record({ operands: [weight, ids, y], attributes: [first = 0, all] }, recorder) {
    const [size = 0, columns = 0] = weight!.shape;
    const offsets = { w: weight!.offset, ids: ids!.offset, y: y!.offset };
    const numbers = { count: y!.count, columns, vocabulary: all ?? size, first, size, ...offsets };
    recorder.dispatch(shader({ weight: weight!.dtype }), [weight!, ids!, y!], numbers, groupsFor(y!.count, WORKGROUP));
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

const int8Shader = family("llm_int8_embedding", () =>
  lookUp(
    [reads("codes"), reads("scb", "array<f32>")],
    ["codes", "scb"],
    [reader("codes", "i8")],
    `codes_at(P.codes + at * P.columns + k) * scb[P.scb + at] * ${literal(1 / 127)}`,
  ),
);

export const llmInt8Embedding: Kernel = {
  op: llmInt8EmbeddingOp,
  record({ operands: [codes, scb, ids, y], attributes: [first = 0, all] }, recorder) {
    const [size = 0, columns = 0] = codes!.shape;
    const offsets = { codes: codes!.offset, scb: scb!.offset, ids: ids!.offset, y: y!.offset };
    const numbers = { count: y!.count, columns, vocabulary: all ?? size, first, size, ...offsets };
    recorder.dispatch(int8Shader({}), [codes!, scb!, ids!, y!], numbers, groupsFor(y!.count, WORKGROUP));
    return undefined;
  },
  axes({ operands: [codes, scb, ids, y], attributes: [before = 0, all] }) {
    const [size = 0] = codes!.shape;
    const rows = along(size, { 0: [codes, 0], 1: [scb, 0] });
    return [
      { ...rows, attributes: (begin: number) => [before + begin, all ?? size] },
      firstDim({ 2: asFlat(ids!), 3: asRows(y!) })[0]!,
    ].filter((axis) => axis !== undefined);
  },
  shaders: () => [int8Shader({})],
};

const fourBitShader = family("four_bit_embedding", ({ absmax }: { absmax: Absmax }) => {
  const { bindings, params, declarations } = statistics(absmax);
  return lookUp(
    [reads("codes"), ...bindings],
    ["codes", ...params],
    [TABLE, ...declarations, bitsReader("codes", "u4"), ROUND],
    "round_to(table[codes_bits(P.codes + at * P.columns + k)] * absmax_of((at * P.columns + k) / P.blocksize))",
    fill(absmax),
  );
});

export const fourBitEmbedding: Kernel = {
  op: fourBitEmbeddingOp,
  record({ operands, attributes: [kind = 0, blocksize = 64, rounding = 0, phase = 0, first = 0, all] }, recorder) {
    const [codes, absmax, , , , ids, y] = operands;
    const known = parts(operands, blocksize, phase);
    if (!known) return INCOMPLETE;
    const [size = 0, columns = 0] = codes!.shape;
    const offsets = { codes: codes!.offset, ids: ids!.offset, y: y!.offset, ...known.numbers };
    const format = { kind, blocksize, rounding };
    const numbers = { count: y!.count, columns, vocabulary: all ?? size, first, size, ...format, ...offsets };
    const shader = fourBitShader({ absmax: absmax!.dtype as Absmax });
    recorder.dispatch(shader, [codes!, ...known.bindings, ids!, y!], numbers, groupsFor(y!.count, WORKGROUP));
    return undefined;
  },
  axes({ operands, attributes }) {
    const [codes, , , , , ids, y] = operands;
    const [, blocksize = 64, , , before = 0, all] = attributes;
    const rows = codeRows(operands, 0, attributes.slice(0, 3), blocksize);
    return [
      { ...rows, attributes: (begin: number) => [...rows.attributes!(begin), before + begin, all ?? codes!.shape[0]!] },
      firstDim({ 5: asFlat(ids!), 6: asRows(y!) })[0]!,
    ].filter((axis) => axis !== undefined);
  },
  shaders: () => ABSMAX.map((absmax) => fourBitShader({ absmax })),
};
