// octavo list: the models in the Hugging Face cache.

import { Command } from "commander";
import { type CachedModel, type CachedRevision, listCache } from "../hub/cached.js";
import { cacheFolder } from "../sources/hub.js";
import { jsonOption } from "./arguments.js";
import { bytes, plural, print, printJson, table } from "./output.js";

interface ListFlags {
  cacheDir?: string;
  json?: boolean;
}

export function listCommand(): Command {
  return new Command("list")
    .option("--cache-dir <folder>", "Hugging Face cache (default: the one that Python uses)")
    .addOption(jsonOption())
    .addHelpText(
      "after",
      `
Examples:
  octavo list
  octavo list --json`,
    )
    .action(list);
}

async function list(flags: ListFlags): Promise<void> {
  const cache = cacheFolder(flags.cacheDir);
  const models = await listCache(flags.cacheDir);
  const total = models.reduce((sum, model) => sum + model.bytes, 0);
  if (flags.json) {
    printJson({ cache, bytes: total, models: models.map(toJson) });
    return;
  }
  if (models.length > 0) {
    const head = ["model", "revision", "files", "size", "last used"];
    print(`${table([head, ...models.flatMap(rows)], [2, 3])}\n`);
  }
  print(`${plural(models.length, "model")}, ${bytes(total)} in ${cache}\n`);
}

function toJson({ id, folder, revisions, bytes, incomplete_bytes, last_used }: CachedModel): unknown {
  return {
    id,
    folder,
    bytes,
    incomplete_bytes,
    last_used: last_used?.toISOString() ?? null,
    revisions: revisions.map(({ commit, refs, files, bytes }) => ({ commit, refs, files, bytes })),
  };
}

function rows({ id, revisions, incomplete_bytes, last_used }: CachedModel): string[][] {
  const name = ({ commit, refs }: CachedRevision): string => (refs.length > 0 ? refs.join(", ") : commit.slice(0, 12));
  const used = last_used?.toISOString().slice(0, 10) ?? "never";
  const lines = revisions.map((one) => [name(one), String(one.files), bytes(one.bytes), used]);
  if (incomplete_bytes > 0) lines.push(["(incomplete)", "", bytes(incomplete_bytes), ""]);
  if (lines.length === 0) lines.push(["none", "0", bytes(0), used]);
  return lines.map((line, i) => [i === 0 ? id : "", ...line]);
}
