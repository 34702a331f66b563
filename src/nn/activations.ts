// Activations as modules: elementwise, for tensors of any shape and float dtype.

import { choice, type Options, readOptions } from "../core/options.js";
import type { Tensor } from "../core/tensor.js";
import { type Act, activation } from "../ops/activation.js";
import { inFloats, Module, within } from "./module.js";

abstract class Activation extends Module {
  protected abstract readonly act: Act;

  forward(x: Tensor): Tensor {
    return inFloats(this.class_name, x, (floats) => within(x.device, this.path, () => activation(floats, this.act)));
  }

  override extra_repr(): string {
    return "";
  }
}

/** max(x, 0) */
export class ReLU extends Activation {
  protected readonly act = "relu";
}

/** x / (1 + exp(-x)) */
export class SiLU extends Activation {
  protected readonly act = "silu";
}

export class Tanh extends Activation {
  protected readonly act = "tanh";
}

export class Sigmoid extends Activation {
  protected readonly act = "sigmoid";
}

/** x / (1 + exp(-1.702 x)), CLIP's. */
export class QuickGELU extends Activation {
  protected readonly act = "quick_gelu";
}

const GELU_OPTIONS = {
  /** "tanh" computes the approximation (default: "none"). */ approximate: choice(["none", "tanh"]),
};

/** x times the normal distribution's share below x. */
export class GELU extends Activation {
  protected readonly act: Act;

  /** @throws OptionError */
  constructor(options: Options<typeof GELU_OPTIONS> = {}) {
    super();
    const { approximate = "none" } = readOptions("GELU", GELU_OPTIONS, options);
    this.act = approximate === "tanh" ? "gelu_tanh" : "gelu";
  }

  override extra_repr(): string {
    return `approximate=${this.act === "gelu" ? "none" : "tanh"}`;
  }
}

/** x itself. */
export class Identity extends Module {
  forward(x: Tensor): Tensor {
    return inFloats("Identity", x, (floats) => floats.alias());
  }
}
