// PEFT's own names: PeftModel, get_peft_model and prepare_model_for_kbit_training. What they give is the model itself, whose methods
// (adapter-methods.ts) are those of a PeftModel.

import {
  type AnyLoraConfig,
  type Decomposing,
  type DrawnLora,
  type LoraOptions,
  loraConfig,
  type TaskType,
} from "../adapters/config.js";
import { OptionError } from "../core/errors.js";
import { flag, type Options, readOptions, such } from "../core/options.js";
import { show } from "../core/show.js";
import type { Model } from "../nn/model.js";
import type { LoadAdapterOptions } from "./adapter-options.js";
import { LoadedModel } from "./base.js";

/** Heads that are trained and saved with an adapter, as they have no trained values yet. */
const HEADS: { readonly [T in TaskType]?: readonly string[] } = {
  SEQ_CLS: ["classifier", "score"],
  TOKEN_CLS: ["classifier", "score"],
  QUESTION_ANS: ["qa_outputs"],
};

/** @throws OptionError for what is no loaded model */
function loaded<M extends LoadedModel<Model>>(call: string, model: M): M {
  if (LoadedModel.is(model)) return model;
  throw new OptionError(`${call}: expected a model, got ${show(model)}`, {
    hint: "await AutoModelForCausalLM.from_pretrained(name)",
  });
}

/** Models with adapters. */
export class PeftModel {
  /** @throws OptionError: users get theirs from from_pretrained or get_peft_model */
  constructor(..._: readonly unknown[]) {
    throw new OptionError("a PeftModel is not made by its constructor", {
      hint: "await PeftModel.from_pretrained(model, folder), or get_peft_model(model, config)",
    });
  }

  /** Models that got their adapters from PeftModel or get_peft_model are instances. */
  static [Symbol.hasInstance](value: unknown): boolean {
    return LoadedModel.is(value) && value.isPeft;
  }

  /**
   * Puts an adapter on a model: model.load_adapter. The result is the model itself.
   * @param options `is_trainable` and `adapter_name` among them
   * @throws as load_adapter
   */
  static async from_pretrained<M extends LoadedModel<Model>>(
    model: M,
    which: string | URL,
    options: LoadAdapterOptions = {},
  ): Promise<M> {
    const base = loaded("PeftModel.from_pretrained", model);
    await base.load_adapter(which, options);
    return base.asPeft();
  }
}

const GET_PEFT = {
  /** What the adapter is called (default: "default"). */
  adapter_name: such<string>((value) => typeof value === "string", "a name"),
};

/**
 * Adds a new adapter to a model, to be trained. Heads of classifiers are trained with it, as the config's `task_type` says. The result
 * is the model itself; a promise of it where first values are parts of the weights ("pissa", "olora", "loftq").
 * @throws as model.add_adapter
 */
export function get_peft_model<M extends LoadedModel<Model>>(
  model: M,
  config: DrawnLora,
  options?: Options<typeof GET_PEFT> | string,
): M;
export function get_peft_model<M extends LoadedModel<Model>>(
  model: M,
  config: Decomposing,
  options?: Options<typeof GET_PEFT> | string,
): Promise<M>;
export function get_peft_model<M extends LoadedModel<Model>>(
  model: M,
  config: AnyLoraConfig | LoraOptions,
  options?: Options<typeof GET_PEFT> | string,
): M | Promise<M>;
export function get_peft_model<M extends LoadedModel<Model>>(
  model: M,
  config: AnyLoraConfig | LoraOptions,
  options: Options<typeof GET_PEFT> | string = {},
): M | Promise<M> {
  const base = loaded("get_peft_model", model);
  const name = typeof options === "string" ? options : readOptions("get_peft_model", GET_PEFT, options).adapter_name;
  const read = loraConfig("get_peft_model", config);
  const { task_type, modules_to_save } = read.fields;
  const heads = (task_type && HEADS[task_type]) ?? [];
  const saved = [...new Set([...(modules_to_save ?? []), ...heads])];
  const whole = saved.length > 0 ? read.with({ modules_to_save: saved }) : read;
  const added = base.add_adapter(whole, name ?? "default");
  return added instanceof Promise ? added.then((one) => one.asPeft()) : added.asPeft();
}

const KBIT = {
  /** Call gradient_checkpointing_enable() as well (default: false; PEFT's is true). */
  use_gradient_checkpointing: flag(),
  /** What that takes. */
  gradient_checkpointing_kwargs: such<{ readonly use_reentrant?: boolean } | null>(
    (value) => typeof value === "object",
    "an object or null",
  ),
};

/**
 * The model itself: nothing in it asks for gradients, and what is in 16 bits needs no copy in 32, as sums are f32 anyway.
 * @throws OptionError, OctavoError (gradient_checkpointing_enable)
 */
export function prepare_model_for_kbit_training<M extends LoadedModel<Model>>(
  model: M,
  options: Options<typeof KBIT> = {},
): M {
  const given = readOptions("prepare_model_for_kbit_training", KBIT, options);
  const base = loaded("prepare_model_for_kbit_training", model);
  if (given.use_gradient_checkpointing) base.gradient_checkpointing_enable(given.gradient_checkpointing_kwargs);
  return base;
}
