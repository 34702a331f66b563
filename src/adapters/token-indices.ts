// Which rows of which matrices `trainable_token_indices` names in a model: the rules of PEFT (its 0.21).

import { OctavoError, OptionError } from "../core/errors.js";
import { listed } from "../core/show.js";
import type { Architecture } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { Embedding, Linear, type Matrix, type Module } from "../nn/module.js";
import { isTransposed, roleOf, usersOf } from "./matrices.js";
import type { TokenIndices } from "./token-rows.js";
import type { Role } from "./weight.js";

/** A matrix of which an adapter has some rows. */
export interface TokenTarget {
  /** The module that they are named after. */
  readonly path: string;
  readonly matrix: Matrix;
  readonly rows: readonly number[];
  /** What the matrix does with them: of a table that the head shares, both. */
  readonly roles: readonly Role[];
  /** No other module uses the matrix in another way. */
  readonly for_all: boolean;
  /** The row of padding, whose look-ups have no gradient. */
  readonly padding: number | undefined;
}

/** A module by its path. */
interface Named {
  readonly path: string;
  readonly module: Module;
}

const OPTION = { details: { option: "trainable_token_indices" } } as const;

/**
 * The rows that a config names, and the modules that use them.
 * @param named modules with LoRA, and those that are saved whole: they cannot have both
 * @throws OptionError for modules that are not there, that take no rows or that the adapter changes otherwise, and for rows that they do
 * not have; OctavoError for a matrix that other modules use in the same way
 */
export function tokensOf(
  model: Model,
  architecture: Architecture,
  indices: TokenIndices,
  named: { readonly targets: readonly Named[]; readonly saved: readonly Named[] },
): TokenTarget[] {
  const words = model.vocabulary()?.words;
  const wanted = wantedOf(indices, words);
  if (wanted.length === 0) return [];
  const head = model.output_embeddings();
  const tied = words !== undefined && head?.weight === words.weight ? head : undefined;
  const asked = new Map<Embedding | Linear, readonly number[]>();
  for (const [end, rows] of wanted) {
    // As in PEFT any end of a path will do, not only whole parts of it.
    const found = [...model.named_modules()].filter(([path]) => path.endsWith(end));
    if (found.length === 0) {
      throw new OptionError(`trainable_token_indices: ${end} not found in the base model`, {
        ...OPTION,
        ...(words && { hint: `the table of input ids is ${words.path}` }),
      });
    }
    for (const [path, module] of found) asked.set(withRows(architecture, path, module, rows), rows);
  }
  const own = words && asked.get(words);
  const others = tied && asked.get(tied);
  // Rows of both that are the same ones are one set of rows.
  const shared = own !== undefined && (others === undefined || `${others}` === `${own}`);
  const users = usersOf(model);
  const targets: TokenTarget[] = [];
  for (const [module, rows] of asked) {
    if (shared && module === tied) continue;
    const with_head = shared && module === words && tied !== undefined;
    const roles: readonly Role[] = with_head ? ["lookup", "product"] : [roleOf(module)];
    const { path, weight } = module;
    const all = users.get(weight) ?? [];
    const alike = all.filter((one) => roles.includes(one.role));
    if (module !== words && alike.length > 1) {
      throw new OctavoError(
        "ERR_UNSUPPORTED",
        `${path} shares its matrix with other modules, and takes no rows of its own`,
      );
    }
    checkAlone(path, weight, roles, named);
    const padding = module instanceof Embedding ? module.padding_idx : undefined;
    targets.push({ path, matrix: weight, rows, roles, for_all: alike.length === all.length, padding });
  }
  return targets;
}

/** Names and their rows, those without rows left out. @throws OctavoError for a model without a table of input ids */
function wantedOf(indices: TokenIndices, words: Embedding | undefined): (readonly [string, readonly number[]])[] {
  if (indices === null) return [];
  if (!Array.isArray(indices)) return Object.entries(indices).filter(([, rows]) => rows.length > 0);
  if (indices.length === 0) return [];
  if (!words) throw new OctavoError("ERR_UNSUPPORTED", "trainable_token_indices: the model has no table of input ids");
  return [[words.path, indices]];
}

/** @throws OptionError */
function withRows(
  architecture: Architecture,
  path: string,
  module: Module,
  rows: readonly number[],
): Embedding | Linear {
  const fits = module instanceof Embedding || (module instanceof Linear && module.weight.experts === 1);
  if (!fits || isTransposed(architecture, `${path}.weight`)) {
    throw new OptionError(
      `trainable_token_indices: ${path} is a ${module.class_name}; rows are those of embeddings and heads`,
      OPTION,
    );
  }
  const [entries] = module.weight.shape;
  const outside = rows.find((row) => row >= entries);
  if (outside === undefined) return module;
  throw new OptionError(`trainable_token_indices: row ${outside} is outside the ${entries} rows of ${path}`, {
    ...OPTION,
    hint: "resize_token_embeddings() makes room for new tokens",
  });
}

/** @throws OptionError for what the adapter changes otherwise as well */
function checkAlone(
  path: string,
  matrix: Matrix,
  roles: readonly Role[],
  { targets, saved }: Parameters<typeof tokensOf>[3],
): void {
  const same = (module: Module): boolean =>
    (module as { weight?: unknown }).weight === matrix && roles.includes(roleOf(module));
  const whole = saved.some(({ module }) => [...module.named_modules()].some(([, inner]) => same(inner)));
  const thin = targets.filter(({ module }) => same(module)).map((target) => target.path);
  if (!whole && thin.length === 0) return;
  throw new OptionError(
    `trainable_token_indices: the matrix of ${path} is one of ${whole ? "modules_to_save" : "target_modules"}, too${thin.length > 0 ? ` (${listed(thin)})` : ""}`,
    { ...OPTION, hint: "name it in one of them alone" },
  );
}
