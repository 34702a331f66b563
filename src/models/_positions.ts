// Learned positions of patches for images of another size: bicubic interpolation, as torch computes it (Keys' kernel with
// a = -0.75, no smoothing, the border repeated), along one axis after the other.

import type { Device } from "../core/device.js";
import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { linear } from "../ops/linear.js";

const A = -0.75;

/** The kernel at distance `d`. */
function cubic(d: number): number {
  const x = Math.abs(d);
  if (x <= 1) return ((A + 2) * x - (A + 3)) * x * x + 1;
  return x < 2 ? ((A * x - 5 * A) * x + 8 * A) * x - 4 * A : 0;
}

/** The matrix [to,from] that resamples `from` values at `to` places. */
function resampling(from: number, to: number): Float32Array {
  const weights = new Float32Array(to * from);
  for (let i = 0; i < to; i++) {
    const at = ((i + 0.5) * from) / to - 0.5;
    const first = Math.floor(at) - 1;
    for (let j = first; j < first + 4; j++) {
      const inside = Math.min(from - 1, Math.max(0, j));
      weights[i * from + inside]! += cubic(at - j);
    }
  }
  return weights;
}

/**
 * Positions [1,1+S*S,hidden], the class token's first, for a grid of `high` x `wide` patches: [1,1+high*wide,hidden].
 * @throws ConfigError if the model's own grid is not square
 */
export function positionsFor(positions: Tensor, high: number, wide: number): Tensor {
  const [, count = 0, hidden = 0] = positions.shape;
  const side = Math.round(Math.sqrt(count - 1));
  if (side * side !== count - 1) {
    throw new ConfigError(
      `config.json: positions of ${count - 1} patches are not a square, and cannot be interpolated`,
      {
        hint: CONFIG_HINT,
      },
    );
  }
  if (high === side && wide === side) return positions;
  const { device } = positions;
  return scope(() => {
    const grid = contiguous(positions.narrow(1, 1, side * side), "f32").view(side, side, hidden);
    const across = along(device, contiguous(grid.permute(0, 2, 1)), side, wide); // [S,hidden,wide]
    const both = along(device, contiguous(across.permute(1, 2, 0)), side, high); // [hidden,wide,high]
    const y = Tensor.empty(device, [1, 1 + high * wide, hidden], "f32", "positions");
    copyInto(positions.narrow(1, 0, 1), y.narrow(1, 0, 1));
    copyInto(both.permute(2, 1, 0), y.narrow(1, 1, high * wide).view(high, wide, hidden));
    return y;
  });
}

/** x[..,from] resampled along its last dim: [..,to]. */
function along(device: Device, x: Tensor, from: number, to: number): Tensor {
  return linear(x, Tensor.from(device, resampling(from, to), [to, from]));
}
