// save_pretrained of a model with adapters: they are written, and the model is not.

import type { Adapters } from "../adapters/set.js";
import { writeAdapters } from "../adapters/write.js";
import type { FolderWriter } from "../checkpoints/folder.js";
import { listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { type Options, readOptions, such } from "../core/options.js";
import { SAVE, type Saved, type SaveOptions } from "../load/save.js";

/** Options of save_pretrained for a model with adapters. */
const SAVE_ADAPTERS = {
  /** Names of the adapters that are written; by default all. */
  selected_adapters: such<readonly string[]>(
    (value) => listOf(value, (one): one is string => typeof one === "string") !== undefined,
    "a list of names",
  ),
};
export interface SaveAdapters extends Options<typeof SAVE_ADAPTERS> {}

/** @throws OptionError for options of models; what writeAdapters throws */
export async function saveAdapters(
  adapters: Adapters,
  folders: FolderWriter | undefined,
  folder: string,
  options: SaveOptions & SaveAdapters,
): Promise<Saved> {
  const given = readOptions("save_pretrained", { ...SAVE, ...SAVE_ADAPTERS }, options);
  const { selected_adapters = adapters.names, signal, variant, max_shard_size } = given;
  if (variant !== undefined || max_shard_size !== undefined) {
    const option = variant === undefined ? "max_shard_size" : "variant";
    throw new OptionError(`save_pretrained: ${option} is for models, and an adapter is one file`, {
      details: { option },
      hint: "merge_and_unload() makes the model whole, to be saved with it",
    });
  }
  const chosen = selected_adapters.map((name) => adapters.get(name));
  return { ...(await writeAdapters(chosen, folders, folder, signal)), warnings: [] };
}
