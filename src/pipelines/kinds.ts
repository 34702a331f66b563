// What a pipeline is made of: the parts that a task needs, the options of its calls, and how inputs become batches.

import { isList, listOf } from "../core/checks.js";
import { entriesOf, OptionError } from "../core/errors.js";
import { type Options, option, such, type Table } from "../core/options.js";
import * as z from "../core/schema.js";
import type { Tensor } from "../core/tensor.js";
import type { LoadedModel } from "../generate/base.js";
import type { PrefixAllowedTokens } from "../generate/processors/host-processor.js";
import type { FeatureExtractor, SoundInput } from "../media/feature-extractor.js";
import type { ImageProcessor } from "../media/image-processor.js";
import type { Task } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import type { CallOptions } from "../tokenizer/options.js";

/** The processors of a task's inputs. */
export interface Processors {
  readonly tokenizer: PreTrainedTokenizer;
  readonly image_processor: ImageProcessor;
  readonly feature_extractor: FeatureExtractor;
}

export type Need = keyof Processors;

/** What a task works with; only the processors that it needs are there. */
export interface Parts<M = LoadedModel<Model>> extends Processors {
  readonly model: M;
  /** Inputs that go through the model together. */
  readonly batch_size: number;
}

/** A task: which model it loads, what it needs, the options of its calls, and what a call does. */
export interface Kind<T extends Table = Table> {
  /** Tasks of models, by which one may be loaded. */
  readonly models: readonly Task[];
  readonly needs: readonly Need[];
  readonly calls: T;
  /** A call's work. Options that were given to `pipeline` are defaults of each call's. */
  run(parts: Parts<never>, inputs: unknown, options: Options<T>): Promise<unknown>;
}

/** A kind with the types of its own options. */
export function kind<T extends Table, M>(
  facts: Omit<Kind<T>, "run"> & {
    run(parts: Parts<M>, inputs: unknown, options: Options<T>): Promise<unknown>;
  },
): Kind {
  return facts as unknown as Kind;
}

/** How texts become tokens, as in a tokenizer's call. */
export { CALL as TOKENIZER_CALL } from "../tokenizer/options.js";

/** Options of a tokenizer's call that a pipeline passes on. Padding changes no result. */
const PASSED = ["truncation", "max_length", "add_special_tokens", "split_special_tokens", "padding"] as const;
export type Passed = Pick<CallOptions, (typeof PASSED)[number]>;

/** Such options in one object. */
export const tokenizing = () =>
  such<Passed>((value) => typeof value === "object" && value !== null && !isList(value), "an object");

/** @throws OptionError for others */
export function passedOn(name: string, given: Passed = {}): Omit<Passed, "padding"> {
  const { padding: _, ...rest } = Object.fromEntries(entriesOf(name, given, PASSED)) as Passed;
  return rest;
}

/** A number of results: at least 1, or null for all. */
export const topK = () => option<number | null>(z.int().min(1).nullable(), "a whole number above 0, or null for all");

/**
 * One input or a list of them, read before anything is done with one.
 * @param read a copy of an input; undefined for what is none
 * @throws OptionError for what is none of the inputs
 */
export function listed<T>(
  inputs: unknown,
  read: (value: unknown) => T | undefined,
  wanted: string,
): { readonly items: readonly T[]; readonly many: boolean } {
  const tried = (value: unknown): T | undefined => {
    try {
      return read(value);
    } catch {
      return undefined; // a proxy, or a getter that throws
    }
  };
  const one = tried(inputs);
  if (one !== undefined) return { items: [one], many: false };
  const items: T[] = [];
  const takes = (value: unknown): value is unknown => {
    const item = tried(value);
    if (item !== undefined) items.push(item);
    return item !== undefined;
  };
  if (listOf(inputs, takes)) return { items, many: true };
  if (isList(inputs)) throw new OptionError(`input ${items.length} of the list must be ${wanted}`);
  throw new OptionError(`a pipeline's input must be ${wanted}, or a list of them`);
}

/** One sound or several: a list of numbers is samples. @throws OptionError */
export function soundsOf(inputs: unknown): { items: readonly SoundInput[]; many: boolean } {
  const asSound = (value: unknown): SoundInput | undefined => {
    const samples = isList(value) && typeof value[0] === "number";
    const other = isText(value) || (typeof value === "object" && value !== null && !isList(value));
    return samples || other ? (value as SoundInput) : undefined;
  };
  return listed(inputs, asSound, "samples, { raw, sampling_rate }, or a WAV file");
}

/** A list of texts, of at least so many. */
export const isTexts = (value: unknown, least = 0): value is readonly string[] =>
  (listOf(value, isText)?.length ?? -1) >= least;

/** A text itself. */
export const asText = (value: unknown): string | undefined => (isText(value) ? value : undefined);

export const isText = (value: unknown): value is string => typeof value === "string";

/**
 * Runs inputs in batches of inputs of about the same length; results come in the order of the inputs.
 * @param length of an input: of texts their characters
 * @param apart what all inputs of a batch have in common
 */
export async function inBatches<T, R>(
  items: readonly T[],
  size: number,
  length: (item: T) => number,
  run: (batch: readonly T[], numbers: readonly number[]) => Promise<readonly R[]>,
  apart: (item: T) => number = () => 0,
): Promise<R[]> {
  const order = items
    .map((item, n) => ({ item, n, length: length(item), apart: apart(item) }))
    .sort((a, b) => a.apart - b.apart || b.length - a.length);
  const results = new Array<R>(items.length);
  for (let at = 0; at < order.length; ) {
    const alike = order.slice(at, at + size).findIndex((one) => one.apart !== order[at]!.apart);
    const part = order.slice(at, at + (alike < 0 ? size : alike));
    at += part.length;
    const numbers = part.map(({ n }) => n);
    const found = await run(
      part.map(({ item }) => item),
      numbers,
    );
    numbers.forEach((n, i) => {
      results[n] = found[i]!;
    });
  }
  return results;
}

/** Options of generate() for a batch of some of the inputs: what is said of an input counts from the whole list. */
export function forBatch<O extends object>(
  options: O,
  numbers: readonly number[],
): O & { readonly sequence_numbers: readonly number[] } {
  const { prefix_allowed_tokens_fn: allowed } = options as { prefix_allowed_tokens_fn?: PrefixAllowedTokens };
  const of = (item: number, ids: readonly number[]): readonly number[] => allowed!(numbers[item]!, ids);
  return { ...options, ...(allowed ? { prefix_allowed_tokens_fn: of } : {}), sequence_numbers: numbers };
}

/** The values of some of a forward pass's outputs; all of them are disposed. @throws OptionError for one that it lacks */
export async function valuesOf<const K extends string>(
  outputs: Readonly<Partial<Record<K, Tensor>>>,
  ...names: readonly K[]
): Promise<Readonly<Record<K, { readonly values: Float32Array; readonly shape: readonly number[] }>>> {
  try {
    const read = names.map(async (name) => {
      const tensor = outputs[name];
      if (!tensor) throw new OptionError(`this model gives no ${name}: it is none for the pipeline's task`);
      return [name, { values: await tensor.readFloats(), shape: tensor.shape }];
    });
    return Object.fromEntries(await Promise.all(read)) as never;
  } finally {
    for (const tensor of Object.values<Tensor | undefined>(outputs)) tensor?.dispose();
  }
}
