// The report of a generation: one object for --json, and the footer for people.

import type { Device } from "../core/device.js";
import { torchName } from "../core/dtype.js";
import type { PreTrainedModel } from "../generate/model.js";
import { Linear } from "../nn/module.js";
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
  readonly seed: number;
  readonly dtype: string;
  /** "int8", "nf4", "fp4", or null. */
  readonly quantization: string | null;
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
}

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
    seed,
    load_s,
    lookup,
    aborted,
  }: {
    name: string;
    cache: { dtype: string; bytes: number };
    seed: number;
    load_s: number;
    lookup: boolean;
    aborted: boolean;
  },
): Promise<GenerationReport> {
  const quantization = quantizationOf(model);
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
    dtype: torchName(model.dtype),
    quantization,
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
    guessed_tokens: lookup ? guessed : null,
    outlier_columns: quantization === "int8" ? await model.outlier_columns() : null,
  };
}

function quantizationOf(model: PreTrainedModel): string | null {
  for (const [, module] of model.module.named_modules()) {
    if (!(module instanceof Linear)) continue;
    const { scheme } = module.weight.weight;
    if (scheme !== "dense") return scheme === "llm_int8" ? "int8" : scheme;
  }
  return null;
}

/** The footer under a text. */
export function footer(facts: GenerationReport): string {
  const { device, timings, memory, guessed_tokens, outlier_columns } = facts;
  const isa = device.isa === null ? "" : ` · ${device.isa}`;
  // A GPU has a name; threads are those of CPU devices.
  const where =
    device.name === "webgpu" ? device.description : `${device.name}${isa} · ${plural(device.threads, "thread")}`;
  const rate = timings.tokens_per_second;
  const before = `${bytes(memory.checkpoint_bytes)} as published`;
  const prompt = facts.results ? `${facts.results.length} prompts` : `a prompt of ${facts.prompt_tokens}`;
  const lines = [
    `device    ${where}${device.reason === null ? "" : ` (${device.reason})`}`,
    `weights   ${bytes(memory.weight_bytes)} in ${facts.quantization ?? facts.dtype} (${before}) · loaded in ${duration(timings.load_s)}`,
    `cache     ${bytes(memory.kv_cache_bytes)} in ${facts.kv_cache} · ${bytes(memory.device_peak_bytes)} on the device at most`,
    `speed     first token after ${timings.first_token_s === null ? "-" : duration(timings.first_token_s)}` +
      `${rate === null ? "" : ` · ${rate.toFixed(rate < 10 ? 2 : 0)} tokens/s`} · ${plural(timings.new_tokens, "token")} after ${prompt}`,
  ];
  if (guessed_tokens !== null) {
    lines.push(
      `lookup    ${guessed_tokens} of the ${plural(timings.new_tokens, "token")} guessed: no pass over the weights for those`,
    );
  }
  if (outlier_columns !== null) lines.push(`outliers  ${plural(outlier_columns, "column")} seen`);
  return `\n${lines.join("\n")}`;
}
