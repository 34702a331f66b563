// Tiles with subgroup matrices, an experimental feature of Dawn: the invocations of a subgroup together multiply matrices
// of f16 with sums in f32, or of i8 with sums in i32. A tile has 64 x 64 results in four squares, which are distributed
// over the subgroups of the workgroup. Blocks of x and of the weight lie row by row in workgroup memory, as `xs` and `ws`.
// Sums are stored to a stage there, because WGSL does not say which invocation holds which element.

/** Invocations per workgroup. */
export const TILE_WIDTH = 128;
/** Rows and columns of a tile of subgroup matrices. */
export const MATRIX_TILE = 64;
/** Edge of a square. */
const SQUARE = 32;
/** Sums of a square that the stage holds at once. */
const STAGE = 256;

/** Layout of a tile of subgroup matrices. */
export interface MatrixTile {
  readonly element: "f16" | "i8";
  /** Edges, as "MxNxK": rows and columns of a result, and the length of the sums. */
  readonly matrix: string;
  /** Most squares per subgroup: two if subgroups may have more than 32 invocations. */
  readonly squares: number;
  /** Elements of a block along K, a multiple of the matrices' K. */
  readonly step: number;
  /** Row stride of `xs` and `ws` in elements: whole 16 bytes, with neighbouring rows in different banks. */
  readonly stride: number;
  /** The lower half of the rows holds the second parts of the upper half; the tile then has 32 rows of results. */
  readonly paired?: boolean;
}

function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

/** WGSL types of sums and of cells of workgroup memory, and the number of elements per cell. */
const TYPES = {
  f16: { sum: "f32", cell: "f16", per: 1 },
  i8: { sum: "i32", cell: "i32", per: 4 },
} as const;

function edges(matrix: string): readonly [number, number, number] {
  const [M = 0, N = 0, K = 0] = matrix.split("x").map(Number);
  return [M, N, K];
}

/**
 * Workgroup memory, and `drain(first, lid, m0, n0)`, which stores the contents of the stage: some matrices of each square,
 * from number `first` on. `finish` is WGSL that stores `sum` for row m and column n, which is column r of the tile; in a
 * paired tile, `second` is the sum of the row's second part.
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
 * The body of a tile. `loop` returns WGSL that fills one block after another; its argument is the WGSL that multiplies a
 * block, which has no barriers.
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
  /** WGSL that runs `text(p)` for each square p. */
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
