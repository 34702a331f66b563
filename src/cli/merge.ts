// octavo merge: puts an adapter into a model's weights, and writes the model whole.

import { readdir } from "node:fs/promises";
import { Command } from "commander";
import { OptionError } from "../core/errors.js";
import { AutoModelForCausalLM } from "../generate/auto.js";
import { SAVE } from "../load/save-options.js";
import { A_MODEL, optionsOf } from "./arguments.js";
import { addRunFlags, addWeightFlags, interruption, type LoadFlags, loadOn, loadOptions } from "./load-flags.js";
import { bytes, note, print, printJson, warner } from "./output.js";

interface MergeFlags extends LoadFlags {
  force?: boolean;
  json?: boolean;
}

export function mergeCommand(): Command {
  const command = new Command("merge")
    .argument("<model>", A_MODEL)
    .argument("<adapter>", "folder of an adapter, as peft saves it, or its id on the hub")
    .argument("<folder>", "the new folder");
  addWeightFlags(command)
    .optionsGroup("Where:")
    .option("--max-shard-size <size>", SAVE.max_shard_size.help!)
    .option("--force", "replace a folder that holds files");
  return addRunFlags(command)
    .addHelpText(
      "after",
      `
Weights that are loaded in 8 or 4 bits are rounded anew, which may cost more than the adapter changes: merge first, then
octavo quantize.

Examples:
  octavo merge ./llama ./my-adapter ./llama-merged
  octavo merge bigscience/bloom-560m ./my-adapter ./bloom-int8 --load-in-8bit`,
    )
    .action(merge);
}

async function merge(model: string, adapter: string, folder: string, flags: MergeFlags): Promise<void> {
  const options = loadOptions("merge", flags);
  const { max_shard_size } = optionsOf("merge", SAVE, flags);
  const there = await readdir(folder).catch(() => []);
  if (there.length > 0 && !flags.force) {
    throw new OptionError(`${folder} holds files already`, {
      details: { file: folder },
      hint: "name another folder, or pass --force to replace the model in it",
    });
  }
  const signal = interruption();
  const begin = performance.now();
  const loaded = await loadOn(flags, options, signal, (how) => AutoModelForCausalLM.from_pretrained(model, how));
  await using _device = loaded.device;
  await using owned = loaded;
  owned.warnings.forEach(warner(flags.quiet));
  await owned.load_adapter(adapter, { signal, cache_dir: options.cache_dir });
  // Of the two only this merges, and gives the errors; the other then finds all of it merged, and takes the adapter off.
  const { errors } = await owned.merge_adapter({ safe_merge: true });
  await owned.merge_and_unload();
  const saved = await owned.save_pretrained(folder, { max_shard_size, signal });
  saved.warnings.forEach(warner(flags.quiet));
  const seconds = (performance.now() - begin) / 1000;
  if (flags.json) {
    printJson({ model, adapter, folder, files: saved.files, bytes: saved.bytes, errors, seconds });
    return;
  }
  const worst = Math.max(0, ...errors.map(({ of_change }) => of_change));
  if (worst > 0 && !flags.quiet) {
    note(`${errors.length} matrices were rounded anew: up to ${(100 * worst).toFixed(1)} % of the adapter's change`);
  }
  print(`${folder}: ${saved.files.length} files, ${bytes(saved.bytes)} of weights, ${seconds.toFixed(1)} s\n`);
}
