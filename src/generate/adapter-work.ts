// What the methods of models that are about adapters call, as one part that comes when it is needed (parts.ts).

export { disposeAdapter } from "../adapters/adapter.js";
export { loraConfig } from "../adapters/config.js";
export { firstsOf } from "../adapters/decompose.js";
export { isDecomposition } from "../adapters/first-values.js";
export { Merging } from "../adapters/merge.js";
export { readAdapter } from "../adapters/read.js";
export { Adapters, adapterName, noAdapters } from "../adapters/set.js";
export { addWeighted } from "../adapters/weighted.js";
export { adapterState, checkTables } from "../adapters/write.js";
export { filesOf, sourceInMemory } from "../checkpoints/folder-in-memory.js";
