// The exports of `import ... from "octavo/train"` in Node: a Trainer whose checkpoints are on the disk.

import { DISK_FILES, DISK_FOLDERS } from "./load/disk.js";
import { type LoadDataset, loaderOf } from "./train/data/load.js";
import { diskLoaderOf, type LoadFromDisk } from "./train/data/saved.js";
import { DPOTrainer as AnyDPOTrainer, type DPOTrainerOptions } from "./train/dpo-trainer.js";
import { SFTTrainer as AnySFTTrainer, type SFTTrainerOptions } from "./train/sft-trainer.js";
import { Trainer as AnyTrainer } from "./train/trainer.js";
import type { TrainerOptions } from "./train/types.js";

export * from "./train/index.js";

/** Examples from files, folders and addresses. */
export const load_dataset: LoadDataset = /* @__PURE__ */ loaderOf(DISK_FILES);

/** Data sets that Python's `save_to_disk` wrote. */
export const load_from_disk: LoadFromDisk = /* @__PURE__ */ diskLoaderOf(DISK_FILES);

/** Trains a model, as transformers' class of that name. */
export class Trainer extends AnyTrainer {
  /** @throws OptionError for unknown and wrong options, and for what does not fit together */
  constructor(options: TrainerOptions) {
    super(options, DISK_FOLDERS);
  }
}

/** Trains a language model on preferences, as TRL's class of that name. */
export class DPOTrainer extends AnyDPOTrainer {
  /** @throws OptionError for unknown and wrong options, and for examples of no format */
  constructor(options: DPOTrainerOptions) {
    super(options, DISK_FOLDERS);
  }
}

/** Fine-tunes a language model on examples, as TRL's class of that name. */
export class SFTTrainer extends AnySFTTrainer {
  /** @throws OptionError for unknown and wrong options, and for examples of no format */
  constructor(options: SFTTrainerOptions) {
    super(options, DISK_FOLDERS);
  }
}
