// save_pretrained of a model with adapters: they are written, and the model is not.

import { type Adapter, disposeAdapter } from "../adapters/adapter.js";
import { isDecomposition } from "../adapters/first-values.js";
import { readAdapter } from "../adapters/read.js";
import type { Adapters } from "../adapters/set.js";
import { checkTables, writeAdapters } from "../adapters/write.js";
import type { FolderWriter } from "../checkpoints/folder.js";
import { listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { type Options, readOptions, such } from "../core/options.js";
import { show } from "../core/show.js";
import type { Saved } from "../load/save.js";
import { SAVE, type SaveOptions } from "../load/save-options.js";
import type { AdapterHost } from "./adapter-methods.js";

/** Options of save_pretrained for a model with adapters. */
const SAVE_ADAPTERS = {
  /** Names of the adapters that are written; by default all. */
  selected_adapters: such<readonly string[]>(
    (value) => listOf(value, (one): one is string => typeof one === "string") !== undefined,
    "a list of names",
  ),
  /**
   * The folder of an adapter as it began ("pissa", "olora"): what is written is then an ordinary adapter for the model as it was before,
   * of twice the rank.
   */
  path_initial_model_for_weight_conversion: such<string>(
    (value) => typeof value === "string" && value !== "",
    "the path of a folder",
  ),
};
export interface SaveAdapters extends Options<typeof SAVE_ADAPTERS> {}

/** @throws OptionError for options of models; what writeAdapters throws */
export async function saveAdapters(
  adapters: Adapters,
  folders: FolderWriter | undefined,
  folder: string,
  options: SaveOptions & SaveAdapters,
  open: AdapterHost["origin"]["source"],
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
  const chosen = selected_adapters.map((name) => ({ adapter: adapters.get(name) }));
  for (const { adapter } of chosen) checkTables(adapters, adapter);
  const from = given.path_initial_model_for_weight_conversion;
  if (from === undefined) return { ...(await writeAdapters(chosen, folders, folder, signal)), warnings: [] };
  const option = "path_initial_model_for_weight_conversion";
  const [{ adapter } = { adapter: undefined }, more] = chosen;
  if (!adapter || more) {
    throw new OptionError(`save_pretrained: ${option} is for one adapter, and ${chosen.length} are written`, {
      details: { option },
      hint: "selected_adapters: [name]",
    });
  }
  const { init_lora_weights: init, use_rslora, rank_pattern, alpha_pattern } = adapter.config.fields;
  // `true` is what its config says once how it began was saved (LoraConfig.init_lora_weights).
  if (init !== true && (!isDecomposition(init) || init === "loftq")) {
    throw new OptionError(
      `save_pretrained: ${option} is for what began with "pissa" or "olora", and ${adapter.name} began with ${show(init)}`,
      { details: { option } },
    );
  }
  if (use_rslora && Object.keys({ ...rank_pattern, ...alpha_pattern }).length > 0) {
    throw new OptionError(`save_pretrained: ${option} does not go with use_rslora and patterns of ranks or alphas`, {
      details: { option },
    });
  }
  if (!open) throw new OptionError(`save_pretrained: ${option} needs a model that was loaded by from_pretrained`);
  const source = await open(from, { signal });
  let initial: Adapter | undefined;
  try {
    const how = { trainable: false, signal, warn: () => {}, instead: adapter };
    initial = (await readAdapter(adapters, source, adapter.name, how)).adapter;
    if (formOf(initial) !== formOf(adapter)) {
      throw new OptionError(`save_pretrained: the adapter in ${from} is not like ${adapter.name}`, {
        details: { option },
      });
    }
    return { ...(await writeAdapters([{ adapter, initial }], folders, folder, signal)), warnings: [] };
  } finally {
    if (initial) disposeAdapter(initial);
    await source.close();
  }
}

/** What of an adapter has to be the same in its beginning: places, ranks, scales. */
function formOf({ places }: Adapter): string {
  const forms = places.map(({ path, role, layer }) =>
    layer.kind === "lora"
      ? [path, role, layer.a.shape, layer.b.shape, layer.scale, layer.magnitude !== undefined]
      : path,
  );
  return JSON.stringify(forms);
}
