// Training in the Worker: an adapter over the model that is loaded. A chunk of its own, which pages that only generate never load.

import { LoraConfig } from "../adapters/config.js";
import { writeAdapters } from "../adapters/write.js";
import { type Files, writtenInMemory } from "../checkpoints/folder-in-memory.js";
import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { Turns } from "../core/turns.js";
import type { PreTrainedModel } from "../generate/model.js";
import { openParts } from "../generate/parts.js";
import { manual_seed } from "../nn/init.js";
import { CONVERSATIONS, type PreTrainedTokenizer } from "../tokenizer/api.js";
import type { TrainerCallback } from "../train/callbacks.js";
import { SFTConfig, SFTTrainer } from "../train/sft-trainer.js";
import type { WorkerTrainOptions } from "./call-options.js";
import type { WorkerMemory, WorkerTrained, WorkerTrainingStep } from "./protocol.js";

export interface Subject {
  readonly device: Device;
  readonly model: PreTrainedModel;
  readonly tokenizer: PreTrainedTokenizer;
}

export interface Watch {
  readonly signal: AbortSignal;
  readonly emit: (event: WorkerTrainingStep) => void;
  readonly memory: () => WorkerMemory;
}

/**
 * Learns an adapter. One that was added for it is taken off again if the run fails or is aborted.
 * @throws OptionError, AbortError, OctavoError, OutOfMemoryError
 */
export async function trainAdapter(subject: Subject, given: WorkerTrainOptions, watch: Watch): Promise<WorkerTrained> {
  await Promise.all([openParts(), CONVERSATIONS.open()]);
  const { model } = subject;
  const { peft_config, adapter_name: name = "default" } = given;
  const args = new SFTConfig({ logging_steps: 1, ...given.args });
  const before = model.adapters && { active: model.active_adapters(), names: model.adapters.names };
  if (peft_config === undefined && !before?.names.includes(name)) {
    throw new OptionError(`train: there is no adapter ${name} to go on with, and no peft_config for a new one`, {
      details: { option: "peft_config" },
      hint: "peft_config: { r: 8 }",
    });
  }
  manual_seed(args.seed); // of first values, too
  if (peft_config === undefined) model.set_adapter(name);
  else await model.add_adapter(new LoraConfig(peft_config), name);
  try {
    return await learn(subject, { ...given, args, name }, watch);
  } catch (error) {
    if (before && before.active.length > 0) model.set_adapter(before.active);
    if (peft_config !== undefined) model.delete_adapter(name);
    throw error;
  }
}

interface Asked extends Omit<WorkerTrainOptions, "args"> {
  readonly args: SFTConfig;
  readonly name: string;
}

async function learn(
  { device, model, tokenizer }: Subject,
  { args, name, train_dataset, eval_dataset }: Asked,
  { signal, emit, memory }: Watch,
): Promise<WorkerTrained> {
  const turns = new Turns("training", signal);
  const turn = async (): Promise<void> => {
    if (turns.due) await turns.take();
  };
  const callback: TrainerCallback = {
    on_substep_end: turn,
    on_prediction_step: turn,
    on_step_end: turn,
    on_log(_, { global_step: step, max_steps: steps }, __, { logs = {} }) {
      emit({ step, steps, logs, memory: memory() });
    },
  };
  const trainer = new SFTTrainer({
    model,
    args,
    processing_class: tokenizer,
    train_dataset,
    callbacks: [callback],
    ...(eval_dataset ? { eval_dataset } : {}),
  });
  device.arena.resetPeak();
  const begin = performance.now();
  const [trainable_parameters, parameters] = model.get_nb_trainable_parameters();
  const { global_step, training_loss } = await trainer.train({ signal });
  const seconds = (performance.now() - begin) / 1000;
  return {
    adapter_name: name,
    global_step,
    training_loss,
    log_history: trainer.state.log_history,
    trainable_parameters,
    parameters,
    seconds,
    memory: { ...memory(), peak: device.memory.peak },
    files: await filesOf(model, name),
  };
}

/** The adapter's files, whatever its name is. */
async function filesOf(model: PreTrainedModel, name: string): Promise<Files> {
  const adapter = model.adapters!.get(name);
  const files = await writtenInMemory((folders) => writeAdapters([{ adapter }], folders, "", undefined));
  return Object.fromEntries(Object.entries(files).map(([path, bytes]) => [path.split("/").at(-1)!, bytes]));
}
