// kv_append and append_token: writes at a cursor that lives on the device.

import { bitsOf } from "../../../core/dtype.js";
import { kvAppendOp } from "../../../ops/kv-append.js";
import { appendTokenOp } from "../../../ops/sampling.js";
import { FAILURE } from "../errors.js";
import { groupsFor, type Kernel } from "../kernel.js";
import { encodeBits, family, reads, WORKGROUP, writes } from "../shader.js";
import { EXACT_DIVIDE, FLOATS, fold } from "../wgsl.js";

type CacheType = "f32" | "f16" | "bf16";

/** Where the values stand: offset and strides. */
const SOURCE = ["x", "sb", "st", "sg", "sd"];

/** WGSL of the code of dim `d` of a row. */
const code = (d: string): string => `(bitcast<u32>(i32(round(x[source + (${d}) * P.sd] * inverse))) & 0xffu)`;

// One invocation per pair of neighbours where pairs are whole words, else one per element and atomics.
const kvShader = family("kv_append", ({ cache, paired }: { cache: CacheType; paired: boolean }) => {
  const wide = bitsOf(cache) === 32;
  const per = paired ? 2 : 1;
  const value = (d: string): string => encodeBits(cache, `x[source + (${d}) * P.sd]`);
  const store = wide
    ? `cache[at] = ${value("d")};`
    : paired
      ? `cache[at / 2u] = ${value("d")} | (${value("d + 1u")} << 16u);`
      : `let shift = (at & 1u) * 16u;
  atomicAnd(&cache[at / 2u], ~(0xffffu << shift));
  atomicOr(&cache[at / 2u], ${value("d")} << shift);`;
  return {
    bindings: [
      reads("x", "array<f32>"),
      reads("cursor", "array<i32>"),
      writes("cache", wide || paired ? "array<u32>" : "array<atomic<u32>>"),
    ],
    params: ["count", "steps", "heads", "size", "capacity:i32", ...SOURCE, "cursor", "cache"],
    reports: true,
    declarations: [FLOATS],
    body: `if (gid >= P.count) { return; }
  let start = cursor[P.cursor];
  if (start < 0 || start + i32(P.steps) > P.capacity) {
    if (gid == 0u) { report(${FAILURE.cacheOverflow}u, bitcast<u32>(start), bitcast<u32>(P.capacity), P.steps); }
    return;
  }
  let d = (gid % (P.size / ${per}u)) * ${per}u;
  let row = gid / (P.size / ${per}u);
  let g = row % P.heads;
  let t = (row / P.heads) % P.steps;
  let b = row / (P.heads * P.steps);
  let source = P.x + b * P.sb + t * P.st + g * P.sg;
  let at = P.cache + ((b * P.heads + g) * u32(P.capacity) + u32(start) + t) * P.size + d;
  ${store}`,
  };
});

// One workgroup per row: its absmax, then its codes, by the rule of llm_int8_quantize. Rows of whole words need no atomics.
const codesShader = family("kv_append", ({ whole }: { codes: true; whole: boolean }) => ({
  bindings: [
    reads("x", "array<f32>"),
    reads("cursor", "array<i32>"),
    writes("cache", whole ? "array<u32>" : "array<atomic<u32>>"),
    writes("scales"),
  ],
  params: ["rows", "steps", "heads", "size", "capacity:i32", ...SOURCE, "cursor", "cache", "scales"],
  reports: true,
  declarations: [EXACT_DIVIDE, fold("largest", "f32", WORKGROUP, (a, b) => `max(${a}, ${b})`)],
  body: `if (group >= P.rows) { return; }
  let start = cursor[P.cursor];
  if (start < 0 || start + i32(P.steps) > P.capacity) {
    if (gid == 0u) { report(${FAILURE.cacheOverflow}u, bitcast<u32>(start), bitcast<u32>(P.capacity), P.steps); }
    return;
  }
  let g = group % P.heads;
  let t = (group / P.heads) % P.steps;
  let b = group / (P.heads * P.steps);
  let source = P.x + b * P.sb + t * P.st + g * P.sg;
  let row = (b * P.heads + g) * u32(P.capacity) + u32(start) + t;
  var size = 0.0;
  for (var d = lid; d < P.size; d += ${WORKGROUP}u) { size = max(size, abs(x[source + d * P.sd])); }
  let scale = largest(size, lid);
  var inverse = 0.0;
  if (scale > 0.0) { inverse = exact_divide(1.0, scale) * 127.0; }
  if (lid == 0u) { scales[P.scales + row] = scale; }
  let at = P.cache + row * P.size;
  ${
    whole
      ? `for (var w = lid; w < P.size / 4u; w += ${WORKGROUP}u) {
    var word = 0u;
    for (var l = 0u; l < 4u; l++) { word |= ${code("w * 4u + l")} << (l * 8u); }
    cache[at / 4u + w] = word;
  }`
      : `for (var d = lid; d < P.size; d += ${WORKGROUP}u) {
    let shift = ((at + d) & 3u) * 8u;
    atomicAnd(&cache[(at + d) / 4u], ~(0xffu << shift));
    atomicOr(&cache[(at + d) / 4u], ${code("d")} << shift);
  }`
  }`,
}));

export const kvAppend: Kernel = {
  op: kvAppendOp,
  record({ operands: [x, cursor, cache, scales] }, queue) {
    const [, steps = 0, heads = 0, size = 0] = x!.shape;
    const [sb = 0, st = 0, sg = 0, sd = 0] = x!.strides;
    const places = { x: x!.offset, sb, st, sg, sd, cursor: cursor!.offset, cache: cache!.offset };
    if (scales) {
      const rows = size === 0 ? 0 : x!.count / size;
      const numbers = { rows, steps, heads, size, capacity: cache!.shape[2]!, ...places, scales: scales.offset };
      const shader = codesShader({ codes: true, whole: size % 4 === 0 && cache!.offset % 4 === 0 });
      queue.dispatch(shader, [x!, cursor!, cache!, scales], numbers, rows);
      return undefined;
    }
    const paired = cache!.dtype !== "f32" && size % 2 === 0 && cache!.offset % 2 === 0;
    const count = x!.count / (paired ? 2 : 1);
    const sizes = { count, steps, heads, size, capacity: cache!.shape[2]! };
    const numbers = { ...sizes, ...places };
    const shader = kvShader({ cache: cache!.dtype as CacheType, paired });
    queue.dispatch(shader, [x!, cursor!, cache!], numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  shaders: () => [
    kvShader({ cache: "f32", paired: false }),
    ...[true, false].map((whole) => codesShader({ codes: true, whole })),
    ...(["f16", "bf16"] as const).flatMap((cache) => [true, false].map((paired) => kvShader({ cache, paired }))),
  ],
};

const tokenShader = family("append_token", () => ({
  bindings: [reads("ids", "array<i32>"), writes("history", "array<i32>"), reads("cursor", "array<i32>")],
  params: ["count", "length:i32", "ids", "history", "cursor"],
  reports: true,
  body: `if (gid >= P.count) { return; }
  let at = cursor[P.cursor];
  if (at < 0 || at >= P.length) {
    if (gid == 0u) { report(${FAILURE.historyOverflow}u, bitcast<u32>(at), bitcast<u32>(P.length), 0u); }
    return;
  }
  history[P.history + gid * u32(P.length) + u32(at)] = ids[P.ids + gid];`,
}));

export const appendToken: Kernel = {
  op: appendTokenOp,
  record({ operands: [ids, history, cursor] }, queue) {
    const numbers = {
      count: ids!.count,
      length: history!.shape[1]!,
      ids: ids!.offset,
      history: history!.offset,
      cursor: cursor!.offset,
    };
    queue.dispatch(tokenShader({}), [ids!, history!, cursor!], numbers, groupsFor(ids!.count, WORKGROUP));
    return undefined;
  },
  shaders: () => [tokenShader({})],
};
