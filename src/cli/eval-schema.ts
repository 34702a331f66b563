// Results and samples of an evaluation as lm-evaluation-harness writes them into files.

import { createHash } from "node:crypto";
import type { Options } from "../core/options.js";
import type { EvalResults } from "../eval/harness/evaluate.js";
import type { LM } from "../eval/harness/lm.js";
import type { SOURCE } from "../load/options.js";
import { printed } from "../tokenizer/chat/fields.js";
import type { Evaluated } from "./eval-rows.js";
import { version } from "./version.js";

const SEEDS = { random_seed: 0, numpy_seed: 1234, torch_seed: 1234, fewshot_seed: 1234 };

const sha256 = (text: string | null): string | null =>
  text === null ? null : createHash("sha256").update(text).digest("hex");

/** What a call says that results tell. */
export interface ToldFlags {
  applyChatTemplate?: boolean | string;
  fewshotAsMultiturn?: boolean;
  systemInstruction?: string;
  genKwargs?: Readonly<Record<string, unknown>>;
  limit?: number;
  bootstrapIters?: number;
  useCache?: string;
}

interface Run {
  readonly name: string;
  readonly place: Options<typeof SOURCE>;
  readonly flags: ToldFlags;
  readonly storage: string;
  readonly results: EvalResults;
  /** When it began, in seconds. */
  readonly date: number;
  readonly seconds: number;
}

/** What stands beside the results. Versions of Python's packages are not there: none of them took part. */
export function aboutOf(lm: LM, { name, flags, place, storage, results, date, seconds }: Run): Record<string, unknown> {
  const { model, tokenizer } = lm;
  const token = (text: string | null, id: number | null) => (text === null || id === null ? null : [text, String(id)]);
  const { applyChatTemplate: template = false, systemInstruction = null } = flags;
  const chat_template =
    template === false ? null : tokenizer.get_chat_template(typeof template === "string" ? template : undefined);
  return {
    config: {
      model: "octavo",
      model_args: { pretrained: name, storage },
      model_num_parameters: [...model.module.parameters()].reduce(
        (sum, { shape }) => sum + shape.reduce((n, size) => n * size, 1),
        0,
      ),
      model_dtype: model.dtype,
      model_revision: place.revision ?? "main",
      batch_size: String(lm.batch_size),
      batch_sizes: [],
      device: model.device.name,
      use_cache: flags.useCache ?? null,
      limit: flags.limit ?? null,
      bootstrap_iters: flags.bootstrapIters ?? 100_000,
      gen_kwargs: flags.genKwargs ?? null,
      ...SEEDS,
    },
    git_hash: null,
    date,
    pretty_env_info: `Octavo ${version()}, Node ${process.version}, ${process.platform} ${process.arch}, ${model.device.name}`,
    octavo_version: version(),
    upper_git_hash: null,
    tokenizer_pad_token: token(tokenizer.pad_token, tokenizer.pad_token_id),
    tokenizer_eos_token: token(tokenizer.eos_token, tokenizer.eos_token_id),
    tokenizer_bos_token: token(tokenizer.bos_token, tokenizer.bos_token_id),
    eot_token_id: tokenizer.eos_token_id,
    max_length: lm.max_length,
    task_hashes: Object.fromEntries(
      Object.entries(results.samples).map(([task, samples]) => [
        task,
        sha256(samples.map((one) => one.doc_hash + one.prompt_hash + one.target_hash).join("")),
      ]),
    ),
    model_source: "octavo",
    model_name: name,
    model_name_sanitized: name.replace(/[<>:"/\\|?*[\]]/g, "__"),
    system_instruction: systemInstruction,
    system_instruction_sha: sha256(systemInstruction),
    fewshot_as_multiturn: flags.fewshotAsMultiturn ?? template !== false,
    chat_template,
    chat_template_sha: sha256(chat_template),
    total_evaluation_time_seconds: String(seconds),
  };
}

/** The results of one storage; samples are written apart. */
export function schemaOf(one: Evaluated): object {
  const { results, about, weight_bytes, ms_per_token, tokens, tokens_per_second = null } = one;
  const { samples: _, ...rest } = results;
  return { ...rest, ...about, weight_bytes, ms_per_token, tokens, tokens_per_second };
}

/** All inner values as text. */
function texts(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(texts);
  if (typeof value === "number" && Number.isInteger(value)) return value.toFixed(1); // a float without a fraction
  return typeof value === "string" ? value : printed("value", value);
}

/** One line of JSON for each sample. */
export function sampleLines({ storage, results }: Evaluated): string[] {
  return Object.entries(results.samples).flatMap(([task, samples]) =>
    samples.map(({ values, arguments: given, resps, filtered_resps, target, ...sample }) => {
      const named = given.map((one, i) => [
        `gen_args_${i}`,
        Object.fromEntries(one.map((arg, j) => [`arg_${j}`, arg])),
      ]);
      const { doc_id, doc, ...rest } = sample;
      const line = {
        ...{ task, storage, doc_id, doc, target: printed("target", target) },
        arguments: Object.fromEntries(named) as object,
        resps: texts(resps),
        filtered_resps: texts(filtered_resps),
        ...rest,
        ...values,
      };
      return `${JSON.stringify(line)}\n`;
    }),
  );
}
