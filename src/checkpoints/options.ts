// The options that choose among a model's weight files, for loading and for downloading.

import { flag, type Options, such } from "../core/options.js";
import { A_VARIANT, isVariant } from "./checkpoint.js";

/** Which of a model's weight files are read. */
export const WEIGHTS = {
  /**
   * Weights of another kind than the usual ones: "fp16" reads model.fp16.safetensors, model.safetensors.index.fp16.json,
   * pytorch_model.fp16.bin or its index.
   */
  variant: such<string>(isVariant, A_VARIANT, {
    value: "<name>",
    help: "weights of that kind: fp16 reads model.fp16.safetensors",
  }),
  /** True: only safetensors. False: only `.bin` files of PyTorch. By default safetensors where there are any. */
  use_safetensors: flag({
    hint: "leave it out to read safetensors where there are any, else .bin files",
    help: "read weights in safetensors only",
    help_off: "read weights in .bin files of PyTorch only",
  }),
  /**
   * Of a model with parts for each language (MMS): the language whose parts are read, by the code in the name of their file,
   * `adapter.fra.safetensors` or `.bin`; by default that of the weights themselves. The tokenizer takes the same option.
   */
  target_lang: such<string>(isVariant, 'a code such as "fra"'),
};

export interface WeightsOptions extends Options<typeof WEIGHTS> {}
