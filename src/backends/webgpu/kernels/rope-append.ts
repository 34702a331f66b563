// rope of queries and keys with kv_append of those keys and of the values beside them: one dispatch. Keys go into the cache
// as they are turned. Tokens that do not fit are the failure of the appends alone; queries and keys are turned all the same.

import { groupsFor } from "../kernel.js";
import type { Operand } from "../schedule/call.js";
import type { Fusion } from "../schedule/fusion.js";
import { same } from "../schedule/horizontal-fusion.js";
import { encodeBits, family, reads, type Shader, WORKGROUP, writes } from "../shader.js";
import { FLOATS } from "../wgsl.js";
import { appendedAlike, type CacheType, inPairs, kvAppend, reportOverflow } from "./cache.js";
import { rope, ropeFunction, ropeParams, ropeParts } from "./rope.js";

/** What the shader binds, reports included. */
const BINDINGS = 10;

// An invocation per element of the queries, then one per word of the cache for keys, and for values.
const shader = family("rope", ({ cache }: { append: true; cache: CacheType }) => {
  const per = cache === "f32" ? 1 : 2;
  const words = (values: readonly string[]): string =>
    values.map((value, i) => `(${encodeBits(cache, value)} << ${i * 16}u)`).join(" | ");
  const each = per === 1 ? ["0u"] : ["0u", "1u"];
  return {
    bindings: [
      reads("table", "array<f32>"),
      ...["", "1"].flatMap((job) => [reads(`x${job}`, "array<f32>"), writes(`y${job}`)]),
      reads("cursor", "array<i32>"),
      writes("keys", "array<u32>"),
      reads("x2", "array<f32>"),
      writes("values", "array<u32>"),
    ],
    params: [
      ...ropeParams(2),
      ...["capacity:i32", "cursor", "keys", "values", "x2", "sb2", "st2", "sg2", "sd2", "apart", "apart1"],
    ],
    reports: true,
    declarations: [FLOATS, ...["", "1"].map(ropeFunction)],
    body: `if (gid < P.count) {
    y[P.y + gid] = turned(gid);
    return;
  }
  let start = cursor[P.cursor];
  let fits = start >= 0 && start + i32(P.steps1) <= P.capacity;
  if (gid == P.count && !fits) {
    ${reportOverflow("call_behind(P.apart)", "P.steps1")}
    ${reportOverflow("call_behind(P.apart1)", "P.steps1")}
  }
  let all = P.count1 / ${per}u;
  let n = gid - P.count;
  if (n >= 2u * all) { return; }
  let e = (n % all) * ${per}u;
  let d = e % P.size1;
  let row = e / P.size1;
  let g = row % P.heads1;
  let t = (row / P.heads1) % P.steps1;
  let b = row / (P.heads1 * P.steps1);
  let at = ((b * P.heads1 + g) * u32(P.capacity) + u32(max(start, 0)) + t) * P.size1 + d;
  if (n < all) {
    ${each.map((i) => `let key${i} = turned1(e + ${i}); y1[P.y1 + e + ${i}] = key${i};`).join("\n    ")}
    if (fits) { keys[(P.keys + at) / ${per}u] = ${words(each.map((i) => `key${i}`))}; }
  } else if (fits) {
    let source = P.x2 + b * P.sb2 + t * P.st2 + g * P.sg2;
    values[(P.values + at) / ${per}u] = ${words(each.map((i) => `x2[source + (d + ${i}) * P.sd2]`))};
  }`,
  };
});

/** True if the values that a call appends are the contiguous result of another. */
function appends(x: Operand, y: Operand): boolean {
  return same(x, y) && x.contiguous && x.shape.every((n, d) => n === y.shape[d]);
}

export const ropeAppend: Fusion = {
  first: rope,
  next: kvAppend,
  record(ropes, appended, queue, target) {
    const [keys, values] = appended;
    if (ropes.length !== 2 || !keys || !values || appended.length !== 2) return false;
    if (target.storageBuffers < BINDINGS) return false;
    const [x, cursor, cache, scales] = keys.call.operands;
    const [x2, , cache2] = values.call.operands;
    const turned = ropes.map(({ call }) => call.operands[2]!);
    // The keys last.
    const calls = ropes.map(({ call }) => call);
    if (!appends(x!, turned[1]!)) calls.reverse();
    if (!turned.some((y) => appends(x!, y)) || turned.some((y) => y.block === x2!.block)) return false;
    if (scales || !appendedAlike(keys.call, values.call) || x!.count === 0) return false;
    const dtype = cache!.dtype as CacheType;
    const paired = inPairs(x!.shape[3]!, [cache!, cache2!]);
    if (dtype !== "f32" && !paired) return false;
    const { pieces, numbers } = ropeParts(calls);
    const [sb2 = 0, st2 = 0, sg2 = 0, sd2 = 0] = x2!.strides;
    const groups = groupsFor(numbers.count! + (2 * x!.count) / (paired ? 2 : 1), WORKGROUP);
    queue.dispatch(
      shader({ append: true, cache: dtype }),
      [...pieces, cursor!, cache!, x2!, cache2!],
      {
        ...numbers,
        ...{ capacity: cache!.shape[2]!, cursor: cursor!.offset, keys: cache!.offset, values: cache2!.offset },
        ...{ x2: x2!.offset, sb2, st2, sg2, sd2 },
        ...{ apart: keys.number - queue.call, apart1: values.number - queue.call },
      },
      groups,
    );
    return true;
  },
  shaders: ({ storageBuffers }) =>
    storageBuffers < BINDINGS
      ? []
      : (["f32", "f16", "bf16"] as const).map((cache): Shader => shader({ append: true, cache })),
};
