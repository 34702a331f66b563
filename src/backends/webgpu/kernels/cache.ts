// kv_append: writes at a cursor that lives on the device.

import { bitsOf } from "../../../core/dtype.js";
import { kvAppendOp } from "../../../ops/kv-append.js";
import { FAILURE } from "../device/errors.js";
import type { Queue } from "../device/queue.js";
import { groupsFor, type Kernel } from "../kernel.js";
import type { Call, Operand } from "../schedule/call.js";
import { along } from "../schedule/split.js";
import { encodeBits, family, reads, WORKGROUP, writes } from "../shader.js";
import { EXACT_DIVIDE, FLOATS, fold } from "../wgsl.js";
import { jobName, jobNames } from "./product.js";

export type CacheType = "f32" | "f16" | "bf16";

/** Numbers that every job has of its own: offset and strides of the values, and where they go. */
const OWN = ["x", "sb", "st", "sg", "sd", "cache", "scales"];

/** One call, or two of the same shape at the same cursor (keys and values), whose work comes behind the first's. */
type Jobs = { readonly jobs: 1 | 2 };

const numbersOf = (jobs: 1 | 2): string[] => [
  ...["count", "steps", "heads", "size", "capacity:i32", "cursor"],
  ...OWN.flatMap((name) => jobNames(jobs, name)),
  ...(jobs === 2 ? ["apart"] : []),
];

/** WGSL that says that the tokens from `start` on do not fit. */
export function reportOverflow(call: string, steps: string): string {
  return `report_of(${call}, ${FAILURE.cacheOverflow}u, bitcast<u32>(start), bitcast<u32>(P.capacity), ${steps});`;
}

/** Ends everything if the tokens do not fit, and says so for every call. */
const fitting = (jobs: 1 | 2): string => {
  const report = (call: string): string => reportOverflow(call, "P.steps");
  return `let start = cursor[P.cursor];
  if (start < 0 || start + i32(P.steps) > P.capacity) {
    if (gid == 0u) { ${report("P.call")} ${jobs === 2 ? report("call_behind(P.apart)") : ""} }
    return;
  }`;
};

/** WGSL that calls `job` with a number below P.count, or `job1` with one that is P.count more. */
const share = (jobs: 1 | 2, number: string, more = ""): string =>
  jobs === 1
    ? `job(${number}, u32(start)${more});`
    : `if (${number} < P.count) { job(${number}, u32(start)${more}); } else { job1(${number} - P.count, u32(start)${more}); }`;

// One invocation per pair of neighbours where pairs are whole words, else one per element and atomics.
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
    return `fn job${s}(n: u32, start: u32) {
  let d = (n % (P.size / ${per}u)) * ${per}u;
  let row = n / (P.size / ${per}u);
  let g = row % P.heads;
  let t = (row / P.heads) % P.steps;
  let b = row / (P.heads * P.steps);
  let source = P.x${s} + b * P.sb${s} + t * P.st${s} + g * P.sg${s};
  let at = P.cache${s} + ((b * P.heads + g) * u32(P.capacity) + start + t) * P.size + d;
  ${store}
}`;
  };
  return {
    bindings: [
      reads("cursor", "array<i32>"),
      ...jobNames(jobs, "x").map((name) => reads(name, "array<f32>")),
      ...jobNames(jobs, "cache").map((name) => writes(name, wide || paired ? "array<u32>" : "array<atomic<u32>>")),
    ],
    params: numbersOf(jobs),
    reports: true,
    declarations: [FLOATS, ...jobNames(jobs, "").map(job)],
    body: `if (gid >= ${jobs}u * P.count) { return; }
  ${fitting(jobs)}
  ${share(jobs, "gid")}`,
  };
});

// One workgroup per row: its absmax, then its codes, by the rule of llm_int8_quantize. Rows of whole words need no atomics.
const codesShader = family("kv_append", ({ whole, jobs }: { codes: true; whole: boolean } & Jobs) => {
  const job = (s: string): string => {
    const code = (d: string): string =>
      `(bitcast<u32>(i32(round(x${s}[source + (${d}) * P.sd${s}] * inverse))) & 0xffu)`;
    return `fn job${s}(n: u32, start: u32, lid: u32) {
  let g = n % P.heads;
  let t = (n / P.heads) % P.steps;
  let b = n / (P.heads * P.steps);
  let source = P.x${s} + b * P.sb${s} + t * P.st${s} + g * P.sg${s};
  let row = (b * P.heads + g) * u32(P.capacity) + start + t;
  var size = 0.0;
  for (var d = lid; d < P.size; d += ${WORKGROUP}u) { size = max(size, abs(x${s}[source + d * P.sd${s}])); }
  let scale = largest(size, lid);
  var inverse = 0.0;
  if (scale > 0.0) { inverse = exact_divide(1.0, scale) * 127.0; }
  if (lid == 0u) { scales${s}[P.scales${s} + row] = scale; }
  let at = P.cache${s} + row * P.size;
  ${
    whole
      ? `for (var w = lid; w < P.size / 4u; w += ${WORKGROUP}u) {
    var word = 0u;
    for (var l = 0u; l < 4u; l++) { word |= ${code("w * 4u + l")} << (l * 8u); }
    cache${s}[at / 4u + w] = word;
  }`
      : `for (var d = lid; d < P.size; d += ${WORKGROUP}u) {
    let shift = ((at + d) & 3u) * 8u;
    atomicAnd(&cache${s}[(at + d) / 4u], ~(0xffu << shift));
    atomicOr(&cache${s}[(at + d) / 4u], ${code("d")} << shift);
  }`
  }
}`;
  };
  return {
    bindings: [
      reads("cursor", "array<i32>"),
      ...jobNames(jobs, "x").map((name) => reads(name, "array<f32>")),
      ...jobNames(jobs, "cache").map((name) => writes(name, whole ? "array<u32>" : "array<atomic<u32>>")),
      ...jobNames(jobs, "scales").map((name) => writes(name)),
    ],
    params: numbersOf(jobs),
    reports: true,
    declarations: [
      EXACT_DIVIDE,
      fold("largest", "f32", WORKGROUP, (a, b) => `max(${a}, ${b})`),
      ...jobNames(jobs, "").map(job),
    ],
    body: `if (group >= ${jobs}u * P.count) { return; }
  ${fitting(jobs)}
  ${share(jobs, "group", ", lid")}`,
  };
});

/** @param apart the number of the second call less that of the first */
function recordAppends(calls: readonly Call[], queue: Queue, apart: number): void {
  const jobs = calls.length === 2 ? 2 : 1;
  const [x, cursor, cache, scales] = calls[0]!.operands;
  const [, steps = 0, heads = 0, size = 0] = x!.shape;
  const sizes: Record<string, number> = { steps, heads, size, capacity: cache!.shape[2]!, cursor: cursor!.offset };
  calls.forEach(({ operands: [from, , to, extra] }, job) => {
    const [sb = 0, st = 0, sg = 0, sd = 0] = from!.strides;
    const own = { x: from!.offset, sb, st, sg, sd, cache: to!.offset, scales: extra?.offset ?? 0 };
    for (const [name, value] of Object.entries(own)) sizes[jobName(name, job)] = value;
  });
  if (jobs === 2) sizes.apart = apart;
  const each = (at: number): Operand[] => calls.map(({ operands }) => operands[at]!);
  const pieces = [cursor!, ...each(0), ...each(2)];
  if (scales) {
    const count = size === 0 ? 0 : x!.count / size;
    const whole = size % 4 === 0 && each(2).every(({ offset }) => offset % 4 === 0);
    const shader = codesShader({ codes: true, whole, jobs });
    queue.dispatch(shader, [...pieces, ...each(3)], { count, ...sizes }, jobs * count);
    return;
  }
  const paired = inPairs(size, each(2));
  const count = x!.count / (paired ? 2 : 1);
  const shader = kvShader({ cache: cache!.dtype as CacheType, paired, jobs });
  queue.dispatch(shader, pieces, { count, ...sizes }, groupsFor(jobs * count, WORKGROUP));
}

/** True if two calls append values of one shape to caches of one shape and dtype. */
export function appendedAlike({ operands: [x, , cache] }: Call, { operands: [x1, , cache1] }: Call): boolean {
  const alike = (a: Operand, b: Operand): boolean => a.shape.every((n, d) => n === b.shape[d]);
  return alike(x!, x1!) && alike(cache!, cache1!) && cache!.dtype === cache1!.dtype;
}

/** True if each pair of neighbours is a whole word of each cache. */
export function inPairs(size: number, caches: readonly Operand[]): boolean {
  return caches.every(({ dtype, offset }) => dtype !== "f32" && size % 2 === 0 && offset % 2 === 0);
}

export const kvAppend: Kernel = {
  op: kvAppendOp,
  shared: 1,
  record(call, queue) {
    recordAppends([call], queue, 0);
    return undefined;
  },
  join(calls, queue, _target, numbers) {
    if (calls.length !== 2 || !appendedAlike(calls[0]!, calls[1]!)) return false;
    const apart = numbers[1]! - numbers[0]!;
    recordAppends(apart > 0 ? calls : calls.toReversed(), queue, Math.abs(apart));
    return true;
  },
  axes({ operands: [x, , cache, scales] }) {
    const [batch = 0, groups = 0] = cache!.shape;
    // The cache stays contiguous.
    if (batch > 1) return [along(batch, { 0: [x, 0], 2: [cache, 0], 3: [scales, 0] })];
    return [along(groups, { 0: [x, 2], 2: [cache, 1], 3: [scales, 1] })];
  },
  shaders: () =>
    ([1, 2] as const).flatMap((jobs) => [
      kvShader({ cache: "f32", paired: false, jobs }),
      ...[true, false].map((whole) => codesShader({ codes: true, whole, jobs })),
      ...(["f16", "bf16"] as const).flatMap((cache) =>
        [true, false].map((paired) => kvShader({ cache, paired, jobs })),
      ),
    ]),
};
