// from_pretrained of models and tokenizers, for any platform: checks options, then finds and loads the model.

import { Device } from "../core/device.js";
import { type FloatName, parseDType } from "../core/dtype.js";
import { CheckpointError, NotFoundError, OptionError } from "../core/errors.js";
import { pick, readOptions } from "../core/options.js";
import { withParts } from "../core/part.js";
import { show } from "../core/show.js";
import type { Tensor } from "../core/tensor.js";
import type { SpreadModel } from "../load/fill.js";
import { type Loaded, type LoadOptions, loadModel } from "../load/index.js";
import { type MetaModel, metaModel, metaOf } from "../load/meta.js";
import { SOURCE, WEIGHTS } from "../load/options.js";
import { onAuto, type Platform, reopening } from "../load/platform.js";
import type { ConfigJson, Task } from "../nn/architecture.js";
import { DualModel } from "../nn/dual.js";
import { EncoderModel } from "../nn/encoder.js";
import type { Features, Logits } from "../nn/features.js";
import type { Model } from "../nn/model.js";
import type { Compute } from "../ops/linear.js";
import { BitsAndBytesConfig } from "../quant/config.js";
import { headScheme, type Quantization, quantizationOf } from "../quant/index.js";
import type { DownloadEvent, Source } from "../sources/source.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { loadTokenizer } from "../tokenizer/load.js";
import { LOAD_TOKENIZER } from "../tokenizer/options.js";
import type { LoadedModel } from "./base.js";
import type { PreTrainedClipModel } from "./clip-model.js";
import type { EncoderResults, PreTrainedEncoder } from "./encoder-model.js";
import type { PreTrainedFeatureModel } from "./feature-model.js";
import type { FeatureValues } from "./features.js";
import {
  FROM_CONFIG,
  FROM_PRETRAINED,
  type FromConfigOptions,
  type FromPretrainedOptions,
  QUANTIZED,
  TOKENIZER_FROM_PRETRAINED,
  type TokenizerOptions,
} from "./loading-options.js";
import { PreTrainedModel } from "./model.js";
import type { EncoderForwardOptions, FeatureForwardOptions } from "./options.js";
import { openParts } from "./parts.js";
import { attentionOf, boundFor, boundsOf, parallelOf, placeOf, spreadOf } from "./placing.js";
import type { PreTrainedSeq2SeqLM } from "./seq2seq-model.js";
import type { PreTrainedSpeechSeq2Seq } from "./speech-model.js";

export type { FromConfigOptions, FromPretrainedOptions, TokenizerOptions } from "./loading-options.js";

function askedQuantization(options: FromPretrainedOptions): Quantization | undefined {
  const { quantization_config: config, load_in_8bit, load_in_4bit } = options;
  const fields = pick(QUANTIZED, options);
  const [field] = Object.keys(fields);
  if (config === undefined) {
    if (load_in_8bit || load_in_4bit) return new BitsAndBytesConfig({ load_in_8bit, load_in_4bit, ...fields });
    if (field === undefined) return undefined;
    throw new OptionError(`${field} is for quantized linears`, {
      details: { option: field },
      hint: "add load_in_8bit: true or load_in_4bit: true",
    });
  }
  if (load_in_8bit !== undefined || load_in_4bit !== undefined || field !== undefined) {
    const names = field === undefined ? "load_in_4bit or load_in_8bit" : field;
    throw new OptionError(`${names} cannot be passed together with quantization_config`, {
      hint: "set it inside quantization_config",
    });
  }
  return quantizationOf(config);
}

/** How dense matrices are multiplied; undefined leaves it to the dtype. */
function computeOf(dtype: FloatName | undefined): Compute | undefined {
  return dtype === undefined ? undefined : parseDType(dtype) === "bf16" ? "bf16" : "f32";
}

/** A model without a head: of text, images or sound. Its class says what its forward takes. */
export interface PreTrainedBase extends LoadedModel<Model> {
  /** A call is a forward pass. */
  (
    inputs: EncoderForwardOptions | FeatureForwardOptions | FeatureValues,
  ): Features & Pick<EncoderResults["base"], "sentence_embedding"> & { hidden_states?: Tensor[] };
  /** The caller disposes all results. @throws what the forward of the model's class throws */
  forward(
    inputs: EncoderForwardOptions | FeatureForwardOptions | FeatureValues,
  ): Features & Pick<EncoderResults["base"], "sentence_embedding"> & { hidden_states?: Tensor[] };
}

const clip = () => import("./clip-model.js");
const encoder = () => import("./encoder-model.js");
const features = () => import("./feature-model.js");
const seq2seq = () => import("./seq2seq-model.js");

/** The return type of each task's from_pretrained. */
export interface TaskHolders {
  "causal-lm": PreTrainedModel;
  "seq2seq-lm": PreTrainedSeq2SeqLM;
  base: PreTrainedBase;
  "masked-lm": PreTrainedEncoder<"masked-lm">;
  "sequence-classification": PreTrainedEncoder<"sequence-classification">;
  "token-classification": PreTrainedEncoder<"token-classification">;
  "question-answering": PreTrainedEncoder<"question-answering">;
  "speech-seq2seq": PreTrainedSpeechSeq2Seq;
  ctc: PreTrainedFeatureModel<Logits>;
  "image-classification": PreTrainedFeatureModel<Logits>;
  "audio-classification": PreTrainedFeatureModel<Logits>;
  clip: PreTrainedClipModel;
}

type Holder<T extends Task> = (loaded: Loaded<T>, device: Device, ownsDevice: boolean) => Promise<TaskHolders[T]>;

/** The class that holds a model of a task; a program loads the classes of its models alone. */
const HOLDERS: { readonly [T in Task]: Holder<T> } = {
  "causal-lm": async (...parts) => new PreTrainedModel(...parts),
  "seq2seq-lm": async (...parts) => new (await seq2seq()).PreTrainedSeq2SeqLM(...parts),
  base: async (loaded, ...parts) => {
    const { model } = loaded;
    if (model instanceof DualModel) return new (await clip()).PreTrainedClipModel(loaded as never, ...parts) as never;
    const holder =
      model instanceof EncoderModel
        ? (await encoder()).PreTrainedEncoder<"base">
        : (await features()).PreTrainedFeatureModel<Features>;
    return new holder(loaded as never, ...parts) as PreTrainedBase;
  },
  "masked-lm": async (...parts) => new (await encoder()).PreTrainedEncoder(...parts),
  "sequence-classification": async (...parts) => new (await encoder()).PreTrainedEncoder(...parts),
  "token-classification": async (...parts) => new (await encoder()).PreTrainedEncoder(...parts),
  "question-answering": async (...parts) => new (await encoder()).PreTrainedEncoder(...parts),
  "speech-seq2seq": async (...parts) =>
    new (await seq2seq()).PreTrainedSeq2SeqLM(...parts) as unknown as PreTrainedSpeechSeq2Seq,
  ctc: async (...parts) => new (await features()).PreTrainedFeatureModel(...parts),
  "image-classification": async (...parts) => new (await features()).PreTrainedFeatureModel(...parts),
  "audio-classification": async (...parts) => new (await features()).PreTrainedFeatureModel(...parts),
  clip: async (...parts) => new (await clip()).PreTrainedClipModel(...parts),
};

/** Models without a head, whose kinds differ: the caller names a class whose forward is not that of PreTrainedBase. */
export interface AutoBaseModel {
  /** As `AutoClass.from_pretrained`. */
  from_pretrained<M extends LoadedModel<Model> = PreTrainedBase>(
    model: string | URL,
    options?: FromPretrainedOptions,
  ): Promise<M>;
  /** As `AutoClass.from_config`. */
  from_config(config: ConfigJson, options?: FromConfigOptions): Promise<MetaModel<"base">>;
}

export interface AutoClass<T extends Task = "causal-lm"> {
  /**
   * Loads a model for the class's task: from a folder, from a hub by its id (Node: through the Hugging Face cache), or from a
   * server by its folder's address (text or a URL; also file:). It is quantized while it is read.
   * @throws OptionError, NotFoundError, ConfigError, UnsupportedModelError, FormatError, CheckpointError, NetworkError,
   * OutOfMemoryError, DeviceError, AbortError
   */
  from_pretrained(model: string | URL, options?: FromPretrainedOptions): Promise<TaskHolders[T]>;
  /**
   * Declares the model of a config.json without weights: for plans of where it goes, and to be filled by
   * `load_checkpoint_and_dispatch`. Nothing is allocated on any device.
   * @throws OptionError, ConfigError, UnsupportedModelError
   */
  from_config(config: ConfigJson, options?: FromConfigOptions): Promise<MetaModel<T>>;
}

/**
 * `from_pretrained` of a task.
 * @param config instead of the folder's config.json
 */
export async function loadPretrained<T extends Task>(
  platform: Platform,
  task: T,
  which: unknown,
  given: unknown,
  config?: ConfigJson,
): Promise<TaskHolders[T]> {
  const model = nameOf(which);
  const options = readOptions("from_pretrained", FROM_PRETRAINED, given);
  const several = await severalOf(platform, options);
  const place = several ? undefined : placeOf(options);
  const bounds = several ? undefined : boundsOf(options.max_memory);
  for (const [option, value] of [
    ["threads", options.threads],
    ["max_memory", bounds],
  ] as const) {
    if (value === undefined || !Device.is(place)) continue;
    throw new OptionError(`${option} cannot be chosen for a device that is already open`, {
      details: { option },
      hint: `pass ${option === "threads" ? "threads" : "memory"} to openDevice() or requestDevice()`,
    });
  }
  const quantization = askedQuantization(options);
  const compute = computeOf(options.compute_dtype);
  const { progress_callback, signal } = options;
  const warnings: string[] = [];
  const warn = (message: string): void => {
    warnings.push(message);
    progress_callback?.({ ...NOTHING_READ, status: "warning", name: model, message });
  };
  const download =
    progress_callback &&
    ((event: DownloadEvent): void => {
      const progress = (100 * event.loaded) / (event.total || 1);
      progress_callback({ ...NOTHING_READ, ...event, status: "download", name: model, progress });
    });
  const source = await platform.source(model, { ...pick(SOURCE, options), signal, warn, download });
  const reopen = reopening(platform, model, source, options);
  const loading = {
    name: model,
    config,
    dtype: options.dtype ?? options.torch_dtype ?? "auto",
    quantization,
    compute,
    head: headScheme(options.head_dtype),
    attn_implementation: attentionOf(options),
    weights: pick(WEIGHTS, options),
    progress_callback,
    signal,
  };
  const hold = async (on: LoadOptions["device"], own: boolean): Promise<TaskHolders[T]> => {
    const loaded = await loadModel(source, task, { ...loading, device: on });
    const { spread } = loaded;
    try {
      const { source, folders, push } = platform;
      const origin = { name: model, config: loaded.config_text, reopen, source, folders, push };
      const all = { ...loaded, origin, warnings: [...warnings, ...loaded.warnings] };
      if (!platform.sparing) await openParts();
      const holder: Holder<T> = HOLDERS[task];
      return await holder(all, spread?.main ?? (on as Device), own);
    } catch (error) {
      loaded.model.dispose(); // whatever is refused now, its weights go
      await spread?.close();
      throw error;
    }
  };
  const load = async (on: typeof place): Promise<TaskHolders[T]> => {
    // `threads` applies to a CPU, if "auto" finds no GPU.
    const forGPU = place === "auto" && typeof on === "string" && on.startsWith("webgpu");
    const threads = forGPU ? undefined : options.threads;
    const own = typeof on !== "object" && (threads !== undefined || bounds !== undefined);
    const device =
      typeof on === "object"
        ? on
        : own
          ? await platform.requestDevice(on, { threads })
          : await platform.sharedDevice(on);
    try {
      if (bounds) device.limit(boundFor(bounds, device.name));
      return await hold(device, own);
    } catch (error) {
      if (own) await device.close();
      throw error;
    }
  };
  try {
    if (several) return await hold((prepared) => several(metaOf(prepared, task)), true);
    return await (place === "auto" ? onAuto(platform.chooseDevice, load) : load(place));
  } catch (error) {
    const base = config === undefined ? await baseOf(source, error, warn) : undefined;
    if (!base) throw error;
    const made = await loadPretrained(platform, task, base.name, { ...options, ...base.place });
    try {
      await withParts(async () => {
        await made.load_adapter(model, { ...pick(SOURCE, options), signal });
      });
    } catch (refused) {
      await made[Symbol.asyncDispose]();
      throw refused;
    }
    return made;
  } finally {
    await source.close();
  }
}

/**
 * The model that an adapter is for, if a folder without a model's files holds one.
 * @throws CheckpointError if its config names none, or an address: nothing that a file says makes a program ask a server
 */
async function baseOf(source: Source, error: unknown, warn: (message: string) => void) {
  if (!(error instanceof NotFoundError)) return undefined;
  const { ADAPTER_CONFIG, readConfig } = await import("../adapters/read.js");
  if (!(await source.names([ADAPTER_CONFIG])).has(ADAPTER_CONFIG)) return undefined;
  const { base_model_name_or_path: name, revision } = (await readConfig(source, warn)).fields;
  if (name !== null && name !== "" && !/^[a-z][a-z0-9+.-]*:/i.test(name)) {
    return { name, place: { revision: revision ?? undefined, subfolder: undefined } };
  }
  throw new CheckpointError(`${source.location} holds an adapter, whose base_model_name_or_path is ${show(name)}`, {
    details: { file: source.path(ADAPTER_CONFIG), key: "base_model_name_or_path" },
    hint: "load its model, and then model.load_adapter(folder)",
  });
}

export function autoModel<T extends Task>(platform: Platform, task: T): AutoClass<T> {
  return {
    from_pretrained: async (which, given = {}) => loadPretrained(platform, task, which, given),

    async from_config(config, given = {}) {
      const options = readOptions("from_config", FROM_CONFIG, given);
      const fields = configOf(config);
      const { attn_implementation } = options;
      return metaModel(attn_implementation === undefined ? fields : { ...fields, attn_implementation }, task, {
        dtype: options.dtype ?? options.torch_dtype ?? "auto",
        quantization: askedQuantization(options),
      });
    },
  };
}

/** What opens several devices for a declared model, if the options ask for them. @throws OptionError, DeviceError */
async function severalOf(
  platform: Platform,
  options: FromPretrainedOptions,
): Promise<((model: MetaModel) => Promise<SpreadModel>) | undefined> {
  const parallel = parallelOf(options);
  if (parallel) {
    if (platform.parallel) return (model) => platform.parallel!(model, parallel);
    throw new OptionError("tp_plan: there are no devices here to cut a model over", { details: { option: "tp_plan" } });
  }
  const spread = spreadOf(options);
  if (!spread || (spread.gpu && !(await hasGPU(platform)))) return undefined;
  const { Spread } = await import("../load/spread.js");
  return (model) => Spread.open(platform, model, spread);
}

/** True if numbers of devices are GPUs. @throws DeviceError if there is no device at all */
async function hasGPU(platform: Platform): Promise<boolean> {
  return (await platform.chooseDevice()).name.startsWith("webgpu");
}

/** A copy of a config that a caller gave: nothing of the caller's runs later. @throws OptionError for what is no object */
function configOf(config: unknown): ConfigJson {
  try {
    if (isObject(config)) return structuredClone(config) as ConfigJson;
  } catch (cause) {
    throw new OptionError("from_config: the config cannot be read", { cause });
  }
  throw new OptionError(`from_config: expected the fields of a config.json, got ${show(config)}`, {
    hint: "await AutoConfig.from_pretrained(name) reads one",
  });
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A model's name or address as text. @throws OptionError for what names no model */
export function nameOf(model: unknown): string {
  if (typeof model === "string") return model;
  try {
    if (model instanceof URL) return model.href;
  } catch {
    // a proxy, or made by hand without what a URL holds
  }
  throw new OptionError(`expected a model id such as "org/name" or a folder, got ${show(model)}`);
}

const NOTHING_READ = { file: "", tensor: "", loaded: 0, total: 0, progress: 0, bytes_per_second: 0 };

export interface AutoTokenizers {
  /**
   * Loads the tokenizer of a model, found as `AutoModelForCausalLM` finds the model.
   * @throws OptionError, NotFoundError, FormatError, UnsupportedModelError, NetworkError, AbortError
   */
  from_pretrained(model: string | URL, options?: TokenizerOptions): Promise<PreTrainedTokenizer>;
}

export function autoTokenizer(platform: Platform): AutoTokenizers {
  return {
    async from_pretrained(which, given = {}) {
      const model = nameOf(which);
      const options = readOptions("from_pretrained", TOKENIZER_FROM_PRETRAINED, given);
      const { signal } = options;
      const source = await platform.source(model, { ...pick(SOURCE, options), signal });
      const reopen = reopening(platform, model, source, options);
      try {
        return await loadTokenizer(source, pick(LOAD_TOKENIZER, options), {
          reopen,
          folders: platform.folders,
          sparing: platform.sparing,
        });
      } finally {
        await source.close();
      }
    },
  };
}
