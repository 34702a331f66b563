// Methods of loaded models for training: which parameters ask for gradients, the backward pass, and weights that come back from a
// checkpoint.

import { isFunction } from "../core/checks.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { flag, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import { Tensor } from "../core/tensor.js";
import { CausalLM } from "../nn/decoder.js";
import { askFor } from "../nn/module.js";
import type { Source } from "../sources/source.js";
import { AdapterMethods } from "./adapter-methods.js";
import type { Users } from "./users.js";

const CHECKPOINTING = {
  /** No effect. */
  use_reentrant: flag(),
};

export abstract class TrainingMethods extends AdapterMethods {
  abstract readonly tp_size: number | undefined;

  protected abstract get users(): Users;

  /** `train(false)`. */
  eval(): this {
    return this.train(false);
  }

  /**
   * Dropout of adapters is at work in passes that gradients are taken of, or no longer. The model itself has no dropout, whatever its
   * config says.
   */
  train(mode = true): this {
    if (typeof mode !== "boolean") throw new OptionError(`train: mode must be true or false, got ${show(mode)}`);
    this.adapters?.train(mode);
    return this;
  }

  /**
   * All parameters that hold floats ask for gradients, adapters' too, or no longer do. Codes of 8 and 4 bits never do: adapters
   * are trained over them.
   * @throws OptionError, OctavoError for a model whose floats `tp_plan` cuts: adapters alone are trained over them
   */
  requires_grad_(on = true): this {
    if (typeof on !== "boolean") throw new OptionError(`requires_grad_: it takes true or false, got ${show(on)}`);
    this.checkUsable();
    askFor(this.parameters(), on);
    return this;
  }

  /** Frees the gradients of all parameters. */
  zero_grad(): void {
    for (const parameter of this.parameters()) if (parameter.grad) parameter.grad = undefined;
  }

  /**
   * Adds the gradients of a loss to the `grad` of every parameter that asks for one, and waits until they are there.
   * @param loss of `forward`, f32[1]; it stays the caller's
   * @returns its number
   * @throws OptionError, GradientError (as `backward` of tensors), and what went wrong on the device
   */
  async backward(loss: Tensor): Promise<number> {
    if (!Tensor.is(loss) || loss.size !== 1) {
      throw new OptionError(`backward: expected the loss, a Tensor of one number, got ${show(loss)}`, {
        hint: "const { loss } = model.forward({ ...inputs, labels })",
      });
    }
    loss.backward();
    return (await loss.readFloats())[0]!;
  }

  /** True between gradient_checkpointing_enable() and gradient_checkpointing_disable(). */
  get is_gradient_checkpointing(): boolean {
    return this.module.gradient_checkpointing;
  }

  /**
   * From now on, passes that gradients are taken of keep only the inputs of their blocks, which the backward pass computes once more
   * (Chen et al. 2016): the same numbers, in far less memory and a third more time. Models on several devices keep all.
   * @param gradient_checkpointing_kwargs taken for Python's sake: `use_reentrant` means nothing here
   * @throws OctavoError for any but causal language models, OptionError
   */
  gradient_checkpointing_enable(gradient_checkpointing_kwargs?: { readonly use_reentrant?: boolean } | null): void {
    this.checkUsable();
    readOptions("gradient_checkpointing_enable", CHECKPOINTING, gradient_checkpointing_kwargs ?? undefined);
    if (!(this.module instanceof CausalLM)) {
      throw new OctavoError("ERR_UNSUPPORTED", "gradient_checkpointing_enable is for causal language models");
    }
    this.module.gradient_checkpointing = true;
  }

  gradient_checkpointing_disable(): void {
    this.module.gradient_checkpointing = false;
  }

  /**
   * @throws OctavoError while something uses the model, after dispose(), if some of its weights are offloaded, and for one that `tp_plan`
   * cuts unless it has adapters
   */
  checkTrainable(): void {
    this.checkUsable();
    this.checkIdle("train");
    if (this.tp_size === undefined || this.adapters) return;
    throw new OctavoError(
      "ERR_UNSUPPORTED",
      "train: the matrices of a model that tp_plan cuts are trained by adapters alone",
      {
        hint: "model.add_adapter(new LoraConfig()), or load the model without tp_plan",
      },
    );
  }

  /**
   * Takes back what `saveInto` wrote, in place: of a model with adapters their values, else those of the parameters that ask for
   * gradients.
   * @param open opens the folder (""), or the folder of an adapter in it, by the adapter's name
   * @throws NotFoundError, FormatError, CheckpointError
   */
  async restore(open: (folder: string) => Promise<Source>): Promise<void> {
    if (!isFunction(open)) throw new OptionError(`restore: open must be a function, got ${show(open)}`);
    this.checkUsable();
    this.checkIdle("restore");
    const { adapters } = this;
    const architecture = this.adapterHost?.architecture;
    if (!architecture)
      throw new OctavoError("ERR_UNSUPPORTED", "restore needs a model that was loaded by from_pretrained");
    const from = async (folder: string, take: (source: Source) => Promise<void>): Promise<void> => {
      const source = await open(folder);
      if (!hasMethods(source, "names", "open", "close")) {
        throw new OptionError(`restore: open must give a Source, got ${show(source)}`);
      }
      try {
        await take(source);
      } finally {
        await source.close();
      }
    };
    await this.users.alone("restore", async () => {
      if (!adapters) {
        const { restoreModel } = await import("../load/restore.js");
        return from("", (source) => restoreModel(this.module, architecture, source));
      }
      const { restoreAdapter } = await import("../adapters/read.js");
      for (const name of adapters.names) {
        const folder = name === "default" ? "" : name;
        await from(folder, (source) => restoreAdapter(adapters, adapters.get(name), source));
      }
    });
  }
}

/** True for an object with these methods. */
export function hasMethods(value: unknown, ...names: readonly string[]): boolean {
  try {
    return typeof value === "object" && names.every((name) => isFunction((value as Record<string, unknown>)[name]));
  } catch {
    return false; // nothing with members, or with members that cannot be read
  }
}
