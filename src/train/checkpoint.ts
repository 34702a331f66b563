// The folders checkpoint-<step> of a run: the model or its adapters, and beside them what the run needs to go on as if it had never
// ended: states of the optimizer, the schedule, random numbers, and the place in the data.

import type { Optimizer, OptimizerStateDict } from "../bnb/optim/optimizer.js";
import { tensorOf } from "../bnb/optim/parameter.js";
import type { FolderFiles, TensorToWrite } from "../checkpoints/folder.js";
import { readSafetensorsHeader } from "../checkpoints/safetensors.js";
import { CheckpointError, entriesOf, NotFoundError, OctavoError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { Tensor } from "../core/tensor.js";
import { bytesInOrder } from "../load/read.js";
import { get_rng_state, type RandomState, set_rng_state } from "../nn/init.js";
import { stateTensor } from "../nn/state.js";
import { readJsonFile } from "../sources/json.js";
import type { Source } from "../sources/source.js";
import type { TrainingArguments } from "./arguments.js";
import type { TrainerState } from "./callbacks.js";
import type { LRScheduler } from "./schedules.js";
import type { Subject } from "./subject.js";
import type { CheckpointStore } from "./types.js";

const STATE = "trainer_state.json";
const ARGUMENTS = "training_args.json";
const LOOP = "training_state.json";
const OPTIMIZER = "optimizer.safetensors";

/** Where a run is, beyond what transformers' state says. */
export interface Progress {
  /** The epoch in which the next batch lies. */
  epoch: number;
  /** Batches of it that are done. */
  batches: number;
  /** True once the events at the end of that epoch have been told. */
  ended: boolean;
  /** Sum of the losses since the last log, and of all before. */
  loss: number;
  logged_loss: number;
  /** The update of the last log. */
  last_logged: number;
  /** Of the last update. */
  learning_rate: number;
  grad_norm: number;
}

/** What a checkpoint is made of, beside the model. */
export interface RunState {
  readonly state: TrainerState;
  readonly progress: Progress;
  readonly optimizer: Optimizer;
  readonly scheduler: LRScheduler;
}

const json = (value: unknown): Uint8Array => new TextEncoder().encode(`${JSON.stringify(value, undefined, 2)}\n`);

export const folderOf = (output_dir: string, step: number): string => `${output_dir}/checkpoint-${step}`;

/** The steps of the checkpoints in a folder, ascending. */
export async function stepsIn(store: CheckpointStore, output_dir: string): Promise<number[]> {
  const steps = (await store.folders(output_dir)).flatMap((name) => {
    const [, step] = /^checkpoint-(\d+)$/.exec(name) ?? [];
    return step === undefined ? [] : [Number(step)];
  });
  return steps.sort((a, b) => a - b);
}

/** The checkpoint that a run goes on from; undefined to begin. @throws NotFoundError, OptionError */
export async function checkpointFor(
  store: CheckpointStore | undefined,
  { output_dir }: TrainingArguments,
  resume: unknown,
): Promise<string | undefined> {
  if (resume === undefined || resume === null || resume === false) return undefined;
  if (resume !== true && (typeof resume !== "string" || resume === "")) {
    throw new OptionError(`resume_from_checkpoint must be true or the path of a folder, got ${show(resume)}`);
  }
  if (!store) throw noStore("resume_from_checkpoint");
  if (resume !== true) return resume.replace(/[\\/]+$/, "");
  const last = (await stepsIn(store, output_dir)).at(-1);
  if (last !== undefined) return folderOf(output_dir, last);
  throw new NotFoundError(`${output_dir}: there is no checkpoint to go on from`, {
    details: { file: output_dir },
    hint: "resume_from_checkpoint: false begins a new run",
  });
}

export function noStore(what: string): OctavoError {
  return new OctavoError("ERR_UNSUPPORTED", `${what} needs a place for checkpoints, which a page does not have`, {
    hint: "pass checkpoints, a CheckpointStore of your own, to the Trainer",
  });
}

/** Tensors of an optimizer by the numbers of their parameters, and the rest. */
async function writeOptimizer(files: FolderFiles, optimizer: Optimizer): Promise<object> {
  const { state, param_groups } = optimizer.state_dict();
  const tensors: TensorToWrite[] = [];
  const steps: Record<string, number> = {};
  const held: Tensor[] = [];
  for (const [index, own] of Object.entries(state)) {
    for (const [key, value] of flatOf(own)) {
      if (Tensor.is(value)) {
        held.push(value);
        const { dtype, shape } = stateTensor(value);
        tensors.push({ name: `${index}.${key}`, dtype, shape, data: () => stateTensor(value).bytes() });
      } else if (key === "step") steps[index] = value as number;
    }
  }
  try {
    await files.tensors(OPTIMIZER, tensors, { format: "pt" });
  } finally {
    for (const tensor of held) tensor.dispose();
  }
  return { steps, param_groups };
}

/** The entries of a parameter's state, those of the inner object of bitsandbytes' layout among them. */
function flatOf(own: Readonly<Record<string, unknown>>): [string, unknown][] {
  return Object.entries(own).flatMap(([key, value]): [string, unknown][] =>
    typeof value === "object" && value !== null && !Tensor.is(value) ? Object.entries(value) : [[key, value]],
  );
}

async function readOptimizer(source: Source, optimizer: Optimizer, saved: Record<string, unknown>): Promise<void> {
  const { tensors } = await readSafetensorsHeader(source, source.path(OPTIMIZER));
  const state: Record<number, Record<string, unknown>> = {};
  for (const [index, step] of entriesOf(source.path(LOOP), saved.steps)) state[Number(index)] = { step };
  const params = optimizer.param_groups.flatMap((group) => group.params);
  const made: Tensor[] = [];
  try {
    for (const [name, stored] of tensors) {
      const [, index, key] = /^(\d+)\.(\w+)$/.exec(name) ?? [];
      const value = index === undefined ? undefined : tensorOf(params[Number(index)]);
      const dtype = ({ F32: "f32", U8: "u8" } as const)[stored.dtype as "F32"];
      if (!value || !dtype || !state[Number(index)]) {
        throw new CheckpointError(`${source.path(OPTIMIZER)}: ${name} belongs to no parameter of this run`, {
          details: { file: source.path(OPTIMIZER), tensor: name },
          hint: "go on with the model and the arguments that the checkpoint was made with",
        });
      }
      const tensor = Tensor.empty(value.device, stored.shape, dtype, "optimizer state").keep();
      made.push(tensor);
      tensor.writeBytes(await bytesInOrder(source, stored));
      state[Number(index)]![key!] = tensor;
    }
    optimizer.load_state_dict({ state, param_groups: saved.param_groups } as OptimizerStateDict);
  } finally {
    for (const tensor of made) tensor.dispose();
  }
}

/**
 * Writes a checkpoint as a whole.
 * @param run beside the model; without it the folder holds the model alone
 */
export async function writeCheckpoint(
  store: CheckpointStore,
  folder: string,
  subject: Subject,
  args: TrainingArguments,
  run: RunState | undefined,
): Promise<void> {
  // A checkpoint is nothing but itself; other folders may hold more than a model.
  const replaces = (name: string): boolean =>
    run !== undefined || /^(adapter_)?model.*\.(safetensors|bin|index\.json)$/.test(name);
  await store.replace(folder, replaces, async (files) => {
    await subject.save(files);
    await files.bytes(ARGUMENTS, new TextEncoder().encode(args.to_json_string()));
    if (!run) return;
    await files.bytes(STATE, json(run.state));
    if (args.save_only_model) return;
    const optimizer = await writeOptimizer(files, run.optimizer);
    const scheduler = run.scheduler.state_dict();
    await files.bytes(LOOP, json({ progress: run.progress, random: get_rng_state(), scheduler, optimizer }));
  });
}

/** A checkpoint as it was read, before anything of the run is changed. */
export interface SavedRun {
  readonly state: TrainerState;
  readonly progress: Progress;
  /** Puts weights, optimizer, schedule and random numbers where they were. */
  restore(subject: Subject, run: Pick<RunState, "optimizer" | "scheduler">): Promise<void>;
}

/** @throws NotFoundError, FormatError, CheckpointError */
export async function readCheckpoint(store: CheckpointStore, folder: string): Promise<SavedRun> {
  const opened = async <T>(use: (source: Source) => Promise<T>): Promise<T> => {
    const source = await store.open(folder);
    try {
      return await use(source);
    } finally {
      await source.close();
    }
  };
  const [state, loop] = await opened(async (source) => {
    const names = await source.names([STATE, LOOP, OPTIMIZER]);
    const missing = [STATE, LOOP, OPTIMIZER].find((name) => !names.has(name));
    if (missing !== undefined) {
      throw new NotFoundError(`${folder}: can't find a valid checkpoint: there is no ${missing}`, {
        details: { file: folder, expected: missing },
        hint: "a checkpoint of save_only_model cannot be resumed",
      });
    }
    return [
      (await readJsonFile(source, source.path(STATE), { what: STATE })) as unknown as TrainerState,
      await readJsonFile(source, source.path(LOOP), { what: LOOP }),
    ] as const;
  });
  const progress = checkedProgress(folder, state, loop.progress);
  return {
    state,
    progress,
    async restore(subject, { optimizer, scheduler }) {
      await restoreWeights(store, folder, subject);
      await opened((source) => readOptimizer(source, optimizer, loop.optimizer as Record<string, unknown>));
      scheduler.load_state_dict(loop.scheduler as Record<string, unknown>);
      set_rng_state(loop.random as unknown as RandomState);
    },
  };
}

/** Numbers of a file that a run counts on. @throws CheckpointError */
function checkedProgress(folder: string, state: TrainerState, progress: unknown): Progress {
  const fields = new Map(entriesOf(`${folder}/${LOOP}`, progress));
  const whole = [fields.get("epoch"), fields.get("batches"), fields.get("last_logged"), state.global_step];
  const sums = [...["loss", "logged_loss", "learning_rate", "grad_norm"].map((name) => fields.get(name)), state.epoch];
  const fits =
    whole.every((one) => Number.isSafeInteger(one) && (one as number) >= 0) &&
    sums.every((one) => typeof one === "number") &&
    typeof fields.get("ended") === "boolean" &&
    Array.isArray(state.log_history);
  if (fits) return Object.fromEntries(fields) as unknown as Progress;
  throw new CheckpointError(`${folder}: ${STATE} or ${LOOP} is not what a Trainer writes`, {
    details: { file: folder },
  });
}

/** The weights of a checkpoint, into the model. */
export async function restoreWeights(store: CheckpointStore, folder: string, subject: Subject): Promise<void> {
  await subject.restore((inner) => store.open(inner === "" ? folder : `${folder}/${inner}`));
}

/** Removes the oldest checkpoints beyond `limit`; the last and the best stay. */
export async function rotate(
  store: CheckpointStore,
  output_dir: string,
  limit: number | null,
  best: string | null,
): Promise<void> {
  if (limit === null) return;
  const steps = await stepsIn(store, output_dir);
  const safe = new Set([steps.at(-1)!, ...steps.filter((step) => folderOf(output_dir, step) === best)]);
  let left = steps.length;
  for (const step of steps) {
    if (left <= Math.max(limit, safe.size)) return;
    if (safe.has(step)) continue;
    await store.remove(folderOf(output_dir, step));
    left--;
  }
}

/** Removes all checkpoints but one. */
export async function keepOnly(store: CheckpointStore, output_dir: string, folder: string): Promise<void> {
  for (const step of await stepsIn(store, output_dir)) {
    if (folderOf(output_dir, step) !== folder) await store.remove(folderOf(output_dir, step));
  }
}
