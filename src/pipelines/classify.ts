// Labels with scores: texts, pairs of texts, images, and labels that the caller names.

import { isList } from "../core/checks.js";
import { FormatError, OptionError, ShapeError } from "../core/errors.js";
import { choice, flag, type Options, such, text } from "../core/options.js";
import { show } from "../core/show.js";
import type { PreTrainedClipModel } from "../generate/clip-model.js";
import type { PreTrainedEncoder } from "../generate/encoder-model.js";
import type { PreTrainedFeatureModel } from "../generate/feature-model.js";
import { softmax } from "../generate/processors/host/base.js";
import { warnOnce } from "../generate/warn.js";
import { hasChannels } from "../media/feature-extractor.js";
import type { ImageInput } from "../media/image-processor.js";
import type { ConfigJson } from "../nn/architecture.js";
import type { Logits } from "../nn/features.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { formatOf } from "../tokenizer/chat/formats.js";
import { Budget } from "../tokenizer/chat/limits.js";
import {
  asText,
  inBatches,
  isText,
  isTexts,
  kind,
  listed,
  type Parts,
  soundsOf,
  TOKENIZER_CALL,
  topK,
  valuesOf,
} from "./kinds.js";

/** A label and how sure the model is of it. */
export interface Label {
  readonly label: string;
  readonly score: number;
}

/** A text, or a pair of texts. */
export type TextInput = string | { readonly text: string; readonly text_pair?: string };

const FUNCTIONS = ["default", "softmax", "sigmoid", "none"] as const;
const { truncation, max_length } = TOKENIZER_CALL;

const CLASSIFY = {
  /** The best so many labels, or all for null; by default the best one of a text, and five of an image. */
  top_k: topK(),
  /** From logits to scores; by default what the model's config says: softmax, or sigmoid for several labels at once. */
  function_to_apply: choice(FUNCTIONS),
};

const AUDIO = {
  /** The best so many labels; all for null and by default, as in transformers 5. */
  top_k: topK(),
  /** From logits to scores; softmax by default, whatever the model's config says. */
  function_to_apply: choice(["softmax", "sigmoid", "none"]),
};
const TEXTS = { ...CLASSIFY, truncation, max_length };
export interface TextClassificationOptions extends Options<typeof TEXTS> {}
export interface AudioClassificationOptions extends Options<typeof AUDIO> {}
export interface ImageClassificationOptions extends Options<typeof CLASSIFY> {}

/** The name of a label. */
export function labelOf(config: ConfigJson, n: number): string {
  const names = config.id2label as Readonly<Record<string, unknown>> | undefined;
  const name = names?.[n];
  return typeof name === "string" ? name : `LABEL_${n}`;
}

function scored(logits: Float32Array, config: ConfigJson, given: (typeof FUNCTIONS)[number] = "default"): number[] {
  const { problem_type } = config;
  const byConfig =
    problem_type === "regression"
      ? "none"
      : problem_type === "multi_label_classification" || logits.length === 1
        ? "sigmoid"
        : "softmax";
  switch (given === "default" ? byConfig : given) {
    case "softmax":
      return [...softmax(logits)];
    case "sigmoid":
      return Array.from(logits, (logit) => 1 / (1 + Math.exp(-logit)));
    default:
      return [...logits];
  }
}

/** Labels of scores, the best first. */
function ranked(scores: readonly number[], config: ConfigJson, top_k: number | null): Label[] {
  const labels = scores.map((score, n) => ({ label: labelOf(config, n), score }));
  labels.sort((a, b) => b.score - a.score);
  return top_k === null ? labels : labels.slice(0, top_k);
}

function asInput(value: unknown): TextInput | undefined {
  if (isText(value)) return value;
  const { text, text_pair } = value as { text?: unknown; text_pair?: unknown };
  if (!isText(text)) return undefined;
  if (text_pair === undefined) return { text };
  return isText(text_pair) ? { text, text_pair } : undefined;
}

/** Rows of logits of texts or pairs. */
async function logitsOf(
  { model, tokenizer }: { model: PreTrainedEncoder<"sequence-classification">; tokenizer: PreTrainedTokenizer },
  batch: readonly TextInput[],
  how: Options<Pick<typeof TOKENIZER_CALL, "truncation" | "max_length">>,
): Promise<Float32Array[]> {
  const rows = batch.map((input) => (isText(input) ? { text: input } : input));
  const paired = rows.some(({ text_pair }) => text_pair !== undefined);
  if (paired && !rows.every(({ text_pair }) => text_pair !== undefined)) {
    throw new OptionError("either all inputs of a list have a text_pair, or none");
  }
  const { input_ids, attention_mask, token_type_ids } = tokenizer(
    rows.map(({ text }) => text),
    { padding: true, ...how, ...(paired ? { text_pair: rows.map(({ text_pair }) => text_pair!) } : {}) },
  );
  const { logits } = await valuesOf(model.forward({ input_ids, attention_mask, token_type_ids }), "logits");
  const labels = logits.shape[1]!;
  return batch.map((_, row) => logits.values.subarray(row * labels, (row + 1) * labels));
}

export const textClassification = kind({
  models: ["sequence-classification"],
  needs: ["tokenizer"],
  calls: TEXTS,
  async run(parts: Parts<PreTrainedEncoder<"sequence-classification">>, inputs, options) {
    const { top_k, function_to_apply, ...how } = options;
    const { items, many } = listed(inputs, asInput, "a text, or { text, text_pair }");
    const { config } = parts.model;
    const length = (one: TextInput): number => (isText(one) ? one : one.text + (one.text_pair ?? "")).length;
    const found = await inBatches(items, parts.batch_size, length, async (batch) =>
      (await logitsOf(parts, batch, how)).map((logits) =>
        ranked(scored(logits, config, function_to_apply), config, top_k === undefined ? 1 : top_k),
      ),
    );
    // As in Python: without top_k a list gives one label for each text, and a pair its label alone.
    if (top_k !== undefined) return many ? found : found[0];
    return many ? found.map(([best]) => best) : isText(items[0]) ? found[0] : found[0]![0];
  },
});

export const imageClassification = kind({
  models: ["image-classification"],
  needs: ["image_processor"],
  calls: CLASSIFY,
  async run(parts: Parts<PreTrainedFeatureModel<Logits>>, inputs, { top_k, function_to_apply }) {
    const { items, many } = imagesOf(inputs);
    const { model, image_processor } = parts;
    const found = await inBatches(
      items,
      parts.batch_size,
      () => 0,
      async (batch) => {
        const pixels = await image_processor.run(batch, {});
        const { logits } = await valuesOf(model.forward(pixels), "logits");
        const labels = logits.shape[1]!;
        return batch.map((_, row) => {
          const own = logits.values.subarray(row * labels, (row + 1) * labels);
          return ranked(scored(own, model.config, function_to_apply), model.config, top_k === undefined ? 5 : top_k);
        });
      },
    );
    return many ? found : found[0];
  },
});

export const audioClassification = kind({
  models: ["audio-classification"],
  needs: ["feature_extractor"],
  calls: AUDIO,
  async run(parts: Parts<PreTrainedFeatureModel<Logits>>, inputs, { top_k = null, function_to_apply = "softmax" }) {
    const { items, many } = soundsOf(inputs);
    const { model, feature_extractor } = parts;
    const sounds: Float32Array[] = [];
    for (const item of items) {
      if (hasChannels(item)) throw new ShapeError("audio-classification hears one channel");
      sounds.push(await feature_extractor.samples(item));
    }
    const found: Label[][] = [];
    // One at a time: models without a mask hear the silence that padding is.
    for (const sound of sounds) {
      const { logits } = await valuesOf(model.forward(await feature_extractor.run(sound)), "logits");
      const scores = scored(logits.values, model.config, function_to_apply);
      found.push(ranked(scores, model.config, top_k));
    }
    return many ? found : found[0];
  },
});

/** One image or several. @throws OptionError */
export function imagesOf(inputs: unknown): { items: readonly ImageInput[]; many: boolean } {
  const asImage = (value: unknown): ImageInput | undefined =>
    isText(value) || (typeof value === "object" && value !== null && !isList(value))
      ? (value as ImageInput)
      : undefined;
  return listed(inputs, asImage, "an image, or its file");
}

const LABELS = {
  /** The labels: a list, or text with commas between them. */
  candidate_labels: such<string | readonly string[]>(
    (value) => (isText(value) && value !== "") || isTexts(value, 1),
    "a list of labels, or text with commas between them",
  ),
  /** The sentence that is tried with each label in place of its {}. */
  hypothesis_template: text(),
};
const ZERO_SHOT = {
  ...LABELS,
  /** Labels do not exclude each other: each has a score of its own. */
  multi_label: flag(),
  truncation,
  max_length,
};
export interface ZeroShotOptions extends Options<typeof ZERO_SHOT> {}
export interface ZeroShotImageOptions extends Options<typeof LABELS> {}

/** The labels of a text, the best first, as transformers gives them. */
export interface ZeroShotLabels {
  readonly sequence: string;
  readonly labels: readonly string[];
  readonly scores: readonly number[];
}

/** Sentences about the labels. @throws OptionError */
function hypotheses(
  { candidate_labels: given, hypothesis_template: template }: ZeroShotImageOptions,
  usual: string,
): { labels: readonly string[]; sentences: readonly string[] } {
  const labels = (isText(given) ? given.split(",").map((label) => label.trim()) : [...(given ?? [])]).filter(Boolean);
  if (labels.length === 0) {
    throw new OptionError("candidate_labels are needed", { details: { option: "candidate_labels" } });
  }
  const sentence = template ?? usual;
  return { labels, sentences: labels.map((label) => hypothesis(sentence, label)) };
}

/** Python's format() with one value. @throws OptionError for a template that has no place for it, or for others */
function hypothesis(template: string, label: string): string {
  try {
    const text = formatOf(template, { args: [label], named: new Map() }, new Budget(1));
    if (text !== template) return text;
  } catch (cause) {
    if (!(cause instanceof FormatError)) throw cause;
    const reason = cause.message.replace(/^chat template: (?:format: )?/, "");
    throw new OptionError(`hypothesis_template ${show(template)}: ${reason}`, {
      details: { option: "hypothesis_template" },
      hint: "it has a {} for the label, as text of Python's format()",
      cause,
    });
  }
  throw new OptionError(`hypothesis_template must have a {} for the label, got ${show(template)}`, {
    details: { option: "hypothesis_template" },
  });
}

/** The number of the label for "follows from it"; the last one if none is named so. */
function entailmentOf(config: ConfigJson, labels: number): number {
  for (let n = 0; n < labels; n++) if (labelOf(config, n).toLowerCase().startsWith("entail")) return n;
  warnOnce(
    "zero-shot entailment",
    `zero-shot-classification: no label of the model begins with "entail"; ${labelOf(config, labels - 1)} is taken for it`,
  );
  return labels - 1;
}

export const zeroShotClassification = kind({
  models: ["sequence-classification"],
  needs: ["tokenizer"],
  calls: ZERO_SHOT,
  async run(parts: Parts<PreTrainedEncoder<"sequence-classification">>, inputs, options) {
    const { items, many } = listed(inputs, asText, "a text");
    const { labels, sentences } = hypotheses(options, "This example is {}.");
    if (items.length === 0) return [];
    const { truncation = "only_first", max_length, multi_label = false } = options;
    const pairs = items.flatMap((premise) => sentences.map((text_pair) => ({ text: premise, text_pair })));
    const { config } = parts.model;
    const length = (pair: { text: string; text_pair: string }): number => pair.text.length + pair.text_pair.length;
    const logits = await inBatches(pairs, parts.batch_size, length, (batch) =>
      logitsOf(parts, batch, { truncation, max_length }),
    );
    const yes = entailmentOf(config, logits[0]!.length);
    const no = yes === 0 ? logits[0]!.length - 1 : 0;
    const found = items.map((sequence, n): ZeroShotLabels => {
      const own = logits.slice(n * labels.length, (n + 1) * labels.length);
      const scores =
        multi_label || labels.length === 1
          ? own.map((row) => softmax(Float32Array.of(row[no]!, row[yes]!))[1]!)
          : [...softmax(Float32Array.from(own, (row) => row[yes]!))];
      const order = labels.map((label, i) => ({ label, score: scores[i]! })).sort((a, b) => b.score - a.score);
      return { sequence, labels: order.map(({ label }) => label), scores: order.map(({ score }) => score) };
    });
    return many ? found : found[0];
  },
});

export const zeroShotImageClassification = kind({
  models: ["clip"],
  needs: ["tokenizer", "image_processor"],
  calls: LABELS,
  async run(parts: Parts<PreTrainedClipModel>, inputs, options) {
    const { items, many } = imagesOf(inputs);
    const { labels, sentences } = hypotheses(options, "This is a photo of {}.");
    const { model, tokenizer, image_processor } = parts;
    // SigLIP reads texts that are padded to their full length, without a mask.
    const { judges_pairs, geometry } = model.module;
    const padding = judges_pairs
      ? ({ padding: "max_length", max_length: geometry.max_positions } as const)
      : { padding: true };
    const { input_ids, attention_mask } = tokenizer(sentences, { ...padding, truncation: true });
    const texts = judges_pairs ? { input_ids } : { input_ids, attention_mask };
    const found = await inBatches(
      items,
      parts.batch_size,
      () => 0,
      async (batch) => {
        const { pixel_values } = await image_processor.run(batch, {});
        const { logits_per_image: logits } = await valuesOf(
          model.forward({ ...texts, pixel_values }),
          "logits_per_image",
        );
        return batch.map((_, row) => {
          const scores = logits.values.subarray(row * labels.length, (row + 1) * labels.length);
          const own = judges_pairs ? scores.map((score) => 1 / (1 + Math.exp(-score))) : softmax(scores);
          return labels.map((label, n): Label => ({ label, score: own[n]! })).sort((a, b) => b.score - a.score);
        });
      },
    );
    return many ? found : found[0];
  },
});
