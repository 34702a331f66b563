// pipeline(task, model): a model with all that stands around it, from plain inputs to plain results, with the names, inputs and
// outputs of transformers' pipelines.

import { isOf } from "../core/checks.js";
import type { Device } from "../core/device.js";
import { entriesOf, OptionError, suggestion } from "../core/errors.js";
import { type Options, omit, pick, readOptions, such, type Table, whole } from "../core/options.js";
import { listed as listedText, show } from "../core/show.js";
import { autoConfig } from "../generate/auto-config.js";
import { LoadedModel } from "../generate/base.js";
import { FROM_PRETRAINED, type FromPretrainedOptions } from "../generate/loading-options.js";
import { autoModel, autoTokenizer, nameOf } from "../generate/pretrained.js";
import { autoFeatureExtractor, autoImageProcessor } from "../generate/processors-auto.js";
import { isTokenizer } from "../generate/streamers.js";
import { SOURCE } from "../load/options.js";
import type { Platform } from "../load/platform.js";
import { FeatureExtractor } from "../media/feature-extractor.js";
import { ImageProcessor } from "../media/image-processor.js";
import type { ConfigJson, Task } from "../nn/architecture.js";
import { refuseKernels } from "../nn/kernel-choice.js";
import type { Model } from "../nn/model.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import {
  audioClassification,
  imageClassification,
  textClassification,
  zeroShotClassification,
  zeroShotImageClassification,
} from "./classify.js";
import { featureExtraction, imageFeatureExtraction, sentenceSimilarity } from "./features.js";
import { fillMask } from "./fill-mask.js";
import type { Kind, Need, Parts, Processors } from "./kinds.js";
import { questionAnswering } from "./question-answering.js";
import type { Pipelines, TaskName } from "./signatures.js";
import { speechRecognition } from "./speech.js";
import { textGeneration } from "./text-generation.js";
import { text2text } from "./text2text.js";
import { tokenClassification } from "./token-classification.js";

const KINDS: Readonly<Record<TaskName, Kind>> = {
  "text-generation": textGeneration,
  "text2text-generation": text2text("text2text-generation"),
  summarization: text2text("summarization"),
  translation: text2text("translation"),
  "fill-mask": fillMask,
  "text-classification": textClassification,
  "token-classification": tokenClassification,
  "question-answering": questionAnswering,
  "zero-shot-classification": zeroShotClassification,
  "feature-extraction": featureExtraction,
  "sentence-similarity": sentenceSimilarity,
  "image-classification": imageClassification,
  "zero-shot-image-classification": zeroShotImageClassification,
  "image-feature-extraction": imageFeatureExtraction,
  "automatic-speech-recognition": speechRecognition,
  "audio-classification": audioClassification,
};

/** Other names of tasks. */
const ALIASES: Readonly<Record<string, TaskName>> = {
  "sentiment-analysis": "text-classification",
  ner: "token-classification",
};

/** The names of all tasks. */
export const TASKS = Object.keys(KINDS) as readonly TaskName[];

const OWN = {
  /** The tokenizer, or where it is found; by default the model's folder. */
  tokenizer: such<PreTrainedTokenizer | string>(
    (value) => typeof value === "string" || isTokenizer(value),
    "a tokenizer, or the name of a folder",
  ),
  /** The processor of images, or where it is found. */
  image_processor: such<ImageProcessor | string>(
    (value) => typeof value === "string" || isOf(value, ImageProcessor),
    "an image processor, or the name of a folder",
  ),
  /** The processor of sound, or where it is found. */
  feature_extractor: such<FeatureExtractor | string>(
    (value) => typeof value === "string" || isOf(value, FeatureExtractor),
    "a feature extractor, or the name of a folder",
  ),
  /** Inputs of a list that go through the model together; 8 by default. They are sorted by length, and padding costs nothing. */
  batch_size: whole(1),
  /** More options of the model's from_pretrained. */
  model_kwargs: such<FromPretrainedOptions>((value) => typeof value === "object" && value !== null, "an object"),
};

/** Options of `pipeline` beside those of the task's calls. */
export interface PipelineOptions extends FromPretrainedOptions, Options<typeof OWN> {}

/** A pipeline that was opened: a function with its parts. */
export interface OpenPipeline extends AsyncDisposable {
  readonly task: string;
  readonly model: LoadedModel<Model>;
  /** The model's. */
  readonly device: Device;
  /** Frees the model, if the pipeline loaded it. */
  dispose(): void;
}

/** A pipeline's maker for a platform. */
export interface MakePipeline {
  /**
   * Opens a pipeline for a task.
   * @param task a task's name, as transformers has it; `translation_en_to_fr` names languages
   * @param model a folder, the id of a model, or a model that is loaded; then its processors must be given
   * @param options of from_pretrained, and of the task's calls: these are defaults of each call. The types of results follow what a
   * call is given, not these defaults.
   * @throws OptionError, and what from_pretrained throws
   */
  <T extends TaskName>(
    task: T,
    model: string | URL | LoadedModel<Model>,
    options?: PipelineOptions & Omit<Pipelines[T]["options"], keyof PipelineOptions>,
  ): Promise<Pipelines[T]["call"] & OpenPipeline>;
  (
    task: "sentiment-analysis",
    model: string | URL | LoadedModel<Model>,
    options?: PipelineOptions & Omit<Pipelines["text-classification"]["options"], keyof PipelineOptions>,
  ): Promise<Pipelines["text-classification"]["call"] & OpenPipeline>;
  (
    task: "ner",
    model: string | URL | LoadedModel<Model>,
    options?: PipelineOptions & Omit<Pipelines["token-classification"]["options"], keyof PipelineOptions>,
  ): Promise<Pipelines["token-classification"]["call"] & OpenPipeline>;
  (
    task: `translation_${string}`,
    model: string | URL | LoadedModel<Model>,
    options?: PipelineOptions & Omit<Pipelines["translation"]["options"], keyof PipelineOptions>,
  ): Promise<Pipelines["translation"]["call"] & OpenPipeline>;
}

/** The task of a name, or of one of its other names; undefined for none. */
export function kindNamed(task: unknown): Kind | undefined {
  if (typeof task !== "string") return undefined;
  const name = ALIASES[task] ?? task;
  if (Object.hasOwn(KINDS, name)) return KINDS[name as TaskName];
  return /^translation_\w+_to_\w+$/.test(name) ? text2text("translation", name) : undefined;
}

/** @throws OptionError naming the known tasks */
function kindOf(task: unknown): Kind {
  const found = kindNamed(task);
  if (found) return found;
  const near = typeof task === "string" ? suggestion(task, TASKS) : undefined;
  throw new OptionError(`pipeline: no task ${show(task)}${near ? `; did you mean "${near}"?` : ""}`, {
    details: { option: "task" },
    hint: `tasks: ${listedText(TASKS, TASKS.length)}`,
  });
}

/** @throws OptionError for a model of another kind, and for options that only a load takes */
function checkLoaded(model: LoadedModel<Model>, task: string, { models }: Kind, load: object): void {
  if (model.task !== undefined && !models.includes(model.task)) {
    throw new OptionError(`pipeline: ${task} takes a model for ${models.join(" or ")}, this one is for ${model.task}`);
  }
  const [option] = Object.keys(load);
  if (option === undefined) return;
  throw new OptionError(`pipeline: ${option} is for a model that is to be loaded; this one is loaded`, {
    details: { option },
  });
}

/** Which of the kind's model tasks a config asks for. */
function modelTask({ models }: Kind, config: ConfigJson): Task {
  const [first, ...others] = models;
  const named = (config.architectures as readonly string[] | undefined)?.[0] ?? "";
  return (
    others.find(
      (task) => task === "ctc" && (/ForCTC$/.test(named) || /^(wav2vec2|hubert)/.test(String(config.model_type))),
    ) ?? first!
  );
}

export function pipelineOf(platform: Platform): MakePipeline {
  const openers: { readonly [N in Need]: (name: string, options: object) => Promise<Processors[N]> } = {
    tokenizer: (name, options) => autoTokenizer(platform).from_pretrained(name, options),
    image_processor: (name, options) => autoImageProcessor(platform).from_pretrained(name, options),
    feature_extractor: (name, options) => autoFeatureExtractor(platform).from_pretrained(name, options),
  };

  const open = async (task: unknown, which: unknown, given: unknown = {}): Promise<unknown> => {
    const chosen = kindOf(task);
    const { calls, needs } = chosen;
    // Names that a call and from_pretrained share (signal, progress_callback) are from_pretrained's here.
    const table: Table = { ...calls, ...OWN, ...FROM_PRETRAINED };
    const all: Readonly<Record<string, unknown>> = readOptions("pipeline", table, given);
    const own = pick(OWN, all) as Options<typeof OWN>;
    const { model_kwargs, batch_size = 8 } = own;
    const load = {
      ...pick(FROM_PRETRAINED, all),
      ...Object.fromEntries(model_kwargs === undefined ? [] : entriesOf("model_kwargs", model_kwargs)),
    };
    const usual = pick(
      omit(
        calls,
        Object.keys(FROM_PRETRAINED).filter((name) => Object.hasOwn(calls, name)),
      ),
      all,
    );
    const loaded = LoadedModel.is(which) ? which : undefined;
    if (loaded) checkLoaded(loaded, String(task), chosen, load);
    const name = loaded ? undefined : nameOf(which);
    const place = pick(SOURCE, load);
    const found: Partial<Record<Need, unknown>> = {};
    for (const need of needs) {
      const value = own[need];
      if (value !== undefined && typeof value !== "string") {
        found[need] = value;
        continue;
      }
      const from = value ?? name;
      if (from === undefined) {
        throw new OptionError(`pipeline: a model that is loaded needs its ${need}`, {
          details: { option: need },
          hint: `pass ${need}`,
        });
      }
      // Another folder has other branches and subfolders.
      const elsewhere = omit(
        place as Table,
        ["revision", "subfolder"].filter((key) => Object.hasOwn(place, key)),
      );
      const { signal } = load as { signal?: AbortSignal };
      const at = value === undefined ? place : elsewhere;
      const { target_lang } = load as { target_lang?: string };
      const language = need === "tokenizer" && target_lang !== undefined ? { target_lang } : {};
      found[need] = await openers[need](from, { ...at, ...language, signal });
    }
    const model = loaded ?? (await loadFor(chosen, name!, load, place));
    const parts = { ...found, model, batch_size } as unknown as Parts;
    const call = async (inputs: unknown, options: unknown = {}): Promise<unknown> => {
      refuseKernels("pipeline", "call the model itself inside: pipe.model.generate({ ...inputs })");
      const asked = readOptions(String(task), { ...calls, batch_size: OWN.batch_size }, options) as Record<
        string,
        unknown
      >;
      const { batch_size: size = batch_size, ...rest } = asked;
      return chosen.run({ ...parts, batch_size: size as number } as never, inputs, { ...usual, ...rest });
    };
    const dispose = (): void => {
      if (!loaded) model.dispose();
    };
    return Object.assign(call, {
      ...found,
      task,
      model,
      device: model.device,
      dispose,
      [Symbol.asyncDispose]: async () => {
        if (!loaded) await model[Symbol.asyncDispose]();
      },
    });
  };

  const loadFor = async (chosen: Kind, name: string, load: object, place: object): Promise<LoadedModel<Model>> => {
    const several = chosen.models.length > 1;
    const config = several ? await autoConfig(platform).from_pretrained(name, place) : {};
    const model: object = await autoModel(platform, modelTask(chosen, config)).from_pretrained(name, load);
    return model as LoadedModel<Model>;
  };

  return open as MakePipeline;
}
