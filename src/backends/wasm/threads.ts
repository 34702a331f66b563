// Threads of a WASM module: workers, each with an instance of its own on the memory that all share. A worker that comes
// late, or never, holds up nobody but the queue that is its own.

import type { WasmMemory, WasmModule } from "./api.js";

/** What a worker is told. Addresses are those of its stack's end and of its own variables. */
export interface ThreadStart {
  readonly module: WasmModule;
  readonly memory: WasmMemory;
  readonly thread: number;
  readonly stack: number;
  readonly tls: number;
}

/** What a worker says: a completion that is filled (its address), or why it ended. */
export type ThreadMessage = { readonly done: number } | { readonly broke: string };

export interface Thread {
  /** Whether the worker keeps the process alive; from the start it does not. */
  hold(on: boolean): void;
  terminate(): Promise<void>;
}

/** Makes a worker that runs `source` (THREAD_SOURCE) and hands it `start`. Errors of the worker are told as `broke`. */
export type StartThread = (source: string, start: ThreadStart, heard: (message: ThreadMessage) => void) => Thread;

/** All of a worker's script, for Node's workers and for those of browsers; as a module or not. */
export const THREAD_SOURCE = `"use strict";
function run({ module, memory, thread, stack, tls }, post) {
  let exports;
  try {
    const host = { now: () => performance.now(), done: (completion) => post({ done: completion }) };
    exports = new WebAssembly.Instance(module, { math: Math, env: { memory }, host }).exports;
    exports.__stack_pointer.value = stack;
    exports.__wasm_init_tls(tls);
    exports.enter(thread);
  } catch (error) {
    if (exports) exports.thread_broke();
    post({ broke: String((error && error.message) || error) });
  }
}
// Bun has "require" in Web Workers, too.
const node = typeof require === "function" ? require("node:worker_threads") : undefined;
if (node && node.workerData) {
  run(node.workerData, (message) => node.parentPort.postMessage(message));
} else {
  self.onmessage = ({ data }) => run(data, (message) => self.postMessage(message));
}
`;

interface WebWorker {
  onmessage: (event: { data: ThreadMessage }) => void;
  onerror: (event: { message?: string }) => void;
  postMessage(message: unknown): void;
  terminate(): void;
}

/** Starts Web Workers: from a script made on the spot or, where a page forbids that, from the URL of one with this text. */
export function webWorkers(url?: string | URL): StartThread {
  return (source, start, heard) => {
    const { Worker } = globalThis as unknown as {
      Worker: new (url: string | URL, options: { type: "module" }) => WebWorker;
    };
    const made = url === undefined ? URL.createObjectURL(new Blob([source], { type: "text/javascript" })) : undefined;
    // A module, though it imports nothing: Deno has no others.
    const worker = new Worker(url ?? made!, { type: "module" });
    worker.onmessage = ({ data }) => heard(data);
    worker.onerror = ({ message }) => heard({ broke: message ?? "the worker's script cannot be loaded" });
    worker.postMessage(start);
    return {
      hold: () => {},
      terminate: async () => {
        worker.terminate();
        if (made !== undefined) URL.revokeObjectURL(made);
      },
    };
  };
}
