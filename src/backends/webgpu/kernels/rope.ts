// rope_table and rope. WGSL's sin and cos may be off by 2^-11, so the table reduces its angles in fixed point, exactly,
// and evaluates polynomials (Moshier's Cephes, sinf.c).

import { ropeOp, ropeTableOp } from "../../../ops/rope.js";
import type { CommandRecorder } from "../device/command-recorder.js";
import { groupsFor, type Kernel } from "../kernel.js";
import type { Binding, Call } from "../schedule/call.js";
import { along, firstDim } from "../schedule/split.js";
import { family, reads, WORKGROUP, writes } from "../shader.js";
import { MULHI } from "../wgsl.js";
import { jobName, jobNames } from "./product.js";

/** cos and sin of any f32 below 2^31. 1/2π has 96 fraction bits here; the product with a 24-bit mantissa keeps 64. */
const TURN = `
struct Turn { cos: f32, sin: f32 }
fn turn(angle: f32) -> Turn {
  var r = abs(angle);
  var quadrant = 0u;
  if (r > 0.78) {
    let bits = bitcast<u32>(r);
    let mantissa = (bits & 0x7fffffu) | 0x800000u;
    let shift = i32(bits >> 23u) - 150;
    // 1/2π = 0x28be60db 9391054a 7f09d5f4 * 2^-96
    var c0 = 0x28be60dbu;
    var c1 = 0x9391054au;
    var c2 = 0x7f09d5f4u;
    if (shift < 0) {
      let s = u32(-shift);
      c2 = (c2 >> s) | (c1 << (32u - s));
      c1 = (c1 >> s) | (c0 << (32u - s));
      c0 = c0 >> s;
    } else if (shift > 0) {
      let s = u32(min(shift, 31));
      c0 = (c0 << s) | (c1 >> (32u - s));
      c1 = (c1 << s) | (c2 >> (32u - s));
      c2 = c2 << s;
    }
    // The fraction of a turn, in units of 2^-32 and 2^-64.
    let low = mantissa * c1 + mulhi(mantissa, c2);
    let carry = select(0u, 1u, low < mulhi(mantissa, c2));
    let high = mantissa * c0 + mulhi(mantissa, c1) + carry;
    quadrant = (high + 0x20000000u) >> 30u;
    let rest = bitcast<i32>(high - (quadrant << 30u));
    r = (f32(rest) + f32(low) * 2.3283064365386963e-10) * 1.4629180792671596e-9;
  }
  let z = r * r;
  let s = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * r + r;
  let c = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0;
  var result: Turn;
  switch (quadrant & 3u) {
    case 0u: { result = Turn(c, s); }
    case 1u: { result = Turn(-s, c); }
    case 2u: { result = Turn(-c, -s); }
    default: { result = Turn(s, -c); }
  }
  if (angle < 0.0) { result.sin = -result.sin; }
  return result;
}`;

/** `named`: an operand says which set of frequencies a token takes. */
const tableShader = family("rope_table", ({ named }: { named: boolean }) => ({
  bindings: [
    reads("positions", "array<i32>"),
    reads("frequencies", "array<f32>"),
    ...(named ? [reads("rows", "array<i32>")] : []),
    writes("table"),
  ],
  params: ["count", "pairs", "each", "sets", "positions", "frequencies", "rows", "table", "scale:f32"],
  declarations: [MULHI, TURN],
  body: `if (gid >= P.count) { return; }
  let i = gid / P.pairs;
  let r = gid % P.pairs;
  let row = ${named ? "clamp(rows[P.rows + i], 0, i32(P.sets) - 1)" : "i / P.each"};
  let t = turn(f32(positions[P.positions + i]) * frequencies[P.frequencies + u32(row) * P.pairs + r]);
  let at = P.table + i * 2u * P.pairs + r;
  table[at] = t.cos * P.scale;
  table[at + P.pairs] = t.sin * P.scale;`,
}));

export const ropeTable: Kernel = {
  op: ropeTableOp,
  record({ operands: [positions, frequencies, rows, table], attributes: [scale = 1] }, recorder) {
    const [sets = 0, pairs = 0] = frequencies!.shape;
    const count = positions!.count * pairs;
    // Tokens that share a set where nothing names them: all, or those of a row.
    const each = Math.max(1, sets === 1 ? positions!.count : positions!.shape[1]!);
    const offsets = { positions: positions!.offset, frequencies: frequencies!.offset, table: table!.offset };
    const numbers = { count, pairs, each, sets, ...offsets, rows: rows?.offset ?? 0, scale };
    const bindings = [positions!, frequencies!, ...(rows ? [rows] : []), table!];
    recorder.dispatch(tableShader({ named: rows !== undefined }), bindings, numbers, groupsFor(count, WORKGROUP));
    return undefined;
  },
  axes({ operands: [positions, frequencies, rows, table] }) {
    const own = !rows && frequencies!.shape[0]! > 1;
    return firstDim({ 0: positions, ...(own ? { 1: frequencies } : {}), ...(rows ? { 2: rows } : {}), 3: table });
  },
  shaders: () => [tableShader({ named: false }), tableShader({ named: true })],
};

/** Numbers of each job, besides the shared `pairs` and `table`: sizes, offset and strides of x, and offset of y. */
const OWN = ["count", "steps", "heads", "size", "interleaved", "x", "sb", "st", "sh", "sd", "y"];

/** The params of `jobs` calls that share their table. */
export function ropeParams(jobs: number): string[] {
  return ["pairs", "table", ...jobNames(jobs, "").flatMap((job) => OWN.map((name) => `${name}${job}`))];
}

/** `turned(e)`: element e of rope(x). Names of x's numbers and binding end in `job`. */
export const ropeFunction = (job: string): string => `fn turned${job}(e: u32) -> f32 {
  let d = e % P.size${job};
  let h = (e / P.size${job}) % P.heads${job};
  let i = e / (P.size${job} * P.heads${job});
  let at = P.x${job} + (i / P.steps${job}) * P.sb${job} + (i % P.steps${job}) * P.st${job} + h * P.sh${job};
  if (d >= 2u * P.pairs) { return x${job}[at + d * P.sd${job}]; }
  var r = d % P.pairs;
  var first = r;
  var second = r + P.pairs;
  if (P.interleaved${job} != 0u) { r = d / 2u; first = 2u * r; second = first + 1u; }
  let cos = table[P.table + i * 2u * P.pairs + r];
  let sin = table[P.table + i * 2u * P.pairs + P.pairs + r];
  let a = x${job}[at + first * P.sd${job}];
  let b = x${job}[at + second * P.sd${job}];
  return select(b * cos + a * sin, a * cos - b * sin, d == first);
}`;

/** One call, or two that share their table (queries and keys); the second's elements follow the first's. */
const ropeShader = family("rope", ({ jobs }: { jobs: 1 | 2 }) => {
  const two = jobs === 2;
  return {
    bindings: [
      reads("table", "array<f32>"),
      ...jobNames(jobs, "").flatMap((job) => [reads(`x${job}`, "array<f32>"), writes(`y${job}`)]),
    ],
    params: ropeParams(jobs),
    declarations: jobNames(jobs, "").map(ropeFunction),
    body: `if (gid < P.count) { y[P.y + gid] = turned(gid); }
  ${two ? "if (gid >= P.count && gid - P.count < P.count1) { y1[P.y1 + gid - P.count] = turned1(gid - P.count); }" : ""}`,
  };
});

/** Bindings and numbers of calls that share their table, as `ropeParams` names them. */
export function ropeParts(calls: readonly Call[]): { bindings: Binding[]; numbers: Record<string, number> } {
  const table = calls[0]!.operands[1]!;
  const numbers: Record<string, number> = { pairs: table.shape[3]!, table: table.offset };
  const bindings: Binding[] = [table];
  calls.forEach(({ operands: [x, , y], attributes: [interleaved = 0] }, job) => {
    const [, steps = 0, heads = 0, size = 0] = x!.shape;
    const [sb = 0, st = 0, sh = 0, sd = 0] = x!.strides;
    const own = { count: y!.count, steps, heads, size, interleaved, x: x!.offset, sb, st, sh, sd, y: y!.offset };
    for (const [name, value] of Object.entries(own)) numbers[jobName(name, job)] = value;
    bindings.push(x!, y!);
  });
  return { bindings, numbers };
}

function recordRope(calls: readonly Call[], recorder: CommandRecorder): void {
  const { bindings, numbers } = ropeParts(calls);
  const count = calls.reduce((sum, { operands }) => sum + operands[2]!.count, 0);
  recorder.dispatch(ropeShader({ jobs: calls.length === 2 ? 2 : 1 }), bindings, numbers, groupsFor(count, WORKGROUP));
}

export const rope: Kernel = {
  op: ropeOp,
  shared: 1,
  record(call, recorder) {
    recordRope([call], recorder);
    return undefined;
  },
  join(calls, recorder) {
    if (calls.length !== 2) return false;
    recordRope(calls, recorder);
    return true;
  },
  axes({ operands: [x, table, y] }) {
    const [batch = 0, steps = 0] = x!.shape;
    const dim = batch > 1 ? 0 : 1; // results stay contiguous
    return [along(dim === 0 ? batch : steps, { 0: [x, dim], 1: [table, dim], 2: [y, dim] })];
  },
  shaders: () => [ropeShader({ jobs: 1 }), ropeShader({ jobs: 2 })],
};
