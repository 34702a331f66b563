// Which modules of a model an adapter is for: the rules of PEFT (its 0.21), on paths of the module tree, which are those of Python.

import { OctavoError, OptionError } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import { type Architecture, placeOf } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { Embedding, Linear, type Matrix, type Module } from "../nn/module.js";
import { checkRegex } from "../tokenizer/pattern.js";
import type { AnyLoraConfig, LoraFields } from "./config.js";
import { isTransposed } from "./matrices.js";
import { type TokenTarget, tokensOf } from "./token-indices.js";

/** A module with an adapter. */
export interface Target {
  readonly path: string;
  readonly module: Linear | Embedding;
  readonly rank: number;
  readonly scale: number;
}

/** Stacks of experts that are one tensor in files of transformers 5, with an adapter. */
export interface StackTarget {
  /** Where PEFT has the adapter: the path of the experts, or its "base_layer" for the inner one of two. */
  readonly path: string;
  /** The stacks, the paths of their modules, and the first of their rows among those of an expert. */
  readonly parts: readonly { readonly module: string; readonly matrix: Matrix; readonly at: number }[];
  readonly experts: number;
  /** Of an expert. */
  readonly inputs: number;
  readonly outputs: number;
  readonly rank: number;
  readonly scale: number;
}

/** A module that is trained and saved whole. */
export interface SavedModule {
  readonly path: string;
  readonly module: Module;
}

/** What a config names in a model. */
export interface Targets {
  /** The config with what was found out: modules by name, and whether files store them transposed. */
  readonly config: AnyLoraConfig;
  readonly targets: readonly Target[];
  readonly stacks: readonly StackTarget[];
  readonly tokens: readonly TokenTarget[];
  readonly saved: readonly SavedModule[];
}

/** PEFT's targets where a config names none. */
const USUAL: ReadonlyMap<string, readonly string[]> = new Map([
  ...each(["t5", "mt5"], "q", "v"),
  ...each(["bart", "opt", "gptj", "gpt_neo", "llama", "mistral", "mixtral", "stablelm"], "q_proj", "v_proj"),
  ...each(["gemma", "gemma2", "gemma3_text", "qwen2", "qwen3"], "q_proj", "v_proj"),
  ...each(["gpt2"], "c_attn"),
  ...each(["bloom", "gpt_neox", "falcon"], "query_key_value"),
  ...each(["bert", "roberta", "xlm-roberta", "electra", "layoutlm"], "query", "value"),
  ...each(["deberta-v2"], "query_proj", "value_proj"),
  ...each(["mpt"], "Wqkv"),
  ...each(["codegen"], "qkv_proj"),
  ...each(["phi"], "q_proj", "v_proj", "fc1", "fc2"),
]);

function each(types: readonly string[], ...modules: string[]): [string, readonly string[]][] {
  return types.map((type) => [type, modules]);
}

/** Heads of classifiers, which "all-linear" leaves out. */
const CLASSIFIERS = ["score", "classifier"];

/** From so many names on, a list is written with the shortest ends of them. */
const MANY_NAMES = 20;

/**
 * Finds the modules that a config names.
 * @throws OptionError if it names none, or modules that take no adapter; FormatError for expressions that take too long
 */
export function targetsOf(model: Model, architecture: Architecture, given: AnyLoraConfig): Targets {
  const modules = [...model.named_modules()].filter(([path]) => path !== "");
  const config = withNames(model, architecture, given, modules);
  const { fields } = config;
  const excluded = excludes(config);
  const named = names(config);
  const targets: Target[] = [];
  let left = 0;
  for (const [path, module] of modules) {
    if (!named(path)) continue;
    if (excluded(path)) {
      left++;
      continue;
    }
    targets.push({ path, module: adaptable(path, module), ...strength(fields, path) });
  }
  const stacks = stacksOf(architecture, fields, modules);
  const asked = show(fields.target_modules);
  if (targets.length + stacks.length === 0 && left > 0) {
    throw new OptionError("all modules were excluded; check target_modules, exclude_modules and modules_to_save", {
      details: { option: "target_modules" },
    });
  }
  if (targets.length + stacks.length === 0) {
    throw new OptionError(`target modules ${asked} not found in the base model`, {
      details: { option: "target_modules" },
      hint: `it has modules such as ${listed(endings(modules))}`,
    });
  }
  const transposed = targets.some(({ path }) => isTransposed(architecture, `${path}.weight`));
  const saved = modules.filter(([path]) => fields.modules_to_save?.some((end) => path.endsWith(end)));
  const outermost = saved
    .filter(([path]) => !saved.some(([other]) => path.startsWith(`${other}.`)))
    .map(([path, module]) => ({ path, module }));
  return {
    config: transposed === fields.fan_in_fan_out ? config : config.with({ fan_in_fan_out: transposed }),
    targets,
    stacks,
    tokens: tokensOf(model, architecture, fields.trainable_token_indices, { targets, saved: outermost }),
    saved: outermost,
  };
}

/** The rank of an adapter, and what its product is multiplied by. */
function strength(fields: LoraFields, path: string): { readonly rank: number; readonly scale: number } {
  const rank = byPattern(fields, "rank_pattern", path) ?? fields.r;
  const alpha = byPattern(fields, "alpha_pattern", path) ?? fields.lora_alpha;
  return { rank, scale: alpha / (fields.use_rslora ? Math.sqrt(rank) : rank) };
}

/** The tensors of a layer's experts in transformers 5, in the order of its modules: PEFT wraps one after the other. */
const STACKED = ["gate_up_proj", "down_proj"];

/** The stacks that target_parameters names. @throws OptionError for a name of none */
function stacksOf(
  { names: rules }: Architecture,
  { target_parameters, ...fields }: LoraFields,
  modules: readonly (readonly [string, Module])[],
): StackTarget[] {
  if (!target_parameters || target_parameters.length === 0) return [];
  const linears = new Map(modules.flatMap(([path, one]) => (one instanceof Linear ? [[`${path}.weight`, one]] : [])));
  const owners = new Set(
    [...linears].flatMap(([name, { weight }]) =>
      weight.experts > 1 ? [name.replace(/\.[^.]+\.experts\..*$/, "")] : [],
    ),
  );
  const found: StackTarget[] = [];
  const known: string[] = [];
  const met = new Set<string>();
  for (const owner of owners) {
    const path = `${owner}.mlp.experts`;
    const wrapped: Omit<StackTarget, "path">[] = [];
    for (const name of STACKED.map((one) => `${path}.${one}`)) {
      const parts: StackTarget["parts"][number][] = [];
      let outputs = 0;
      for (const names of placeOf(name, rules)?.targets ?? []) {
        const weight = names.find((one) => linears.has(one));
        const matrix = weight && linears.get(weight)!.weight;
        if (!matrix || matrix.experts === 1) continue;
        parts.push({ module: weight.slice(0, -".weight".length), matrix, at: outputs });
        outputs += matrix.shape[0] / matrix.experts;
      }
      if (parts.length === 0) continue;
      known.push(name);
      const asked = target_parameters.filter((end) => ended([end])(name));
      if (asked.length === 0) continue;
      for (const end of asked) met.add(end);
      const { experts, shape } = parts[0]!.matrix;
      const sizes = { parts, experts, inputs: shape[1], outputs };
      wrapped.push({ ...sizes, ...strength({ target_parameters, ...fields }, name) });
    }
    wrapped.forEach((one, i) => {
      found.push({ ...one, path: path + ".base_layer".repeat(wrapped.length - 1 - i) });
    });
  }
  const unmet = target_parameters.filter((end) => !met.has(end));
  if (unmet.length === 0) return found;
  throw new OptionError(`target parameters ${listed(unmet)} not found in the base model`, {
    details: { option: "target_parameters" },
    hint: known.length > 0 ? `it has ${listed(known, 2)}` : "it has no stacks of experts",
  });
}

/** The last parts of the paths of all linears. */
function endings(modules: readonly (readonly [string, Module])[]): string[] {
  const linears = modules.filter(([, module]) => module instanceof Linear).map(([path]) => path);
  return [...new Set(linears.map((path) => path.slice(path.lastIndexOf(".") + 1)))];
}

/** @throws OptionError, OctavoError */
function adaptable(path: string, module: Module): Linear | Embedding {
  if (!(module instanceof Linear || module instanceof Embedding)) {
    throw new OptionError(`target module ${path} is a ${module.class_name}; adapters are for linears and embeddings`, {
      details: { option: "target_modules" },
    });
  }
  if (module.weight.experts > 1) {
    throw new OctavoError(
      "ERR_UNSUPPORTED",
      `target module ${path} holds experts, whose adapters target_parameters names`,
    );
  }
  return module;
}

/** The config with its targets as names or an expression. @throws OptionError */
function withNames(
  model: Model,
  { model_type }: Architecture,
  config: AnyLoraConfig,
  modules: readonly (readonly [string, Module])[],
): AnyLoraConfig {
  const { target_modules, task_type } = config.fields;
  if (target_modules === null) {
    const usual = USUAL.get(model_type);
    if (usual) return config.with({ target_modules: usual });
    if (config.fields.target_parameters?.length) return config;
    throw new OptionError(`target_modules is missing: there are no usual ones for ${model_type}`, {
      details: { option: "target_modules" },
      hint: `pass target_modules: "all-linear", or some of ${listed(endings(modules))}`,
    });
  }
  if (typeof target_modules !== "string" || target_modules.toLowerCase() !== "all-linear") return config;
  const head = model.output_embeddings();
  const heads = head || task_type !== "SEQ_CLS" ? [] : CLASSIFIERS;
  const all = modules.filter(
    ([path, module]) =>
      module instanceof Linear && module.weight.experts === 1 && module !== head && !heads.includes(path),
  );
  const paths = all.map(([path]) => path);
  return config.with({ target_modules: shortest(paths, modules) });
}

/** Ends of paths that name these modules and no others, as few as PEFT finds; the paths themselves if they are not many. */
function shortest(paths: readonly string[], modules: readonly (readonly [string, Module])[]): readonly string[] {
  if (paths.length < MANY_NAMES) return paths;
  const wanted = new Set(paths);
  const ends = (path: string): string[] => {
    const parts = path.split(".");
    return parts.map((_, i) => parts.slice(parts.length - 1 - i).join("."));
  };
  const others = new Set(modules.filter(([path]) => !wanted.has(path)).flatMap(([path]) => ends(path)));
  const found = new Set<string>();
  for (const path of [...paths].sort()) {
    const own = ends(path);
    if (!own.some((end) => found.has(end))) found.add(own.find((end) => !others.has(end)) ?? path);
  }
  return [...found].sort();
}

/** The modules that `target_modules` names, and layers_to_transform leaves. */
function names({ fields }: AnyLoraConfig): (path: string) => boolean {
  const { target_modules, layers_to_transform: layers, layers_pattern } = fields;
  if (typeof target_modules === "string") {
    const whole = python("target_modules", `^(?:${target_modules})$`);
    return (path) => whole.test(path);
  }
  const listed = ended(target_modules ?? []);
  const numbers = typeof layers === "number" ? [layers] : layers;
  if (numbers === null || numbers.length === 0) return listed;
  const stems = layers_pattern === null ? [] : [layers_pattern].flat();
  const patterns =
    stems.length === 0
      ? [/^.*?\.[^.]*\.(\d+)\./]
      : stems.map((stem) => python("layers_pattern", `^(?:|.*?\\.)(?:${stem})\\.(\\d+)\\.`));
  return (path) => {
    if (!listed(path)) return false;
    for (const pattern of patterns) {
      const number = pattern.exec(path)?.at(-1);
      if (number !== undefined) return numbers.includes(Number(number));
    }
    return false;
  };
}

/** True for a path that is one of `list`, or ends with a part that is. */
function ended(list: readonly string[]): (path: string) => boolean {
  return (path) => list.some((name) => path === name || path.endsWith(`.${name}`));
}

/** The modules that are no targets, whatever `target_modules` says. */
function excludes({ fields }: AnyLoraConfig): (path: string) => boolean {
  const { exclude_modules, modules_to_save } = fields;
  const whole = typeof exclude_modules === "string" ? python("exclude_modules", `^(?:${exclude_modules})$`) : undefined;
  const list = ended(typeof exclude_modules === "string" ? [] : (exclude_modules ?? []));
  const kept = modules_to_save ?? [];
  return (path) => (whole?.test(path) ?? list(path)) || kept.some((name) => `.${path}.`.includes(`.${name}.`));
}

/** The value of the first key that matches the end of a path. */
function byPattern(fields: LoraFields, option: "rank_pattern" | "alpha_pattern", path: string): number | undefined {
  for (const [key, value] of Object.entries(fields[option])) {
    if (python(option, `^(?:.*\\.)?(?:${key})$`).test(path)) return value;
  }
  return undefined;
}

const compiled = new Map<string, RegExp>();

/** A regular expression of Python's. @throws OptionError for one that is none here; FormatError for one that takes too long */
function python(option: string, source: string): RegExp {
  const known = compiled.get(source);
  if (known) return known;
  const translated = source.replaceAll("(?P<", "(?<").replaceAll("\\A", "^").replaceAll("\\Z", "$");
  checkRegex("adapter_config.json", option, translated);
  let pattern: RegExp;
  try {
    pattern = new RegExp(translated);
  } catch (cause) {
    throw new OptionError(`${option}: ${show(source)} is not a regular expression`, { details: { option }, cause });
  }
  if (compiled.size >= 1000) compiled.clear();
  compiled.set(source, pattern);
  return pattern;
}
