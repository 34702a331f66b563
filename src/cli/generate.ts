// octavo generate: loads a model, continues a prompt (or a file of prompts) and reports time and memory.

import { setImmediate } from "node:timers/promises";
import { Presets, SingleBar } from "cli-progress";
import { Command, Option } from "commander";
import { torchName } from "../core/dtype.js";
import { AbortError, OptionError } from "../core/errors.js";
import { omit, pick } from "../core/options.js";
import { AutoModelForCausalLM, AutoTokenizer, type FromPretrainedOptions } from "../generate/auto.js";
import { GENERATION, type GenerationOptions } from "../generate/config.js";
import type { Step } from "../generate/loop.js";
import type { ModelInputs, PreTrainedModel } from "../generate/model.js";
import { FROM_PRETRAINED } from "../generate/options.js";
import type { ProgressEvent } from "../load/fill.js";
import { NODE, STORYTELLER } from "../load/node.js";
import { SOURCE } from "../load/options.js";
import { onOwnDevice } from "../load/platform.js";
import { trainedContext } from "../nn/architecture.js";
import { BITS_AND_BYTES } from "../quant/config.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import {
  addFlags,
  deterministicOption,
  deviceOption,
  flagOf,
  jsonOption,
  type KVCacheName,
  kvCacheOption,
  optionsOf,
  sourceOptions,
  threadsOption,
} from "./arguments.js";
import { bytes, EXIT, isInteractive, note, print, printJson } from "./output.js";
import { readPrompts } from "./prompt.js";
import { footer, type GenerationReport, type Row, report } from "./report.js";

/** Flags of the command itself; the library's options are read from the same object by their tables. */
interface GenerateFlags {
  prompt?: string;
  batchFile?: string;
  escape?: boolean;
  echo: boolean;
  computeDtype?: "float32" | "bfloat16" | "int8";
  greedy?: boolean;
  kvCache?: KVCacheName;
  device?: string;
  threads?: number;
  deterministic?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** Options of from_pretrained that the group "Where" does not have. */
const WEIGHTS = omit(FROM_PRETRAINED, ["threads", "cache_dir", "revision"]);

/** Flags that only sampling has; a temperature above 0 is one more. */
const SAMPLING = ["doSample", "topK", "topP", "minP"];
/** New tokens if neither the caller nor the model sets a number. */
const DEFAULT_NEW_TOKENS = 128;

export function generateCommand(): Command {
  const command = new Command("generate")
    .description("continue a prompt")
    .argument("[model]", "folder, id of a model in the Hugging Face cache, or address (default: octavo/storyteller)")
    .argument("[prompt]", "text to continue; - or nothing reads it from standard input")
    .option("-p, --prompt <text>", "the prompt, where no model is named")
    .option("--batch-file <file>", "continue every line of a file, as one padded batch")
    .option("-e, --escape", "read \\n, \\t and \\\\ in the prompt as line end, tab and backslash")
    .option("--no-echo", "print only the new text, not the prompt")
    .optionsGroup("Weights:");
  const weights = addFlags(command, WEIGHTS);
  weights.load_in_8bit.conflicts("loadIn4bit");
  weights.dtype.default("auto");
  addFlags(command, BITS_AND_BYTES);
  command
    .addOption(
      new Option(
        "--compute-dtype <name>",
        "products with bf16 weights (default: bfloat16) and 4-bit weights (default: float32; fastest: int8)",
      ).choices(["float32", "bfloat16", "int8"]),
    )
    .optionsGroup("Generation (defaults: the model's own):");
  const generation = addFlags(command, GENERATION);
  generation.max_new_tokens.description += ` (default: ${DEFAULT_NEW_TOKENS})`;
  generation.prompt_lookup_num_tokens.conflicts([...SAMPLING, "repetitionPenalty", "batchFile"]);
  command
    .addOption(new Option("--greedy", "take the likeliest token").conflicts(SAMPLING))
    .addOption(kvCacheOption())
    .optionsGroup("Where:")
    .addOption(deviceOption())
    .addOption(threadsOption())
    .addOption(deterministicOption());
  return sourceOptions(command)
    .optionsGroup("Output:")
    .addOption(jsonOption())
    .option("-q, --quiet", "nothing on stderr but errors")
    .addHelpText(
      "after",
      `
Examples:
  octavo generate octavo/storyteller "Once upon a time" --load-in-8bit --seed 7
  echo "The old king" | octavo generate octavo/storyteller --load-in-4bit --max-new-tokens 40
  octavo generate bigscience/bloom-560m "The capital of France is" --greedy --json
  octavo generate -p "<|endoftext|>The Golden Fish\\n\\n" --escape`,
    )
    .action(generate);
}

async function generate(model: string | undefined, prompt: string | undefined, flags: GenerateFlags): Promise<void> {
  const options = loadOptions(flags);
  const given = optionsOf("generate", GENERATION, flags);
  checkTemperature(given, flags);
  if (prompt !== undefined && flags.prompt !== undefined) throw new OptionError("the prompt is given twice");
  const prompts = await readPrompts({
    prompt: prompt ?? flags.prompt,
    batchFile: flags.batchFile,
    escape: flags.escape === true,
  });
  const name = model ?? STORYTELLER;

  const abort = new AbortController();
  const interrupt = (): void => {
    if (abort.signal.aborted) process.exit(EXIT.interrupted);
    abort.abort();
  };
  process.on("SIGINT", interrupt);
  process.on("SIGTERM", interrupt);

  const begin = performance.now();
  const tokenizer = await AutoTokenizer.from_pretrained(name, {
    ...pick(SOURCE, options),
    padding_side: "left",
  });
  const inputs = encode(tokenizer, prompts);
  const bar = flags.quiet || !isInteractive() ? undefined : new LoadingBar();
  let loaded: PreTrainedModel;
  try {
    loaded = await onOwnDevice(
      NODE,
      flags.device,
      { threads: flags.threads, deterministic: flags.deterministic },
      (device) =>
        AutoModelForCausalLM.from_pretrained(name, {
          ...options,
          device,
          progress_callback: bar && ((event) => bar.show(event)),
          signal: abort.signal,
        }),
    );
  } finally {
    bar?.stop();
  }
  await using _device = loaded.device;
  await using owned = loaded;
  const load_s = (performance.now() - begin) / 1000;
  if (!flags.quiet) for (const warning of owned.warnings) note(`warning: ${warning}`);

  const length = inputs.input_ids[0]!.length;
  const context = trainedContext(owned.config) ?? Number.POSITIVE_INFINITY;
  const generation = generationOptions(given, flags, owned, context - length);
  const stream = !flags.json && prompts.length === 1;
  const run = new Run(tokenizer, inputs, prompts, (text) => {
    if (stream) print(text);
  });
  const steps = owned.stream({ ...inputs, ...generation, signal: abort.signal });
  if (!flags.quiet && length + (generation.max_new_tokens ?? 0) > context) {
    note(`warning: the model was trained on texts of at most ${context} tokens; later text will be poor`);
  }
  if (stream && flags.echo) print(run.rows[0]!.echo);
  let interrupted: AbortError | undefined;
  try {
    await run.over(steps);
  } catch (error) {
    if (!(error instanceof AbortError)) {
      if (stream && (flags.echo || run.rows[0]!.text !== "")) print("\n"); // the error gets a line of its own
      throw error;
    }
    interrupted = error;
  }
  const facts: GenerationReport = await report(owned, run, {
    name,
    cache: owned.cache_footprint({ ...inputs, ...generation }),
    seed: generation.seed!,
    load_s,
    lookup: generation.prompt_lookup_num_tokens !== undefined,
    aborted: interrupted !== undefined,
  });
  if (flags.json) printJson(facts);
  else if (stream) print(run.rows[0]!.text.endsWith("\n") ? "" : "\n");
  else for (const row of run.rows) print(`==> ${row.prompt} <==\n${flags.echo ? row.echo : ""}${row.text}\n\n`);
  if (!flags.quiet && !flags.json) note(footer(facts));
  if (interrupted) throw interrupted;
}

/** @throws OptionError for flags of 4-bit codes without them */
function loadOptions(flags: GenerateFlags): FromPretrainedOptions {
  const { load_in_8bit, load_in_4bit, ...load } = optionsOf("generate", WEIGHTS, flags);
  const codes = optionsOf("generate", BITS_AND_BYTES, flags);
  if (!load_in_4bit && Object.keys(codes).length > 0) {
    const [name, entry] = Object.entries(BITS_AND_BYTES).find(([name]) => name in codes)!;
    throw new OptionError(`${flagOf(name, entry).long} needs --load-in-4bit`);
  }
  const { computeDtype } = flags;
  if (!load_in_4bit && computeDtype === "int8") {
    throw new OptionError("--compute-dtype int8 is for 4-bit weights: it needs --load-in-4bit");
  }
  const common = {
    ...load,
    ...optionsOf("generate", SOURCE, flags),
    compute_dtype: computeDtype === "int8" ? undefined : computeDtype,
  };
  if (load_in_8bit) return { ...common, load_in_8bit };
  if (!load_in_4bit) return common;
  return {
    ...common,
    quantization_config: {
      bnb_4bit_quant_type: "nf4",
      ...codes,
      load_in_4bit: true,
      bnb_4bit_compute_dtype: computeDtype,
    },
  };
}

/** @throws OptionError for a temperature above 0 where no token is sampled */
function checkTemperature({ temperature, prompt_lookup_num_tokens }: GenerationOptions, flags: GenerateFlags): void {
  if (!temperature || !(flags.greedy || prompt_lookup_num_tokens)) return;
  const other = flags.greedy ? "--greedy" : "--prompt-lookup";
  throw new OptionError(`--temperature ${temperature} samples, and cannot be used with ${other}`, {
    hint: "leave one of them out; temperature 0 takes the likeliest token",
  });
}

function generationOptions(
  given: GenerationOptions,
  flags: GenerateFlags,
  model: PreTrainedModel,
  room: number,
): GenerationOptions {
  const { temperature, top_k, top_p, min_p, prompt_lookup_num_tokens } = given;
  const tuned = [temperature, top_k, top_p, min_p].some((value) => value !== undefined);
  return {
    ...given,
    max_new_tokens:
      given.max_new_tokens ??
      (typeof model.generation_config.max_new_tokens === "number"
        ? undefined
        : Math.max(1, Math.min(DEFAULT_NEW_TOKENS, room))),
    do_sample: flags.greedy || prompt_lookup_num_tokens ? false : given.do_sample || tuned ? true : undefined,
    ...cacheOptions(flags.kvCache),
    // Drawn here, so that the report can name it.
    seed: given.seed ?? Math.floor(Math.random() * 2 ** 31),
  };
}

function cacheOptions(name: KVCacheName | undefined): GenerationOptions {
  if (name === "int8") return { cache_implementation: "quantized", cache_config: { nbits: 8 } };
  return { cache_dtype: name && torchName(name) };
}

type Inputs = ModelInputs & { input_ids: number[][]; attention_mask: number[][] };

/** @throws OptionError for an empty prompt where the tokenizer has no token to begin with */
function encode(tokenizer: PreTrainedTokenizer, prompts: readonly string[]): Inputs {
  // Decoders are often published without a padding token; padding is masked, so any token will do.
  if (tokenizer.pad_token === null && tokenizer.eos_token !== null) tokenizer.pad_token = tokenizer.eos_token;
  const padding = prompts.length > 1;
  const { input_ids, attention_mask } = tokenizer([...prompts], { padding });
  if (input_ids[0]!.length > 0) return { input_ids, attention_mask: attention_mask! };
  const first = tokenizer.bos_token_id ?? tokenizer.eos_token_id;
  if (first === null) throw new OptionError("the prompt is empty");
  return { input_ids: [[first]], attention_mask: [[1]] };
}

/** One generation over all rows: the growing texts, and the times. */
class Run {
  readonly rows: readonly (Row & { readonly decoder: ReturnType<PreTrainedTokenizer["streamDecoder"]> })[];
  /** Seconds from the start to the first tokens and to the last. */
  first_s: number | undefined;
  last_s = 0;
  steps = 0;
  /** Tokens that prompt lookup had guessed. */
  guessed = 0;
  readonly #write: (text: string) => void;

  constructor(
    tokenizer: PreTrainedTokenizer,
    inputs: Inputs,
    prompts: readonly string[],
    write: (text: string) => void,
  ) {
    this.#write = write;
    this.rows = inputs.input_ids.map((ids, r) => {
      const decoder = tokenizer.streamDecoder({ skip_special_tokens: true });
      const real = ids.filter((_, t) => inputs.attention_mask[r]![t] === 1);
      // The decoder sees the prompt too: whether the first new word begins with a space depends on it.
      const echo = decoder.push(real);
      return { decoder, echo, prompt: prompts[r]!, prompt_tokens: real.length, text: "", token_ids: [], ended: false };
    });
  }

  async over(steps: AsyncIterable<Step>): Promise<void> {
    const begin = performance.now();
    try {
      for await (const { token_ids, finish_reasons, guessed } of steps) {
        this.last_s = (performance.now() - begin) / 1000;
        this.first_s ??= this.last_s;
        this.steps++;
        if (guessed) this.guessed++;
        // Yields to the event loop, or signals would not arrive on a device that runs synchronously.
        await setImmediate();
        this.rows.forEach((row, r) => {
          if (row.ended) return;
          row.token_ids.push(token_ids[r]!);
          row.ended = finish_reasons[r] === "eos";
          this.#emit(row, row.decoder.push(token_ids[r]!));
        });
      }
    } finally {
      for (const row of this.rows) this.#emit(row, row.decoder.end());
    }
  }

  #emit(row: Row, text: string): void {
    if (text === "") return;
    row.text += text;
    this.#write(text);
  }
}

/** A progress bar on stderr while weights are read; cleared at the end. */
class LoadingBar {
  readonly #bar = new SingleBar(
    {
      stream: process.stderr,
      format: "loading [{bar}] {percentage}%  {read} of {all}",
      clearOnComplete: true,
      hideCursor: true,
      barsize: 30,
    },
    Presets.legacy,
  );

  show({ status, loaded, total }: ProgressEvent): void {
    const texts = { read: bytes(loaded), all: bytes(total) };
    if (status === "initiate") this.#bar.start(total, 0, texts);
    else this.#bar.update(loaded, texts);
  }

  stop(): void {
    this.#bar.stop();
  }
}
