// LoraConfig: what an adapter changes of a model and how, as adapter_config.json of PEFT says it. Fields, defaults and checks are
// PEFT's (0.21). Which modules a config names is in targets.ts.

import { isWhole, listOf } from "../core/checks.js";
import { entriesOf, FormatError, OctavoError, OptionError, UnsupportedModelError } from "../core/errors.js";
import { choice, type EntryFacts, flag, number, type Options, option, readOptions, such } from "../core/options.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import type { JsonObject } from "../sources/json.js";
import { editJson, PythonFloat } from "../sources/json-edit.js";
import {
  type Decomposition,
  type InitLora,
  isDecomposition,
  isLoftQ,
  isRank,
  type LoftQOptions,
  OTHER_INITS,
} from "./first-values.js";
import { asksNothing, OTHER_NAMES, OTHER_OPTIONS, OTHERS, saysNothing } from "./other-kinds.js";
import { isTokenIndices, type TokenIndices } from "./token-rows.js";

const isText = (value: unknown): value is string => typeof value === "string" && value !== "" && value.length <= 16_384;
const isIndex = (value: unknown): value is number => isWhole(value);

const texts = (wanted: string, facts?: EntryFacts) =>
  such<readonly string[] | string | null>(
    (value) => value === null || isText(value) || listOf(value, isText) !== undefined,
    wanted,
    facts,
  );

const textOrNull = such<string | null>((value) => value === null || typeof value === "string", "text or null");

/** An object whose values all pass. */
function pattern(passes: (value: unknown) => boolean, wanted: string) {
  return such<Readonly<Record<string, number>>>((value) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return false;
    const entries = Object.entries(value);
    return entries.length <= 100_000 && entries.every(([key, one]) => isText(key) && passes(one));
  }, wanted);
}

/** What an adapter is for, as PEFT names it. */
export const TASK_TYPES = [
  "SEQ_CLS",
  "SEQ_2_SEQ_LM",
  "CAUSAL_LM",
  "TOKEN_CLS",
  "QUESTION_ANS",
  "FEATURE_EXTRACTION",
] as const;
export type TaskType = (typeof TASK_TYPES)[number];

const RANK = "a whole number above 0";
const isScale = (value: unknown): boolean => typeof value === "number" && Math.abs(value) < 1e30;

/** The fields of a LoraConfig. */
export const LORA = {
  /** What the model is for; heads of classifiers are trained and saved with it. */
  task_type: such<TaskType | null>(
    (value) => value === null || (TASK_TYPES as readonly unknown[]).includes(value),
    `one of ${TASK_TYPES.join(", ")}`,
  ),
  /** Only "LORA". */
  peft_type: option<"LORA">(z.literal("LORA"), '"LORA"'),
  /** What PEFT notes of the model's class; kept as it is. */
  auto_mapping: such<object | null>((value) => typeof value === "object", "an object or null"),
  peft_version: textOrNull,
  /** The model that it was made for. Nothing is ever loaded from there by itself. */
  base_model_name_or_path: textOrNull,
  revision: textOrNull,
  /** True for an adapter that is not trained. */
  inference_mode: flag(),
  /** Rank: inputs become r numbers, and those the outputs (default: 8). */
  r: such<number>(isRank, RANK, { flag: "lora-r", value: "<n>", help: "rank of the adapter (default: 8)" }),
  /**
   * Names of modules or the ends of their paths, a regular expression for whole paths, or "all-linear"; by default those that PEFT
   * has for the architecture.
   */
  target_modules: texts("names of modules, a regular expression, or null", {
    flag: "lora-target-modules",
    value: "<names>",
    help: "names of modules, separated by commas, or all-linear (default: as PEFT has them for the architecture)",
  }),
  /**
   * Stacks of experts with a pair of matrices for each expert, by the ends of their names in files of transformers 5:
   * "mlp.experts.gate_up_proj", "mlp.experts.down_proj". Not with lora_dropout, use_dora, biases, or first values that are parts of
   * weights. As in PEFT, fields about layers and modules that are left out do not concern them.
   */
  target_parameters: such<readonly string[] | null>(
    (value) => value === null || listOf(value, isText) !== undefined,
    "a list of names, or null",
    {
      flag: "lora-target-parameters",
      value: "<names>",
      help: "stacks of experts, separated by commas, such as mlp.experts.down_proj",
    },
  ),
  /** Names or a regular expression of modules that are left out. */
  exclude_modules: texts("names of modules, a regular expression, or null"),
  /** The product is multiplied by lora_alpha / r (default: 8). */
  lora_alpha: such<number>(isScale, "a number", {
    value: "<x>",
    help: "the adapter's product is multiplied by this over the rank (default: 8)",
  }),
  /** While training, inputs of the adapter become 0 with this probability (default: 0). */
  lora_dropout: number((value) => value >= 0 && value < 1, "a number of at least 0, below 1", {
    help: "while training, inputs of the adapter become 0 with this probability (default: 0)",
  }),
  /** True for matrices that files store as [inputs, outputs] (GPT-2); set by itself. */
  fan_in_fan_out: flag(),
  /** Which biases of the model are trained: "none" (default), "all", or those of the "lora_only" modules. */
  bias: choice(["none", "all", "lora_only"], {
    flag: "lora-bias",
    value: "<which>",
    help: "biases of the model that are trained (default: none)",
  }),
  /** The product is multiplied by lora_alpha / sqrt(r) instead (Kalajdzievski 2023). */
  use_rslora: flag({ help: "multiply by lora_alpha over the square root of the rank" }),
  /** Ends of the paths of modules that are trained and saved whole. */
  modules_to_save: such<readonly string[] | null>(
    (value) => value === null || listOf(value, isText) !== undefined,
    "a list of names, or null",
    {
      flag: "lora-modules-to-save",
      value: "<names>",
      help: "modules that are trained and saved whole, separated by commas",
    },
  ),
  /**
   * First values: true (B is 0), "gaussian" (the same, A normal), false (A and B random), or a part of each weight, which the model then
   * lacks: "pissa" (its largest singular values, Meng et al. 2024), "pissa_niter_4" (near them, from random ones), "olora" (the first of its
   * QR, Büyükakyüz 2024), "loftq" (what quantizing it loses, Li et al. 2023). Adapters with these begin asynchronously.
   */
  init_lora_weights: such<InitLora>(
    (value) => typeof value === "boolean" || value === "gaussian" || isDecomposition(value),
    'true, false, "gaussian", "pissa", "pissa_niter_" and a number, "olora" or "loftq"',
    {
      hint: (value) => {
        const kind = typeof value === "string" ? OTHER_INITS[value.toLowerCase()] : undefined;
        return kind && `${kind} is not supported`;
      },
    },
  ),
  /** Of "loftq": the bits to which the weights will be quantized, 4 (default) or 8, and how often it is repeated (default: 1). */
  loftq_config: such<LoftQOptions | null>(
    isLoftQ,
    "an object of loftq_bits (4 or 8) and loftq_iter (a whole number above 0)",
  ),
  /** Numbers of the layers whose modules are targets. */
  layers_to_transform: such<readonly number[] | number | null>(
    (value) => value === null || isIndex(value) || listOf(value, isIndex) !== undefined,
    "a number, a list of numbers, or null",
  ),
  /** What comes before the number of a layer in paths; by default any name. */
  layers_pattern: texts("a name, a list of names, or null"),
  /** Ranks of some modules, by a regular expression for the end of their paths; the first that matches counts. */
  rank_pattern: pattern(isRank, `an object of ranks, each ${RANK}`),
  /** The same for lora_alpha. */
  alpha_pattern: pattern(isScale, "an object of numbers"),
  /**
   * Rows of an embedding that are trained and saved alone: ids of tokens, or an object of ends of modules' paths and their rows. By default
   * the rows are those of the table of input ids; a head that shares its matrix has them too.
   */
  trainable_token_indices: such<TokenIndices>(
    (value) => isTokenIndices(value),
    "a list of ids, each once, an object of such lists, or null",
    {
      flag: "lora-trainable-token-indices",
      value: "<ids>",
      help: "tokens whose rows of the embedding are trained, separated by commas",
    },
  ),
  /** Direction and magnitude of a weight apart: DoRA (Liu et al. 2024). */
  use_dora: flag({ help: "train direction and magnitude of the weights apart (DoRA)" }),
};

export interface LoraOptions extends Options<typeof LORA> {}

/** The fields of a config, all of them set. */
export interface LoraFields {
  readonly task_type: TaskType | null;
  readonly auto_mapping: object | null;
  readonly peft_version: string;
  readonly base_model_name_or_path: string | null;
  readonly revision: string | null;
  readonly inference_mode: boolean;
  readonly r: number;
  readonly target_modules: readonly string[] | string | null;
  readonly target_parameters: readonly string[] | null;
  readonly exclude_modules: readonly string[] | string | null;
  readonly lora_alpha: number;
  readonly lora_dropout: number;
  readonly fan_in_fan_out: boolean;
  readonly bias: "none" | "all" | "lora_only";
  readonly use_rslora: boolean;
  readonly modules_to_save: readonly string[] | null;
  readonly init_lora_weights: InitLora;
  readonly loftq_config: LoftQOptions | null;
  readonly layers_to_transform: readonly number[] | number | null;
  readonly layers_pattern: readonly string[] | string | null;
  readonly rank_pattern: Readonly<Record<string, number>>;
  readonly alpha_pattern: Readonly<Record<string, number>>;
  readonly trainable_token_indices: TokenIndices;
  readonly use_dora: boolean;
}

/** The layout of files that is written. */
const PEFT_VERSION = "0.21.0";

const DEFAULTS: LoraFields = {
  task_type: null,
  auto_mapping: null,
  peft_version: PEFT_VERSION,
  base_model_name_or_path: null,
  revision: null,
  inference_mode: false,
  r: 8,
  target_modules: null,
  target_parameters: null,
  exclude_modules: null,
  lora_alpha: 8,
  lora_dropout: 0,
  fan_in_fan_out: false,
  bias: "none",
  use_rslora: false,
  modules_to_save: null,
  init_lora_weights: true,
  loftq_config: {},
  layers_to_transform: null,
  layers_pattern: null,
  rank_pattern: {},
  alpha_pattern: {},
  trainable_token_indices: null,
  use_dora: false,
};

/** Nothing of the caller's runs later. @throws OptionError */
function copied(fields: object): object {
  try {
    return structuredClone(fields);
  } catch (cause) {
    throw new OptionError("LoraConfig: a field cannot be read", { cause });
  }
}

export class LoraConfig<Init extends InitLora = boolean | "gaussian"> {
  readonly peft_type = "LORA";
  readonly #own = true;
  #fields: LoraFields;

  /** True for a config itself, which a proxy of one is not. */
  static is(value: unknown): value is LoraConfig<InitLora> {
    return typeof value === "object" && value !== null && #own in value && value.#own;
  }

  /** @throws OptionError for unknown fields and wrong values; OctavoError for a kind of adapter that is not supported */
  constructor(options: Omit<LoraOptions, "init_lora_weights"> & { init_lora_weights?: Init | undefined } = {}) {
    const given = readOptions("LoraConfig", { ...LORA, ...OTHER_OPTIONS }, options) as Record<string, unknown>;
    for (const name of OTHER_NAMES) {
      if (given[name] === undefined || asksNothing(name, given[name])) continue;
      throw new OctavoError("ERR_UNSUPPORTED", `LoraConfig: ${name} is set, and ${OTHERS[name][1]} is not supported`, {
        details: { option: name },
      });
    }
    const known = Object.entries(given).filter(([name]) => name in DEFAULTS);
    const fields = copied({ ...DEFAULTS, ...Object.fromEntries(known) }) as LoraFields;
    this.#fields = { ...fields, peft_version: fields.peft_version ?? PEFT_VERSION };
    const { target_modules, layers_to_transform, layers_pattern } = fields;
    const named = typeof target_modules === "string" && target_modules.toLowerCase() !== "all-linear";
    for (const [option, value] of Object.entries({ layers_to_transform, layers_pattern })) {
      if (!named || value === null) continue;
      throw new OptionError(`LoraConfig: ${option} cannot be used where target_modules is a regular expression`, {
        details: { option },
        hint: "put the numbers of the layers into the expression",
      });
    }
    this.#checkStacks();
    if (fields.init_lora_weights === "loftq" && saysNothing(fields.loftq_config)) {
      throw new OptionError('LoraConfig: init_lora_weights "loftq" needs a loftq_config', {
        details: { option: "loftq_config" },
        hint: "loftq_config: { loftq_bits: 4, loftq_iter: 1 }",
      });
    }
    if (layers_pattern !== null && layers_to_transform === null) {
      throw new OptionError("LoraConfig: layers_pattern needs layers_to_transform", {
        details: { option: "layers_pattern" },
      });
    }
  }

  /** @throws OptionError for what adapters of stacks cannot have */
  #checkStacks(): void {
    const { target_parameters, lora_dropout, use_dora, bias, init_lora_weights } = this.#fields;
    if (!target_parameters || target_parameters.length === 0) return;
    const odd = { lora_dropout, use_dora, bias: bias === "none" ? false : bias };
    const init = isDecomposition(init_lora_weights) ? { init_lora_weights } : {};
    const [option, value] = Object.entries({ ...odd, ...init }).find(([, said]) => said) ?? [];
    if (option === undefined) return;
    throw new OptionError(`LoraConfig: target_parameters cannot be used with ${option} ${show(value)}`, {
      details: { option },
    });
  }

  /** All fields by their names. */
  get fields(): LoraFields {
    return this.#fields;
  }

  get init_lora_weights(): Init {
    return this.#fields.init_lora_weights as Init;
  }

  /**
   * What files of the adapter say from now on of its first values: `true` once the model is saved as it is without them.
   * @throws OptionError
   */
  set init_lora_weights(value: InitLora) {
    this.#fields = this.with({ init_lora_weights: value === undefined ? true : value }).fields;
  }

  get r(): number {
    return this.#fields.r;
  }

  get lora_alpha(): number {
    return this.#fields.lora_alpha;
  }

  get target_modules(): readonly string[] | string | null {
    return this.#fields.target_modules;
  }

  get task_type(): TaskType | null {
    return this.#fields.task_type;
  }

  /** The same with other fields. @throws as the constructor */
  with(changes: LoraOptions): LoraConfig<InitLora> {
    return new LoraConfig<InitLora>({ ...this.#fields, ...changes });
  }

  /** The fields of adapter_config.json, sorted; those of other kinds have the values by which they do nothing. */
  to_dict(): Record<string, unknown> {
    const others = Object.fromEntries(OTHER_NAMES.map((name) => [name, OTHERS[name][0]]));
    const all: Record<string, unknown> = { ...others, ...this.fields, peft_type: this.peft_type };
    // Python keeps these two as sets, whose order is arbitrary.
    for (const name of ["target_modules", "exclude_modules"]) {
      if (Array.isArray(all[name])) all[name] = [...(all[name] as string[])].sort();
    }
    return Object.fromEntries(Object.entries(all).sort(([a], [b]) => (a < b ? -1 : 1)));
  }

  /** The text of adapter_config.json, as Python's json writes it. */
  to_json_string(): string {
    const fields = this.to_dict();
    const text = editJson("{}", { ...fields, lora_dropout: new PythonFloat(this.fields.lora_dropout) });
    // Python writes ASCII alone.
    return text.replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
  }
}

/** A config with whatever first values. */
export type AnyLoraConfig = LoraConfig<InitLora>;

/** A config, or its fields, whose first values are drawn. */
export type DrawnLora =
  | LoraConfig
  | (Omit<LoraOptions, "init_lora_weights"> & { readonly init_lora_weights?: boolean | "gaussian" });

/** The same for first values that are parts of the model's weights. */
export type Decomposing =
  | LoraConfig<Decomposition>
  | (Omit<LoraOptions, "init_lora_weights"> & { readonly init_lora_weights: Decomposition });

/**
 * The config in an adapter_config.json.
 * @param warn hears of keys that say nothing
 * @throws FormatError for wrong values; UnsupportedModelError for adapters of other kinds, named
 */
export function configFromJson(json: JsonObject, file: string, warn: (message: string) => void): LoraConfig<InitLora> {
  const { peft_type, runtime_config: _, ...fields } = json;
  if (peft_type !== "LORA") {
    throw new UnsupportedModelError(`${file}: an adapter of kind ${show(peft_type)} is not supported, only LORA is`, {
      details: { file, key: "peft_type", got: show(peft_type) },
    });
  }
  const given: Record<string, unknown> = { peft_type };
  for (const [name, value] of Object.entries(fields)) {
    if (name in LORA || name in OTHERS) {
      if (name === "peft_version" && value === null) continue;
      given[name] = value;
    } else if (saysNothing(value)) {
      warn(`${file}: ${name} is not known here, and says nothing`);
    } else {
      throw new UnsupportedModelError(`${file}: ${show(name)} is not known here, and is ${show(value)}`, {
        details: { file, key: name },
        hint: "a newer version of PEFT wrote this adapter",
      });
    }
  }
  try {
    return new LoraConfig<InitLora>(given as LoraOptions);
  } catch (error) {
    if (!(error instanceof OctavoError)) throw error;
    const options = { details: { ...error.details, file }, hint: error.hint, cause: error };
    const message = `${file}: ${error.message.split("\n")[0]}`;
    throw error.code === "ERR_UNSUPPORTED"
      ? new UnsupportedModelError(message, options)
      : new FormatError(message, options);
  }
}

/** A config as callers give it: one of ours, or its fields. @throws OptionError, as the constructor */
export function loraConfig(call: string, given: unknown): AnyLoraConfig {
  if (LoraConfig.is(given)) return given;
  try {
    return new LoraConfig<InitLora>(Object.fromEntries(entriesOf(call, given)) as LoraOptions);
  } catch (error) {
    if (!(error instanceof OptionError)) throw error;
    throw new OptionError(`${call}: ${error.message.split("\n")[0]}`, {
      details: error.details,
      hint: error.hint ?? "pass new LoraConfig({ r, lora_alpha, target_modules })",
    });
  }
}
