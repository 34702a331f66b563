// The Worker's side: answers a page's calls (client.ts). What needs the model is in held.ts, which comes when it is first asked for.
// The script of a Worker imports this file and calls `serve()`.

import { torchName } from "../core/dtype.js";
import { pick, readOptions } from "../core/options.js";
import { SOURCE, WEIGHTS } from "../load/options.js";
import { surveyModel } from "../load/survey.js";
import type { Apart, Context, Host } from "./held.js";
import { WORKER_LOAD } from "./options.js";
import { BROWSER, chooseDevice } from "./platform.js";
import {
  type CallName,
  type Calls,
  carry,
  type FromWorker,
  type ToWorker,
  type WorkerAdapter,
  type WorkerLoadOptions,
  type WorkerSurvey,
} from "./protocol.js";
import { cacheSize, clearCache } from "./storage.js";
import { WEB } from "./web.js";

/** The Worker's end of a message channel: its global object, or a port. */
export interface Port {
  postMessage(message: unknown): void;
  onmessage: ((event: { data: unknown }) => void) | null;
}

/** Answers calls from `port`; by default those of the page that started this Worker. */
export function serve(port: Port = globalThis as unknown as Port): void {
  const handlerOf = handlers();
  const running = new Map<number, AbortController>();
  port.onmessage = ({ data }) => {
    const message = data as ToWorker;
    if (message.call === "abort") {
      running.get(message.id)?.abort();
      return;
    }
    const { id, call, args } = message;
    const controller = new AbortController();
    running.set(id, controller);
    const send = (answer: FromWorker): void => port.postMessage(answer);
    const context = { signal: controller.signal, emit: (event: unknown) => send({ id, event }) };
    handlerOf(call)
      .then((handle) => handle(args, context))
      .then(
        (result) => send({ id, result }),
        (error: unknown) => send({ id, error: carry(error) }),
      )
      .finally(() => running.delete(id));
  };
}

/** Calls that need no model. */
const APART: {
  [Name in Apart]: (args: Calls[Name]["args"], context: Context<Name>) => Promise<Calls[Name]["result"]>;
} = {
  survey: ({ model, options }, { signal }) => survey(model, options, signal),
  adapter: describeAdapter,
  cacheSize,
  clearCache: async () => {
    await clearCache();
    return undefined;
  },
};

/** The name of a call determines both types; TypeScript cannot follow it through the message. */
type Handler = (args: unknown, context: unknown) => Promise<unknown>;

function handlers(): (call: CallName) => Promise<Handler> {
  let host: Promise<Host> | undefined;
  return async (call) => {
    if (Object.hasOwn(APART, call)) return APART[call as Apart] as Handler;
    host ??= import("./held.js").then(({ Host }) => new Host());
    // What a network did not give may be there the next time.
    host.catch(() => {
      host = undefined;
    });
    const { handlers } = await host;
    return handlers[call as Exclude<CallName, Apart>] as Handler;
  };
}

async function survey(model: string, given: WorkerLoadOptions, signal: AbortSignal): Promise<WorkerSurvey> {
  const options = readOptions("survey", WORKER_LOAD, given);
  const source = await BROWSER.source(model, { ...pick(SOURCE, options), signal });
  try {
    const { config: _, ...facts } = await surveyModel(source, {
      dtype: options.dtype,
      task: "causal-lm",
      weights: "required",
      files: pick(WEIGHTS, options),
    });
    return {
      model_type: facts.model_type,
      parameters: facts.parameters,
      dtype: torchName(facts.dtype),
      download_bytes: facts.files.reduce((sum, { bytes }) => sum + bytes, 0),
      sizes: Object.fromEntries(facts.sizes.map(({ name, bytes }) => [name, bytes])),
      cache_bytes_per_token: facts.cache_bytes_per_token,
      context: facts.context,
    };
  } finally {
    await source.close();
  }
}

/** Limits that determine the size of a model and the choice of kernels. */
const LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
] as const;

async function describeAdapter(): Promise<WorkerAdapter> {
  const choice = await chooseDevice();
  const gpu = WEB.navigator?.gpu;
  const adapter = await gpu?.requestAdapter({ powerPreference: "high-performance" });
  if (!gpu || !adapter) {
    return { available: false, reason: choice.reason, features: [], language: [], limits: {}, choice };
  }
  const { vendor, architecture, device, description, isFallbackAdapter } = adapter.info;
  return {
    available: true,
    name: description || [vendor, architecture, device].filter(Boolean).join(" ") || "unnamed adapter",
    fallback: isFallbackAdapter,
    features: [...adapter.features].sort(),
    language: [...gpu.wgslLanguageFeatures].sort(),
    limits: Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]])),
    choice,
  };
}
