// Decompositions of matrices on the host, in f64: the largest singular values with their vectors, and the first columns of QR. They are
// for the first values of adapters, so only a few vectors are wanted of a large matrix. That takes seconds: other work has its turns meanwhile.

import type { Turns } from "../core/turns.js";

/** A matrix in rows. */
export interface Rows {
  readonly data: ArrayLike<number>;
  readonly rows: number;
  readonly columns: number;
}

/** The largest `count` singular values and their vectors: data ≈ Σ values[i] left[i] right[i]ᵀ. */
export interface Singular {
  readonly values: Float64Array;
  readonly left: readonly Float64Array[];
  readonly right: readonly Float64Array[];
}

type Vector = Float64Array;

function dot(a: Vector, b: Vector): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
}

/** a += factor b */
function addTo(a: Vector, b: ArrayLike<number>, factor: number, at = 0): void {
  for (let i = 0; i < a.length; i++) a[i] = a[i]! + factor * b[at + i]!;
}

/** W x */
async function times({ data, rows, columns }: Rows, x: Vector, turns: Turns): Promise<Vector> {
  const y = new Float64Array(rows);
  for (let n = 0, at = 0; n < rows; n++) {
    if (turns.due) await turns.take();
    let sum = 0;
    for (let k = 0; k < columns; k++) sum += data[at++]! * x[k]!;
    y[n] = sum;
  }
  return y;
}

/** Wᵀ x */
async function transposedTimes({ data, rows, columns }: Rows, x: Vector, turns: Turns): Promise<Vector> {
  const y = new Float64Array(columns);
  for (let n = 0; n < rows; n++) {
    if (turns.due) await turns.take();
    addTo(y, data, x[n]!, n * columns);
  }
  return y;
}

/** Takes what lies along `others`, of length one, out of a vector: twice, as once leaves what was rounded. @returns its length */
async function orthogonalize(x: Vector, others: readonly Vector[], turns: Turns): Promise<number> {
  for (let pass = 0; pass < 2; pass++) {
    for (const other of others) {
      if (turns.due) await turns.take();
      addTo(x, other, -dot(other, x));
    }
  }
  return Math.sqrt(dot(x, x));
}

function scaled(x: Vector, factor: number): Vector {
  return x.map((one) => one * factor);
}

/** A vector of length one that is orthogonal to the others. */
async function fresh(length: number, others: readonly Vector[], draw: () => number, turns: Turns): Promise<Vector> {
  for (;;) {
    const x = Float64Array.from({ length }, () => draw() - 0.5);
    const size = await orthogonalize(x, others, turns);
    if (size > 1e-8) return scaled(x, 1 / size);
  }
}

/** Singular values, largest first, of a small matrix given by its columns, which become left vectors (Hestenes 1958, one-sided Jacobi). */
async function jacobi(columns: Vector[], turns: Turns): Promise<Singular> {
  const count = columns.length;
  const right = columns.map((_, i) => Float64Array.from({ length: count }, (_, j) => Number(i === j)));
  const turn = (x: Vector, y: Vector, c: number, s: number): void => {
    for (let i = 0; i < x.length; i++) {
      const [a, b] = [x[i]!, y[i]!];
      x[i] = c * a - s * b;
      y[i] = s * a + c * b;
    }
  };
  for (let sweep = 0; sweep < 60; sweep++) {
    let turned = false;
    for (let i = 0; i < count; i++) {
      for (let j = i + 1; j < count; j++) {
        if (turns.due) await turns.take();
        const [x, y] = [columns[i]!, columns[j]!];
        const [a, b, g] = [dot(x, x), dot(y, y), dot(x, y)];
        if (Math.abs(g) <= 1e-15 * Math.sqrt(a * b)) continue;
        turned = true;
        const zeta = (b - a) / (2 * g);
        const t = (zeta < 0 ? -1 : 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
        const c = 1 / Math.sqrt(1 + t * t);
        turn(x, y, c, c * t);
        turn(right[i]!, right[j]!, c, c * t);
      }
    }
    if (!turned) break;
  }
  const sizes = columns.map((column) => Math.sqrt(dot(column, column)));
  const order = sizes.map((_, i) => i).sort((a, b) => sizes[b]! - sizes[a]!);
  return {
    values: Float64Array.from(order, (i) => sizes[i]!),
    left: order.map((i) => (sizes[i]! > 0 ? scaled(columns[i]!, 1 / sizes[i]!) : columns[i]!)),
    right: order.map((i) => right[i]!),
  };
}

/** Sums of vectors by the entries of another. */
function mixed(vectors: readonly Vector[], weights: Vector): Vector {
  const sum = new Float64Array(vectors[0]!.length);
  for (const [i, vector] of vectors.entries()) addTo(sum, vector, weights[i]!);
  return sum;
}

/** What is left of the decomposition beside what was found, relative to the largest value. */
const TOLERANCE = 1e-9;

/**
 * The largest singular values by the bidiagonalization of Golub and Kahan (1965), with vectors kept orthogonal: W V = U B, where B has few
 * columns. It ends when the values are certain to `TOLERANCE`.
 * @param count at most the smaller side of the matrix
 * @param draw numbers from 0 to 1
 * @throws AbortError
 */
export async function largestSingular(w: Rows, count: number, draw: () => number, turns: Turns): Promise<Singular> {
  const straight = (x: Vector) => times(w, x, turns);
  const across = (x: Vector) => transposedTimes(w, x, turns);
  if (w.rows >= w.columns) return bidiagonal({ ...w, times: straight, back: across }, count, draw, turns);
  // Vectors of the shorter side end the recursion exactly.
  const turned = { rows: w.columns, columns: w.rows, times: across, back: straight };
  const { values, left, right } = await bidiagonal(turned, count, draw, turns);
  return { values, left: right, right: left };
}

/** A matrix of no fewer rows than columns. */
interface Tall {
  readonly rows: number;
  readonly columns: number;
  times(x: Vector): Promise<Vector>;
  /** Times the transposed matrix. */
  back(x: Vector): Promise<Vector>;
}

async function bidiagonal(w: Tall, count: number, draw: () => number, turns: Turns): Promise<Singular> {
  const most = w.columns;
  const [U, V]: [Vector[], Vector[]] = [[], []];
  const [alphas, betas]: [number[], number[]] = [[], []];
  let v = await fresh(w.columns, [], draw, turns);
  let next = Math.min(most, 2 * count + 10);
  for (;;) {
    V.push(v);
    let u = await w.times(v);
    if (U.length > 0) addTo(u, U.at(-1)!, -betas.at(-1)!);
    let alpha = await orthogonalize(u, U, turns);
    if (alpha > 1e-13 * Math.max(...alphas, alpha, 0)) u = scaled(u, 1 / alpha);
    else [u, alpha] = [await fresh(w.rows, U, draw, turns), 0];
    U.push(u);
    alphas.push(alpha);
    let beta = 0;
    if (V.length < w.columns) {
      v = await w.back(u);
      addTo(v, V.at(-1)!, -alpha);
      beta = await orthogonalize(v, V, turns);
      if (beta > 1e-13 * Math.max(...alphas)) v = scaled(v, 1 / beta);
      else [v, beta] = [await fresh(w.columns, V, draw, turns), 0];
    }
    betas.push(beta);
    if (V.length < next) continue;
    const steps = V.length;
    // Columns of B: alpha on the diagonal, beta above it.
    const B = Array.from({ length: steps }, (_, j) =>
      Float64Array.from({ length: steps }, (_, i) => (i === j ? alphas[j]! : i === j - 1 ? betas[i]! : 0)),
    );
    const { values, left, right } = await jacobi(B, turns);
    const sure = left.slice(0, count).every((one) => Math.abs(beta * one[steps - 1]!) <= TOLERANCE * values[0]!);
    if (!sure && steps < most) {
      next = Math.min(most, Math.ceil(steps * 1.25));
      continue;
    }
    return {
      values: values.slice(0, count),
      left: left.slice(0, count).map((weights) => mixed(U, weights)),
      right: right.slice(0, count).map((weights) => mixed(V, weights)),
    };
  }
}

/**
 * The same of a random subspace after `iterations` of powers, which is near it (Halko et al. 2009, algorithm 5.1).
 * @param draw numbers of a normal distribution
 * @throws AbortError
 */
export async function randomSingular(
  w: Rows,
  count: number,
  iterations: number,
  draw: () => number,
  turns: Turns,
): Promise<Singular> {
  const basis = async (vectors: readonly Vector[]): Promise<Vector[]> => {
    const found: Vector[] = [];
    for (const one of vectors) {
      const size = await orthogonalize(one, found, turns);
      const next = size > 1e-13 ? scaled(one, 1 / size) : await fresh(one.length, found, () => draw() + 0.5, turns);
      found.push(next);
    }
    return found;
  };
  const each = async (vectors: readonly Vector[], by: typeof times): Promise<Vector[]> => {
    const made: Vector[] = [];
    for (const one of vectors) made.push(await by(w, one, turns));
    return made;
  };
  const start = Array.from({ length: count }, () => Float64Array.from({ length: w.columns }, draw));
  let Q = await basis(await each(start, times));
  for (let i = 0; i < iterations; i++) Q = await basis(await each(await basis(await each(Q, transposedTimes)), times));
  // Of Qᵀ W, whose rows are Wᵀ q: its right vectors, and its left ones in the basis.
  const { values, left, right } = await jacobi(await each(Q, transposedTimes), turns);
  return { values, left: right.map((weights) => mixed(Q, weights)), right: left };
}

/**
 * The first columns of Q and rows of R of W = Q R, by the reflections of Householder with LAPACK's signs.
 * @param count at most the smaller side of the matrix
 * @throws AbortError
 */
export async function firstOfQR(
  w: Rows,
  count: number,
  turns: Turns,
): Promise<{ readonly q: readonly Float64Array[]; readonly r: readonly Float64Array[] }> {
  const columns = Array.from({ length: count }, (_, k) =>
    Float64Array.from({ length: w.rows }, (_, n) => w.data[n * w.columns + k]!),
  );
  const reflections: Vector[] = [];
  const reflect = (x: Vector, by: Vector): void => addTo(x, by, -2 * dot(by, x));
  for (const [k, column] of columns.entries()) {
    if (turns.due) await turns.take();
    for (const by of reflections) reflect(column, by);
    const by = column.map((one, n) => (n < k ? 0 : one));
    const size = Math.sqrt(dot(by, by));
    by[k] = by[k]! + (by[k]! < 0 ? -size : size);
    const length = Math.sqrt(dot(by, by));
    // The last row has nothing below it to be reflected away.
    reflections.push(length > 0 && k < w.rows - 1 ? scaled(by, 1 / length) : new Float64Array(w.rows));
  }
  const [q, r]: [Vector[], Vector[]] = [[], []];
  for (let k = 0; k < count; k++) {
    const unit = new Float64Array(w.rows);
    unit[k] = 1;
    for (const by of [...reflections].reverse()) reflect(unit, by);
    q.push(unit);
    r.push(await transposedTimes(w, unit, turns));
  }
  return { q, r };
}
