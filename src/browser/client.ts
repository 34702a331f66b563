// The page's side of the Worker: sends calls to worker.ts. It imports no kernels, so it is small.

import type { Files } from "../checkpoints/folder-in-memory.js";
import { isFunction, isSignal } from "../core/checks.js";
import { AbortError, DeviceError, entriesOf, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { jsonSchemaOf } from "../generate/grammar/standard-schema.js";
import type { ProgressEvent } from "../load/fill.js";
import { refuseKernels } from "../nn/kernel-choice.js";
import {
  type CallName,
  type Calls,
  type FromWorker,
  revive,
  type ToWorker,
  type WorkerAdapter,
  type WorkerAdapters,
  type WorkerGenerateOptions,
  type WorkerLoadOptions,
  type WorkerMemory,
  type WorkerModel,
  type WorkerResult,
  type WorkerStep,
  type WorkerSurvey,
  type WorkerTrained,
  type WorkerTrainingStep,
  type WorkerTrainOptions,
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

/** What stays on the page of a generation. */
interface Watching {
  step?: (step: WorkerStep) => void;
  signal?: AbortSignal;
}

/** @throws OptionError for what is no Worker */
function checkWorker(worker: WorkerLike): void {
  try {
    const { postMessage, terminate, addEventListener } = worker;
    if ([postMessage, terminate, addEventListener].every((method) => typeof method === "function")) return;
  } catch {
    // Refused below: nothing with members, or with members that cannot be read.
  }
  throw new OptionError(`WorkerHost takes a Worker, got ${show(worker)}`, {
    hint: 'new Worker(new URL("./worker.js", import.meta.url), { type: "module" })',
  });
}

interface CallOptions<Name extends CallName> {
  signal?: AbortSignal;
  event?: (event: Calls[Name]["event"]) => void;
}

/** Resolves a relative address against the page, because bundlers move the Worker's script to other folders. */
function fromPage(model: string, hub: unknown): string {
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
    checkWorker(worker);
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
    return this.#with("load", options, "progress_callback", (rest) => ({
      model: fromPage(model, rest.hub),
      options: rest as WorkerLoadOptions,
    }));
  }

  /** The size of a model before it is loaded; reads only its config and the headers of its files. */
  survey(model: string, options: WorkerLoadOptions & { signal?: AbortSignal } = {}): Promise<WorkerSurvey> {
    return this.#with("survey", options, undefined, (rest) => ({
      model: fromPage(model, rest.hub),
      options: rest as WorkerLoadOptions,
    }));
  }

  /** Continues a prompt; `step` gets each piece of text. */
  generate(options: WorkerGenerateOptions & Watching): Promise<WorkerResult>;
  /** The same with the options after the prompt. */
  generate(prompt: string, options?: Omit<WorkerGenerateOptions, "prompt"> & Watching): Promise<WorkerResult>;
  generate(
    first: string | (WorkerGenerateOptions & Watching),
    second?: Omit<WorkerGenerateOptions, "prompt"> & Watching,
  ): Promise<WorkerResult> {
    const alone = typeof first !== "string";
    return this.#with("generate", (alone ? first : second) ?? {}, "step", (rest) => {
      refuseKernels("generate", "in a Worker of your own, call the model itself inside");
      if (alone ? second !== undefined : rest.prompt !== undefined) {
        throw new OptionError("generate takes one object, or a prompt and then an object without one", {
          hint: "generate({ prompt, max_new_tokens: 40 })",
        });
      }
      // A validator's schema has functions, which cannot be sent; its JSON Schema can.
      const schema = rest.json_schema === undefined ? {} : { json_schema: jsonSchemaOf(rest.json_schema) };
      return { ...rest, ...schema, ...(alone ? {} : { prompt: first }) } as unknown as WorkerGenerateOptions;
    });
  }

  /**
   * Learns an adapter from examples, as an SFTTrainer does; it works in the texts that follow. `step` hears of each update. A run that
   * fails or is aborted leaves the model as it was, but for an adapter that was there and has learned more.
   */
  train(
    options: WorkerTrainOptions & { step?: (step: WorkerTrainingStep) => void; signal?: AbortSignal },
  ): Promise<WorkerTrained> {
    return this.#with("train", options, "step", (rest) => rest as unknown as WorkerTrainOptions);
  }

  /** Loads an adapter: an id, an address, or the bytes of its files. It works in the texts that follow. */
  load_adapter(which: string | Files, adapter_name = "default"): Promise<WorkerAdapters> {
    const where = typeof which === "string" ? fromPage(which, undefined) : which;
    return this.#call("load_adapter", { which: where, adapter_name });
  }

  /** From now on these adapters work. */
  set_adapter(names: string | readonly string[]): Promise<WorkerAdapters> {
    return this.#call("set_adapter", names);
  }

  /** No adapter works until `enable_adapters`. */
  disable_adapters(): Promise<WorkerAdapters> {
    return this.#call("disable_adapters", undefined);
  }

  enable_adapters(): Promise<WorkerAdapters> {
    return this.#call("enable_adapters", undefined);
  }

  /** Takes adapters off the model and frees them. */
  delete_adapter(names: string | readonly string[]): Promise<WorkerAdapters> {
    return this.#call("delete_adapter", names);
  }

  /**
   * Makes a call whose options are each read once; the signal and the listener of its events stay on the page.
   * @param argsOf what is sent, from all other options
   */
  async #with<Name extends CallName>(
    call: Name,
    options: object,
    listener: string | undefined,
    argsOf: (rest: Record<string, unknown>) => Calls[Name]["args"],
  ): Promise<Calls[Name]["result"]> {
    const rest: Record<string, unknown> = Object.fromEntries(entriesOf(call, options));
    const { signal } = rest;
    const event = listener === undefined ? undefined : rest[listener];
    if (signal !== undefined && !isSignal(signal)) {
      throw new OptionError(`signal must be an AbortSignal, got ${show(signal)}`, { details: { option: "signal" } });
    }
    if (event !== undefined && !isFunction(event)) {
      throw new OptionError(`${listener} must be a function, got ${show(event)}`, { details: { option: listener } });
    }
    delete rest.signal;
    if (listener !== undefined) delete rest[listener];
    return this.#call(call, argsOf(rest), { signal, event: event as CallOptions<Name>["event"] });
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
      try {
        this.#worker.postMessage({ id, call, args });
      } catch (cause) {
        this.#pending.delete(id);
        throw new OptionError(`${call}: an option cannot be sent to the Worker`, {
          cause,
          hint: "functions, symbols and devices stay on the page",
        });
      }
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
