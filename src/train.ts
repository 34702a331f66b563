// The exports of `import ... from "octavo/train"` in Node: a Trainer whose checkpoints are on the disk.

import { readdir, rm } from "node:fs/promises";
import { FOLDERS } from "./checkpoints/folder-write.js";
import { Disk } from "./sources/disk.js";
import { SFTTrainer as AnySFTTrainer, type SFTTrainerOptions } from "./train/sft-trainer.js";
import { Trainer as AnyTrainer } from "./train/trainer.js";
import type { CheckpointStore, TrainerOptions } from "./train/types.js";

export { load_dataset } from "./train/data/node.js";
export * from "./train/index.js";

const DISK: CheckpointStore = {
  ...FOLDERS,
  async folders(folder) {
    const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
    return entries.flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
  },
  open: async (folder) => new Disk(folder),
  remove: (folder) => rm(folder, { recursive: true, force: true }),
};

/** Trains a model, as transformers' class of that name. */
export class Trainer extends AnyTrainer {
  /** @throws OptionError for unknown and wrong options, and for what does not fit together */
  constructor(options: TrainerOptions) {
    super(options, DISK);
  }
}

/** Fine-tunes a language model on examples, as TRL's class of that name. */
export class SFTTrainer extends AnySFTTrainer {
  /** @throws OptionError for unknown and wrong options, and for examples of no format */
  constructor(options: SFTTrainerOptions) {
    super(options, DISK);
  }
}
