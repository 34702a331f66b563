// Convolutions as products: the windows of the input become rows, in the order of the stored kernels, so the kernels are
// multiplied as they lie in the file. Windows are copied a bounded piece at a time. Results have their channels last.

import type { Device } from "../core/device.js";
import { ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Act } from "../ops/activation.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { fillInto } from "../ops/fill.js";
import { linear } from "../ops/linear.js";
import { Matrix, Module, NormedParameter, Parameter, within } from "./module.js";

export interface ConvOptions {
  readonly stride?: number;
  readonly padding?: number;
  readonly groups?: number;
  readonly bias?: boolean;
  /** Files may hold the kernels as directions and magnitudes along this dim. */
  readonly normed?: number;
}

/** Elements of the windows that are copied at once: 8 MB. */
const PIECE = 1 << 21;

/** Output positions along a dim. */
export function positionsOf(length: number, size: number, stride: number, padding: number): number {
  return Math.floor((length + 2 * padding - size) / stride) + 1;
}

/** `x` with `padding` zeros before and after dim `dim`; `x` itself without padding. */
function padded(x: Tensor, dim: number, padding: number): Tensor {
  if (padding === 0) return x;
  const length = x.shape[dim]!;
  const y = Tensor.empty(x.device, x.shape.with(dim, length + 2 * padding), "f32", "padded");
  fillInto(y.narrow(dim, 0, padding), 0);
  copyInto(x, y.narrow(dim, padding, length));
  fillInto(y.narrow(dim, padding + length, padding), 0);
  return y;
}

abstract class Conv extends Module {
  /** Kernels [O,C/groups,...] as rows; those of groups are no Matrix, because each group has a product of its own, nor normalised ones. */
  weight: Matrix | Parameter;
  bias: Parameter | undefined;
  readonly channels: number;
  readonly stride: number;
  readonly padding: number;
  readonly groups: number;

  constructor(channels: number, out: number, kernel: readonly number[], options: ConvOptions) {
    super();
    const { stride = 1, padding = 0, groups = 1, bias = true } = options;
    if (channels % groups !== 0 || out % groups !== 0) {
      throw new ShapeError(`${channels} channels to ${out} cannot be divided among ${groups} groups`);
    }
    const inputs = channels / groups;
    const taps = kernel.reduce((n, size) => n * size, inputs);
    if (groups === 1 && options.normed === undefined) {
      this.weight = new Matrix(out, taps);
      this.weight.stored_shape = [out, inputs, ...kernel];
      this.weight.product = true;
    } else if (options.normed !== undefined) this.weight = new NormedParameter(options.normed, out, inputs, ...kernel);
    else this.weight = new Parameter(out, inputs, ...kernel);
    this.bias = bias ? new Parameter(out) : undefined;
    this.channels = channels;
    this.stride = stride;
    this.padding = padding;
    this.groups = groups;
  }

  get out(): number {
    return this.weight.shape[0]!;
  }

  /** @throws ShapeError */
  protected check(x: Tensor, rank: number, dim: number): void {
    if (x.shape.length === rank && x.shape[dim] === this.channels) return;
    throw new ShapeError(`${this.path}: expected ${this.channels} channels, got [${x.shape.join(", ")}]`);
  }

  /** Rows of windows [N,C*taps] -> [N,O]. */
  protected product(rows: Tensor, act: Act | undefined): Tensor {
    const { weight, bias, groups, out } = this;
    if (weight instanceof Matrix) return weight.weight.linear(rows, { act, ...(bias && { bias: bias.value }) });
    const [inputs, outputs] = [rows.shape[1]! / groups, out / groups];
    const kernels = weight.value.view(out, inputs);
    const y = Tensor.empty(rows.device, [rows.shape[0]!, out], "f32", "conv");
    for (let g = 0; g < groups; g++) {
      scope(() => {
        const part = contiguous(rows.narrow(1, g * inputs, inputs));
        const own = bias && { bias: bias.value.narrow(0, g * outputs, outputs) };
        const product = linear(part, kernels.narrow(0, g * outputs, outputs), { act, ...own });
        copyInto(product, y.narrow(1, g * outputs, outputs));
      });
    }
    return y;
  }

  /**
   * Products of `count` lines of windows, as many at once as fit a piece: f32 [count * each, O].
   * @param each windows of a line
   * @param line the windows of lines `at` to `at + n`, as rows [n * each, C*taps]
   */
  protected pieces(
    { device }: Tensor,
    count: number,
    each: number,
    act: Act | undefined,
    line: (at: number, n: number) => Tensor,
  ): Tensor {
    const taps = this.weight.shape.slice(1).reduce((n, size) => n * size, this.groups);
    const step = Math.max(1, Math.floor(PIECE / (taps * each)));
    if (count <= step) return this.product(line(0, count), act);
    const y = Tensor.empty(device, [count * each, this.out], "f32", "conv");
    for (let at = 0; at < count; at += step) {
      const n = Math.min(step, count - at);
      scope(() => copyInto(this.product(line(at, n), act), y.narrow(0, at * each, n * each)));
    }
    return y;
  }
}

/** Convolution over time; files hold kernels as [O,C/groups,K]. */
export class Conv1d extends Conv {
  readonly size: number;

  constructor(channels: number, out: number, size: number, options: ConvOptions = {}) {
    super(channels, out, [size], options);
    this.size = size;
  }

  /** `act` of the convolution of `x[B,T,C]`, which may be strided: [B,T',O]. @throws ShapeError */
  forward(x: Tensor, act?: Act): Tensor {
    this.check(x, 3, 2);
    const { size, stride, padding } = this;
    return within(x.device, this.path, () =>
      scope(() => {
        const [batch = 0] = x.shape;
        const windows = padded(x, 1, padding).unfold(1, size, stride); // [B,T',C,K]
        const frames = windows.shape[1]!;
        return joined(x.device, [batch, frames, this.out], (b) =>
          this.pieces(x, frames, 1, act, (at, n) => contiguous(windows.select(0, b).narrow(0, at, n)).view(n, -1)),
        );
      }),
    );
  }
}

/** Convolution over images; files hold kernels as [O,C/groups,Kh,Kw]. */
export class Conv2d extends Conv {
  readonly size: readonly [number, number];

  constructor(channels: number, out: number, size: readonly [number, number], options: ConvOptions = {}) {
    super(channels, out, size, options);
    this.size = size;
  }

  /** `act` of the convolution of `x[B,C,H,W]`: [B,H',W',O]. @throws ShapeError */
  forward(x: Tensor, act?: Act): Tensor {
    this.check(x, 4, 1);
    const { size, stride, padding, channels } = this;
    return within(x.device, this.path, () =>
      scope(() => {
        const [batch = 0] = x.shape;
        const image = padded(padded(x, 2, padding), 3, padding);
        const windows = image.unfold(2, size[0], stride).unfold(3, size[1], stride); // [B,C,H',W',Kh,Kw]
        const [high = 0, wide = 0] = windows.shape.slice(2);
        const line = (b: number, at: number, n: number): Tensor => {
          const rows = Tensor.empty(x.device, [n, wide, channels, ...size], "f32", "windows");
          // A channel at a time: not every backend copies more than four dims at once.
          for (let c = 0; c < channels; c++) {
            scope(() => copyInto(windows.select(0, b).select(0, c).narrow(0, at, n), rows.select(2, c)));
          }
          return rows.view(n * wide, -1);
        };
        return joined(x.device, [batch, high, wide, this.out], (b) =>
          this.pieces(x, high, wide, act, (at, n) => line(b, at, n)),
        );
      }),
    );
  }
}

/** What `row` makes for each row of a batch, as one tensor of `shape`. */
function joined(device: Device, shape: readonly number[], row: (b: number) => Tensor): Tensor {
  const [batch = 0, ...rest] = shape;
  if (batch === 1) return row(0).view(...shape);
  const y = Tensor.empty(device, shape, "f32", "conv");
  for (let b = 0; b < batch; b++) scope(() => copyInto(row(b).view(...rest), y.select(0, b)));
  return y;
}
