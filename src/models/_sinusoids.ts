// Positions by sines and cosines of falling frequencies (Vaswani et al. 2017, section 3.5), the sines in the first half of a row.

import type { Tensor } from "../core/tensor.js";
import { Buffer, Module } from "../nn/module.js";
import { embedding } from "../ops/embedding.js";

/** Columns that are the sine of a frequency. */
const sines = (width: number): number => Math.ceil(width / 2);

/** Rows of `count` positions: column j is the sine, and column j of the second half the cosine, of position * frequency(j). */
function table(count: number, width: number, frequency: (column: number) => number): Float32Array {
  const half = sines(width);
  const values = new Float32Array(count * width);
  for (let position = 0; position < count; position++) {
    for (let column = 0; column < width; column++) {
      const angle = position * frequency(column < half ? column : column - half);
      values[position * width + column] = column < half ? Math.sin(angle) : Math.cos(angle);
    }
  }
  return values;
}

/** A table of sinusoids, made when it is first used. */
class Sinusoids extends Module {
  readonly rows: Buffer;
  readonly width: number;

  constructor(width: number, values: () => Float32Array) {
    super();
    this.width = width;
    this.rows = new Buffer(values);
  }

  /** Rows [B,T,width] of positions i32[B,T]. */
  forward(positions: Tensor): Tensor {
    return embedding(this.rows.on(positions.device).view(-1, this.width), positions);
  }
}

/** As Marian and Pegasus have them: frequency j is 10000^(-2j / width). */
export function marianSinusoids(count: number, width: number): Sinusoids {
  return new Sinusoids(width, () => table(count, width, (column) => 10_000 ** ((-2 * column) / width)));
}

/** As M2M-100 has them: frequency j is 10000^(-j / (half - 1)), and positions begin behind the row of padding. */
export function fairseqSinusoids(count: number, width: number, padding_idx: number): Sinusoids {
  const half = Math.floor(width / 2);
  const first = padding_idx + 1;
  return new Sinusoids(width, () =>
    table(first + count, width, (column) => Math.exp((-column * Math.log(10_000)) / (half - 1))).subarray(
      first * width,
    ),
  );
}
