// The planning functions in Node, which knows how much memory is free.

import { deviceMapFunctions, type FreeMemory } from "./index.js";

/** The memory that this process may still take; limits of its container count. */
export const nodeMemory: FreeMemory = () => ({ cpu: process.availableMemory() });

export const { get_max_memory, get_balanced_memory, infer_auto_device_map } = deviceMapFunctions(nodeMemory);
