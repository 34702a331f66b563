import type { Device } from "../core/device.js";
import { UnsupportedModelError } from "../core/errors.js";
import { Model } from "../nn/model.js";
import { Linear, Matrix, type Module } from "../nn/module.js";
import { denseScheme, type FloatDType, type Scheme } from "../nn/weight.js";
import type { Compute } from "../ops/linear.js";

/** How the parameters of a model are stored. */
export interface StorageOptions {
  /** For everything that is not quantized. */
  readonly dtype: FloatDType;
  /** For the quantized linears; absent: none is quantized. */
  readonly scheme?: Scheme | undefined;
  /** Modules that `scheme` does not apply to; by default the output head. */
  readonly skip?: readonly string[] | null;
  /** For the output head, regardless of `skip`. A tied head gets a matrix of its own. */
  readonly head?: Scheme | undefined;
  /** How matrices that stay dense are multiplied, if not as `dtype` implies. */
  readonly compute?: Compute | undefined;
  /** Schemes that may have quantized the checkpoint's matrices. */
  readonly stored?: readonly Scheme[] | undefined;
  /** The parameter that the output embeddings shared before `untieHead`. */
  readonly shared?: string | undefined;
}

/** The scheme of each matrix of a model. */
export function schemesOf(model: Model, { dtype, scheme, skip, head, compute }: StorageOptions): Map<Matrix, Scheme> {
  const quantized = new Set(scheme ? quantizedModules(model, skip ?? null).map((path) => `${path}.weight`) : []);
  const output = model.output_embeddings()?.weight;
  const schemes = new Map<Matrix, Scheme>();
  for (const [name, parameter] of model.named_parameters()) {
    if (!(parameter instanceof Matrix) || schemes.has(parameter)) continue;
    if (head && parameter === output) schemes.set(parameter, head);
    else schemes.set(parameter, quantized.has(name) ? scheme! : denseScheme(dtype, parameter.product, compute));
  }
  return schemes;
}

/**
 * Gives the output embeddings a matrix of their own if they share one.
 * @returns the name of the parameter that they shared, or undefined
 */
export function untieHead(model: Model): string | undefined {
  const head = model.output_embeddings();
  const shared = sharedWithHead(model);
  if (!head || shared === undefined) return undefined;
  const { weight } = head;
  weight.product = false;
  head.weight = new Matrix(...weight.shape);
  head.weight.product = true;
  return shared;
}

/** The name of the parameter that the output embeddings share, or undefined. */
export function sharedWithHead(model: Model): string | undefined {
  const head = model.output_embeddings();
  const own = head && `${head.path}.weight`;
  return [...model.named_parameters()].find(([name, one]) => one === head?.weight && name !== own)?.[0];
}

/**
 * Names of the modules that a quantization scheme is applied to: every Linear except those that `skip` names (default: the
 * model's own list, or "lm_head") and those that share their matrix with another module. An entry of `skip` matches whole components of a
 * path: "mlp" or "layers.0", never a part of a name.
 * @throws UnsupportedModelError if it names only some experts of a stack
 */
export function quantizedModules(model: Module, skip: readonly string[] | null): string[] {
  const users = new Map<Matrix, number>();
  for (const [, module] of model.named_modules()) {
    const { weight } = module as { weight?: unknown };
    if (weight instanceof Matrix) users.set(weight, (users.get(weight) ?? 0) + 1);
  }
  const skipped = skip ?? (model instanceof Model ? model.modules_not_quantized() : ["lm_head"]);
  const named = (path: string): boolean => skipped.some((entry) => `.${path}.`.includes(`.${entry}.`));
  const names: string[] = [];
  for (const [path, module] of model.named_modules()) {
    if (!(module instanceof Linear) || users.get(module.weight)! > 1) continue;
    if (named(path)) continue;
    const experts = module.published_paths;
    const spared = experts.filter(named);
    if (spared.length === 0) names.push(path);
    else if (spared.length < experts.length) {
      throw new UnsupportedModelError(
        `llm_int8_skip_modules names ${spared.length} of the ${experts.length} experts ${path}, such as ${spared[0]}; ` +
          "experts in different precisions are not supported",
        { hint: `name all of them, or "${path}"`, details: { option: "llm_int8_skip_modules" } },
      );
    }
  }
  return names;
}

/** What a model needs besides its parameters before it runs: constants on the device, and how attention is computed. */
export function settle(device: Device, model: Model, compute: Compute): void {
  for (const [, buffer] of model.named_buffers()) buffer.on(device);
  model.attention = { ...model.attention, compute };
}

/** Entries of `skip` that match no module of the model. */
export function unknownModules(model: Module, skip: readonly string[]): string[] {
  const paths = [...model.named_modules()]
    .flatMap(([path, module]) => (module instanceof Linear ? [path, ...module.published_paths] : [path]))
    .map((path) => `.${path}.`);
  return skip.filter((entry) => !paths.some((path) => path.includes(`.${entry}.`)));
}
