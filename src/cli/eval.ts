// octavo eval: its flags. What it measures of texts is in eval-texts.ts, of tasks in eval-tasks.ts.

import { Command, InvalidArgumentError, Option } from "commander";
import { OptionError } from "../core/errors.js";
import { VARIANTS, variantNames } from "../eval/variants.js";
import { SOURCE } from "../load/options.js";
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
import { evaluateText, type TextFlags } from "./eval-texts.js";

interface EvalFlags extends Omit<TaskFlags, "tasks">, TextFlags {
  tasks?: readonly string[];
  compare: string;
}

export function evalCommand(): Command {
  const command = new Command("eval")
    .argument("[model]", `${A_MODEL} (default: the storyteller)`)
    .option("--ppl <file>", "text to evaluate on (default: the storyteller's own)")
    .option("--compare <list>", `storages: ${Object.keys(VARIANTS).join(", ")}`, "f32,int8,nf4")
    .option("--tasks <list>", "tasks of lm-evaluation-harness, such as hellaswag,piqa, or storyteller_cloze", words)
    .option(
      "--data-dir <folder>",
      "data of the tasks: <folder>/<data set>/<split>.jsonl, .json, .csv, .tsv, .parquet, .arrow",
    )
    .option("--include-path <folder>", "task files of one's own (YAML)")
    .option("--num-fewshot <n>", "examples in front of each question (default: what each task says)", natural)
    .option(
      "--apply-chat-template [name]",
      "prompts are conversations by the tokenizer's chat template, or the one of a name",
    )
    .option(
      "--fewshot-as-multiturn [bool]",
      "examples are turns of the conversation (default with a template: true)",
      truth,
    )
    .option("--system-instruction <text>", "text in front of each task's description")
    .option(
      "--gen-kwargs <list>",
      "changes to the tasks' generation_kwargs, such as max_gen_toks=64,temperature=0",
      kwargs,
    )
    .option("--limit <n>", "only the first n items of each task, or a share below 1", share)
    .option("--batch-size <n>", "requests that are computed together; results do not depend on it", positive)
    .option("--bootstrap-iters <n>", "resamples for standard errors without a formula (default: 100000)", natural)
    .option("--use-cache <file>", "keep answers there; an evaluation that was interrupted goes on from it")
    .option("--log-samples <file>", "write each item with its answers there, as JSON lines")
    .option("--html <file>", "write a report with charts there")
    .option("--kl", "compare each storage's predictions with those in f32: KL divergence and the likeliest token")
    .option("--layers", "with --kl: also the error of the hidden states after each block")
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
const OF_TEXTS = ["ppl", "kl", "layers", "window", "stride", "maxTokens", "kvCache"];
const OF_TASKS = [
  "dataDir",
  "includePath",
  "numFewshot",
  "applyChatTemplate",
  "fewshotAsMultiturn",
  "systemInstruction",
  "genKwargs",
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
    throw new OptionError(tasks ? `${flag} is for texts, not for --tasks` : `${flag} is for --tasks`);
  }
  if (tasks) return await evaluateTasks(name, names, place, { ...flags, tasks });
  await evaluateText(name, names, place, flags);
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
function truth(text: string): boolean {
  const known = new Map([
    ["true", true],
    ["false", false],
  ]).get(text.toLowerCase());
  if (known === undefined) throw new InvalidArgumentError("It must be true or false.");
  return known;
}

/** Names and values: numbers, true, false, null, and otherwise text. @throws InvalidArgumentError */
function kwargs(list: string): Record<string, unknown> {
  return Object.fromEntries(
    list.split(",").map((entry) => {
      const [name = "", value] = entry.split(/=(.*)/s);
      if (name.trim() === "" || value === undefined)
        throw new InvalidArgumentError("It must be name=value,name=value.");
      try {
        return [name.trim(), JSON.parse(value.trim().replace(/^(True|False|None)$/, pythonWord)) as unknown];
      } catch {
        return [name.trim(), value];
      }
    }),
  );
}

const pythonWord = (word: string): string => (word === "None" ? "null" : word.toLowerCase());

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
