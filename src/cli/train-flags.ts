// The flags of octavo train: those of the option tables of the Trainer, of LoRA and of the data, and the command's own.

import { type Command, InvalidArgumentError, Option } from "commander";
import { LORA, LoraConfig, type LoraOptions } from "../adapters/config.js";
import { OptionError } from "../core/errors.js";
import { pick } from "../core/options.js";
import { TrainingArguments } from "../train/arguments.js";
import { LOAD_DATASET, type LoadDatasetOptions } from "../train/data/load.js";
import { SFT, type SFTOptions } from "../train/data/sft-options.js";
import { TRAINING, type TrainingOptions } from "../train/options.js";
import { A_MODEL, addFlags, optionsOf, positive, real, whole } from "./arguments.js";
import { addRunFlags, addWeightFlags, type LoadFlags } from "./load-flags.js";
import { readText } from "./text.js";

/** Flags of the command itself; the library's options are read from the same object by their tables. */
export interface TrainFlags extends LoadFlags {
  data: readonly string[];
  evalData?: readonly string[];
  evalSplit?: number;
  format?: string;
  streaming?: boolean;
  shuffleBuffer?: number;
  chatTemplate?: string;
  full?: boolean;
  out?: string;
  resume?: boolean | string;
  force?: boolean;
  dryRun?: boolean;
  json?: boolean;
  loadIn8bit?: boolean;
  loadIn4bit?: boolean;
  loraTargetModules?: string;
  loraModulesToSave?: string;
  loraTargetParameters?: string;
  loraTrainableTokenIndices?: string;
}

const EXAMPLES = `
An example is {"text"}, {"prompt", "completion"} or {"messages": [{"role", "content"}]}, as in TRL. The folder gets the adapter,
metrics.jsonl, loss.svg and README.md. Ctrl-C saves a checkpoint, and --resume goes on from it. Over weights in 4 bits, products are
in bfloat16 unless --compute-dtype says otherwise.

Examples:
  octavo train octavo/storyteller --data stories.jsonl --lora-r 8 --out adapter
  octavo train ./llama --data chats.jsonl --load-in-4bit --lora-target-modules all-linear --out adapter
  octavo train ./llama --data chats.jsonl --eval-split 0.1 --dry-run
  octavo train ./llama --data chats.jsonl --out adapter --resume
  octavo generate octavo/storyteller "Once upon a time" --adapter adapter`;

const more = (one: string, all: readonly string[] = []): readonly string[] => [...all, one];

function share(text: string): number {
  const value = real(text);
  if (value > 0 && value < 1) return value;
  throw new InvalidArgumentError("It must be a share of the data, above 0 and below 1.");
}

function lengthOrNone(text: string): number | null {
  return text === "none" ? null : whole(text);
}

/** Adds all flags but those of what the command does. */
export function addTrainFlags(command: Command): Command {
  command
    .argument("<model>", A_MODEL)
    .optionsGroup("Data:")
    .addOption(
      new Option("--data <file>", "examples: JSON Lines, JSON, CSV, text, Parquet or Arrow; a folder; may be repeated")
        .argParser(more)
        .makeOptionMandatory(),
    )
    .addOption(new Option("--eval-data <file>", "examples to evaluate on; may be repeated").argParser(more))
    .addOption(
      new Option("--eval-split <share>", "share of the data to evaluate on instead")
        .argParser(share)
        .conflicts("evalData"),
    )
    .addOption(
      new Option("--format <name>", "format of the files, if their endings do not tell it").choices([
        "json",
        "csv",
        "text",
        "parquet",
        "arrow",
      ]),
    );
  addFlags(command, LOAD_DATASET);
  const sft = addFlags(command, SFT);
  sft.max_length.argParser(lengthOrNone);
  command
    .option("--streaming", "read examples as they are needed, from files of any size; needs --max-steps")
    .option("--shuffle-buffer <n>", "examples in memory, of which the next one of a stream is drawn", positive, 1000);
  addWeightFlags(command).optionsGroup("Adapter:");
  const lora = addFlags(command, LORA);
  lora.r.argParser(whole);
  lora.lora_alpha.argParser(real);
  command.option("--full", "train all weights instead, and write the model whole").optionsGroup("Training:");
  const training = addFlags(command, TRAINING);
  training.eval_steps.argParser(real);
  training.save_total_limit.argParser(whole);
  command
    .optionsGroup("Output:")
    .option("--out <folder>", "the folder that is written")
    .option("--dry-run", "say what would be done, and end there")
    .addOption(new Option("--resume [checkpoint]", "go on from a checkpoint, by default the last one in the folder"))
    .option("--force", "replace a folder that holds files");
  return addRunFlags(command).addHelpText("after", EXAMPLES);
}

/** How files of examples are read. */
export function dataOptions(flags: TrainFlags): LoadDatasetOptions {
  return optionsOf("train", LOAD_DATASET, flags);
}

/** What examples become; the chat template is read from its file. @throws NotFoundError, OptionError */
export async function sftOptions(flags: TrainFlags): Promise<SFTOptions> {
  const { chatTemplate, ...others } = flags;
  const chat_template = chatTemplate === undefined ? undefined : await readText(chatTemplate);
  return { ...optionsOf("train", SFT, others), ...(chat_template === undefined ? {} : { chat_template }) };
}

const names = (list: string | undefined): readonly string[] | undefined =>
  list
    ?.split(",")
    .map((name) => name.trim())
    .filter(Boolean);

/** The adapter; undefined for --full. @throws OptionError for flags of adapters with --full */
export function loraOptions(flags: TrainFlags): LoraConfig | undefined {
  const { loraTargetModules, loraModulesToSave, loraTargetParameters, loraTrainableTokenIndices, ...others } = flags;
  const targets = loraTargetModules === "all-linear" ? loraTargetModules : names(loraTargetModules);
  const given: LoraOptions = {
    ...optionsOf("train", LORA, others),
    ...(targets === undefined ? {} : { target_modules: targets }),
    ...(loraModulesToSave === undefined ? {} : { modules_to_save: names(loraModulesToSave) }),
    ...(loraTargetParameters === undefined ? {} : { target_parameters: names(loraTargetParameters) }),
    ...(loraTrainableTokenIndices === undefined
      ? {}
      : { trainable_token_indices: names(loraTrainableTokenIndices)?.map(Number) ?? [] }),
  };
  if (!flags.full) return new LoraConfig({ ...given, init_lora_weights: true, task_type: "CAUSAL_LM" });
  const [one] = Object.keys(given);
  if (one !== undefined) throw new OptionError(`--full trains all weights, and ${one} is for an adapter`);
  if (flags.loadIn8bit || flags.loadIn4bit) {
    throw new OptionError("--full trains all weights, and those in 8 or 4 bits cannot be trained", {
      hint: "leave --full out: an adapter is trained over them",
    });
  }
  return undefined;
}

/** Rates that fit adapters and whole models of instructions, as TRL advises. */
const RATES = { adapter: 2e-4, full: 2e-5 };

/** @param evaluated whether there are examples to evaluate on @throws OptionError */
export function trainingArguments(flags: TrainFlags, output_dir: string, evaluated: boolean): TrainingArguments {
  const given: TrainingOptions = optionsOf("train", TRAINING, flags);
  const eval_strategy = given.eval_strategy ?? (!evaluated ? "no" : given.eval_steps !== undefined ? "steps" : "epoch");
  if (!evaluated && eval_strategy !== "no") {
    throw new OptionError("--eval-strategy needs --eval-data or --eval-split");
  }
  return new TrainingArguments({
    learning_rate: flags.full ? RATES.full : RATES.adapter,
    logging_steps: 1,
    ...(given.load_best_model_at_end ? { save_strategy: eval_strategy } : {}),
    ...given,
    ...{ output_dir, eval_strategy },
    include_num_input_tokens_seen: "non_padding",
    remove_unused_columns: false,
  });
}

/** What the card says of a run: what was set, by name. */
export function setOptions(args: TrainingArguments): Record<string, unknown> {
  const shown = [
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "optim",
    "seed",
  ] as const;
  const given = [...args.given].filter((name) => name in TRAINING && !HIDDEN.has(name));
  return pick(
    TRAINING,
    Object.fromEntries([...shown, ...given].map((name) => [name, args[name as keyof TrainingArguments]])),
  );
}

/** Options that say nothing about the result. */
const HIDDEN: ReadonlySet<string> = new Set([
  "output_dir",
  "logging_steps",
  "include_num_input_tokens_seen",
  "remove_unused_columns",
]);
