// The report of a generation: one object for --json, and the footer for people.

import type { Device } from "../core/device.js";
import { torchName } from "../core/dtype.js";
import type { GenerationConfig } from "../generate/config.js";
import type { PreTrainedModel } from "../generate/model.js";
import { Linear } from "../nn/module.js";
import type { Weight } from "../nn/weight.js";
import { bytes, duration, plural } from "./output.js";

/** One prompt and its continuation. */
export interface Row {
  readonly prompt: string;
  readonly prompt_tokens: number;
  /** The prompt, decoded without special tokens. */
  readonly echo: string;
  text: string;
  readonly token_ids: number[];
  /** True if the model ended the text itself. */
  ended: boolean;
}

interface Measured {
  readonly rows: readonly Row[];
  readonly first_s: number | undefined;
  readonly last_s: number;
  readonly steps: number;
  readonly guessed: number;
}

export interface RowReport {
  readonly prompt: string;
  readonly text: string;
  readonly token_ids: readonly number[];
  readonly prompt_tokens: number;
  /** Why the text ended: the model, the limit, or Ctrl-C. */
  readonly finish_reason: "stop" | "length" | "abort";
}

/** The object that `octavo generate --json` prints; later versions only add fields. A single prompt has its row's fields at the top level. */
export interface GenerationReport extends Partial<RowReport> {
  readonly model: string;
  /** Only for a batch file. */
  readonly results?: readonly RowReport[];
  /** The same seed, prompt and settings give the same text again. */
  readonly seed: number;
  /** How tokens were chosen, whoever said so: flags, generation_config.json, or the defaults. */
  readonly sampling: Readonly<Record<(typeof SAMPLING)[number], number>> & { readonly do_sample: boolean };
  readonly dtype: string;
  /** "int8", "nf4", "fp4", "o4", or null. */
  readonly quantization: string | null;
  /** How products with 4-bit weights may round: "float32" (not at all), "bfloat16" or "int8"; null for other weights. */
  readonly bnb_4bit_compute_dtype: string | null;
  /** Dtype of keys and values: "float32", "bfloat16" or "int8". */
  readonly kv_cache: string;
  readonly device: {
    readonly name: string;
    readonly isa: string | null;
    readonly threads: number;
    readonly description: string;
    /** Why `--device auto` chose it; null for a named device. */
    readonly reason: string | null;
  };
  readonly timings: {
    readonly load_s: number;
    readonly first_token_s: number | null;
    readonly total_s: number;
    readonly new_tokens: number;
    /** New tokens of all rows after the first step, divided by their time. */
    readonly tokens_per_second: number | null;
  };
  readonly memory: {
    readonly weight_bytes: number;
    readonly checkpoint_bytes: number;
    /** Bytes of keys and values with their scales, for the requested number of tokens. */
    readonly kv_cache_bytes: number;
    readonly device_peak_bytes: number;
    readonly rss_peak_bytes: number;
  };
  /** New tokens guessed by prompt lookup, which needed no pass over the weights; null without it. */
  readonly guessed_tokens: number | null;
  /** Columns that held an outlier activation, over all int8 matrices; null without int8. */
  readonly outlier_columns: number | null;
  /** All columns of int8 matrices; null without int8. */
  readonly int8_columns: number | null;
}

/** Settings of a generation that the report names. */
const SAMPLING = [
  "temperature",
  "top_k",
  "top_p",
  "min_p",
  "repetition_penalty",
  "presence_penalty",
  "frequency_penalty",
] as const;

/** Instruction set and threads of a device; a backend without them counts as one thread. */
export function chosen(device: Device): { isa: string | null; threads: number } {
  const { isa, threads } = device.backend as { isa?: string; threads?: number };
  return { isa: isa ?? null, threads: threads ?? 1 };
}

export async function report(
  model: PreTrainedModel,
  { rows, first_s, last_s, steps, guessed }: Measured,
  {
    name,
    cache,
    config,
    seed,
    load_s,
    aborted,
  }: {
    name: string;
    cache: { dtype: string; bytes: number };
    config: GenerationConfig;
    seed: number;
    load_s: number;
    aborted: boolean;
  },
): Promise<GenerationReport> {
  const { schemes, compute, columns } = quantizationOf(model);
  const int8 = schemes.includes("int8");
  const { do_sample } = config;
  const results = rows.map(
    ({ prompt, text, token_ids, prompt_tokens, ended }): RowReport => ({
      prompt,
      text,
      token_ids,
      prompt_tokens,
      finish_reason: ended ? "stop" : aborted ? "abort" : "length",
    }),
  );
  const new_tokens = rows.reduce((sum, row) => sum + row.token_ids.length, 0);
  const { device } = model;
  return {
    model: name,
    ...(results.length === 1 ? results[0] : { results }),
    seed,
    sampling: { do_sample, ...only(config, SAMPLING) },
    dtype: torchName(model.dtype),
    quantization: schemes.length === 0 ? null : schemes.join(" and "),
    bnb_4bit_compute_dtype: compute === undefined ? null : compute === "int8" ? compute : torchName(compute),
    kv_cache: cache.dtype,
    device: {
      name: device.name,
      ...chosen(device),
      description: device.backend.description,
      reason: device.reason ?? null,
    },
    timings: {
      load_s,
      first_token_s: first_s ?? null,
      total_s: last_s,
      new_tokens,
      tokens_per_second: steps > 1 ? (new_tokens - rows.length) / (last_s - first_s!) : null,
    },
    memory: {
      weight_bytes: model.weight_bytes,
      checkpoint_bytes: model.checkpoint_bytes,
      kv_cache_bytes: cache.bytes,
      device_peak_bytes: device.memory.peak,
      rss_peak_bytes: process.resourceUsage().maxRSS * 1024,
    },
    guessed_tokens: config.prompt_lookup_num_tokens > 0 ? guessed : null,
    outlier_columns: int8 ? await model.outlier_columns() : null,
    int8_columns: int8 ? columns : null,
  };
}

function only<T extends object, const Keys extends readonly (keyof T)[]>(from: T, keys: Keys): Pick<T, Keys[number]> {
  return Object.fromEntries(keys.map((key) => [key, from[key]])) as Pick<T, Keys[number]>;
}

/** The schemes of the quantized linears, how 4-bit products round, and the number of columns in 8 bits. */
function quantizationOf(model: PreTrainedModel): { schemes: string[]; compute?: Weight["compute"]; columns: number } {
  const linears = [...model.module.named_modules()].flatMap(([, module]) =>
    module instanceof Linear && module.weight.weight.scheme !== "dense" ? [module.weight] : [],
  );
  const schemes = new Set(linears.map(({ weight: { scheme } }) => (scheme === "llm_int8" ? "int8" : scheme)));
  const compute = linears.find(({ weight }) => weight.compute)?.weight.compute;
  const int8 = linears.filter(({ weight }) => weight.scheme === "llm_int8");
  return { schemes: [...schemes], compute, columns: int8.reduce((sum, { shape }) => sum + shape[1], 0) };
}

/** "temperature 0.8, top-k 40", or "greedy"; what has no effect is left out. */
function samplingText({ sampling, seed }: GenerationReport): string {
  const { do_sample, temperature, top_k, top_p, min_p } = sampling;
  const { repetition_penalty, presence_penalty, frequency_penalty } = sampling;
  const number = (value: number): string => String(Number(value.toPrecision(4)));
  const said: [name: string, value: number, without: number | undefined][] = [
    ["repetition penalty", repetition_penalty, 1],
    ["presence penalty", presence_penalty, 0],
    ["frequency penalty", frequency_penalty, 0],
  ];
  const drawn: typeof said = [
    ["temperature", temperature, undefined],
    ["top-k", top_k, 0],
    ["top-p", top_p, 1],
    ["min-p", min_p, 0],
  ];
  const parts = [...(do_sample ? drawn : []), ...said].flatMap(([name, value, without]) =>
    value === without ? [] : [`${name} ${number(value)}`],
  );
  return do_sample ? `${parts.join(", ")} · seed ${seed}` : ["greedy", ...parts].join(", ");
}

/** The footer under a text. */
export function footer(facts: GenerationReport): string {
  const { device, timings, memory, guessed_tokens, outlier_columns, int8_columns, bnb_4bit_compute_dtype } = facts;
  const isa = device.isa === null ? "" : ` · ${device.isa}`;
  // A GPU has a name; threads are those of CPU devices.
  const where =
    device.name === "webgpu" ? device.description : `${device.name}${isa} · ${plural(device.threads, "thread")}`;
  const rate = timings.tokens_per_second;
  const products =
    bnb_4bit_compute_dtype === null
      ? ""
      : bnb_4bit_compute_dtype === "float32"
        ? ", exact products"
        : `, products in ${bnb_4bit_compute_dtype}`;
  const before = `${bytes(memory.checkpoint_bytes)} as published`;
  const prompt = facts.results ? `${facts.results.length} prompts` : `a prompt of ${facts.prompt_tokens}`;
  const lines = [
    `device    ${where}${device.reason === null ? "" : ` (${device.reason})`}`,
    `weights   ${bytes(memory.weight_bytes)} in ${facts.quantization ?? facts.dtype}${products} (${before}) · loaded in ${duration(timings.load_s)}`,
    `cache     ${bytes(memory.kv_cache_bytes)} in ${facts.kv_cache} · ${bytes(memory.device_peak_bytes)} on the device at most`,
    `sampling  ${samplingText(facts)}`,
    `speed     first token after ${timings.first_token_s === null ? "-" : duration(timings.first_token_s)}` +
      `${rate === null ? "" : ` · ${rate.toFixed(rate < 10 ? 2 : 0)} tokens/s`} · ${plural(timings.new_tokens, "token")} after ${prompt}`,
  ];
  if (guessed_tokens !== null) {
    lines.push(
      `lookup    ${guessed_tokens} of the ${plural(timings.new_tokens, "token")} guessed: no pass over the weights for those`,
    );
  }
  if (outlier_columns !== null && int8_columns !== null) {
    const [some, all] = [outlier_columns, int8_columns].map((n) => n.toLocaleString("en-US"));
    lines.push(`outliers  ${some} of ${all} columns, multiplied in floats`);
  }
  return `\n${lines.join("\n")}`;
}
