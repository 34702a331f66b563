// The page's side of the Worker: sends calls to worker.ts. It imports no kernels, so it is small.

import { AbortError, DeviceError } from "../core/errors.js";
import type { ProgressEvent } from "../load/fill.js";
import {
  type CallName,
  type Calls,
  type FromWorker,
  revive,
  type ToWorker,
  type WorkerAdapter,
  type WorkerGenerateOptions,
  type WorkerLoadOptions,
  type WorkerMemory,
  type WorkerModel,
  type WorkerResult,
  type WorkerStep,
  type WorkerSurvey,
} from "./protocol.js";
import { isRelative, WEB } from "./web.js";

/** The members of a Worker that WorkerHost uses. */
export interface WorkerLike {
  postMessage(message: unknown): void;
  terminate(): void;
  addEventListener(type: "message", listener: (event: { data: unknown }) => void): void;
  addEventListener(type: "error", listener: (event: { message?: string }) => void): void;
}

interface Pending {
  resolve(result: unknown): void;
  reject(error: unknown): void;
  event?(event: unknown): void;
}

interface CallOptions<Name extends CallName> {
  signal?: AbortSignal;
  event?: (event: Calls[Name]["event"]) => void;
}

/** Resolves a relative address against the page, because bundlers move the Worker's script to other folders. */
function fromPage(model: string, hub: string | undefined): string {
  const base = WEB.location?.href;
  const relative = typeof model === "string" && hub === undefined && isRelative(model);
  return relative && base && URL.canParse(model, base) ? new URL(model, base).href : model;
}

/** A model in a Worker. Calls reject with the library's typed errors. */
export class WorkerHost {
  readonly #worker: WorkerLike;
  readonly #pending = new Map<number, Pending>();
  #next = 1;
  #dead: Error | undefined;

  /** @param worker one whose script calls `serve()` of "octavo/browser/worker" */
  constructor(worker: WorkerLike) {
    this.#worker = worker;
    worker.addEventListener("message", ({ data }) => this.#receive(data as FromWorker));
    worker.addEventListener("error", ({ message }) => {
      this.#end(
        new DeviceError(`the Worker failed: ${message || "its script cannot be loaded"}`, {
          hint: "is the Worker's script there, and was it started with { type: 'module' }?",
        }),
      );
    });
  }

  /** Loads a model; the model loaded before is disposed. */
  load(
    model: string,
    options: WorkerLoadOptions & { progress_callback?: (event: ProgressEvent) => void; signal?: AbortSignal } = {},
  ): Promise<WorkerModel> {
    const { progress_callback, signal, ...rest } = options;
    const call = { model: fromPage(model, rest.hub), options: rest };
    return this.#call("load", call, { signal, event: progress_callback });
  }

  /** The size of a model before it is loaded; reads only its config and the headers of its files. */
  survey(model: string, options: WorkerLoadOptions & { signal?: AbortSignal } = {}): Promise<WorkerSurvey> {
    const { signal, ...rest } = options;
    return this.#call("survey", { model: fromPage(model, rest.hub), options: rest }, { signal });
  }

  /** Continues a prompt; `step` gets each piece of text. */
  generate(
    options: WorkerGenerateOptions & { step?: (step: WorkerStep) => void; signal?: AbortSignal },
  ): Promise<WorkerResult> {
    const { step, signal, ...rest } = options;
    return this.#call("generate", rest, { signal, event: step });
  }

  memory(): Promise<WorkerMemory> {
    return this.#call("memory", undefined);
  }

  /** Features and limits of the Worker's WebGPU adapter. */
  adapter(): Promise<WorkerAdapter> {
    return this.#call("adapter", undefined);
  }

  cacheSize(): Promise<{ bytes: number; files: number }> {
    return this.#call("cacheSize", undefined);
  }

  clearCache(): Promise<undefined> {
    return this.#call("clearCache", undefined);
  }

  /** Frees the model; the Worker stays. */
  dispose(): Promise<undefined> {
    return this.#call("dispose", undefined);
  }

  /** Ends the Worker; pending calls reject with an AbortError. */
  terminate(): void {
    this.#end(new AbortError("the Worker was terminated"));
    this.#worker.terminate();
  }

  #call<Name extends CallName>(
    call: Name,
    args: Calls[Name]["args"],
    { signal, event }: CallOptions<Name> = {},
  ): Promise<Calls[Name]["result"]> {
    if (this.#dead) return Promise.reject(this.#dead);
    if (signal?.aborted) return Promise.reject(new AbortError(`${call} was aborted`, { cause: signal.reason }));
    const id = this.#next++;
    const abort = (): void => this.#worker.postMessage({ id, call: "abort" } satisfies ToWorker);
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#pending.set(id, { resolve, reject, event: event as Pending["event"] });
      this.#worker.postMessage({ id, call, args });
      signal?.addEventListener("abort", abort, { once: true });
    });
    return answer.finally(() => signal?.removeEventListener("abort", abort)) as Promise<Calls[Name]["result"]>;
  }

  #receive(message: FromWorker): void {
    const pending = this.#pending.get(message.id);
    if (!pending) return;
    if ("event" in message) {
      pending.event?.(message.event);
      return;
    }
    this.#pending.delete(message.id);
    if ("error" in message) pending.reject(revive(message.error));
    else pending.resolve(message.result);
  }

  #end(error: Error): void {
    this.#dead = error;
    for (const { reject } of this.#pending.values()) reject(error);
    this.#pending.clear();
  }
}
