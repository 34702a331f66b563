// attention on WebGPU: selects the variant of a call, its bindings, and how it is split over workgroups. The shader is in
// attention-shader.ts.

import type { DType } from "../../../core/dtype.js";
import { attentionOp } from "../../../ops/attention.js";
import type { Axis, Kernel, Part, Target } from "../kernel.js";
import type { Binding, Operand } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import type { Shader } from "../shader.js";
import { checked, combined, joined, merged, PARTS, SPAN, scratch } from "./attention-parts.js";
import { attentionShader, type Bound, type Stored } from "./attention-shader.js";
import { pagedNumbers } from "./paged.js";

/** With fewer workgroups than this, several share the keys of a tile to fill the device. */
const FILLED = 256;
/** Query rows of a tile; calls with a single row have tiles of one. */
const ROWS = 4;

/** Which of the optional operands are given. */
interface Given {
  readonly scales: boolean;
  readonly paged: boolean;
  readonly mask: boolean;
  readonly segments: boolean;
  readonly slopes: boolean;
  readonly distances: boolean;
  readonly bias: boolean;
  readonly sinks: boolean;
}

/**
 * How optional operands are bound. If bindings run out, two operands share one, or lanes are checked by a separate
 * dispatch. WebGPU's default of eight is enough for all combinations, because a table excludes mask, segments and bias, and
 * sinks exclude slopes and distances.
 */
function bound(given: Given, storageBuffers: number): Bound {
  const { scales, paged, mask, segments, slopes, distances, bias, sinks } = given;
  const wanted = [scales, paged, paged, mask, segments, slopes, distances, bias, sinks].filter(Boolean).length;
  let free = storageBuffers - 4 - wanted;
  const joins = slopes && distances && free < 0;
  if (joins) free++;
  const merges = mask && segments && free < 0;
  if (merges) free++;
  return {
    paged,
    hides: mask && segments ? (merges ? "merged" : "apart") : mask ? "mask" : segments ? "segments" : "none",
    adds: slopes && distances ? (joins ? "joined" : "apart") : slopes ? "slopes" : distances ? "distances" : "none",
    bias,
    sinks,
    reports: paged && free > 0,
  };
}

function placed(name: string, from: Operand | undefined): Record<string, number> {
  const [s0 = 0, s1 = 0, s2 = 0, s3 = 0] = from?.strides ?? [];
  return { [name]: from?.offset ?? 0, [`${name}0`]: s0, [`${name}1`]: s1, [`${name}2`]: s2, [`${name}3`]: s3 };
}

/** Most spans that the keys of a tile touch: all of the room, or those that a window at any position touches. */
function spansOf(room: number, window: number, causal: number, paged: boolean): number {
  const all = Math.ceil(room / SPAN);
  if (window === 0) return all;
  const seen = Math.ceil(((causal ? 1 : 2) * window + ROWS - 1) / SPAN) + 1;
  return paged ? seen : Math.min(all, seen); // the pages of a window form a ring: positions may exceed the room
}

export const attention: Kernel = {
  op: attentionOp,
  record(call, recorder, target) {
    const [q, k, v, scales, lanes, table, mask, segments, slopes, distances, bias, sinks, y] = call.operands;
    const [scale = 1, causal = 1, window = 0, softcap = 0] = call.attributes;
    const [B = 0, T = 0, H = 0, D = 0] = q!.shape;
    const [pages = 0, G = 1, S = 0, E = 0] = v!.shape;
    if (y!.count === 0) return undefined;
    const share = H / G;
    const width = y!.strides[1]! / E; // heads per row of y: more than H if this is a part of a larger call
    const R = T * share;
    const rows = R === 1 ? 1 : ROWS;
    const paged = lanes !== undefined && table !== undefined;
    const there = (operand: Operand | undefined): boolean => operand !== undefined;
    const given = {
      ...{ scales: there(scales), paged, mask: there(mask), segments: there(segments) },
      ...{ slopes: there(slopes), distances: there(distances), bias: there(bias), sinks: there(sinks) },
    };
    const optional = bound(given, target.storageBuffers);
    const [lanes0 = 0, lanes1 = 0] = lanes?.strides ?? [];
    const cached = {
      ...(table ? pagedNumbers(table, S, pages) : { rows: 0, columns: 0, table: 0, S, pages }),
      ...{ lanes: lanes?.offset ?? 0, lanes0, lanes1, causal, window },
    };
    if (paged && !optional.reports) checked(recorder, lanes, table, cached);
    const aligned = (n: number): boolean => n % 4 === 0;
    const quad = aligned(D) && k!.strides[3] === 1 && aligned(k!.offset) && k!.strides.slice(0, 3).every(aligned);
    const tiles = Math.ceil(R / rows);
    const groups = tiles * B * G;
    // Few queries and many keys: workgroups share the keys, so that the whole device takes part.
    const room = table ? (table.shape[1]! - 1) * S : S;
    const spans = groups < FILLED ? Math.max(1, spansOf(room, window, causal, paged)) : 1; // without keys, one span writes zeros
    const splits = B * G * R * spans * (E + 2) * 4 <= y!.block.binding ? spans : 1;
    const split = splits > 1;
    const merges = optional.hides === "merged";
    const joins = optional.adds === "joined";
    const shader = attentionShader({
      ...{ k: k!.dtype as Stored, v: v!.dtype as Stored },
      ...{ rows, d64: Math.ceil(D / 64), e64: Math.ceil(E / 64), quad },
      ...optional,
      ...{ split, sinks: optional.sinks && !split },
    });
    const out: Binding = split ? scratch(recorder, "spans", B * G * R * splits * (E + 2)) : y!;
    const bindings: (Binding | undefined)[] = [
      ...[q!, k!, v!, scales, lanes, table],
      ...(merges ? [merged(recorder, mask!, segments!)] : [mask, segments]),
      ...(joins ? [joined(recorder, slopes!, distances!)] : [slopes, distances]),
      ...[bias, split ? undefined : sinks, out],
    ];
    const [half = 0, scales1 = 0, scales2 = 0] = scales?.strides ?? [];
    const numbers = {
      ...{ R, share, T, H: width, G, D, E, tiles, groups: B * G, splits },
      ...cached,
      ...{ ...placed("q", q), ...placed("k", k), ...placed("v", v), ...placed("b", bias) },
      ...{ y: y!.offset, scales: scales?.offset ?? 0, half, scales1, scales2 },
      ...{ mask: mask?.offset ?? 0, segments: segments?.offset ?? 0 },
      slopes: joins ? 0 : (slopes?.offset ?? 0),
      distances: joins ? H : (distances?.offset ?? 0),
      sinks: sinks?.offset ?? 0,
      far: ((distances?.shape[1] ?? 1) - 1) / 2,
      ...{ scale, softcap },
    };
    recorder.dispatch(
      shader,
      bindings.filter((binding) => binding !== undefined),
      numbers,
      groups * splits,
    );
    if (split) {
      const count = B * G * R;
      combined(recorder, out, y!, sinks, { count, share, T, H: width, G, R, E, splits, y: y!.offset });
    }
    return undefined;
  },
  axes({ operands: [q, k, v, scales, lanes, , mask, segments, slopes, distances, bias, sinks, y] }) {
    const [batch = 0, steps = 0, H = 0] = q!.shape;
    const [, groups = 0] = v!.shape;
    const share = H / groups;
    const heads = (begin: number, count: number): [number, number] => [begin * share, count * share];
    const ofHeads = (operand: Operand | undefined, dim: number): Part | undefined =>
      operand && { operand, dim, range: heads };
    const parts = Object.entries({
      0: ofHeads(q, 2),
      1: { operand: k!, dim: 1 },
      2: { operand: v!, dim: 1 },
      3: scales && { operand: scales, dim: 2 },
      8: ofHeads(slopes, 0),
      9: ofHeads(distances, 0),
      10: ofHeads(bias, 1),
      11: ofHeads(sinks, 0),
      12: ofHeads(y, 2),
    }).filter((entry): entry is [string, Part] => entry[1] !== undefined);
    const byHeads: Axis = { size: groups, parts: Object.fromEntries(parts) };
    if (lanes) {
      const byRows = along(batch, { 0: [q, 0], 4: [lanes, 1], 12: [y, 0] });
      const bySteps = along(steps, { 0: [q, 1], 4: [lanes, 2], 12: [y, 1] });
      return [byRows, ...(batch === 1 ? [bySteps] : []), byHeads];
    }
    const byRows = along(batch, {
      ...{ 0: [q, 0], 1: [k, 0], 2: [v, 0], 3: [scales, 1], 6: [mask, 0], 7: [segments, 0], 10: [bias, 0], 12: [y, 0] },
    });
    return batch > 1 ? [byRows] : [byHeads];
  },
  shaders: (target) => [...PARTS, ...variants(target)],
};

/** All combinations of operands for heads of up to 64; larger heads in the combinations that models use. */
function variants({ storageBuffers }: Target): Shader[] {
  const flags = [false, true];
  const none = {
    ...{ paged: false, mask: false, segments: false, slopes: false, distances: false, bias: false, sinks: false },
  };
  const adding = flags.flatMap((slopes) => flags.map((distances) => ({ ...none, slopes, distances })));
  const beside = flags.flatMap((mask) => flags.flatMap((segments) => flags.map((bias) => ({ mask, segments, bias }))));
  const sunk = { ...none, sinks: true };
  const apart = [sunk, ...adding].flatMap((one) => beside.map((more) => ({ ...one, ...more })));
  const cached = [sunk, ...adding].map((one) => ({ ...one, paged: true }));
  const heads = [
    [2, 2],
    [3, 2],
    [4, 4],
  ] as const;
  const plain = [none, { ...none, mask: true }, { ...none, segments: true }, { ...none, paged: true }];
  const large = [...plain, ...plain.map((one) => ({ ...one, sinks: true }))];
  const made = new Map<string, Shader>();
  for (const dtype of ["f32", "f16", "bf16", "i8"] as const satisfies readonly DType[]) {
    const all = [...cached, ...(dtype === "i8" ? apart.slice(-1) : apart)]; // i8 appears in caches only
    for (const quad of flags) {
      for (const rows of [1, ROWS]) {
        const add = (given: Omit<Given, "scales">, d64: number, e64: number): void => {
          const optional = bound({ ...given, scales: dtype === "i8" }, storageBuffers);
          for (const split of flags) {
            const sinks = optional.sinks && !split;
            const one = attentionShader({ k: dtype, v: dtype, rows, d64, e64, quad, ...optional, split, sinks });
            made.set(one.key, one);
          }
        };
        for (const given of all) add(given, 1, 1);
        for (const [d64, e64] of heads) for (const given of large) add(given, d64, e64);
      }
    }
  }
  return [...made.values()];
}
