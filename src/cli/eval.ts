// octavo eval: perplexity of a text in several storages, side by side, with the size of each; with --tasks, eval-tasks.ts.

import { Command, InvalidArgumentError, Option } from "commander";
import { OptionError } from "../core/errors.js";
import { type Perplexity, perplexity } from "../eval/perplexity.js";
import { VARIANTS, variantNames } from "../eval/variants.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../generate/auto.js";
import { NODE } from "../load/node.js";
import { SOURCE } from "../load/options.js";
import { onOwnDevice } from "../load/platform.js";
import { storytellerFile } from "../load/storyteller.js";
import { STORYTELLER } from "../sources/model-id.js";
import {
  A_MODEL,
  deviceOption,
  jsonOption,
  KV_CACHES,
  type KVCacheName,
  optionsOf,
  positive,
  real,
  sourceOptions,
  threadsOption,
  whole,
} from "./arguments.js";
import { evaluateTasks, type TaskFlags } from "./eval-tasks.js";
import { bytes, isInteractive, note, print, printJson, table, warner } from "./output.js";
import { PercentBar } from "./progress.js";
import { readText } from "./text.js";

interface EvalFlags extends Omit<TaskFlags, "tasks"> {
  tasks?: readonly string[];
  ppl?: string;
  compare: string;
  window: number;
  stride: number;
  maxTokens?: number;
  kvCache?: readonly KVCacheName[];
}

interface Result extends Perplexity {
  readonly storage: string;
  readonly weight_bytes: number;
  /** Perplexity against the first storage's, in percent. */
  readonly change: number;
  readonly seconds: number;
}

export function evalCommand(): Command {
  const command = new Command("eval")
    .argument("[model]", `${A_MODEL} (default: the storyteller)`)
    .option("--ppl <file>", "text to evaluate on (default: the storyteller's own)")
    .option("--compare <list>", `storages: ${Object.keys(VARIANTS).join(", ")}`, "f32,int8,nf4")
    .option("--tasks <list>", "tasks of lm-evaluation-harness, such as hellaswag,piqa, or storyteller_cloze", words)
    .option("--data-dir <folder>", "data of the tasks: <folder>/<data set>/<split>.jsonl, .json, .csv, .tsv, .parquet")
    .option("--include-path <folder>", "task files of one's own (YAML)")
    .option("--num-fewshot <n>", "examples in front of each question (default: what each task says)", natural)
    .option("--limit <n>", "only the first n items of each task, or a share below 1", share)
    .option("--batch-size <n>", "requests that are computed together; results do not depend on it", positive)
    .option("--bootstrap-iters <n>", "resamples for standard errors without a formula (default: 100000)", natural)
    .option("--use-cache <file>", "keep answers there; an evaluation that was interrupted goes on from it")
    .option("--log-samples <file>", "write each item with its answers there, as JSON lines")
    .option("--html <file>", "write a report with charts there")
    .option("--window <n>", "tokens that the model sees at once", positive, 512)
    .option("--stride <n>", "tokens that the window moves on by", positive, 256)
    .option("--max-tokens <n>", "stop after this many tokens of the text", positive)
    .addOption(
      new Option(
        "--kv-cache <list>",
        `run through a key-value cache of ${Object.keys(KV_CACHES).join(", ")}`,
      ).argParser(kvCacheNames),
    )
    .addOption(deviceOption())
    .addOption(threadsOption());
  return sourceOptions(command).addOption(jsonOption()).option("-q, --quiet", "no progress on stderr").action(evaluate);
}

/** Flags of the perplexity of a text, and of tasks. */
const OF_TEXTS = ["ppl", "window", "stride", "maxTokens", "kvCache"];
const OF_TASKS = [
  "dataDir",
  "includePath",
  "numFewshot",
  "limit",
  "batchSize",
  "bootstrapIters",
  "useCache",
  "logSamples",
  "html",
];

async function evaluate(model: string | undefined, flags: EvalFlags, command: Command): Promise<void> {
  const name = model ?? STORYTELLER;
  const place = optionsOf("eval", SOURCE, flags);
  const names = variantNames(flags.compare);
  const { tasks } = flags;
  const strange = (tasks ? OF_TEXTS : OF_TASKS).find((flag) => command.getOptionValueSource(flag) === "cli");
  if (strange !== undefined) {
    const flag = command.options.find((option) => option.attributeName() === strange)!.long!;
    throw new OptionError(
      tasks ? `${flag} is for the perplexity of a text, not for --tasks` : `${flag} is for --tasks`,
    );
  }
  if (tasks) return await evaluateTasks(name, names, place, { ...flags, tasks });
  const text = await readText(flags.ppl ?? storytellerFile("storyteller-eval.txt"));
  const tokenizer = await AutoTokenizer.from_pretrained(name, place);
  const ids = tokenizer(text).input_ids;
  const first = tokenizer.bos_token_id ?? tokenizer.eos_token_id;
  const all = (first === null || ids[0] === first ? ids : [first, ...ids]).slice(0, flags.maxTokens);
  const results: Result[] = [];
  const warn = warner(flags.quiet);
  const runs = names.flatMap((name) => (flags.kvCache ?? [undefined]).map((cache) => ({ name, cache })));
  for (const { name: variant, cache } of runs) {
    const { dtype, quantization, compute, head, cache: usual } = VARIANTS[variant]!;
    const storage = cache ? `${variant}, cache ${cache}` : variant;
    const cache_dtype = cache ? KV_CACHES[cache] : usual;
    const bar = flags.quiet || !isInteractive() ? undefined : new PercentBar(storage);
    const start = performance.now();
    try {
      // Each storage has a device of its own: "auto" may find that only some of them fit the GPU.
      const loaded = await onOwnDevice(NODE, flags.device, { threads: flags.threads }, (device) =>
        AutoModelForCausalLM.from_pretrained(name, {
          device,
          dtype,
          quantization_config: quantization,
          compute_dtype: compute,
          head_dtype: head,
          ...place,
        }),
      );
      await using device = loaded.device;
      await using _owned = loaded;
      loaded.warnings.forEach(warn);
      if (device.reason && !flags.quiet) note(`${storage}: on ${device.name} (${device.reason})`);
      const measured = await perplexity(loaded, all, {
        window: flags.window,
        stride: flags.stride,
        cache_dtype,
        progress: (done) => bar?.update(done),
      });
      const reference = results[0]?.perplexity ?? measured.perplexity;
      results.push({
        storage,
        ...measured,
        weight_bytes: loaded.weight_bytes,
        change: 100 * (measured.perplexity / reference - 1),
        seconds: (performance.now() - start) / 1000,
      });
    } finally {
      bar?.stop();
    }
  }
  if (flags.json) {
    printJson({ model: name, window: flags.window, stride: flags.stride, results });
    return;
  }
  const rows = results.map(({ storage, perplexity: value, standard_error, change, weight_bytes, seconds }, i) => [
    storage,
    value.toFixed(3),
    `± ${standard_error.toFixed(2)}`,
    i === 0 ? "" : `${change >= 0 ? "+" : ""}${change.toFixed(2)} %`,
    bytes(weight_bytes),
    `${seconds.toFixed(1)} s`,
  ]);
  print(
    table(
      [["storage", "perplexity", "", `against ${results[0]!.storage}`, "weights", "time"], ...rows],
      [1, 2, 3, 4, 5],
    ),
  );
  if (!flags.quiet) note(`${results[0]!.tokens} tokens, windows of ${flags.window} moved by ${flags.stride}`);
}

/** @throws InvalidArgumentError */
function natural(text: string): number {
  const value = whole(text);
  if (value < 0) throw new InvalidArgumentError("It must be a whole number of at least 0.");
  return value;
}

/** @throws InvalidArgumentError */
function share(text: string): number {
  const value = real(text);
  if (value > 0 && (value < 1 || Number.isSafeInteger(value))) return value;
  throw new InvalidArgumentError("It must be a number of items, or a share between 0 and 1.");
}

/** @throws InvalidArgumentError */
function words(list: string): string[] {
  const names = list.split(",").map((name) => name.trim());
  if (names.every((name) => name !== "")) return names;
  throw new InvalidArgumentError("It must be a list of names with commas between them.");
}

/** @throws InvalidArgumentError */
function kvCacheNames(list: string): KVCacheName[] {
  const names = list.split(",").map((name) => name.trim());
  const known = Object.keys(KV_CACHES);
  if (!names.every((name) => known.includes(name))) throw new InvalidArgumentError(`Known: ${known.join(", ")}.`);
  return names as KVCacheName[];
}
