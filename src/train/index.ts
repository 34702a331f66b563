// The exports of `import ... from "octavo/train"` that need no file system.

export type { FolderFiles, FolderWriter, TensorToWrite } from "../checkpoints/folder.js";
export { no_grad } from "../ops/graph.js";
export { Adafactor, type AdafactorGroup, type AdafactorOptions } from "./adafactor.js";
export { TrainingArguments } from "./arguments.js";
export type {
  CallbackContext,
  CallbackEvent,
  Logs,
  TrainerCallback,
  TrainerControl,
  TrainerState,
} from "./callbacks.js";
export * from "./data/index.js";
export {
  DPOConfig,
  type DPOConfigOptions,
  type DPODataset,
  DPOTrainer,
  type DPOTrainerOptions,
} from "./dpo-trainer.js";
export { EarlyStoppingCallback, type EarlyStoppingOptions } from "./early-stopping.js";
export { clip_grad_norm_ } from "./norm.js";
export type { OptimName, TrainingOptions } from "./options.js";
export {
  get_scheduler,
  type HasRates,
  LambdaLR,
  type LRScheduler,
  ReduceLROnPlateau,
  type SchedulerOptions,
  type SchedulerType,
} from "./schedules.js";
export {
  SFTConfig,
  type SFTConfigOptions,
  type SFTDataset,
  SFTTrainer,
  type SFTTrainerOptions,
} from "./sft-trainer.js";
export { Trainer } from "./trainer.js";
export type {
  CheckpointStore,
  EvalPrediction,
  ForwardOutput,
  LossFunction,
  PredictionOutput,
  TrainableModel,
  TrainerOptions,
  TrainOptions,
  TrainOutput,
} from "./types.js";
