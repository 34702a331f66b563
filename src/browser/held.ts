// The model that a Worker holds: what the calls do that load it, and use it. A chunk of its own, which a page does not load before its visitor
// asks for a model.

import type { Device } from "../core/device.js";
import { torchName } from "../core/dtype.js";
import { OptionError, throwIfAborted } from "../core/errors.js";
import { pick, readOptions } from "../core/options.js";
import { withParts } from "../core/part.js";
import { Turns } from "../core/turns.js";
import type { PreTrainedModel } from "../generate/model.js";
import { autoModel, autoTokenizer } from "../generate/pretrained.js";
import { SOURCE } from "../load/options.js";
import { onOwnDevice, type Platform } from "../load/platform.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { WORKER_GENERATE, WORKER_TRAIN } from "./call-options.js";
import { WORKER_LOAD } from "./options.js";
import { BROWSER } from "./platform.js";
import type {
  CallName,
  Calls,
  WorkerAdapters,
  WorkerGenerateOptions,
  WorkerLoadOptions,
  WorkerMemory,
  WorkerModel,
  WorkerResult,
  WorkerTrained,
  WorkerTrainOptions,
} from "./protocol.js";

/** Milliseconds after which the loop yields to messages such as an abort: a WASM device never yields by itself. */
const TURN_MS = 30;

/** What a page does not ask for is not loaded. */
const HERE: Platform = { ...BROWSER, sparing: true };

interface Held {
  readonly device: Device;
  readonly model: PreTrainedModel;
  readonly tokenizer: PreTrainedTokenizer;
}

/** What a call is given beside its arguments. */
export interface Context<Name extends CallName> {
  readonly signal: AbortSignal;
  emit(event: Calls[Name]["event"]): void;
}

/** Calls that need the model, and those that do not. */
export type Apart = "survey" | "adapter" | "cacheSize" | "clearCache";

type Handlers = {
  [Name in Exclude<CallName, Apart>]: (
    args: Calls[Name]["args"],
    context: Context<Name>,
  ) => Promise<Calls[Name]["result"]>;
};

/** Holds one model; a load disposes the model before it. */
export class Host {
  #held: Held | undefined;
  /** Loads, unloads and generations happen one after the other. */
  #last: Promise<unknown> = Promise.resolve();

  readonly handlers: Handlers = {
    load: ({ model, options }, context) => this.#inTurn(() => this.#load(model, options, context)),
    generate: (options, context) => this.#inTurn(() => this.#generate(options, context)),
    dispose: () => this.#inTurn(() => this.#dispose()),
    train: (options, context) => this.#inTurn(() => this.#train(options, context)),
    // It may learn more: that costs nothing before it does.
    load_adapter: ({ which, adapter_name }) =>
      this.#adapters((model) => model.load_adapter(which, adapter_name, { is_trainable: true })),
    set_adapter: (names) => this.#adapters((model) => model.set_adapter(names)),
    disable_adapters: () => this.#adapters((model) => model.disable_adapters()),
    enable_adapters: () => this.#adapters((model) => model.enable_adapters()),
    delete_adapter: (names) => this.#adapters((model) => model.delete_adapter(names)),
    memory: async () => memoryOf(this.#holding()),
  };

  #inTurn<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => {});
    return result;
  }

  /** @throws OptionError */
  #holding(): Held {
    if (this.#held) return this.#held;
    throw new OptionError("no model is loaded in this Worker", { hint: "call load() first" });
  }

  async #dispose(): Promise<undefined> {
    const held = this.#held;
    this.#held = undefined;
    try {
      await held?.model[Symbol.asyncDispose]();
    } finally {
      await held?.device.close();
    }
    return undefined;
  }

  async #load(name: string, given: WorkerLoadOptions, { signal, emit }: Context<"load">): Promise<WorkerModel> {
    await this.#dispose();
    const begin = performance.now();
    const { device: wanted = "auto", wasm, threads, ...rest } = readOptions("load", WORKER_LOAD, given);
    let network = 0;
    const held = await onOwnDevice(BROWSER, wanted, { wasm, threads }, async (device) => {
      const tokenizer = await autoTokenizer(HERE).from_pretrained(name, { ...pick(SOURCE, rest), signal });
      const model = await autoModel(HERE, "causal-lm").from_pretrained(name, {
        ...rest,
        device,
        signal,
        progress_callback: (event) => {
          network = event.network ?? network;
          emit(event);
        },
      });
      return { device, model, tokenizer };
    });
    this.#held = held;
    const { device, model } = held;
    return {
      device: device.name,
      description: device.backend.description,
      reason: device.reason,
      model_type: String(model.config.model_type),
      dtype: torchName(model.dtype),
      checkpoint_bytes: model.checkpoint_bytes,
      network_bytes: network,
      seconds: (performance.now() - begin) / 1000,
      warnings: model.warnings,
      memory: memoryOf(held),
    };
  }

  async #train(given: WorkerTrainOptions, { signal, emit }: Context<"train">): Promise<WorkerTrained> {
    throwIfAborted(signal, "training");
    const options = readOptions("train", WORKER_TRAIN, given);
    const { train_dataset } = options;
    if (train_dataset === undefined)
      throw new OptionError("train: the train_dataset is missing", { details: { option: "train_dataset" } });
    const held = this.#holding();
    const { trainAdapter } = await import("./training.js");
    return trainAdapter(held, { ...options, train_dataset }, { signal, emit, memory: () => memoryOf(held) });
  }

  #adapters(change: (model: PreTrainedModel) => unknown): Promise<WorkerAdapters> {
    return this.#inTurn(async () => {
      const { model } = this.#holding();
      await withParts(() => change(model));
      const { adapters } = model;
      const { active = [], enabled = true } = adapters?.choice ?? {};
      return { names: adapters?.names ?? [], active: enabled ? [...active] : [] };
    });
  }

  async #generate(given: WorkerGenerateOptions, context: Context<"generate">): Promise<WorkerResult> {
    return await this.#run(given, context);
  }

  async #run(given: WorkerGenerateOptions, { signal, emit }: Context<"generate">): Promise<WorkerResult> {
    throwIfAborted(signal, "generation");
    const { prompt, ...options } = readOptions("generate", WORKER_GENERATE, given);
    if (prompt === undefined)
      throw new OptionError("generate: the prompt is missing", { details: { option: "prompt" } });
    if ((options.num_return_sequences ?? 1) > 1) {
      throw new OptionError("generate: a Worker gives one text", { details: { option: "num_return_sequences" } });
    }
    const held = this.#holding();
    const { model, tokenizer, device } = held;
    const begin = performance.now();
    const { input_ids } = tokenizer(prompt);
    device.arena.resetPeak();
    const token_ids: number[] = [];
    let text = "";
    const inputs = { input_ids: [input_ids], ...options };
    const steps = await withParts(() => model.stream({ ...inputs, num_return_sequences: 1, tokenizer, signal }));
    let memory = memoryOf(held);
    let first = 0;
    const turns = new Turns("generate", signal, TURN_MS);
    for await (const step of steps) {
      if (token_ids.length === 0) first = performance.now();
      token_ids.push(step.token_ids[0]!);
      text += step.text;
      memory = memoryOf(held);
      emit({ text: step.text, tokens: token_ids.length, memory });
      if (turns.due) await turns.take();
    }
    const end = performance.now();
    return {
      text,
      token_ids,
      prompt_tokens: input_ids.length,
      first_token_seconds: (first - begin) / 1000,
      decode_seconds: (end - first) / 1000,
      memory: { ...memory, peak: device.memory.peak },
    };
  }
}

function memoryOf({ device, model }: Held): WorkerMemory {
  const { live, peak, budget } = device.memory;
  return { weights: model.weight_bytes, cache: model.cache_bytes, live, peak, budget };
}
