// What guides for Python use and Octavo does not have yet: one line for each name, with the sentence that says what is so
// here. Whoever builds one of them deletes its line.

import { OctavoError } from "../core/errors.js";

const SAVING = "checkpoints are read and quantized on each load, and cannot be saved yet";
const ADAPTERS = "adapters cannot be trained or loaded yet";
const NO_CLASSES = "models are loaded by their task: AutoModelForCausalLM.from_pretrained(name)";
const EIGHT_BIT = "linears are quantized while a model is loaded: from_pretrained(name, { load_in_8bit: true })";
const FUSED = "attention is always fused, in a kernel of its own, so there is nothing to convert or choose";

/** Methods of models. */
const METHODS = {
  save_pretrained: SAVING,
  push_to_hub: SAVING,
  add_adapter: ADAPTERS,
  load_adapter: ADAPTERS,
  to_bettertransformer: FUSED,
  reverse_bettertransformer: FUSED,
  gradient_checkpointing_enable: "models cannot be trained yet",
  resize_token_embeddings: "the embeddings have the size that the checkpoint gives them",
} as const;

/** Exports of the package. */
const EXPORTS = {
  pipeline:
    "a model and its tokenizer are used together: tokenizer.decode((await model.generate({ ...tokenizer(text) }))[0])",
  Linear8bitLt: EIGHT_BIT,
  Linear4bit: "linears are quantized while a model is loaded: from_pretrained(name, { load_in_4bit: true })",
  replace_8bit_linear: EIGHT_BIT,
  init_empty_weights: "a model that is declared allocates nothing, and from_pretrained fills it as it reads",
  sdp_kernel: FUSED,
  BetterTransformer: FUSED,
  LoraConfig: ADAPTERS,
  get_peft_model: ADAPTERS,
  prepare_model_for_kbit_training: ADAPTERS,
  Trainer: "models cannot be trained yet",
  TrainingArguments: "models cannot be trained yet",
  AutoModel: NO_CLASSES,
  BloomForCausalLM: NO_CLASSES,
  LlamaForCausalLM: NO_CLASSES,
  OPTForCausalLM: NO_CLASSES,
  T5ForConditionalGeneration: "models are loaded by their task: AutoModelForSeq2SeqLM.from_pretrained(name)",
} as const;

/** A name that only refuses, however it is used: called, made with `new`, or asked for a checkpoint. */
export interface Later {
  (...args: readonly unknown[]): never;
  new (...args: readonly unknown[]): never;
  from_pretrained(...args: readonly unknown[]): never;
}

function later(name: string, why: string): Later {
  // Declared, because `new` cannot call an arrow.
  function refuse(): never {
    throw new OctavoError("ERR_UNSUPPORTED", `${name} is not in Octavo: ${why}`, { details: { name } });
  }
  return Object.assign(refuse, { from_pretrained: refuse }) as unknown as Later;
}

function all<T extends Readonly<Record<string, string>>>(table: T): { readonly [Name in keyof T]: Later } {
  return Object.fromEntries(Object.entries(table).map(([name, why]) => [name, later(name, why)])) as {
    readonly [Name in keyof T]: Later;
  };
}

type Methods = { readonly [Name in keyof typeof METHODS]: (...args: readonly unknown[]) => never };

/** A class whose methods are those that models do not have yet. */
export const LaterMethods = /* @__PURE__ */ (() => {
  class Base {}
  for (const [name, why] of Object.entries(METHODS)) {
    Object.defineProperty(Base.prototype, name, {
      value: later(`model.${name}`, why),
      configurable: true,
      writable: true,
    });
  }
  return Base as new () => Methods;
})();

export const {
  pipeline,
  Linear8bitLt,
  Linear4bit,
  replace_8bit_linear,
  init_empty_weights,
  sdp_kernel,
  BetterTransformer,
  LoraConfig,
  get_peft_model,
  prepare_model_for_kbit_training,
  Trainer,
  TrainingArguments,
  AutoModel,
  BloomForCausalLM,
  LlamaForCausalLM,
  OPTForCausalLM,
  T5ForConditionalGeneration,
} = /* @__PURE__ */ all(EXPORTS);
