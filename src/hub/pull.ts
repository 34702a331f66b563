// Brings a whole model into the cache: what Octavo can use of it, and nothing beside it.

import { allWeights, languageFiles, noWeights, openCheckpoint, weightFiles } from "../checkpoints/checkpoint.js";
import { WEIGHTS } from "../checkpoints/options.js";
import { NotFoundError, OptionError } from "../core/errors.js";
import { callback, flag, number, type Options, readOptions, signal, such, text } from "../core/options.js";
import { show } from "../core/show.js";
import { TOKEN } from "../sources/address.js";
import { quote } from "../sources/files.js";
import { readJsonFile } from "../sources/json.js";
import { filesBelow, MODEL_FILES } from "../sources/model-files.js";
import { isModelId } from "../sources/model-id.js";
import type { DownloadEvent, Source } from "../sources/source.js";
import { openModel } from "./open.js";

/** SentencePiece models and tiktoken's files, from which a tokenizer is made where there is no tokenizer.json. */
const OLDER = MODEL_FILES.filter((name) => name.endsWith(".model") || name.endsWith(".tiktoken"));
/** Files that are needed where they are there, beside the weights and those. */
const NAMES: ReadonlySet<string> = new Set([
  "config.json",
  ...MODEL_FILES.filter((name) => !OLDER.includes(name)),
  ...["adapter_config.json", "adapter_model.safetensors"],
]);
/** Of the names of a model's files, those that are needed beside the weights. */
function neededFiles(names: ReadonlySet<string>): string[] {
  const needed = [...names].filter((name) => NAMES.has(name));
  return names.has("tokenizer.json") ? needed : [...needed, ...OLDER.filter((name) => names.has(name))];
}

export const PULL = {
  /** A branch, a tag, a full commit, or `refs/pr/1`. Default: "main". */
  revision: text({ secret: true }),
  /** Folder of the cache. Default: the one that Python uses. */
  cache_dir: text({ secret: true }),
  /** Folder inside the model in which its files lie. */
  subfolder: text({ secret: true }),
  ...WEIGHTS,
  /** Only look into the cache. */
  local_files_only: flag(),
  /** Download files that are in the cache as well. */
  force_download: flag(),
  /** Access token; false sends none. Default: that of this machine, if there is one. */
  token: such<string | boolean>(
    (value) => typeof value === "boolean" || (typeof value === "string" && TOKEN.test(value)),
    "text of visible ASCII characters, without spaces, or true or false",
    { secret: true },
  ),
  /** Seconds for which the hub may send nothing. */
  timeout: number((value) => value > 0 && value <= 3600, "a number of seconds above 0, at most 3600"),
  /** Hears of the bytes that come; by default a bar is drawn where stderr is a terminal. */
  download: callback<(event: DownloadEvent) => void>(),
  /** Receives problems that do not end the download. */
  warn: callback<(message: string) => void>(),
  signal: signal(),
};

export interface PullOptions extends Options<typeof PULL> {}

export interface Pulled {
  /** The snapshot in the cache, as `from_pretrained` takes it. */
  readonly folder: string;
  /** Bytes that came over the network. */
  readonly received: number;
}

/**
 * Downloads what Octavo can use of a model on the hub into the Hugging Face cache: the configuration, the tokenizer, processors, and the
 * weights that would be loaded.
 * @throws OptionError; NotFoundError, also for weights in formats that are not read; FormatError, FileError, NetworkError, AbortError
 */
export async function pull(id: string, given: PullOptions = {}): Promise<Pulled> {
  const options = readOptions("pull", PULL, given);
  if (typeof id !== "string" || !isModelId(id)) {
    throw new OptionError(`expected a model id such as "org/name", got ${show(id)}`);
  }
  const source = await openModel(id, options);
  try {
    const { variant, use_safetensors, target_lang } = options;
    const [first, ...others] = weightFiles({ variant, use_safetensors });
    let there = await source.names([...NAMES, ...first!]);
    let lacking = !first!.some((name) => there.has(name));
    // Less preferred formats are not asked for in vain.
    for (const names of others) {
      if (!lacking) break;
      there = new Set([...there, ...(await source.names(names))]);
      lacking = !names.some((name) => there.has(name));
    }
    if (lacking) await checkOthers(source, there, id, { variant, use_safetensors });
    if (!there.has("tokenizer.json")) there = new Set([...there, ...(await source.names(OLDER))]);
    const spoken = target_lang === undefined ? [] : await languageOf(source, id, languageFiles(target_lang, options));
    await source.bring?.([
      ...neededFiles(there),
      ...spoken,
      ...(await filesBelow(source, there, options.warn ?? (() => {}))),
    ]);
    const named = there.has("config.json") ? await weightsName(source) : undefined;
    if (named !== undefined || !lacking) await openCheckpoint(source, { named, variant, use_safetensors });
    return { folder: source.location, received: source.network ?? 0 };
  } finally {
    await source.close();
  }
}

/** The first of these files that there is, which has a language's parts of the model. @throws NotFoundError */
async function languageOf(source: Source, id: string, names: readonly string[]): Promise<string[]> {
  const there = await source.names([...names]);
  const found = names.find((name) => there.has(name));
  if (found !== undefined) return [found];
  throw new NotFoundError(`model ${quote(id)} has no ${names.join(" or ")}`, { details: { id, got: [...names] } });
}

/**
 * Checks a model without the usual weights before anything of it is downloaded: it may be a tokenizer alone, or an adapter.
 * @throws NotFoundError for one whose weights cannot be read, or are not those that were asked for; for one of nothing
 */
async function checkOthers(
  source: Source,
  there: ReadonlySet<string>,
  id: string,
  choice: Pick<PullOptions, "variant" | "use_safetensors">,
): Promise<void> {
  const isAdapter = there.has("adapter_config.json");
  const asked = choice.variant !== undefined || choice.use_safetensors !== undefined;
  if (asked || (!isAdapter && (await allWeights(source, choice.variant)).length > 0)) {
    const named = there.has("config.json") ? await weightsName(source) : undefined;
    if (named === undefined) throw await noWeights(source, choice);
  } else if (!isAdapter && !there.has("config.json")) {
    throw new NotFoundError(`model ${quote(id)} has no config.json: nothing of it can be loaded`, {
      details: { id, got: [...there].slice(0, 20) },
    });
  }
}

/** The file of weights that config.json names, if it names one. */
async function weightsName(source: Source): Promise<unknown> {
  const config = await readJsonFile(source, source.path("config.json"), { what: "config.json", python: true });
  return config.transformers_weights ?? undefined;
}
