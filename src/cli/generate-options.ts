// The flags of `octavo generate` about how tokens are chosen, as options of the library.

import type { Command, Option } from "commander";
import { torchName } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import { type Options, readOptions } from "../core/options.js";
import type { GenerationOptions } from "../generate/config.js";
import { STRUCTURED } from "../generate/grammar/options.js";
import type { PreTrainedModel } from "../generate/model.js";
import { addFlags, type KVCacheName } from "./arguments.js";
import type { LoadFlags } from "./load-flags.js";
import { readText } from "./text.js";

/** Flags of the command itself; the library's options are read from the same object by their tables. */
export interface GenerateFlags extends LoadFlags {
  prompt?: string;
  adapter?: string;
  batchFile?: string;
  chat?: boolean;
  checkFinite?: boolean;
  escape?: boolean;
  echo: boolean;
  greedy?: boolean;
  kvCache?: KVCacheName;
  json?: boolean;
  /** Files. */
  jsonSchema?: string;
  grammar?: string;
  regex?: string;
  /** Separated by commas. */
  choices?: string;
}

/** Flags that only sampling has; a temperature above 0 is one more. */
export const SAMPLING = ["doSample", "topK", "topP", "minP"];
/** New tokens if neither the caller nor the model sets a number. */
export const DEFAULT_NEW_TOKENS = 128;

/** @throws OptionError for a temperature above 0 where no token is sampled */
export function checkTemperature({ temperature }: GenerationOptions, flags: GenerateFlags): void {
  if (!temperature || !flags.greedy) return;
  throw new OptionError(`--temperature ${temperature} samples, and cannot be used with --greedy`, {
    hint: "leave one of them out; temperature 0 takes the likeliest token",
  });
}

/** Adds the flags that say what the new text is, of which at most one is given, and none beside `apart`. */
export function addStructuredFlags(command: Command, apart: readonly Option[] = []): void {
  const flags = Object.values(addFlags(command, STRUCTURED));
  const names = [...flags, ...apart].map((flag) => flag.attributeName());
  for (const flag of flags) flag.conflicts(names.filter((name) => name !== flag.attributeName()));
}

/**
 * What the new text is, read from its files.
 * @throws NotFoundError for a file that cannot be read; OptionError for one that is no JSON, and for what the library refuses
 */
export async function structuredOptions({
  jsonSchema,
  grammar,
  regex,
  choices,
}: GenerateFlags): Promise<Options<typeof STRUCTURED>> {
  return readOptions("generate", STRUCTURED, {
    json_schema: jsonSchema === undefined ? undefined : parsed(jsonSchema, await readText(jsonSchema)),
    grammar: grammar === undefined ? undefined : await readText(grammar),
    regex,
    choices: choices?.split(","),
  });
}

function parsed(file: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new OptionError(`${file} is no JSON: ${(cause as Error).message}`, { cause });
  }
}

/** @param room tokens that the model reads after the prompt */
export function generationOptions(
  given: GenerationOptions,
  flags: GenerateFlags,
  model: PreTrainedModel,
  room: number,
): GenerationOptions & { readonly seed: number } {
  const { temperature, top_k, top_p, min_p } = given;
  const tuned = [temperature, top_k, top_p, min_p].some((value) => value !== undefined);
  return {
    ...given,
    num_return_sequences: 1, // whatever generation_config.json says: each prompt has one text
    max_new_tokens:
      given.max_new_tokens ??
      (typeof model.generation_config.max_new_tokens === "number"
        ? undefined
        : Math.max(1, Math.min(DEFAULT_NEW_TOKENS, room))),
    do_sample: flags.greedy ? false : given.do_sample || tuned ? true : undefined,
    ...cacheOptions(flags.kvCache),
    // Drawn here, so that the report can name it.
    seed: given.seed ?? Math.floor(Math.random() * 2 ** 31),
  };
}

function cacheOptions(name: KVCacheName | undefined): GenerationOptions {
  if (name === "int8") return { cache_implementation: "quantized", cache_config: { nbits: 8 } };
  return { cache_dtype: name && torchName(name) };
}
