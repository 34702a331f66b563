// Sums of a tile in subgroup matrices, Dawn's experiment: matrices that the invocations of a subgroup multiply together, of
// f16 with sums in f32, or of i8 with sums in i32. A tile has 64 x 64 results, four squares, which are dealt out to as many
// subgroups as the workgroup turns out to have. Blocks of x and of the weight lie row by row in workgroup memory, as `xs`
// and `ws`; sums leave through a stage there, since only stores see which invocation holds which.

/** Invocations of a workgroup. */
export const TILE_WIDTH = 128;
/** Rows and columns of a tile of subgroup matrices. */
export const MATRIX_TILE = 64;
/** Edge of a square. */
const SQUARE = 32;
/** Sums of a square that lie in the stage at once. */
const STAGE = 256;

/** How a tile of subgroup matrices is laid out. */
export interface MatrixTile {
  readonly element: "f16" | "i8";
  /** Edges, as "MxNxK": rows and columns of a result, and what is summed over. */
  readonly matrix: string;
  /** Squares that a subgroup may have to take: two if subgroups may have more than 32 invocations. */
  readonly squares: number;
  /** Elements along K of a block; K of the matrices divides it. */
  readonly step: number;
  /** Rows of `xs` and `ws` begin this many elements apart: in whole 16 bytes, and neighbours not in one bank. */
  readonly stride: number;
  /** The lower half of the rows are second parts of those in the upper half: a tile then has 32 rows of results. */
  readonly paired?: boolean;
}

function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

/** WGSL types of sums, and of what lies in workgroup memory with how many elements in one. */
const TYPES = {
  f16: { sum: "f32", cell: "f16", per: 1 },
  i8: { sum: "i32", cell: "i32", per: 4 },
} as const;

function edges(matrix: string): readonly [number, number, number] {
  const [M = 0, N = 0, K = 0] = matrix.split("x").map(Number);
  return [M, N, K];
}

/**
 * Workgroup memory, and `drain(first, lid, m0, n0)`, which stores what the stage holds: some matrices of each square, from
 * the one of number `first` on. `finish` is WGSL that stores `sum` for row m and column n, number r of the tile's columns;
 * in a paired tile `second` is the sum of the row's second part.
 */
export function matrixDeclarations({ element, matrix, stride, paired = false }: MatrixTile, finish: string): string[] {
  const [M, N] = edges(matrix);
  const { sum, cell, per } = TYPES[element];
  return [
    ...["xs", "ws"].map((name) => `var<workgroup> ${name}: array<${cell}, ${(MATRIX_TILE * stride) / per}>;`),
    `var<workgroup> stage: array<${sum}, ${4 * STAGE}>;
fn drain(first: u32, lid: u32, m0: u32, n0: u32) {
  for (var i = lid; i < ${(paired ? 2 : 4) * STAGE}u; i += ${TILE_WIDTH}u) {
    let square = i / ${STAGE}u;
    let at = first + (i % ${STAGE}u) / ${M * N}u;
    let cell = i % ${M * N}u;
    let m = m0 + (square / 2u) * ${SQUARE}u + (at / ${SQUARE / N}u) * ${M}u + cell / ${N}u;
    let r = (square % 2u) * ${SQUARE}u + (at % ${SQUARE / N}u) * ${N}u + cell % ${N}u;
    let n = n0 + r;
    let sum = stage[i];
    ${paired ? `let second = stage[i + ${2 * STAGE}u];` : ""}
    ${finish}
  }
}`,
  ];
}

interface Cell {
  readonly i: number;
  readonly j: number;
}

/**
 * The body of a tile. `loop` gives the WGSL that fills blocks one after another, given that which multiplies them, which
 * has no barriers.
 */
export function multiplied(
  { element, matrix, squares, step, stride }: MatrixTile,
  loop: (multiply: string) => string,
): string {
  const [M, N, K] = edges(matrix);
  const { sum: type, per } = TYPES[element];
  const down = range(SQUARE / M);
  const across = range(SQUARE / N);
  const cells = down.flatMap((i) => across.map((j): Cell => ({ i, j })));
  const name = (p: number, { i, j }: Cell): string => `sum${p}_${i}_${j}`;
  /** WGSL that does for each square what `text` does for square p. */
  const each = (text: (p: number) => readonly string[]): string =>
    range(squares)
      .map((p) => `if (square${p} < 4u) {\n      ${text(p).join("\n      ")}\n    }`)
      .join("\n    ");
  const at = (square: string, edge: number): string =>
    `((${square} * ${SQUARE}u + ${edge}u) * ${stride}u + k) / ${per}u, ${stride / per}u`;
  const multiply = each((p) => [
    `for (var k = 0u; k < ${step}u; k += ${K}u) {`,
    ...down.map(
      (i) =>
        `let a${i} = subgroupMatrixLoad<subgroup_matrix_left<${element}, ${K}, ${M}>, row_major>(&xs, ${at(`(square${p} / 2u)`, i * M)});`,
    ),
    ...across.flatMap((j) => [
      `let b${j} = subgroupMatrixLoad<subgroup_matrix_right<${element}, ${N}, ${K}>, col_major>(&ws, ${at(`(square${p} % 2u)`, j * N)});`,
      ...down.map((i) => {
        const sum = name(p, { i, j });
        return `${sum} = subgroupMatrixMultiplyAccumulate(a${i}, b${j}, ${sum});`;
      }),
    ]),
    "}",
  ]);
  const batch = STAGE / (M * N);
  const leave = (round: number): string =>
    each((p) =>
      cells
        .slice(round * batch, (round + 1) * batch)
        .map(
          (cell, i) =>
            `subgroupMatrixStore<row_major>(&stage, square${p} * ${STAGE}u + ${i * M * N}u, ${name(p, cell)}, ${N}u);`,
        ),
    );
  return [
    ...range(squares).map((p) => `let square${p} = sg + ${p}u * sgs;`),
    ...range(squares).flatMap((p) =>
      cells.map((cell) => `var ${name(p, cell)}: subgroup_matrix_result<${type}, ${N}, ${M}>;`),
    ),
    loop(multiply),
    ...range(cells.length / batch).flatMap((round) => [
      leave(round),
      "workgroupBarrier();",
      `drain(${round * batch}u, lid, m0, n0);`,
      "workgroupBarrier();",
    ]),
  ].join("\n  ");
}
