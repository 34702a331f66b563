// Data sets in the cache of Python's datasets: `<owner>___<name>/<config>/<version>/<hash>/<name>-<split>.arrow`, in one file or in
// shards.

import { readdir, stat } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { hubHome } from "../../hub/environment.js";
import type { TaskConfig } from "./task-config.js";

/** HF_DATASETS_CACHE, else HF_HOME/datasets, XDG_CACHE_HOME/huggingface/datasets, ~/.cache/huggingface/datasets. */
function cacheFolder(env: NodeJS.ProcessEnv): string {
  const folder = env.HF_DATASETS_CACHE || join(hubHome(env), "datasets");
  return /^~(?=[/\\]|$)/.test(folder) ? join(homedir(), folder.slice(1)) : folder;
}

/** Names of the folders in a folder; none if it is not there. */
async function foldersIn(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  return entries.flatMap((entry) => (entry.isDirectory() ? [entry.name] : []));
}

/** The files of a data set's split; of several versions those that were made last. Empty where the cache has none. */
export async function cachedFiles(
  id: string,
  { dataset_name: config, dataset_kwargs = {} }: TaskConfig,
  split: string,
  env: NodeJS.ProcessEnv = process.env,
): Promise<string[]> {
  const { revision } = dataset_kwargs as { readonly revision?: unknown };
  const folder = join(cacheFolder(env), id.replace("/", "___"));
  const configs = await foldersIn(folder);
  const own = config ?? (configs.length === 1 ? configs[0]! : "default");
  if (!configs.includes(own)) return [];
  const made: { readonly files: string[]; readonly time: number }[] = [];
  for (const version of await foldersIn(join(folder, own))) {
    for (const hash of await foldersIn(join(folder, own, version))) {
      if (typeof revision === "string" && hash !== revision) continue;
      const within = join(folder, own, version, hash);
      // It is written last.
      const done = await stat(join(within, "dataset_info.json")).catch(() => undefined);
      if (!done) continue;
      const files = ofSplit(await readdir(within), split);
      if (files.length > 0) made.push({ files: files.map((file) => join(within, file)), time: done.mtimeMs });
    }
  }
  return made.sort((a, b) => b.time - a.time)[0]?.files ?? [];
}

const NAME = /^[^/\\]+?-(?<split>\w+(?:\.\w+)*?)(?:-(?<shard>\d{5})-of-(?<shards>\d{5}))?\.arrow$/;

/** The file of a split, or all its shards; none where one is missing. */
function ofSplit(names: readonly string[], split: string): string[] {
  const own = names.flatMap((name) => {
    const { groups } = NAME.exec(name) ?? {};
    return groups?.split === split ? [{ name, shards: Number(groups.shards ?? 1) }] : [];
  });
  return own.length > 0 && own.length === own[0]!.shards ? own.map(({ name }) => name).sort() : [];
}
