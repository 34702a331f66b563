// The modules that users build with, under Python's names: those of the models' trees, with options, first values, and inputs of
// any float dtype. Declaring one allocates nothing on a device.

import { isWhole, listOf } from "../core/checks.js";
import { Device } from "../core/device.js";
import { DTYPE_SPELLINGS, type FloatName, parseDType } from "../core/dtype.js";
import { OptionError, ShapeError } from "../core/errors.js";
import { flag, number, type Options, readOptions, such } from "../core/options.js";
import { shapeText, show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { contiguous } from "../ops/copy.js";
import { multiply } from "../ops/gated.js";
import { layerNorm } from "../ops/layer-norm.js";
import { rmsNorm } from "../ops/rms-norm.js";
import { normal, stream, uniform } from "./init.js";
import { Linear as BareLinear, inFloats, Embedding as Lookup, Module, Parameter, within } from "./module.js";
import { constant } from "./pending.js";

const PLACED = {
  /** Dtype of the parameters (default: float32). */
  dtype: such<FloatName>(
    (value) => typeof value === "string" && parseDType(value) !== undefined,
    `a float dtype (${DTYPE_SPELLINGS.join(", ")})`,
  ),
  /** Where the parameters are placed at once; by default they wait for `to`. */
  device: such<Device>(Device.is, "a Device"),
};

/** A size of a layer. @throws OptionError */
function sizeOf(layer: string, name: string, value: unknown): number {
  if (isWhole(value) && value > 0) return value;
  throw new OptionError(`${layer}: ${name} must be a whole number above 0, got ${show(value)}`);
}

/** Converts and places the parameters of a new layer. */
function placed(module: Module, { dtype, device }: Options<typeof PLACED>): void {
  if (dtype) module.to(dtype);
  if (device) module.to(device);
}

export const LINEAR = { /** With a bias (default: true). */ bias: flag(), ...PLACED };
export interface LinearLayerOptions extends Options<typeof LINEAR> {}

/**
 * y = x Wᵀ + b for x[..,in_features] of any rank, f32, f16 or bf16; y has the dtype of x. First values are uniform within
 * 1 / sqrt(in_features), as in Python.
 */
export class Linear extends BareLinear {
  readonly in_features: number;
  readonly out_features: number;

  /** @throws OptionError */
  constructor(in_features: number, out_features: number, options: LinearLayerOptions = {}) {
    const inputs = sizeOf("Linear", "in_features", in_features);
    const outputs = sizeOf("Linear", "out_features", out_features);
    const { bias = true, ...where } = readOptions("Linear", LINEAR, options);
    super(inputs, outputs, { bias });
    this.in_features = inputs;
    this.out_features = outputs;
    this.weight.product = false; // rows, which an optimizer updates, instead of panels
    this.weight.pending = uniform([outputs, inputs], 1 / Math.sqrt(inputs));
    if (this.bias) this.bias.pending = uniform([outputs], 1 / Math.sqrt(inputs));
    placed(this, where);
  }
}

/** Rows of a table for ids[..] (i32), in the dtype of the table. First values are normal. */
export class Embedding extends Lookup {
  readonly num_embeddings: number;
  readonly embedding_dim: number;

  /** @throws OptionError */
  constructor(num_embeddings: number, embedding_dim: number, options: Options<typeof PLACED> = {}) {
    const entries = sizeOf("Embedding", "num_embeddings", num_embeddings);
    const width = sizeOf("Embedding", "embedding_dim", embedding_dim);
    const where = readOptions("Embedding", PLACED, options);
    super(entries, width);
    this.num_embeddings = entries;
    this.embedding_dim = width;
    this.weight.pending = normal([entries, width], 1);
    placed(this, where);
  }

  override forward(ids: Tensor): Tensor {
    return scope(() => contiguous(super.forward(ids), this.weight.dtype ?? "f32"));
  }
}

const eps = number((value) => value >= 0, "a number of at least 0");
const LAYER_NORM = {
  /** Added to the variance (default: 1e-5). */
  eps,
  /** With a weight, and a bias unless `bias` is false (default: true). */
  elementwise_affine: flag(),
  bias: flag(),
  ...PLACED,
};
const RMS_NORM = {
  /** Added to the mean square (default: the distance from 1 to the next f32). */
  eps: such<number | null>(
    (value) => value === null || (typeof value === "number" && value >= 0),
    "a number of at least 0",
  ),
  elementwise_affine: flag(),
  ...PLACED,
};

/** The last dims that a norm is over. @throws OptionError */
function normalized(layer: string, shape: unknown): readonly number[] {
  const sizes = isWhole(shape) ? [shape] : listOf(shape, isWhole);
  if (sizes && sizes.length > 0 && sizes.length < 9 && sizes.every((size) => size > 0)) return sizes;
  throw new OptionError(`${layer}: normalized_shape must be a size, or a list of some, got ${show(shape)}`);
}

/** A norm over the last dims of x, as over one. @throws ShapeError */
function overLast(layer: Module, sizes: readonly number[], x: Tensor, norm: (rows: Tensor) => Tensor): Tensor {
  return inFloats(layer.class_name, x, (floats) => {
    const { shape } = floats;
    if (shapeText(shape.slice(-sizes.length)) !== shapeText(sizes)) {
      throw new ShapeError(`${layer.class_name}: ${shapeText(shape)} does not end in ${shapeText(sizes)}`);
    }
    return within(x.device, layer.path, () => {
      if (sizes.length === 1) return norm(floats);
      const size = sizes.reduce((n, one) => n * one, 1);
      return scope(() => norm(floats.view(...shape.slice(0, -sizes.length), size)).view(...shape));
    });
  });
}

/** A parameter of a norm as a vector. */
const flat = ({ value }: Parameter): Tensor => (value.shape.length === 1 ? value : value.view(value.size));

/** (x - mean) / sqrt(variance + eps) * weight + bias over the last dims. */
export class LayerNorm extends Module {
  readonly normalized_shape: readonly number[];
  readonly eps: number;
  weight: Parameter | undefined;
  bias: Parameter | undefined;

  /** @throws OptionError */
  constructor(normalized_shape: number | readonly number[], options: Options<typeof LAYER_NORM> = {}) {
    super();
    this.normalized_shape = normalized("LayerNorm", normalized_shape);
    const read = readOptions("LayerNorm", LAYER_NORM, options);
    const { elementwise_affine = true, bias = true, eps = 1e-5, ...where } = read;
    this.eps = eps;
    if (elementwise_affine) this.weight = filledWith(this.normalized_shape, 1);
    if (elementwise_affine && bias) this.bias = filledWith(this.normalized_shape, 0);
    placed(this, where);
  }

  forward(x: Tensor): Tensor {
    return overLast(this, this.normalized_shape, x, (rows) =>
      scope(() => layerNorm(rows, this.weight && flat(this.weight), this.bias && flat(this.bias), this.eps)),
    );
  }

  override extra_repr(): string {
    return `${shapeText(this.normalized_shape)}, eps=${this.eps}, elementwise_affine=${this.weight !== undefined}`;
  }
}

/** x / sqrt(mean(x²) + eps) * weight over the last dims. */
export class RMSNorm extends Module {
  readonly normalized_shape: readonly number[];
  readonly eps: number;
  weight: Parameter | undefined;

  /** @throws OptionError */
  constructor(normalized_shape: number | readonly number[], options: Options<typeof RMS_NORM> = {}) {
    super();
    this.normalized_shape = normalized("RMSNorm", normalized_shape);
    const { elementwise_affine = true, eps, ...where } = readOptions("RMSNorm", RMS_NORM, options);
    this.eps = eps ?? 2 ** -23;
    if (elementwise_affine) this.weight = filledWith(this.normalized_shape, 1);
    placed(this, where);
  }

  forward(x: Tensor): Tensor {
    return overLast(this, this.normalized_shape, x, (rows) =>
      scope(() => {
        const ones = (): Tensor =>
          Tensor.from(x.device, new Float32Array(rows.shape.at(-1)!).fill(1), [rows.shape.at(-1)!]);
        return rmsNorm(rows, this.weight ? flat(this.weight) : ones(), this.eps);
      }),
    );
  }

  override extra_repr(): string {
    return `${shapeText(this.normalized_shape)}, eps=${this.eps}, elementwise_affine=${this.weight !== undefined}`;
  }
}

function filledWith(shape: readonly number[], value: number): Parameter {
  const parameter = new Parameter(...shape);
  parameter.pending = constant(shape, value);
  return parameter;
}

/**
 * While training, each element becomes 0 with probability `p`, and the others are divided by 1 - p; else x itself. The masks come
 * from the generator of `manual_seed`.
 */
export class Dropout extends Module {
  readonly p: number;

  /** @throws OptionError */
  constructor(p = 0.5) {
    super();
    if (typeof p !== "number" || !(p >= 0 && p <= 1)) {
      throw new OptionError(`Dropout: p must be a number from 0 to 1, got ${show(p)}`);
    }
    this.p = p;
  }

  forward(x: Tensor): Tensor {
    return inFloats("Dropout", x, (floats) => {
      if (!this.training || this.p === 0) return floats.alias();
      const draw = stream()();
      const mask = Float32Array.from({ length: floats.size }, () => (draw() < this.p ? 0 : 1 / (1 - this.p)));
      return scope(() => multiply(floats, Tensor.from(x.device, mask, floats.shape, "f32", "dropout")));
    });
  }

  override extra_repr(): string {
    return `p=${this.p}`;
  }
}
