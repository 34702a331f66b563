// The decoder's start of models that transcribe speech: its first token, then those of language, task and "no timestamps", as
// generation_config.json lists them. A language that nobody names is the likeliest one after the first token.

import type { Device } from "../core/device.js";
import { OptionError, suggestion } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import type { ConfigJson } from "../nn/architecture.js";
import { logits } from "../nn/decoder.js";
import type { AttentionChoice } from "../nn/pass.js";
import type { Seq2SeqLM } from "../nn/seq2seq.js";
import type { Batch } from "./inputs.js";
import { languageCode } from "./languages.js";
import { type EncoderInput, encoded } from "./seq2seq.js";

/** What a caller says about the text. */
export interface SpeechOptions {
  readonly language?: string | readonly string[];
  readonly task?: string;
  /** The model writes times: then no token says that it does not. */
  readonly return_timestamps?: boolean;
}

/** The decoder's start; languages that are still to be found out are 0 in it. */
export interface SpeechStart {
  readonly decoder: Batch;
  /** Ids of all languages, if one is to be found out for each row. */
  readonly languages?: readonly number[];
}

/** Where a language's token lies in the decoder's start. */
export const LANGUAGE_AT = 1;

/** Ids by name, of a field of generation_config.json. */
function idsOf(file: ConfigJson, field: string, vocab: number): ReadonlyMap<string, number> | undefined {
  const value = file[field];
  if (typeof value !== "object" || value === null) return undefined;
  const ids = new Map(Object.entries(value as Record<string, unknown>));
  for (const [name, id] of ids) checkId(`${field} ${show(name)}`, id, vocab);
  return ids as ReadonlyMap<string, number>;
}

function checkId(what: string, id: unknown, vocab: number): number {
  if (typeof id === "number" && Number.isSafeInteger(id) && id >= 0 && id < vocab) return id;
  throw new OptionError(`generation_config.json: ${what} is ${show(id)}, which is no token of the model`, {
    hint: "pass decoder_input_ids",
  });
}

/** The id of "de", "<|de|>" or "German". @throws OptionError */
function languageId(language: string, ids: ReadonlyMap<string, number>): number {
  const wanted = language.toLowerCase();
  const direct = ids.get(wanted) ?? ids.get(`<|${wanted}|>`);
  if (direct !== undefined) return direct;
  const codes = [...ids.keys()].map((token) => token.replace(/^<\|(.*)\|>$/, "$1"));
  const code = languageCode(wanted, codes);
  if (code !== undefined) return ids.get(`<|${code}|>`)!;
  const near = suggestion(wanted, codes);
  throw new OptionError(
    `language ${show(language)} is none of this model's${near ? `; did you mean "${near}"?` : ""}`,
    {
      details: { option: "language" },
      hint: `languages: ${listed(codes, 12)}`,
    },
  );
}

/**
 * The start for `rows` rows after `first`, as transformers makes it.
 * @throws OptionError for a language or task that the model's files do not have
 */
export function speechStart(
  first: number,
  rows: number,
  options: SpeechOptions,
  file: ConfigJson,
  vocab: number,
): SpeechStart {
  const { language = textOf(file, "language"), task = textOf(file, "task") } = options;
  const languages = idsOf(file, "lang_to_id", vocab);
  const tasks = idsOf(file, "task_to_id", vocab);
  for (const [option, given, known] of [
    ["language", language, languages],
    ["task", task, tasks],
  ] as const) {
    if (given === undefined || known) continue;
    throw new OptionError(`${option}: this model knows one language, and transcribes it`, {
      details: { option },
      hint: `leave ${option} out`,
    });
  }
  const named = language === undefined ? undefined : [language].flat();
  if (Array.isArray(language) && language.length !== rows) {
    throw new OptionError(`language has ${language.length} entries for ${rows} rows`, {
      details: { option: "language" },
    });
  }
  const own = named?.map((one) => languageId(one, languages!));
  const forced = task === undefined && named === undefined ? forcedOf(file, vocab) : [];
  const detects = languages !== undefined && languages.size > 0 && own === undefined && (forced[0] ?? null) === null;
  const tail: number[] = forced.slice(1).filter((id): id is number => id !== null);
  if (task !== undefined) {
    const id = tasks!.get(task);
    if (id === undefined) {
      throw new OptionError(`task must be one of ${listed([...tasks!.keys()])}, got ${show(task)}`, {
        details: { option: "task" },
      });
    }
    tail.push(id);
  } else if (own && tasks?.has("transcribe")) tail.push(tasks.get("transcribe")!);
  const silent = file.no_timestamps_token_id;
  if (options.return_timestamps) {
    if (tail.at(-1) === silent) tail.pop();
  } else if (silent !== undefined && silent !== null && tail.at(-1) !== silent) {
    tail.push(checkId("no_timestamps_token_id", silent, vocab));
  }
  const head = own || detects ? [0] : forced.slice(0, 1).filter((id): id is number => id !== null);
  const texts = Array.from({ length: rows }, (_, row) => [first, ...(own ? [own[row] ?? own[0]!] : head), ...tail]);
  const decoder = { rows, steps: texts[0]!.length, ids: Int32Array.from(texts.flat()), mask: undefined };
  return detects ? { decoder, languages: [...languages.values()] } : { decoder };
}

/** A field of generation_config.json that is text. */
function textOf(file: ConfigJson, field: string): string | undefined {
  const value = file[field];
  return typeof value === "string" ? value : undefined;
}

/** The ids of `forced_decoder_ids`, [[1, id], [2, id], ...]: null for a language to be found out. @throws OptionError */
function forcedOf({ forced_decoder_ids: given }: ConfigJson, vocab: number): (number | null)[] {
  if (given === undefined || given === null) return [];
  const pairs = Array.isArray(given) ? (given as unknown[]) : [given];
  return pairs.map((pair, at) => {
    const [place, id] = Array.isArray(pair) ? (pair as unknown[]) : [];
    if (place !== at + 1) {
      throw new OptionError(`generation_config.json: forced_decoder_ids must count from 1, got ${show(given)}`, {
        hint: "pass decoder_input_ids",
      });
    }
    return id === null ? null : checkId("forced_decoder_ids", id, vocab);
  });
}

/** The decoder's start with the likeliest of `languages` for each row. */
export async function withLanguages(
  device: Device,
  model: Seq2SeqLM,
  input: EncoderInput,
  decoder: Batch,
  languages: readonly number[],
  attention: AttentionChoice,
): Promise<Batch> {
  using hidden = encoded(device, model, input, attention);
  const found = await likeliestLanguages(device, model, hidden, decoder.ids[0]!, languages, attention);
  const ids = decoder.ids.slice();
  for (const [row, id] of found.entries()) ids[row * decoder.steps + LANGUAGE_AT] = id;
  return { ...decoder, ids };
}

/**
 * The likeliest of `languages` for each row of the encoder's output.
 * @param hidden f32[B,S,hidden]
 * @param first the decoder's first token
 */
export async function likeliestLanguages(
  device: Device,
  model: Seq2SeqLM,
  hidden: Tensor,
  first: number,
  languages: readonly number[],
  attention: AttentionChoice,
): Promise<number[]> {
  const rows = hidden.shape[0]!;
  using scores = scope(() => {
    const positions = Tensor.from(device, new Int32Array(rows), [rows, 1]);
    using decoding = model.pass({ positions, encoded: { hidden } }, { attention });
    return logits(model, decoding, Tensor.from(device, new Int32Array(rows).fill(first), [rows, 1]));
  });
  const values = await scores.readFloats();
  const vocab = scores.shape[2]!;
  return Array.from({ length: rows }, (_, row) => {
    const score = (id: number): number => values[row * vocab + id]!;
    return languages.reduce((best, id) => (score(id) > score(best) ? id : best));
  });
}
