// The parts of a model of many languages (MMS, Pratap et al. 2023) that are a language's own: a part of each layer, and the head. A file
// beside the weights holds those of each language, adapter.LANGUAGE.safetensors or .bin.

import { type Checkpoint, languageFiles, openCheckpoint } from "../checkpoints/checkpoint.js";
import type { StoredTensor } from "../checkpoints/stored.js";
import { convertBytes } from "../checkpoints/values.js";
import { CheckpointError, NotFoundError, OctavoError, OptionError } from "../core/errors.js";
import { listed, shapeText, show } from "../core/show.js";
import type { ConfigJson } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { type Matrix, Parameter } from "../nn/module.js";
import { PendingFloats } from "../nn/pending.js";
import type { FloatDType } from "../nn/weight.js";
import type { Source } from "../sources/source.js";
import { bytesInOrder, readDType } from "./read.js";

/** Names of tensors that are a language's own. */
const OWN = /\.adapter_layer\.|^lm_head\./;
const HEAD = "lm_head.weight";

interface FileChoice {
  readonly use_safetensors?: boolean | undefined;
}

/** True for the config of a model whose layers have parts for a language. */
function hasLanguages({ adapter_attn_dim }: ConfigJson): boolean {
  return adapter_attn_dim !== undefined && adapter_attn_dim !== null;
}

/**
 * Opens the file of a language.
 * @throws NotFoundError if there is none; FormatError, NetworkError
 */
async function openLanguage(source: Source, language: string, choice: FileChoice): Promise<Checkpoint> {
  const names = languageFiles(language, choice);
  const there = await source.names(names);
  const named = names.find((name) => there.has(name));
  if (named !== undefined) return openCheckpoint(source, { named });
  throw new NotFoundError(`${source.location}: no ${names.join(" or ")}: the language ${show(language)} is not there`, {
    details: { file: source.path(names[0]!) },
    hint: "languages have the codes of ISO 639-3, such as eng, fra or deu",
  });
}

/** @throws CheckpointError unless the file of a language has the names that a model's own tensors have, and no others */
function checkNames(language: Checkpoint, wanted: Iterable<string>): void {
  const own = new Set(wanted);
  const unexpected = [...language.tensors.keys()].filter((name) => !own.has(name));
  const missing = [...own].filter((name) => !language.tensors.has(name));
  const [names, what] = unexpected.length > 0 ? [unexpected, "unexpected"] : [missing, "missing"];
  if (names.length === 0) return;
  throw new CheckpointError(`The adapter weights ${language.files[0]} has ${what} keys: ${listed(names, 3)}`, {
    details: { file: language.files[0], [what]: names },
    hint: "is it the file of another model?",
  });
}

/**
 * The weights of a model with those of a language in place of their own, and its config with the language's number of tokens.
 * @throws OptionError for a model without languages; NotFoundError, CheckpointError, FormatError, NetworkError
 */
export async function withLanguage(
  opened: Checkpoint,
  config: ConfigJson,
  target_lang: string,
  choice: FileChoice,
): Promise<{ readonly checkpoint: Checkpoint; readonly config: ConfigJson }> {
  if (!hasLanguages(config)) {
    throw new OptionError(
      `Cannot pass \`target_lang\`: ${target_lang} if \`config.adapter_attn_dim\` is not defined.`,
      {
        details: { option: "target_lang" },
        hint: "this model has no parts for a language",
      },
    );
  }
  const language = await openLanguage(opened.source, target_lang, choice);
  checkNames(
    language,
    [...opened.tensors.keys()].filter((name) => OWN.test(name)),
  );
  const tensors = new Map([...opened.tensors, ...language.tensors]);
  const files = [...opened.files, ...language.files];
  const vocab_size = language.tensors.get(HEAD)?.shape[0] ?? config.vocab_size;
  return { checkpoint: { ...opened, files, tensors }, config: { ...config, vocab_size } };
}

/**
 * Gives a loaded model the parts of a language; they are quantized as those before. Nothing changes if it throws.
 * @returns its number of tokens
 * @throws NotFoundError, CheckpointError, FormatError, NetworkError, OutOfMemoryError; OctavoError for an offloaded model
 */
export async function setLanguage(
  model: Model,
  source: Source,
  target_lang: string,
  choice: FileChoice,
): Promise<number> {
  const language = await openLanguage(source, target_lang, choice);
  const named = [...model.named_parameters()].filter(([name]) => OWN.test(name));
  checkNames(
    language,
    named.map(([name]) => name),
  );
  const tokens = language.tensors.get(HEAD)!.shape[0]!;
  const made: { fill(): void; dispose(): void }[] = [];
  try {
    for (const [name, parameter] of named)
      made.push(await replacing(name, parameter, language.tensors.get(name)!, source, tokens));
  } catch (error) {
    for (const one of made) one.dispose();
    throw error;
  }
  for (const one of made) one.fill();
  return tokens;
}

/** The values of a stored tensor for a parameter, stored as those that it has. @throws CheckpointError, OctavoError, OutOfMemoryError */
async function replacing(
  name: string,
  parameter: Parameter | Matrix,
  stored: StoredTensor,
  source: Source,
  tokens: number,
): Promise<{ fill(): void; dispose(): void }> {
  const wanted = name.startsWith("lm_head.") ? parameter.shape.with(0, tokens) : parameter.shape;
  if (stored.shape.join() !== wanted.join()) {
    throw new CheckpointError(`${name}: expected shape ${shapeText(wanted)}, got ${shapeText(stored.shape)}`, {
      details: { tensor: name },
      hint: "is it the file of another model?",
    });
  }
  const [first] = parameter.tensors;
  if (!first?.resident) {
    throw new OctavoError("ERR_OFFLOADED", `load_adapter: ${name} is offloaded to cpu or disk`, {
      hint: "load the model without offload, or with target_lang",
    });
  }
  const { device } = first;
  const dtype = readDType(stored);
  const bytes = convertBytes(stored.dtype, await bytesInOrder(source, stored), dtype, name);
  const floats = new PendingFloats(stored.shape, dtype, () => bytes);
  if (parameter instanceof Parameter) {
    const value = floats
      .as(first.dtype as FloatDType)
      .tensor(device)
      .keep();
    return { fill: () => parameter.resize(value), dispose: () => value.dispose() };
  }
  const scheme = parameter.inner?.alike;
  if (!scheme) {
    throw new OctavoError("ERR_UNSUPPORTED", `load_adapter: ${name} is stored in a way that takes no new values`, {
      hint: "load the model with target_lang",
    });
  }
  const weight = floats.weight(device, [wanted[0]!, wanted[1]!], 1, scheme);
  return { fill: () => parameter.resize(weight), dispose: () => weight.dispose() };
}
