// The statistics of stacks in 4 bits, where each expert starts new blocks, for the products that read them (experts.ts,
// experts-back.ts).

import { NESTED_BLOCK, o4Group } from "../../../ops/four-bit.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { groupsFor, type Target } from "../kernel.js";
import type { Binding, Call } from "../schedule/call.js";
import { type BindingSpec, bitsReader, family, reader, reads, WORKGROUP, writes } from "../shader.js";
import { scratch } from "./attention-parts.js";
import type { Absmax } from "./four-bit.js";

/** How a stack's absmax are bound: by dtype, or "decoded": O4's in f32. */
export type StackAbsmax = Absmax | "decoded";

/** Each expert starts new blocks: it has `blocks` of them, and `outer` nested blocks. */
export function absmaxOf(absmax: StackAbsmax): { bindings: BindingSpec[]; params: string[]; declarations: string[] } {
  if (absmax === "f32" || absmax === "decoded") {
    const own = absmax === "decoded";
    return {
      bindings: [reads("absmax", "array<f32>"), ...(own ? [reads("map", "array<f32>")] : [])],
      params: ["kind", "blocksize", "rounding", "blocks", "absmax", ...(own ? ["map"] : [])],
      declarations: ["fn absmax_of(block: u32) -> f32 { return absmax[P.absmax + expert * P.blocks + block]; }"],
    };
  }
  if (absmax === "i8") {
    return {
      bindings: [reads("absmax"), reads("nested", "array<f32>"), reads("map", "array<f32>")],
      params: ["kind", "blocksize", "rounding", "blocks", "absmax", "outer", "nested", "map", "group"],
      declarations: [
        reader("absmax", "i8"),
        `fn absmax_of(block: u32) -> f32 {
  return absmax_at(P.absmax + expert * P.blocks + block) * nested[P.nested + expert * P.outer + block / P.group];
}`,
      ],
    };
  }
  return {
    bindings: [reads("absmax"), reads("nested", "array<f32>"), reads("map", "array<f32>"), reads("mean", "array<f32>")],
    params: ["kind", "blocksize", "rounding", "blocks", "absmax", "outer", "nested", "map", "mean", "zero"],
    declarations: [
      bitsReader("absmax", "u8"),
      `fn absmax_of(block: u32) -> f32 {
  let outer = nested[P.nested + expert * P.outer + block / ${NESTED_BLOCK}u];
  let scaled = map[P.map + absmax_bits(P.absmax + expert * P.blocks + block)] * outer;
  return bitcast<f32>(bitcast<u32>(scaled) ^ P.zero) + mean[P.mean + expert];
}`,
    ],
  };
}

/** The absmax of every block of a stack in f32, for devices that cannot bind the parts of double quantization as well. */
export const absmaxShader = family("four_bit_expert_linear", ({ absmax }: { step: "absmax"; absmax: "u8" | "i8" }) => {
  const { bindings, params, declarations } = absmaxOf(absmax);
  return {
    bindings: [...bindings, writes("plain")],
    params: ["count", ...params],
    declarations: ["var<private> expert: u32;", ...declarations],
    body: `if (gid >= P.count) { return; }
  expert = gid / P.blocks;
  plain[gid] = absmax_of(gid % P.blocks);`,
  };
});

/** Bindings of a product with a stack in 4 bits, beside a bias: x, codes, experts, y, failures, and the statistics. */
export const bindingsOf = (absmax: StackAbsmax): number => 5 + absmaxOf(absmax).bindings.length;

/**
 * How the statistics of a stack in 4 bits are bound: those of its operands, or, for a device that cannot bind them all, decoded.
 * @param more bindings beside those of `bindingsOf`
 */
export function stackStatistics(
  [, codes, absmax, nested, map, mean]: Call["operands"],
  [kind, blocksize, rounding]: readonly [number, number, number],
  more: number,
  recorder: CommandRecorder,
  target: Target,
): { absmax: StackAbsmax; statistics: Binding[]; numbers: Record<string, number> } | undefined {
  const numbers: Record<string, number> = { kind, blocksize, rounding, codes: codes!.offset };
  const statistics: Binding[] = [absmax!];
  const kept = absmax!.dtype as Absmax;
  Object.assign(numbers, { absmax: absmax!.offset, blocks: absmax!.shape[1]! });
  if (kept === "f32") return { absmax: kept, statistics, numbers };
  if (!nested || !map || !(mean || kept === "i8")) return undefined;
  statistics.push(nested, map, ...(mean ? [mean] : []));
  const { offset, shape } = nested;
  Object.assign(numbers, { nested: offset, outer: shape[1]!, map: map.offset });
  Object.assign(numbers, mean ? { mean: mean.offset, zero: 0 } : { group: o4Group(codes!.shape[2]!, blocksize) });
  if (bindingsOf(kept) + more <= target.storageBuffers) return { absmax: kept, statistics, numbers };
  const { count } = absmax!;
  const plain = scratch(recorder, "absmax", count);
  const decoded = absmaxShader({ step: "absmax", absmax: kept });
  recorder.dispatch(decoded, [...statistics, plain], { count, ...numbers }, groupsFor(count, WORKGROUP));
  const own = kept === "i8";
  return {
    absmax: own ? "decoded" : "f32",
    statistics: own ? [plain, map] : [plain],
    numbers: { ...numbers, absmax: 0 },
  };
}
