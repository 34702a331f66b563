// octavo train: fine-tunes a language model on files of examples, and writes the adapter (or the model), its numbers, their curve and a card.

import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { Command } from "commander";
import type { LoraConfig } from "../adapters/config.js";
import { AbortError, OptionError } from "../core/errors.js";
import { pick } from "../core/options.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../generate/auto.js";
import type { PreTrainedModel } from "../generate/model.js";
import { DISK_FOLDERS } from "../load/disk.js";
import { SOURCE } from "../load/options.js";
import { trainedContext } from "../nn/architecture.js";
import { manual_seed } from "../nn/init.js";
import type { TrainingArguments } from "../train/arguments.js";
import { Dataset } from "../train/data/dataset.js";
import { longestText, MAX_LENGTH } from "../train/data/prepared-sets.js";
import { sftCollator } from "../train/sft-trainer.js";
import { Trainer } from "../train/trainer.js";
import { svgCurves } from "./chart-curve.js";
import { interruption, loadOn, loadOptions } from "./load-flags.js";
import { bytes, countOf, duration, note, plural, print, printJson, warner } from "./output.js";
import { cardOf } from "./train-card.js";
import { type DataFacts, factsOf, readData, type TrainData, tokenized } from "./train-data.js";
import {
  addTrainFlags,
  loraOptions,
  setOptions,
  sftOptions,
  type TrainFlags,
  trainingArguments,
} from "./train-flags.js";
import { type TrainMemory, trainMemory } from "./train-memory.js";
import { curvesOf, METRICS, TrainProgress } from "./train-progress.js";

export function trainCommand(): Command {
  return addTrainFlags(new Command("train")).action(train);
}

/** What a run is going to do. */
interface Plan {
  readonly trained: string;
  readonly trainable: number;
  readonly all: number;
  readonly data: DataFacts | undefined;
  readonly eval_examples: number | undefined;
  /** Updates; of an epoch undefined for a stream. */
  readonly steps: number;
  readonly steps_per_epoch: number | undefined;
  readonly memory: TrainMemory;
}

async function train(name: string, flags: TrainFlags): Promise<void> {
  const adapter = loraOptions(flags);
  const out = await checkedOut(name, flags);
  // Outputs that are rounded to bytes would be learned around: QLoRA's products are in bf16.
  if (flags.loadIn4bit) flags.computeDtype ??= "bfloat16";
  const options = loadOptions("train", flags);
  const given = await sftOptions(flags);
  const args = trainingArguments(flags, out ?? "trainer_output", Boolean(flags.evalData ?? flags.evalSplit));
  if (flags.streaming && args.max_steps <= 0) {
    throw new OptionError("--streaming needs --max-steps: the length of a stream is not known");
  }
  const signal = interruption();
  const tokenizer = await AutoTokenizer.from_pretrained(name, { ...pick(SOURCE, options), signal });
  tokenizer.padding_side = "right";
  if (tokenizer.pad_token === null) tokenizer.pad_token = tokenizer.eos_token;
  const examples = await readData(flags, args.data_seed ?? args.seed);
  // Float weights are trained in f32: steps of a small rate would be rounded away in 16 bits.
  const how = flags.full && (options.dtype ?? "auto") === "auto" ? { ...options, dtype: "float32" as const } : options;
  const loaded = await loadOn(flags, how, signal, (own) => AutoModelForCausalLM.from_pretrained(name, own));
  await using _device = loaded.device;
  await using model = loaded;
  model.warnings.forEach(warner(flags.quiet));
  const context = trainedContext(model.config) ?? MAX_LENGTH;
  const sft = {
    ...given,
    max_length: given.max_length === undefined ? longestText(model.config) : given.max_length,
  };
  if (sft.max_length === null || sft.max_length > context) {
    warner(flags.quiet)(
      `the model was trained on texts of at most ${context} tokens, and --max-length lets longer ones in`,
    );
  }
  const rows = tokenized(examples, tokenizer, sft);
  manual_seed(args.seed);
  if (adapter) model.add_adapter(adapter);
  else model.requires_grad_();
  if (args.gradient_checkpointing) model.gradient_checkpointing_enable();
  const plan = await planOf(
    model,
    args,
    { examples, rows },
    { max_length: sft.max_length ?? context, packing: sft.packing === true },
    describe(adapter, model),
  );
  const talks = !flags.quiet && !flags.json;
  if (talks) for (const line of planLines(name, model, args, plan, flags)) note(line);
  if (flags.dryRun) {
    if (flags.json) printJson({ model: name, dry_run: true, ...plan });
    else if (flags.quiet) for (const line of planLines(name, model, args, plan, flags)) print(`${line}\n`);
    return;
  }
  await mkdir(out!, { recursive: true });
  const progress = new TrainProgress(out!, flags.quiet === true || flags.json === true);
  const trainer = new Trainer({
    model,
    args,
    train_dataset: rows.train,
    ...(rows.evaluated ? { eval_dataset: rows.evaluated } : {}),
    data_collator: sftCollator(tokenizer),
    processing_class: tokenizer,
    callbacks: [progress],
    checkpoints: DISK_FOLDERS,
  });
  model.device.arena.resetPeak();
  try {
    await trainer.train({ signal, ...(flags.resume ? { resume_from_checkpoint: flags.resume } : {}) });
  } catch (error) {
    progress.stop();
    if (!(error instanceof AbortError)) throw error;
    await writeCurve(out!, name, progress);
    if (!flags.quiet)
      note(`interrupted; the same command with --resume goes on after update ${trainer.state.global_step}`);
    throw error;
  }
  progress.stop();
  const peak = model.device.memory.peak;
  const saved = await model.save_pretrained(out!);
  if (!adapter) await tokenizer.save_pretrained(out!);
  await writeCurve(out!, name, progress);
  await finish({
    name,
    flags,
    args,
    plan,
    progress,
    saved,
    peak,
    full: !adapter,
    chat: tokenizer.chat_template !== null,
  });
}

/** What is known at the end. */
interface Finished {
  readonly name: string;
  readonly flags: TrainFlags;
  readonly args: TrainingArguments;
  readonly plan: Plan;
  readonly progress: TrainProgress;
  readonly saved: { readonly files: readonly string[]; readonly bytes: number };
  /** Bytes of the device. */
  readonly peak: number;
  readonly full: boolean;
  readonly chat: boolean;
}

/** Writes the card, and says what came of it. */
async function finish({ name, flags, args, plan, progress, saved, peak, full, chat }: Finished): Promise<void> {
  const out = args.output_dir;
  const { trained, trainable, all } = plan;
  const losses = progress.metrics.flatMap(({ loss }) => (loss === undefined ? [] : [loss]));
  const eval_loss = progress.metrics.findLast((one) => one.eval_loss !== undefined)?.eval_loss;
  const [first_loss, last_loss] = [losses[0], losses.at(-1)];
  const { seconds, tokens, step: steps } = progress.work;
  const card = cardOf({
    ...{ model: name, trained, trainable, all, full, folder: out, chat, steps, first_loss, last_loss, eval_loss },
    data: dataText(flags, plan),
    options: setOptions(args),
  });
  await writeFile(join(out, "README.md"), card);
  const tokens_per_second = seconds > 0 ? tokens / seconds : 0;
  if (flags.json) {
    printJson({
      ...{ model: name, folder: out, files: saved.files, bytes: saved.bytes },
      ...{ trainable_parameters: trainable, all_parameters: all, steps, first_loss, last_loss, eval_loss },
      ...{ seconds, tokens, tokens_per_second, peak_memory: peak, plan },
    });
    return;
  }
  const change =
    first_loss === undefined || last_loss === undefined
      ? ""
      : `loss ${first_loss.toFixed(3)} → ${last_loss.toFixed(3)}, `;
  const evaluated = eval_loss === undefined ? "" : `eval loss ${eval_loss.toFixed(3)}, `;
  print(`${out}: ${change}${evaluated}${plural(steps, "update")}, ${duration(seconds)}, ${bytes(saved.bytes)}\n`);
  if (flags.quiet) return;
  note(`peak memory ${bytes(peak)}, ${Math.round(tokens_per_second).toLocaleString("en-US")} tokens/s`);
  note(`try it: octavo generate ${full ? out : name} "Once upon a time"${full ? "" : ` --adapter ${out}`}`);
}

/** The folder to write; undefined for a dry run without one. @throws OptionError for one that holds files */
async function checkedOut(
  model: string,
  { out, dryRun, resume, force, full }: TrainFlags,
): Promise<string | undefined> {
  if (out === undefined) {
    if (dryRun) return undefined;
    throw new OptionError("train needs --out, the folder that is written", {
      hint: "or --dry-run, which writes nothing",
    });
  }
  if (resolve(out) === resolve(model)) {
    throw new OptionError(`${out} is the model's own folder`, { details: { file: out }, hint: "name another folder" });
  }
  if (dryRun) return out;
  const there = await readdir(out).catch(() => []);
  const checkpoints = there.filter((name) => /^checkpoint-\d+$/.test(name));
  if (resume === true && checkpoints.length === 0) {
    throw new OptionError(`${out}: there is no checkpoint to go on from`, { details: { file: out } });
  }
  if (there.length === 0 || resume) return out;
  if (!force) {
    throw new OptionError(`${out} holds files already`, {
      details: { file: out },
      hint: `name another folder, or pass --force to replace what is in it${checkpoints.length > 0 ? ", or --resume to go on" : ""}`,
    });
  }
  // What another run has left would be taken for this one's.
  const left = full ? ["adapter_config.json", "adapter_model.safetensors"] : [];
  for (const name of [...checkpoints, METRICS, ...left]) await rm(join(out, name), { recursive: true, force: true });
  return out;
}

/** What is trained, in words. */
function describe(adapter: LoraConfig | undefined, model: PreTrainedModel): string {
  if (!adapter) return "all weights";
  const name = model.active_adapter!;
  const { fields } = model.peft_config[name]!;
  const { target_modules: modules, target_parameters: stacks } = fields;
  const named = typeof modules === "string" ? [modules] : [...(modules ?? [])].sort();
  const targets = [...named, ...(stacks ?? [])].join(", ");
  return `${fields.use_dora ? "DoRA" : "LoRA"}, r ${fields.r}, on ${targets}`;
}

async function planOf(
  model: PreTrainedModel,
  args: TrainingArguments,
  { examples, rows }: { readonly examples: TrainData; readonly rows: TrainData },
  { max_length, packing }: { readonly max_length: number; readonly packing: boolean },
  trained: string,
): Promise<Plan> {
  const [trainable, all] = model.get_nb_trainable_parameters();
  const data = factsOf(examples, rows);
  const { per_device_train_batch_size: batch, gradient_accumulation_steps: window } = args;
  const batches = rows.train instanceof Dataset ? rows.train.length / batch : undefined;
  const whole = batches && (args.dataloader_drop_last ? Math.floor(batches) : Math.ceil(batches));
  const steps_per_epoch = whole && Math.max(1, Math.ceil(whole / window));
  const steps = args.max_steps > 0 ? args.max_steps : Math.ceil(args.num_train_epochs * steps_per_epoch!);
  const inMemory = rows.train instanceof Dataset ? rows.train.length : batch;
  const padded = Math.min(batch, inMemory) * (data?.longest ?? max_length);
  // Packed rows stand one behind the other, so that a batch has no more tokens than there are.
  const tokens = packing && data ? Math.min(padded, data.tokens) : padded;
  const memory = await trainMemory(model, args, tokens, trainable);
  return { trained, trainable, all, data, eval_examples: rows.evaluated?.length, steps, steps_per_epoch, memory };
}

function dataText({ data }: TrainFlags, plan: Plan): string {
  const names = data.map((file) => file.split(/[\\/]/).filter(Boolean).at(-1)).join(", ");
  return plan.data
    ? `${names} (${plural(plan.data.examples, "example")}, ${plural(plan.data.tokens, "token")})`
    : names;
}

/** The plan in words. */
function planLines(
  name: string,
  model: PreTrainedModel,
  args: TrainingArguments,
  plan: Plan,
  { out }: TrainFlags,
): string[] {
  const { data, memory, steps, steps_per_epoch, trainable, all, eval_examples } = plan;
  const batch = args.per_device_train_batch_size * args.gradient_accumulation_steps;
  const share = (100 * trainable) / Math.max(1, all);
  const epochs = steps_per_epoch === undefined ? "" : `, ${steps_per_epoch} in an epoch`;
  const some = data && data.rows !== data.examples ? ` in ${plural(data.rows, "row")}` : "";
  const { budget } = model.device.memory;
  return [
    `model     ${name}, ${countOf(all)} parameters on ${model.device.name}`,
    `trains    ${plan.trained}: ${countOf(trainable)} parameters (${share < 10 ? share.toPrecision(2) : share.toFixed(0)} %)`,
    data
      ? `data      ${plural(data.examples, "example")}${some}, ${plural(data.tokens, "token")}, ${data.learned.toLocaleString("en-US")} of them learned, the longest row ${data.longest}`
      : "data      a stream",
    ...(eval_examples === undefined ? [] : [`evaluates ${plural(eval_examples, "example")}`]),
    `steps     ${plural(steps, "update")} of ${plural(batch, "row")}${epochs}`,
    `memory    about ${bytes(memory.total)} at the peak: weights ${bytes(memory.weights)}, optimizer ${bytes(memory.optimizer)}, activations ${bytes(memory.activations)}`,
    ...(memory.total > budget
      ? [
          `warning: that is more than the ${bytes(budget)} here; smaller batches, with --gradient-accumulation-steps, need less`,
        ]
      : []),
    ...(out === undefined ? [] : [`writes    ${out}`]),
  ];
}

async function writeCurve(out: string, model: string, { metrics }: TrainProgress): Promise<void> {
  const svg = svgCurves(curvesOf(metrics), { title: `Loss of ${model}`, notes: [] });
  await writeFile(join(out, "loss.svg"), svg);
}
