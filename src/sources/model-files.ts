// The small files of a model's folder, beside config.json and the weights.

import { FormatError } from "../core/errors.js";
import { show } from "../core/show.js";
import { isJsonObject, type JsonValue, readJsonList } from "./json.js";
import type { Source } from "./source.js";

/** Files of tokenizers, chat templates, processors, generation and sentence embeddings, by their names in published folders. */
export const MODEL_FILES: readonly string[] = [
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "vocab.txt",
  "merges.txt",
  "normalizer.json",
  "tokenizer.model",
  "spiece.model",
  "sentencepiece.bpe.model",
  "sentencepiece.model",
  "spm.model",
  "source.spm",
  "target.spm",
  "target_vocab.json",
  "tiktoken.model",
  "qwen.tiktoken",
  "chat_template.jinja",
  "chat_template.json",
  "preprocessor_config.json",
  "processor_config.json",
  "modules.json",
  "sentence_bert_config.json",
  "config_sentence_transformers.json",
];

/** The folder of chat templates beside the usual one. */
export const TEMPLATES = "additional_chat_templates";
const MOST_TEMPLATES = 64;

/** Paths of the chat templates in their folder; none where a source cannot list it. @throws FormatError for very many */
export async function templateNames(source: Source): Promise<string[]> {
  const names = ((await source.list?.(TEMPLATES)) ?? []).filter((name) => name.endsWith(".jinja"));
  if (names.length > MOST_TEMPLATES) {
    throw new FormatError(`${source.path(TEMPLATES)}: ${names.length} chat templates, more than ${MOST_TEMPLATES}`);
  }
  return names.map((name) => `${TEMPLATES}/${name}`);
}

/** True for a name that modules.json may give a module's folder: one folder in the model's, and so never a place outside it. */
export function isModuleFolder(path: JsonValue | undefined): path is string {
  return typeof path === "string" && /^[\w.-]+$/.test(path) && !/^\.+$/.test(path);
}

/** What one list of modules may name: published ones have a handful. */
const MOST_MODULES = 64;

/** Paths of the settings of sentence embeddings, which lie in folders that modules.json names. */
async function moduleSettings(source: Source, warn: (message: string) => void): Promise<string[]> {
  let modules: readonly JsonValue[];
  try {
    modules = await readJsonList(source, source.path("modules.json"), { what: "modules.json" });
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
    warn(error.message); // the model's other files do not depend on it
    return [];
  }
  const files = new Set<string>();
  if (modules.length > MOST_MODULES) {
    warn(`modules.json: names ${modules.length} modules; those after the first ${MOST_MODULES} are left out`);
  }
  for (const module of modules.slice(0, MOST_MODULES)) {
    const path = isJsonObject(module) ? module.path : undefined;
    if (path === undefined || path === "") continue; // the model itself
    if (isModuleFolder(path)) files.add(`${path}/config.json`);
    else warn(`modules.json: ${show(path)} is not the name of a folder of the model, and is left out`);
  }
  const names = [...files];
  if (!source.absent) return [...(await source.names(names))];
  const absent = new Set(await source.absent(names));
  return names.filter((name) => !absent.has(name));
}

/**
 * Paths of the small files in folders below a model's own: chat templates, and settings of sentence embeddings.
 * @param there names of the folder's own files
 * @param warn hears of names that lead out of the folder, and of a modules.json that cannot be read or names very many
 * @throws FormatError for very many chat templates
 */
export async function filesBelow(
  source: Source,
  there: ReadonlySet<string>,
  warn: (message: string) => void,
): Promise<string[]> {
  const settings = there.has("modules.json") ? await moduleSettings(source, warn) : [];
  return [...(await templateNames(source)), ...settings];
}
