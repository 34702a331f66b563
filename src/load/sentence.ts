// What sentence-transformers puts beside a model: how one vector is made of a text's hidden states (modules.json, and the
// pooling's own config.json).

import { show } from "../core/show.js";
import type { ConfigJson } from "../nn/architecture.js";
import { isJsonObject, readJsonFile, readJsonList } from "../sources/json.js";
import { isModuleFolder } from "../sources/model-files.js";
import type { Source } from "../sources/source.js";

/** Kinds of pooling, in the order in which sentence-transformers puts several of them one after the other. */
const MODES = ["cls", "max", "mean", "lasttoken"] as const;
export type SentencePooling = (typeof MODES)[number];

/** How a sentence embedding is made. */
export interface SentenceEmbedding {
  readonly pooling: readonly SentencePooling[];
  /** Divided by its length. */
  readonly normalize: boolean;
}

const FLAGS: Readonly<Record<string, SentencePooling>> = {
  pooling_mode_cls_token: "cls",
  pooling_mode_lasttoken: "lasttoken",
  pooling_mode_max_tokens: "max",
  pooling_mode_mean_tokens: "mean",
};

/**
 * The sentence embedding that a folder describes; undefined without modules.json. What it asks for and is not done here goes to
 * `warn`, and then there is no embedding: a model's other outputs do not depend on it.
 * @throws FormatError for files that are no JSON
 */
export async function sentenceEmbedding(
  source: Source,
  warn: (message: string) => void,
): Promise<SentenceEmbedding | undefined> {
  if (!(await source.names(["modules.json"])).has("modules.json")) return undefined;
  const modules = await readJsonList(source, source.path("modules.json"), { what: "modules.json" });
  let pooling: readonly SentencePooling[] | undefined;
  let normalize = false;
  for (const module of modules) {
    const { type, path } = isJsonObject(module) ? module : {};
    const kind = typeof type === "string" ? type.split(".").at(-1) : undefined;
    if (kind === "Transformer") continue;
    if (kind === "Normalize") normalize = true;
    else if (kind === "Pooling" && isModuleFolder(path) && pooling === undefined) {
      const file = `${path}/config.json`;
      const found = poolingOf(await readJsonFile(source, source.path(file), { what: file }));
      if (typeof found === "string") {
        warn(`${file}: ${found}; there is no sentence_embedding`);
        return undefined;
      }
      pooling = found;
    } else if (kind === "Pooling" && pooling === undefined) {
      warn(`modules.json: ${show(path)} is not the name of a folder of the model; there is no sentence_embedding`);
      return undefined;
    } else {
      warn(`modules.json: a module of type ${show(type)} is not done here; there is no sentence_embedding`);
      return undefined;
    }
  }
  return pooling && { pooling, normalize };
}

/** The kinds that a pooling's config asks for, or a sentence about one that is not known. */
function poolingOf(config: ConfigJson): readonly SentencePooling[] | string {
  const wanted = new Set<SentencePooling>();
  const named = config.pooling_mode;
  const other = [named].flat().find((mode) => mode !== undefined && !MODES.includes(mode as SentencePooling));
  if (other !== undefined) return `pooling_mode ${show(other)} is not done here`;
  for (const mode of [named].flat()) if (mode !== undefined) wanted.add(mode as SentencePooling);
  for (const [key, value] of Object.entries(config)) {
    if (!key.startsWith("pooling_mode_") || value !== true) continue;
    const mode = FLAGS[key];
    if (!mode) return `${key} is not done here`;
    wanted.add(mode);
  }
  return wanted.size === 0 ? "it names no pooling mode" : MODES.filter((mode) => wanted.has(mode));
}
