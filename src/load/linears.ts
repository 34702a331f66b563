// The linears of a tree that can be quantized, and the scheme of each where a SelectiveConfig chooses it by its path.

import { OptionError, suggestion, UnsupportedModelError } from "../core/errors.js";
import { listed } from "../core/show.js";
import { Model } from "../nn/model.js";
import { Linear, Matrix, type Module } from "../nn/module.js";
import { computeFor, denseScheme, type FloatDType, type Scheme } from "../nn/weight.js";
import type { Compute } from "../ops/linear.js";
import { codesConfig, type OneScheme, schemeOf } from "../quant/index.js";
import { isCodes, type LinearScheme, type SelectiveConfig } from "../quant/selective.js";

/** A linear with its path in the tree. */
type Placed = readonly [path: string, linear: Linear];

/** The linears that share their matrix with no other module. */
export function ownLinears(model: Module): Placed[] {
  const users = new Map<Matrix, number>();
  for (const [, module] of model.named_modules()) {
    const { weight } = module as { weight?: unknown };
    if (weight instanceof Matrix) users.set(weight, (users.get(weight) ?? 0) + 1);
  }
  return [...model.named_modules()].filter(
    (entry): entry is [string, Linear] => entry[1] instanceof Linear && users.get(entry[1].weight) === 1,
  );
}

/** True if an entry names a path: whole components of it, "mlp" or "layers.0". */
export function names(entries: readonly string[], path: string): boolean {
  return entries.some((entry) => `.${path}.`.includes(`.${entry}.`));
}

/** The entries that say which modules stay in full precision unless something else is asked for. */
export function notQuantized(model: Module): readonly string[] {
  return model instanceof Model ? model.modules_not_quantized() : ["lm_head"];
}

/** Paths of a linear in checkpoints: its own, or one for each expert of a stack. */
function publishedOf([path, linear]: Placed): readonly string[] {
  return linear.weight.experts === 1 ? [path] : linear.published_paths;
}

/** What a config chooses for one linear. */
export interface Choice {
  readonly path: string;
  readonly linear: Linear;
  readonly scheme: LinearScheme;
  /** The patterns that said so; none for the default. */
  readonly patterns: readonly string[];
}

/** What a config says of a linear. @throws UnsupportedModelError for experts of a stack in different schemes */
function choiceOf(model: Module, config: SelectiveConfig, placed: Placed): Choice {
  const [path, linear] = placed;
  const said = publishedOf(placed).map((one) => config.said(path, one));
  const [first] = said;
  const other = said.findIndex(({ scheme }) => scheme !== first!.scheme);
  if (other >= 0) {
    throw new UnsupportedModelError(
      `modules: the experts of ${path} are ${first!.scheme} and ${said[other]!.scheme}; ` +
        "experts in different schemes are not supported",
      { hint: `name all of them, or "${path}"`, details: { option: "modules" } },
    );
  }
  const patterns = [...new Set(said.flatMap(({ pattern }) => pattern ?? []))];
  const left = patterns.length === 0 && names(notQuantized(model), path);
  return { path, linear, scheme: left ? "auto" : first!.scheme, patterns };
}

/** What a config chooses for each linear that has a matrix of its own. @throws UnsupportedModelError */
export function choicesOf(model: Module, config: SelectiveConfig): Choice[] {
  return ownLinears(model).map((placed) => choiceOf(model, config, placed));
}

/** The scheme of a choice in a model of `dtype`. */
export function schemeFor(
  { scheme, linear }: Pick<Choice, "scheme" | "linear">,
  config: SelectiveConfig,
  dtype: FloatDType,
  compute?: Compute,
): Scheme {
  if (isCodes(scheme)) return schemeOf(codesConfig(config, scheme), compute ?? computeFor(dtype))!;
  return denseScheme(scheme === "auto" ? dtype : scheme, linear.weight.product, compute);
}

/**
 * How bitsandbytes would say what a config chooses; undefined for several schemes with codes, and for codes of a head that
 * config.json ties to another matrix.
 */
export function oneScheme(model: Model, config: SelectiveConfig, tied: boolean): OneScheme | undefined {
  const choices = choicesOf(model, config);
  const codes = new Set(choices.map(({ scheme }) => scheme).filter(isCodes));
  const [scheme, ...more] = codes;
  const head = model.output_embeddings()?.path;
  if (scheme === undefined || more.length > 0) return undefined;
  if (tied && choices.some((one) => one.path === head && isCodes(one.scheme))) return undefined;
  const left = choices.filter((one) => !isCodes(one.scheme));
  const skip = left.flatMap(({ path, linear }) => publishedOf([path, linear]));
  // A head that shares its matrix is not among the linears.
  const shared = head !== undefined && !choices.some(({ path }) => path === head) ? [head] : [];
  return { config: codesConfig(config, scheme), skip: [...skip, ...shared] };
}

/**
 * Names the patterns of a config that decide about no linear of a model; undefined if there are none.
 * @throws OptionError if no pattern decides about any
 */
export function unusedPatterns(model: Module, config: SelectiveConfig): string | undefined {
  const used = new Set(choicesOf(model, config).flatMap(({ patterns }) => patterns));
  // A head that keeps the matrix that it shares is what its pattern says, or has one of its own.
  const head = model instanceof Model ? model.output_embeddings() : undefined;
  const said = head && config.said(head.path).pattern;
  if (said !== undefined) used.add(said);
  const unused = Object.keys(config.modules).filter((pattern) => !used.has(pattern));
  if (unused.length === 0) return undefined;
  const parts = ownLinears(model).flatMap(([path]) => path.split("."));
  const near = suggestion(unused[0]!.split(".").at(-1)!, [...new Set(parts)]);
  const what = `quantization_config.modules: ${listed(unused)} decide${unused.length === 1 ? "s" : ""} about no linear of this model`;
  if (used.size === 0) {
    throw new OptionError(what, {
      details: { option: "modules" },
      hint: near ? `did you mean "${near}"?` : `its linears are ${listed([...new Set(parts)], 8)}`,
    });
  }
  return `${what}, or another pattern before ${unused.length === 1 ? "it" : "them"} does${near && !used.has(near) ? `; did you mean ${near}?` : ""}`;
}
