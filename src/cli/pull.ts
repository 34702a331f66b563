// octavo pull: downloads what is needed of a model into the Hugging Face cache.

import { readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { Command } from "commander";
import { WEIGHTS } from "../checkpoints/options.js";
import { omit } from "../core/options.js";
import { pull } from "../hub/pull.js";
import { SOURCE } from "../load/options.js";
import { addFlags, jsonOption, optionsOf } from "./arguments.js";
import { onInterrupt } from "./failures.js";
import { bytes, note, plural, print, printJson, warner } from "./output.js";

interface PullFlags {
  revision?: string;
  cacheDir?: string;
  token?: string;
  subfolder?: string;
  force?: boolean;
  json?: boolean;
  quiet?: boolean;
}

export function pullCommand(): Command {
  const command = new Command("pull").argument("<id>", 'id of a model on the hub, such as "org/name"');
  addFlags(command, WEIGHTS);
  // What comes into the cache comes from HF_ENDPOINT.
  addFlags(command, omit(SOURCE, ["hub"]));
  return command
    .option("--token <token>", "access token (default: HF_TOKEN, or what hf auth login has written)")
    .option("--force", "download what is in the cache as well")
    .addOption(jsonOption())
    .option("-q, --quiet", "nothing on stderr but errors")
    .addHelpText(
      "after",
      `
Only what Octavo can use is downloaded: configuration, tokenizer, processors, and the weights that would be loaded. A download that
was interrupted goes on where it was. HF_ENDPOINT names another hub.

Examples:
  octavo pull bigscience/bloom-560m
  octavo pull org/name --revision v1.0 --json
  octavo pull org/name --variant fp16`,
    )
    .action(run);
}

async function run(id: string, flags: PullFlags): Promise<void> {
  const stop = new AbortController();
  onInterrupt(() => stop.abort(new Error("interrupted")));
  const { revision, cacheDir: cache_dir, token, subfolder, force: force_download, quiet } = flags;
  const warn = warner(quiet);
  const which = optionsOf("pull", WEIGHTS, flags);
  const options = { ...which, revision, cache_dir, token, subfolder, force_download, warn, signal: stop.signal };
  const { folder, received } = await pull(id, options);
  const files = await filesOf(folder);
  if (flags.json) {
    printJson({ id, folder, files, received_bytes: received });
    return;
  }
  const all = files.reduce((sum, file) => sum + file.bytes, 0);
  if (!quiet) note(`${plural(files.length, "file")}, ${bytes(all)}; ${bytes(received)} came over the network`);
  print(`${folder}\n`);
}

async function filesOf(folder: string): Promise<{ file: string; bytes: number }[]> {
  const names = (await readdir(folder, { recursive: true })).sort();
  const infos = await Promise.all(names.map((name) => stat(join(folder, name))));
  return names.flatMap((name, i) => (infos[i]!.isFile() ? [{ file: name, bytes: infos[i]!.size }] : []));
}
