// The matrix-vector form of products (product.ts): a workgroup multiplies a few weight rows with one or four rows of x.

import { range, totals } from "../wgsl.js";
import type { Format } from "./format.js";

/** Results per workgroup. */
export const OUTPUTS = 4;
/** Invocations per workgroup. */
export const VECTOR_WIDTH = 64;

/**
 * The weight rows of a workgroup, as `row0` to `row3`: those from `n0` on; or, for gated products, half as many of the
 * first matrix and the same ones of the second.
 */
export function outputRows(gated: boolean): string[] {
  const pairs = OUTPUTS / 2;
  return [
    `let n0 = (group % P.tiles) * ${gated ? pairs : OUTPUTS}u;`,
    ...range(OUTPUTS).map((n) =>
      gated
        ? `let row${n} = ${n < pairs ? "" : "P.n1 + "}min(n0 + ${n % pairs}u, P.n1 - 1u);`
        : `let row${n} = min(n0 + ${n}u, P.N - 1u);`,
    ),
  ];
}

/**
 * Multiplies OUTPUTS weight rows with `rows` rows of x. P.tiles is the number of workgroups along N; `source` gives the row
 * of x for a row of results.
 */
export function streamed(
  format: Format,
  fast: boolean,
  rows: number,
  subgroups: boolean,
  gated: boolean,
  source: (m: string) => string = (m) => m,
): string {
  const row = (m: number): string => source(`min(m0 + ${m}u, P.M - 1u)`);
  const cells = range(rows).flatMap((m) => range(OUTPUTS).map((n) => ({ m, n })));
  const lines: string[] = [
    `let m0 = (group / P.tiles) * ${rows}u;`,
    "if (m0 >= P.M) { return; }",
    ...outputRows(gated),
    ...cells.map(({ m, n }) => `var sum${m}_${n} = 0.0;`),
  ];
  if (fast) {
    const quads = format.chunk / 4;
    const weights = range(OUTPUTS).map((n) => `let weight${n} = weight(row${n}, c);`);
    lines.push(
      ...range(rows).map((m) => `let x${m} = (P.x + ${row(m)} * P.K) / 4u;`),
      `for (var c = lid; c < P.K / ${format.chunk}u; c += ${VECTOR_WIDTH}u) {`,
      ...range(OUTPUTS).map((n) => `let raw${n} = raw(row${n}, c);`),
      ...(format.rounds ? weights : []),
      ...cells.map(({ m, n }) => `var dot${m}_${n} = 0.0;`),
      ...range(quads).flatMap((i) => [
        "{",
        ...range(rows).map((m) => `let v${m} = x[x${m} + c * ${quads}u + ${i}u];`),
        ...range(OUTPUTS).flatMap((n) => [
          `let w${n} = ${format.rounds ? `rounded_part(raw${n}, ${i}u, weight${n})` : `part(raw${n}, ${i}u)`};`,
          ...range(rows).map((m) => `dot${m}_${n} += dot(w${n}, v${m});`),
        ]),
        "}",
      ]),
      ...(format.rounds ? [] : weights),
      ...cells.map(({ m, n }) => `sum${m}_${n} += dot${m}_${n}${format.rounds ? "" : ` * weight${n}`};`),
      "}",
    );
  } else {
    lines.push(
      `for (var k = lid; k < P.K; k += ${VECTOR_WIDTH}u) {`,
      ...range(rows).map((m) => `let v${m} = x[P.x + ${row(m)} * P.K + k];`),
      ...range(OUTPUTS).flatMap((n) => [
        `let w${n} = one(row${n}, k);`,
        ...range(rows).map((m) => `sum${m}_${n} += v${m} * w${n};`),
      ]),
      "}",
    );
  }
  lines.push(
    totals(
      cells.map(({ m, n }) => `sum${m}_${n}`),
      VECTOR_WIDTH,
      subgroups,
    ),
  );
  const m = `m0 + lid / ${OUTPUTS}u`;
  if (!gated) {
    lines.push(`if (lid < ${cells.length}u) { store(${m}, n0 + lid % ${OUTPUTS}u, cells[lid * ${VECTOR_WIDTH}u]); }`);
    return lines.join("\n  ");
  }
  const half = OUTPUTS / 2;
  lines.push(
    `let n = n0 + lid % ${half}u;`,
    `if (lid < ${cells.length}u && n < P.n1 && ${m} < P.M) {`,
    `  let sum = cells[lid * ${VECTOR_WIDTH}u];`,
    `  if (lid % ${OUTPUTS}u >= ${half}u) { store(${m}, P.n1 + n, sum); }`,
    "  else {",
    `    store(${m}, n, sum);`,
    `    z[P.z + (${m}) * P.n1 + n] = activate(P.act, sum) * cells[(lid + ${half}u) * ${VECTOR_WIDTH}u];`,
    "  }",
    "}",
  );
  return lines.join("\n  ");
}
