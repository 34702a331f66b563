// bitsandbytes' modules on Octavo's own weights. They are declared in floats and without memory; the first move to a device
// quantizes them, once.

import type { Device } from "../core/device.js";
import type { FloatName } from "../core/dtype.js";
import { choice, flag, type Options, omit, readOptions } from "../core/options.js";
import { scope, type Tensor } from "../core/tensor.js";
import { uniform } from "../nn/init.js";
import { Embedding, LayerNorm, LINEAR, Linear } from "../nn/layers.js";
import { contiguous } from "../ops/copy.js";
import { INT8_PARAMS, Int8Params, PARAMS_4BIT, Params4bit } from "./parameters.js";

const { dtype, device } = LINEAR;

const LINEAR_8BIT = {
  ...LINEAR,
  /**
   * The weight stays in floats, which can be trained, and is quantized for every product (default: true, as in Python). False: it is
   * quantized once, by the first move to a device, and frozen.
   */
  has_fp16_weights: flag(),
  /** Activations of at least this size are multiplied in full precision (default: 0, none: plain vector-wise int8). */
  threshold: INT8_PARAMS.threshold,
};
export interface Linear8bitOptions extends Options<typeof LINEAR_8BIT> {}

/**
 * LLM.int8(): codes with a scale for each row of the weight and of x, and outliers apart. Inputs of any rank; f32, f16, bf16.
 * Outliers are chosen for each row of x by itself, so that it does not depend on the rows beside it.
 */
export class Linear8bitLt extends Linear {
  declare weight: Int8Params;

  /** @throws OptionError */
  constructor(in_features: number, out_features: number, options: Linear8bitOptions = {}) {
    const read = readOptions("Linear8bitLt", LINEAR_8BIT, options);
    const { has_fp16_weights = true, threshold = 0, device, ...rest } = read;
    super(in_features, out_features, rest);
    const { pending } = this.weight;
    this.weight = new Int8Params(out_features, in_features, { threshold, has_fp16_weights });
    this.weight.pending = pending;
    if (device) this.to(device);
  }
}

const STORAGE = choice(["uint8"], { hint: "codes are stored in bytes alone" });

const LINEAR_4BIT = {
  ...LINEAR,
  ...omit(PARAMS_4BIT, ["experts"]),
  quant_storage: STORAGE,
};
export interface Linear4bitOptions extends Options<typeof LINEAR_4BIT> {}

/** 4-bit codes over blocks of the flattened weight. Inputs of any rank; f32, f16, bf16. */
export class Linear4bit extends Linear {
  declare weight: Params4bit;

  /** @throws OptionError */
  constructor(in_features: number, out_features: number, options: Linear4bitOptions = {}) {
    const read = readOptions("Linear4bit", LINEAR_4BIT, options);
    const { bias, dtype, device, quant_storage: _, ...how } = read;
    super(in_features, out_features, { ...(bias === undefined ? {} : { bias }), ...(dtype ? { dtype } : {}) });
    const { pending } = this.weight;
    this.weight = new Params4bit(out_features, in_features, how);
    this.weight.pending = pending;
    if (device) this.to(device);
  }
}

/** `Linear4bit` in NF4. */
export class LinearNF4 extends Linear4bit {
  constructor(in_features: number, out_features: number, options: Omit<Linear4bitOptions, "quant_type"> = {}) {
    super(in_features, out_features, { ...ofKind("LinearNF4", "nf4", options), quant_type: "nf4" });
  }
}

/** `Linear4bit` in FP4. */
export class LinearFP4 extends Linear4bit {
  constructor(in_features: number, out_features: number, options: Omit<Linear4bitOptions, "quant_type"> = {}) {
    super(in_features, out_features, { ...ofKind("LinearFP4", "fp4", options), quant_type: "fp4" });
  }
}

/** The options of a class that stands for one kind. @throws OptionError for another */
function ofKind(name: string, kind: "nf4" | "fp4", options: unknown): Linear4bitOptions {
  return readOptions(name, { ...LINEAR_4BIT, quant_type: choice([kind]) }, options);
}

const PLACED = { dtype, device };
interface PlacedOptions {
  dtype?: FloatName;
  device?: Device;
}

/** A table in 8-bit codes with a scale for each row; looked up in the dtype that it was made of. */
export class Embedding8bit extends Embedding {
  declare weight: Int8Params;

  /** @throws OptionError */
  constructor(num_embeddings: number, embedding_dim: number, options: PlacedOptions = {}) {
    const { device, ...rest } = readOptions("Embedding8bit", PLACED, options);
    super(num_embeddings, embedding_dim, rest);
    const { pending } = this.weight;
    this.weight = new Int8Params(num_embeddings, embedding_dim, { threshold: 0, has_fp16_weights: false });
    this.weight.product = false;
    this.weight.pending = pending;
    if (device) this.to(device);
  }
}

const EMBEDDING_4BIT = {
  ...PLACED,
  ...omit(PARAMS_4BIT, ["experts", "compress_statistics", "compute_dtype"]),
  quant_storage: STORAGE,
};
export interface Embedding4bitOptions extends Options<typeof EMBEDDING_4BIT> {}

/** A table in 4-bit codes; looked up in the dtype that it was made of. */
export class Embedding4bit extends Embedding {
  declare weight: Params4bit;

  /** @throws OptionError */
  constructor(num_embeddings: number, embedding_dim: number, options: Embedding4bitOptions = {}) {
    const read = readOptions("Embedding4bit", EMBEDDING_4BIT, options);
    super(num_embeddings, embedding_dim, read.dtype ? { dtype: read.dtype } : {});
    const { pending } = this.weight;
    const { dtype: _, device: __, quant_storage: ___, ...how } = read;
    this.weight = new Params4bit(num_embeddings, embedding_dim, { ...how, compress_statistics: false });
    this.weight.product = false;
    this.weight.pending = pending;
    if (read.device) this.to(read.device);
  }
}

/** `Embedding4bit` in NF4. */
export class EmbeddingNF4 extends Embedding4bit {
  constructor(num_embeddings: number, embedding_dim: number, options: Omit<Embedding4bitOptions, "quant_type"> = {}) {
    const own = readOptions("EmbeddingNF4", { ...EMBEDDING_4BIT, quant_type: choice(["nf4"]) }, options);
    super(num_embeddings, embedding_dim, { ...own, quant_type: "nf4" });
  }
}

/** `Embedding4bit` in FP4. */
export class EmbeddingFP4 extends Embedding4bit {
  constructor(num_embeddings: number, embedding_dim: number, options: Omit<Embedding4bitOptions, "quant_type"> = {}) {
    const own = readOptions("EmbeddingFP4", { ...EMBEDDING_4BIT, quant_type: choice(["fp4"]) }, options);
    super(num_embeddings, embedding_dim, { ...own, quant_type: "fp4" });
  }
}

/** A table whose rows are normalised: first values by Xavier's rule, then `norm`. Made to be trained with 8-bit optimizers. */
export class StableEmbedding extends Embedding {
  readonly norm: LayerNorm;

  /** @throws OptionError */
  constructor(num_embeddings: number, embedding_dim: number, options: PlacedOptions = {}) {
    const { dtype, device } = readOptions("StableEmbedding", PLACED, options);
    super(num_embeddings, embedding_dim);
    const { shape } = this.weight;
    this.weight.pending = uniform(shape, Math.sqrt(6 / (shape[0] + shape[1])));
    this.norm = new LayerNorm(embedding_dim);
    if (dtype) this.to(dtype);
    if (device) this.to(device);
  }

  override forward(ids: Tensor): Tensor {
    return scope(() => {
      const normal = this.norm.forward(contiguous(super.forward(ids), "f32"));
      return contiguous(normal, this.weight.dtype ?? "f32");
    });
  }
}
