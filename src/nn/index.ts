// The exports of `import ... from "octavo/nn"` that need no file system.

export { no_grad } from "../ops/graph.js";
export { GELU, Identity, QuickGELU, ReLU, Sigmoid, SiLU, Tanh } from "./activations.js";
export { type Layer, ModuleList, Sequential } from "./containers.js";
export { check_finite, type NonFinite } from "./finite.js";
export type { FlashOptions, FlashVarlenOptions } from "./flash-attn.js";
export * as functional from "./functional.js";
export { manual_seed } from "./init.js";
export { Dropout, Embedding, LayerNorm, Linear, type LinearLayerOptions, RMSNorm } from "./layers.js";
export { Buffer, Matrix, Module, Parameter } from "./module.js";
export {
  build_alibi_tensor,
  build_falcon_alibi_tensor,
  build_mpt_alibi_tensor,
  ROPE_INIT_FUNCTIONS,
  type RopeInit,
  type RopeParameters,
  relative_position_bucket,
} from "./position-functions.js";
export type { SDPAOptions } from "./sdpa.js";
export { type Kernels, SDPBackend, sdp_kernel, sdpa_kernel } from "./sdpa-kernel.js";
export type { LoadedKeys, LoadStateOptions, State, StateTensor } from "./state.js";
export { type TextOptions, text } from "./tensor-text.js";
