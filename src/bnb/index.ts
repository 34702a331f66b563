// The exports of `import ... from "octavo/bnb"`.

export * from "./load-and-quantize.js";
export * from "./modules.js";
export * from "./parameters.js";
export * from "./replace.js";
