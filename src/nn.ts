// The exports of `import ... from "octavo/nn"` in Node: the modules, and states in files.

export { load, save } from "./load/state-file.js";
export * from "./nn/index.js";
