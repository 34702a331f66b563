// Threads of a WASM module: workers, each with its own instance on the shared memory. A worker that starts late or never
// delays only the queue that it runs.

import type { WasmMemory, WasmModule } from "./api.js";

/** The start message of a worker, with the addresses of its stack's end and of its thread-local variables. */
export interface ThreadStart {
  readonly module: WasmModule;
  readonly memory: WasmMemory;
  readonly thread: number;
  readonly stack: number;
  readonly tls: number;
}

/** A message of a worker: the address of a filled completion, or why the worker ended. */
export type ThreadMessage = { readonly done: number } | { readonly broke: string };

export interface Thread {
  /** Sets whether the worker keeps the process alive; at first it does not. */
  hold(on: boolean): void;
  terminate(): Promise<void>;
}

/** Starts a worker that runs `source` (THREAD_SOURCE) and sends it `start`. An error of the worker arrives as `broke`. */
export type StartThread = (source: string, start: ThreadStart, heard: (message: ThreadMessage) => void) => Thread;

/** The whole script of a worker, for Node and browsers, as a module or as a classic script. */
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
// Bun defines "require" in Web Workers too.
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

/** Starts Web Workers from a blob URL or, where the page's CSP forbids that, from a URL that holds the same script. */
export function webWorkers(url?: string | URL): StartThread {
  return (source, start, heard) => {
    const { Worker } = globalThis as unknown as {
      Worker: new (url: string | URL, options: { type: "module" }) => WebWorker;
    };
    const made = url === undefined ? URL.createObjectURL(new Blob([source], { type: "text/javascript" })) : undefined;
    // A module, because Deno has no classic workers.
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
