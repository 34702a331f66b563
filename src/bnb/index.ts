// The exports of `import ... from "octavo/bnb"`: bitsandbytes' modules, functions and optimizers.

export * from "./dtypes.js";
export * from "./functional-4bit.js";
export * from "./functional-affine.js";
export * from "./functional-blockwise.js";
export * from "./functional-int8.js";
export * from "./load-and-quantize.js";
export * from "./maps.js";
export * from "./modules.js";
export * as optim from "./optim/index.js";
export * from "./parameters.js";
export { QuantState, type QuantStateFields } from "./quant-state.js";
export * from "./replace.js";
