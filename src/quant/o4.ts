// O4 as a scheme: Octavo's own 4-bit form (ops/o4.ts). Its scales are quantized again to 8 bits, under one f32 scale for each row. In a
// stack each expert starts new blocks, and all of them share a table. The checkpoint format is in _o4-files.ts.

import { kept, scope, Tensor } from "../core/tensor.js";
import { rowsOfExpert, type Scheme, type WeightRestorer } from "../nn/weight.js";
import { affineQuantize } from "../ops/affine.js";
import { copyInto } from "../ops/copy.js";
import { type FourBitCompute, type FourBitOperands, o4Group } from "../ops/four-bit.js";
import { O4_BLOCK, o4FirstTable, o4Quantize, o4SampleRows, o4Table } from "../ops/o4.js";
import { pack } from "../ops/pack.js";
import { blocksOf, codesOf, type FourBitForm, FourBitWeight, granularity } from "./_four-bit-weight.js";
import { o4Names, o4Parts, readTable } from "./_o4-files.js";

/** What all weights in O4 have in common with their scheme. */
const FORM: FourBitForm = {
  alike: ({ compute }) => o4Scheme(compute),
  parts: (name, { shape }, operands) => o4Parts(name, shape, operands),
};

/** @param compute how products are computed; a matrix keeps its values */
export function o4Scheme(compute: FourBitCompute): Scheme {
  const format = { kind: "o4", blocksize: O4_BLOCK, compute, rounding: "f32" } as const;
  /** Blocks of each expert, their groups, and the blocks of a group. */
  const countsOf = (each: number, inputs: number) => {
    const group = o4Group(inputs, O4_BLOCK);
    return { ...blocksOf([each, inputs], O4_BLOCK, group), group };
  };
  return {
    name: "o4",
    bytes(shape, experts = 1) {
      const { blocks, outer } = countsOf(shape[0] / experts, shape[1]);
      return Math.ceil((shape[0] * shape[1]) / 2) + experts * (blocks + 4 * outer) + 64;
    },
    begin(device, shape, label, experts = 1) {
      const each = rowsOfExpert(shape, experts);
      const inputs = shape[1];
      const { blocks, group } = countsOf(each, inputs);
      const { codes, scales } = kept(() => ({
        codes: codesOf(device, shape, O4_BLOCK, label, experts),
        scales: Tensor.empty(device, [experts * blocks], "f32", `${label} scales`),
      }));
      let table: Tensor | undefined;
      let weight: FourBitWeight | undefined;
      return {
        // The first rows are enough for the table, which so does not depend on how they arrive.
        granularity: pieceOf(inputs),
        put(rows, at) {
          table ??= tableOf(rows, each);
          const count = rows.shape[0]!;
          const expert = Math.floor(at / each);
          const begin = expert * blocks + ((at - expert * each) * inputs) / O4_BLOCK;
          using part = Tensor.empty(device, [count, inputs], "u4", "4-bit rows");
          using own = scales.narrow(0, begin, Math.ceil((count * inputs) / O4_BLOCK));
          o4Quantize(rows, table, part, own, 0);
          pack(part, codes, at);
        },
        finish() {
          table ??= kept(() => ({ table: o4FirstTable(device) })).table;
          const small = smallScales(scales, experts, group, label);
          weight = new FourBitWeight({ codes, ...small, map: table, ...format }, experts, FORM);
          scales.dispose();
          return weight;
        },
        [Symbol.dispose]() {
          if (weight) weight.dispose();
          else for (const tensor of [codes, scales, table]) tensor?.dispose();
        },
      };
    },
    claims(name, has) {
      const found = o4Names(name, has);
      return found && { ...found, scheme: o4Scheme(compute) };
    },
    restore(device, shape, label, pieces, experts = 1): WeightRestorer {
      const each = rowsOfExpert(shape, experts);
      const inputs = shape[1];
      const levels = readTable(pieces, [each, inputs], experts);
      const { blocks, outer } = countsOf(each, inputs);
      const made = kept(() => ({
        codes: codesOf(device, shape, O4_BLOCK, label, experts),
        absmax: Tensor.empty(device, [experts * blocks], "i8", `${label} scales`),
        nested: Tensor.empty(device, [experts * outer], "f32", `${label} group scales`),
        map: Tensor.from(device, levels, [16], "f32", `${label} table`),
      }));
      const weight = new FourBitWeight({ ...made, ...format }, experts, FORM);
      return {
        granularity: granularity(inputs, O4_BLOCK),
        dtype: "u4",
        *targets({ at }) {
          const expert = at / each;
          yield ["o4_scales", made.absmax.narrow(0, expert * blocks, blocks)];
          yield ["o4_group_scales", made.nested.narrow(0, expert * outer, outer)];
        },
        put: (rows, at) => pack(rows, made.codes, at),
        finish: () => weight,
        [Symbol.dispose]: () => weight.dispose(),
      };
    },
  };
}

/** Rows that arrive together: a multiple of what blocks and panels need, and all that the table is found for. */
function pieceOf(inputs: number): number {
  const least = granularity(inputs, O4_BLOCK);
  return Math.ceil(o4SampleRows(inputs) / least) * least;
}

/** The table for a stack of matrices of `each` rows: that for the first. */
function tableOf(rows: Tensor, each: number): Tensor {
  return kept(() => ({ table: o4Table(rows.narrow(0, 0, Math.min(each, rows.shape[0]!))) })).table;
}

/** The scales of blocks as signed codes under a scale of each group, -127 to 127 times that; each expert starts new groups. */
function smallScales(
  scales: Tensor,
  experts: number,
  group: number,
  label: string,
): Required<Pick<FourBitOperands, "absmax" | "nested">> {
  const { device, size } = scales;
  const blocks = size / experts || 0;
  const outer = Math.ceil(blocks / group);
  const made = kept(() => ({
    absmax: Tensor.empty(device, [size], "i8", `${label} scales`),
    nested: Tensor.empty(device, [experts * outer], "f32", `${label} group scales`),
  }));
  // Whole groups need no regard to where experts begin.
  const pieces = blocks % group === 0 ? 1 : experts;
  for (let e = 0; e < pieces; e++) {
    scope(() => {
      const own = (all: Tensor): Tensor => all.narrow(0, (e * all.size) / pieces, all.size / pieces);
      const { codes, scale } = affineQuantize(own(scales), { blocksize: group, symmetric: true });
      copyInto(codes, own(made.absmax));
      copyInto(scale, own(made.nested));
    });
  }
  return made;
}
