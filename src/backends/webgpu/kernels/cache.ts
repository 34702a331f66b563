// kv_append: writes into the pages of a cache, at places that are computed on the device (paged.ts).

import { bitsOf } from "../../../core/dtype.js";
import { kvAppendOp } from "../../../ops/kv-append.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { groupsFor, type Kernel } from "../kernel.js";
import type { Call, Operand } from "../schedule/call.js";
import { same } from "../schedule/horizontal-fusion.js";
import { along } from "../schedule/split.js";
import { encodeBits, family, reads, WORKGROUP, writes } from "../shader.js";
import { EXACT_DIVIDE, FLOATS, fold, SIZE_OF } from "../wgsl.js";
import { PLACES, placesOf, reportPlace } from "./paged.js";
import { jobName, jobNames } from "./product.js";

export type CacheType = "f32" | "f16" | "bf16";

/** Numbers of each job: offsets and strides of the values and of their destination. */
const OWN = ["x", "sb", "st", "sg", "sd", "cache", "page", "group", "scales", "page_scales", "group_scales"];

/** One call, or two of the same shape for the same lanes (keys and values); the second's work follows the first's. */
type Jobs = { readonly jobs: 1 | 2 };

/**
 * `tokens` of x, `S` tokens per page. Pages `first` to `first + here` are bound, of the `pages` that the table may name.
 */
const numbersOf = (jobs: 1 | 2): string[] => [
  ...["count", "tokens", "steps", "heads", "size", "S", "first:i32", "here:i32", "rows", "pages"],
  ...OWN.flatMap((name) => jobNames(jobs, name)),
  ...(jobs === 2 ? ["apart"] : []),
];

const bindingsOf = (jobs: 1 | 2, cache: string, codes: boolean) => [
  reads("places", "array<i32>"),
  ...jobNames(jobs, "x").map((name) => reads(name, "array<f32>")),
  ...jobNames(jobs, "cache").map((name) => writes(name, cache)),
  ...(codes ? jobNames(jobs, "scales").map((name) => writes(name)) : []),
];

/** Reports an invalid token for every call; the other tokens are still written. */
const report = (jobs: 1 | 2): string => reportPlace(["P.call", ...(jobs === 2 ? ["call_behind(P.apart)"] : [])]);

/** WGSL that calls `job` with a number below P.count, or `job1` with a larger number less P.count. */
const share = (jobs: 1 | 2, number: string, more = ""): string =>
  jobs === 1
    ? `job(${number}${more});`
    : `if (${number} < P.count) { job(${number}${more}); } else { job1(${number} - P.count${more}); }`;

/** Source and destination of head `g` of token `i`; returns if the lane is unused or invalid, or its page is not bound. */
const place = (s: string): string => `let page = places[2u * i] - P.first;
  if (places[2u * i] < 0 || page < 0 || page >= P.here) { return; }
  let rest = u32(places[2u * i + 1u]);
  let source = P.x${s} + (i / P.steps) * P.sb${s} + (i % P.steps) * P.st${s} + g * P.sg${s};
  let to = P.cache${s} + u32(page) * P.page${s} + g * P.group${s} + rest * P.size;`;

// One invocation per pair of neighbours if pairs are whole words; else one per element, with atomics.
const kvShader = family("kv_append", ({ cache, paired, jobs }: { cache: CacheType; paired: boolean } & Jobs) => {
  const wide = bitsOf(cache) === 32;
  const per = paired ? 2 : 1;
  const job = (s: string): string => {
    const value = (d: string): string => encodeBits(cache, `x${s}[source + (${d}) * P.sd${s}]`);
    const store = wide
      ? `cache${s}[at] = ${value("d")};`
      : paired
        ? `cache${s}[at / 2u] = ${value("d")} | (${value("d + 1u")} << 16u);`
        : `let shift = (at & 1u) * 16u;
  atomicAnd(&cache${s}[at / 2u], ~(0xffffu << shift));
  atomicOr(&cache${s}[at / 2u], ${value("d")} << shift);`;
    return `fn job${s}(n: u32) {
  let d = (n % (P.size / ${per}u)) * ${per}u;
  let row = n / (P.size / ${per}u);
  let g = row % P.heads;
  let i = row / P.heads;
  ${place(s)}
  let at = to + d;
  ${store}
}`;
  };
  return {
    bindings: bindingsOf(jobs, wide || paired ? "array<u32>" : "array<atomic<u32>>", false),
    params: numbersOf(jobs),
    reports: true,
    declarations: [FLOATS, ...jobNames(jobs, "").map(job)],
    body: `if (gid >= ${jobs}u * P.count) { return; }
  if (gid < P.tokens) {
    let i = gid;
    ${report(jobs)}
  }
  ${share(jobs, "gid")}`,
  };
});

// One workgroup per row computes its absmax, then its codes, by the rule of llm_int8_quantize. Rows of whole words need no
// atomics.
const codesShader = family("kv_append", ({ whole, jobs }: { codes: true; whole: boolean } & Jobs) => {
  const job = (s: string): string => {
    const code = (d: string): string =>
      // What a NaN becomes as an integer is not defined; a row that holds one has a NaN for its scale.
      `(bitcast<u32>(select(0, i32(clamp(round(x${s}[source + (${d}) * P.sd${s}] * inverse), -127.0, 127.0)), inverse > 0.0)) & 0xffu)`;
    return `fn job${s}(n: u32, lid: u32) {
  let g = n % P.heads;
  let i = n / P.heads;
  ${place(s)}
  var size = 0u;
  for (var d = lid; d < P.size; d += ${WORKGROUP}u) { size = max(size, size_of(x${s}[source + d * P.sd${s}])); }
  size = largest(size, lid);
  let scale = bitcast<f32>(size);
  var inverse = 0.0;
  if (size > 0u && size < ENDLESS) { inverse = exact_divide(1.0, scale) * 127.0; }
  if (lid == 0u) { scales${s}[P.scales${s} + u32(page) * P.page_scales${s} + g * P.group_scales${s} + rest] = scale; }
  ${
    whole
      ? `for (var w = lid; w < P.size / 4u; w += ${WORKGROUP}u) {
    var word = 0u;
    for (var l = 0u; l < 4u; l++) { word |= ${code("w * 4u + l")} << (l * 8u); }
    cache${s}[to / 4u + w] = word;
  }`
      : `for (var d = lid; d < P.size; d += ${WORKGROUP}u) {
    let shift = ((to + d) & 3u) * 8u;
    atomicAnd(&cache${s}[(to + d) / 4u], ~(0xffu << shift));
    atomicOr(&cache${s}[(to + d) / 4u], ${code("d")} << shift);
  }`
  }
}`;
  };
  return {
    bindings: bindingsOf(jobs, whole ? "array<u32>" : "array<atomic<u32>>", true),
    params: numbersOf(jobs),
    reports: true,
    declarations: [
      EXACT_DIVIDE,
      SIZE_OF,
      fold("largest", "u32", WORKGROUP, (a, b) => `max(${a}, ${b})`),
      ...jobNames(jobs, "").map(job),
    ],
    body: `if (group >= ${jobs}u * P.count) { return; }
  if (lid == 0u && group < P.tokens) {
    let i = group;
    ${report(jobs)}
  }
  ${share(jobs, "group", ", lid")}`,
  };
});

/** @param apart the number of the second call less that of the first */
function recordAppends(calls: readonly Call[], recorder: CommandRecorder, apart: number): void {
  const jobs = calls.length === 2 ? 2 : 1;
  const { operands, attributes } = calls[0]!;
  const [x, lanes, table, cache, scales] = operands;
  const [batch = 0, steps = 0, heads = 0, size = 0] = x!.shape;
  const [here = 0, , S = 0] = cache!.shape;
  if (x!.count === 0) return;
  const [first = 0, pages = here] = attributes;
  const sizes: Record<string, number> = { tokens: batch * steps, steps, heads, size, S, first, here, pages };
  sizes.rows = table!.shape[0]!;
  calls.forEach(({ operands: [from, , , to, extra] }, job) => {
    const [sb = 0, st = 0, sg = 0, sd = 0] = from!.strides;
    const [page = 0, group = 0] = to!.strides;
    const [page_scales = 0, group_scales = 0] = extra?.strides ?? [];
    const own = { x: from!.offset, sb, st, sg, sd, cache: to!.offset, page, group };
    const more = { scales: extra?.offset ?? 0, page_scales, group_scales };
    for (const [name, value] of Object.entries({ ...own, ...more })) sizes[jobName(name, job)] = value;
  });
  if (jobs === 2) sizes.apart = apart;
  const each = (at: number): Operand[] => calls.map((call) => call.operands[at]!);
  const bindings = [placesOf(recorder, lanes!, table!, S, pages), ...each(0), ...each(3)];
  if (scales) {
    const count = x!.count / size;
    const whole = size % 4 === 0 && each(3).every(({ offset }) => offset % 4 === 0);
    const shader = codesShader({ codes: true, whole, jobs });
    recorder.dispatch(shader, [...bindings, ...each(4)], { count, ...sizes }, jobs * count);
    return;
  }
  const paired = inPairs(size, each(3));
  const count = x!.count / (paired ? 2 : 1);
  const shader = kvShader({ cache: cache!.dtype as CacheType, paired, jobs });
  recorder.dispatch(shader, bindings, { count, ...sizes }, groupsFor(jobs * count, WORKGROUP));
}

/** True if two calls append values of one shape to caches of one shape and dtype, by the same table. */
export function appendedAlike(
  { operands: [x, , table, cache] }: Call,
  { operands: [x1, , table1, cache1] }: Call,
): boolean {
  const alike = (a: Operand, b: Operand): boolean => a.shape.every((n, d) => n === b.shape[d]);
  return same(table!, table1!) && alike(x!, x1!) && alike(cache!, cache1!) && cache!.dtype === cache1!.dtype;
}

/** True if each pair of neighbours is a whole word of each cache. */
export function inPairs(size: number, caches: readonly Operand[]): boolean {
  return caches.every(({ dtype, offset }) => dtype !== "f32" && size % 2 === 0 && offset % 2 === 0);
}

export const kvAppend: Kernel = {
  op: kvAppendOp,
  shared: 1,
  record(call, recorder) {
    recordAppends([call], recorder, 0);
    return undefined;
  },
  join(calls, recorder, _target, numbers) {
    if (calls.length !== 2 || !appendedAlike(calls[0]!, calls[1]!)) return false;
    const apart = numbers[1]! - numbers[0]!;
    recordAppends(apart > 0 ? calls : calls.toReversed(), recorder, Math.abs(apart));
    return true;
  },
  axes({ operands: [x, lanes, , cache, scales], attributes }) {
    const [batch = 0, steps = 0] = x!.shape;
    const [pages = 0, groups = 0] = cache!.shape;
    const [first = 0, all = pages] = attributes;
    const tokens = batch > 1 ? along(batch, { 0: [x, 0], 1: [lanes, 1] }) : along(steps, { 0: [x, 1], 1: [lanes, 2] });
    // Each part of the pages takes the tokens that belong there; its attributes are its first page and the count of all.
    const apart = along(pages, { 3: [cache, 0], 4: [scales, 0] });
    return [
      tokens,
      { ...apart, attributes: (begin: number) => [first + begin, all] },
      along(groups, { 0: [x, 2], 3: [cache, 1], 4: [scales, 1] }),
    ];
  },
  shaders: () => [
    PLACES,
    ...([1, 2] as const).flatMap((jobs) => [
      kvShader({ cache: "f32", paired: false, jobs }),
      ...[true, false].map((whole) => codesShader({ codes: true, whole, jobs })),
      ...(["f16", "bf16"] as const).flatMap((cache) =>
        [true, false].map((paired) => kvShader({ cache, paired, jobs })),
      ),
    ]),
  ],
};
