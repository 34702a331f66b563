// The time of each token of a transcript, from what the decoder looked at: the cross-attention of chosen heads, smoothed, and the
// path through it that dynamic time warping finds (Sakoe and Chiba 1978), as in Whisper's reference code.

/** Weights of one head, row by row. */
export interface HeadWeights {
  readonly values: Float32Array;
  readonly tokens: number;
  /** Positions of the encoder's output. */
  readonly positions: number;
}

/** Weights in units of their deviation over the tokens, for each position, into f64. */
function normalized({ values, tokens, positions }: HeadWeights, kept: number): Float64Array {
  const out = new Float64Array(tokens * kept);
  for (let s = 0; s < kept; s++) {
    let sum = 0;
    for (let t = 0; t < tokens; t++) sum += values[t * positions + s]!;
    const mean = sum / tokens;
    let squares = 0;
    for (let t = 0; t < tokens; t++) squares += (values[t * positions + s]! - mean) ** 2;
    const deviation = Math.sqrt(squares / tokens);
    for (let t = 0; t < tokens; t++) out[t * kept + s] = (values[t * positions + s]! - mean) / deviation;
  }
  return out;
}

/** The median of each `width` neighbours in rows of `length`, which are mirrored at their ends; short rows stay as they are. */
function smoothed(rows: Float64Array, length: number, width: number): Float64Array {
  const half = Math.floor(width / 2);
  if (length <= half) return rows;
  const window = new Float64Array(width);
  return rows.map((_, at) => {
    const begin = at - (at % length);
    for (let i = 0; i < width; i++) {
      const place = Math.abs((at % length) + i - half);
      window[i] = rows[begin + (place < length ? place : 2 * (length - 1) - place)]!;
    }
    return window.sort()[half]!;
  });
}

/**
 * The first position of each row on the cheapest path from the first row and column to the last, in steps of a row, a column or both.
 * @param costs [rows][columns]
 */
function warped(costs: Float64Array, rows: number, columns: number): number[] {
  const width = columns + 1;
  const sums = new Float32Array((rows + 1) * width).fill(Number.POSITIVE_INFINITY);
  const moves = new Uint8Array((rows + 1) * width); // 0: both, 1: a row, 2: a column
  sums[0] = 0;
  for (let j = 1; j <= columns; j++) {
    for (let i = 1; i <= rows; i++) {
      const at = i * width + j;
      const [both, row, column] = [sums[at - width - 1]!, sums[at - width]!, sums[at - 1]!];
      const move = both < row && both < column ? 0 : row < both && row < column ? 1 : 2;
      sums[at] = costs[(i - 1) * columns + j - 1]! + [both, row, column][move]!;
      moves[at] = move;
    }
  }
  const first = new Array<number>(rows);
  for (let i = rows, j = columns; i > 0; ) {
    if (j > 0) first[i - 1] = j - 1;
    const move = j === 0 ? 1 : moves[i * width + j]!;
    if (move !== 2) i--;
    if (move !== 1) j--;
  }
  return first;
}

/**
 * Seconds at which each token begins to be looked for.
 * @param heads weights of the heads that align, [tokens][positions] each; at least one
 * @param positions how many positions hold sound
 * @param width of the median, odd
 */
export function tokenTimes(
  heads: readonly HeadWeights[],
  positions: number,
  width: number,
  precision: number,
): number[] {
  const { tokens } = heads[0]!;
  const kept = Math.min(positions, heads[0]!.positions);
  const costs = new Float64Array(tokens * kept);
  for (const head of heads) {
    const values = smoothed(normalized(head, kept), kept, width);
    for (const [at, value] of values.entries()) costs[at] = costs[at]! - value / heads.length;
  }
  return warped(costs, tokens, kept).map((position) => position * precision);
}
