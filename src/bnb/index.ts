// The exports of `import ... from "octavo/bnb"`: bitsandbytes' modules, functions and optimizers.

export * from "./dtypes.js";
export * from "./functional-4bit.js";
export * from "./functional-affine.js";
export * from "./functional-blockwise.js";
export * from "./functional-int8.js";
export { type LoadAndQuantizeOptions, load_and_quantize_model } from "./load-and-quantize.js";
export * from "./maps.js";
export {
  Embedding4bit,
  type Embedding4bitOptions,
  Embedding8bit,
  EmbeddingFP4,
  EmbeddingNF4,
  Linear4bit,
  type Linear4bitOptions,
  Linear8bitLt,
  type Linear8bitOptions,
  LinearFP4,
  LinearNF4,
  StableEmbedding,
} from "./modules.js";
export * as optim from "./optim/index.js";
export { Int8Params, Params4bit, type Params4bitOptions } from "./parameters.js";
export { QuantState, type QuantStateFields } from "./quant-state.js";
export { type Replaceable, type ReplaceOptions, replace_8bit_linear, replace_with_bnb_linear } from "./replace.js";
