// Fuses rope of queries and keys with kv_append of these keys and of the values. Keys are appended as they are rotated.
// Invalid lanes fail the appends only; queries and keys are still rotated.

import { groupsFor } from "../kernel.js";
import type { Operand } from "../schedule/call.js";
import type { Fusion } from "../schedule/fusion.js";
import { same } from "../schedule/horizontal-fusion.js";
import { encodeBits, family, reads, type Shader, WORKGROUP, writes } from "../shader.js";
import { FLOATS } from "../wgsl.js";
import { appendedAlike, type CacheType, inPairs, kvAppend } from "./cache.js";
import { placesOf, reportPlace } from "./paged.js";
import { rope, ropeFunction, ropeParams, ropeParts } from "./rope.js";

/** Bindings of the shader, reports included. */
const BINDINGS = 10;

// One invocation per element of the queries, then one per cache word of the keys, then of the values.
const shader = family("rope", ({ cache }: { append: true; cache: CacheType }) => {
  const per = cache === "f32" ? 1 : 2;
  const words = (values: readonly string[]): string =>
    values.map((value, i) => `(${encodeBits(cache, value)} << ${i * 16}u)`).join(" | ");
  const each = per === 1 ? ["0u"] : ["0u", "1u"];
  return {
    bindings: [
      reads("table", "array<f32>"),
      ...["", "1"].flatMap((job) => [reads(`x${job}`, "array<f32>"), writes(`y${job}`)]),
      reads("places", "array<i32>"),
      writes("keys", "array<u32>"),
      reads("x2", "array<f32>"),
      writes("values", "array<u32>"),
    ],
    params: [
      ...ropeParams(2),
      ...["rows", "pages", "tokens", "page", "group", "keys", "values"],
      ...["x2", "sb2", "st2", "sg2", "sd2", "apart", "apart1"],
    ],
    reports: true,
    declarations: [FLOATS, ...["", "1"].map(ropeFunction)],
    body: `if (gid < P.count) {
    y[P.y + gid] = turned(gid);
    return;
  }
  let n = gid - P.count;
  if (n < P.tokens) {
    let i = n;
    ${reportPlace(["call_behind(P.apart)", "call_behind(P.apart1)"])}
  }
  let all = P.count1 / ${per}u;
  if (n >= 2u * all) { return; }
  let e = (n % all) * ${per}u;
  let d = e % P.size1;
  let row = e / P.size1;
  let g = row % P.heads1;
  let i = row / P.heads1;
  let page = places[2u * i];
  let at = u32(max(page, 0)) * P.page + g * P.group + u32(places[2u * i + 1u]) * P.size1 + d;
  if (n < all) {
    ${each.map((l) => `let key${l} = turned1(e + ${l}); y1[P.y1 + e + ${l}] = key${l};`).join("\n    ")}
    if (page >= 0) { keys[(P.keys + at) / ${per}u] = ${words(each.map((l) => `key${l}`))}; }
  } else if (page >= 0) {
    let source = P.x2 + (i / P.steps1) * P.sb2 + (i % P.steps1) * P.st2 + g * P.sg2;
    values[(P.values + at) / ${per}u] = ${words(each.map((l) => `x2[source + (d + ${l}) * P.sd2]`))};
  }`,
  };
});

/** True if the operand x of an append is the contiguous result y of another call. */
function appends(x: Operand, y: Operand): boolean {
  return same(x, y) && x.contiguous && x.shape.every((n, d) => n === y.shape[d]);
}

export const ropeAppend: Fusion = {
  first: rope,
  next: kvAppend,
  record(ropes, appended, recorder, target) {
    const [keys, values] = appended;
    if (ropes.length !== 2 || !keys || !values || appended.length !== 2) return false;
    if (target.storageBuffers < BINDINGS) return false;
    const [x, lanes, table, cache, scales] = keys.call.operands;
    const [x2, , , cache2] = values.call.operands;
    const turned = ropes.map(({ call }) => call.operands[2]!);
    // Keys last.
    const calls = ropes.map(({ call }) => call);
    if (!appends(x!, turned[1]!)) calls.reverse();
    if (!turned.some((y) => appends(x!, y)) || turned.some((y) => y.block === x2!.block)) return false;
    if (scales || !appendedAlike(keys.call, values.call) || x!.count === 0) return false;
    const dtype = cache!.dtype as CacheType;
    const paired = inPairs(x!.shape[3]!, [cache!, cache2!]);
    if (dtype !== "f32" && !paired) return false;
    const { bindings, numbers } = ropeParts(calls);
    const [sb2 = 0, st2 = 0, sg2 = 0, sd2 = 0] = x2!.strides;
    const [batch = 0, steps = 0] = x!.shape;
    const [pages = 0, , tokens = 0] = cache!.shape;
    const [page = 0, group = 0] = cache!.strides;
    const places = placesOf(recorder, lanes!, table!, tokens, pages);
    const groups = groupsFor(numbers.count! + (2 * x!.count) / (paired ? 2 : 1), WORKGROUP);
    recorder.dispatch(
      shader({ append: true, cache: dtype }),
      [...bindings, places, cache!, x2!, cache2!],
      {
        ...numbers,
        ...{ rows: table!.shape[0]!, pages, tokens: batch * steps, page, group },
        ...{ keys: cache!.offset, values: cache2!.offset },
        ...{ x2: x2!.offset, sb2, st2, sg2, sd2 },
        ...{ apart: keys.number - recorder.call, apart1: values.number - recorder.call },
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
