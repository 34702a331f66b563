// A new adapter from several: PEFT's add_weighted_adapter.

import { listOf } from "../core/checks.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { scope, type Tensor } from "../core/tensor.js";
import { Parameter } from "../nn/module.js";
import { add } from "../ops/add.js";
import { scale } from "../ops/scale.js";
import { taping } from "../ops/tape.js";
import type { Adapter, Place } from "./adapter.js";
import { isDecomposition } from "./first-values.js";
import { side } from "./matrices.js";
import type { Adapters } from "./set.js";
import type { LoraLayer } from "./weight.js";

/** How adapters are combined. */
export type Combination = "linear" | "cat";

/**
 * Puts an adapter on the model that is made of others; it does not work yet.
 * - "cat": A and B one beside the other; exactly the weighted sum, with a rank that is the sum of the ranks.
 * - "linear": weighted sums of A and of B, of one rank; their product is only near the weighted sum.
 *
 * Its scale is 1 everywhere.
 * @throws OptionError for what does not fit together; OctavoError for adapters that are more than A and B
 */
export function addWeighted(
  adapters: Adapters,
  names: unknown,
  weights: unknown,
  given: unknown,
  combination: Combination,
): Adapter {
  const list = listOf(names, (one): one is string => typeof one === "string");
  const numbers = listOf(weights, (one): one is number => typeof one === "number" && Number.isFinite(one));
  if (!list || list.length === 0 || !numbers || numbers.length !== list.length) {
    throw new OptionError(
      `add_weighted_adapter: expected names of adapters and as many weights, got ${show(names)} and ${show(weights)}`,
    );
  }
  const parts = list.map((name) => adapters.get(name));
  const name = adapters.free(given);
  for (const { name: part, config, replaced, biases, places } of parts) {
    if (isDecomposition(config.fields.init_lora_weights)) {
      throw new OctavoError(
        "ERR_UNSUPPORTED",
        `add_weighted_adapter: ${part} is over weights that lack its beginning`,
        {
          hint: "save_pretrained with path_initial_model_for_weight_conversion makes it a plain one",
        },
      );
    }
    const more = replaced.length + biases.length > 0 || places.some(({ layer }) => layer.kind !== "lora");
    if (!more && !config.fields.use_dora) continue;
    throw new OctavoError(
      "ERR_UNSUPPORTED",
      `add_weighted_adapter: ${part} has whole modules, rows of tokens, stacks of experts, biases or DoRA`,
    );
  }
  const made: Parameter[] = [];
  try {
    const places = taping(undefined, () => combined(parts, numbers, combination, made));
    const ranks = Object.fromEntries(places.map(({ path, layer }) => [escaped(path), rankOf(layer as LoraLayer)]));
    const r = Math.max(...Object.values(ranks));
    const others = Object.fromEntries(Object.entries(ranks).filter(([, rank]) => rank !== r));
    const config = parts[0]!.config.with({
      r,
      lora_alpha: r,
      rank_pattern: others,
      alpha_pattern: others,
      use_rslora: false,
      lora_dropout: 0,
      inference_mode: true,
      target_modules: places.map(({ path }) => path),
      exclude_modules: null,
      layers_to_transform: null,
      layers_pattern: null,
    });
    const adapter = { name, config, places, replaced: [], biases: [] };
    adapters.put(adapter, false);
    return adapter;
  } catch (error) {
    for (const parameter of made) parameter.dispose();
    throw error;
  }
}

/** A path as a regular expression for itself. */
function escaped(path: string): string {
  return path.replaceAll(".", "\\.");
}

/** B is [outputs, r] in both roles. */
function rankOf({ b }: LoraLayer): number {
  return b.shape[1]!;
}

interface Part {
  readonly place: Place;
  readonly layer: LoraLayer;
  readonly weight: number;
}

function combined(
  adapters: readonly Adapter[],
  weights: readonly number[],
  combination: Combination,
  made: Parameter[],
): Place[] {
  const parts = new Map<string, Part[]>();
  for (const [i, { places }] of adapters.entries()) {
    for (const place of places) {
      const layer = place.layer as LoraLayer;
      const part = { place, layer, weight: weights[i]! * layer.scale };
      parts.set(place.path, [...(parts.get(place.path) ?? []), part]);
    }
  }
  return [...parts.values()].map((list) => {
    const { path, matrix, role } = list[0]!.place;
    if (combination === "linear" && new Set(list.map(({ layer }) => rankOf(layer))).size > 1) {
      throw new OptionError(`add_weighted_adapter: "linear" needs one rank, and those of ${path} differ`, {
        details: { option: "combination_type" },
        hint: 'combination_type: "cat" takes any',
      });
    }
    const join = combination === "cat" ? side : sum;
    const own = (tensor: Tensor): Parameter => {
      const parameter = new Parameter(tensor);
      made.push(parameter);
      return parameter;
    };
    // The sign goes with A alone: on both sides it would be lost.
    const root = ({ weight }: Part): number => (combination === "cat" ? 1 : Math.sqrt(Math.abs(weight)));
    const first = (part: Part): number =>
      combination === "cat" ? part.weight : root(part) * (part.weight < 0 ? -1 : 1);
    const a = own(
      scope(() =>
        join(
          list.map((part) => scale(part.layer.a.value, first(part))),
          role === "product" ? 0 : 1,
        ),
      ),
    );
    const b = own(
      scope(() =>
        join(
          list.map((part) => scale(part.layer.b.value, root(part))),
          1,
        ),
      ),
    );
    return { path, matrix, role, layer: { kind: "lora", a, b, magnitude: undefined, scale: 1, dropout: 0 } };
  });
}

function sum(list: readonly Tensor[]): Tensor {
  return list.reduce((all, one) => add(all, one));
}
