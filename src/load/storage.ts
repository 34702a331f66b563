import type { Device } from "../core/device.js";
import { UnsupportedModelError } from "../core/errors.js";
import type { Model } from "../nn/model.js";
import { Linear, Matrix, type Module } from "../nn/module.js";
import { computeFor, denseScheme, type FloatDType, type Scheme } from "../nn/weight.js";
import type { Compute } from "../ops/linear.js";
import { BitsAndBytesConfig } from "../quant/config.js";
import { type Quantization, schemeOf } from "../quant/index.js";
import { SelectiveConfig } from "../quant/selective.js";
import { choicesOf, names, notQuantized, ownLinears, schemeFor } from "./linears.js";

/** How the parameters of a model are stored. */
export interface StorageOptions {
  /** For everything that is not quantized. */
  readonly dtype: FloatDType;
  /** For the quantized linears; absent: none is quantized. */
  readonly scheme?: Scheme | undefined;
  /** Modules that `scheme` does not apply to; by default the output head. */
  readonly skip?: readonly string[] | null;
  /** Chooses the schemes of linears instead of `scheme`. */
  readonly selective?: SelectiveConfig | undefined;
  /** For the output head, regardless of `skip`. A tied head gets a matrix of its own. */
  readonly head?: Scheme | undefined;
  /** How matrices that stay dense are multiplied, if not as `dtype` implies. */
  readonly compute?: Compute | undefined;
  /** Schemes that may have quantized the checkpoint's matrices. */
  readonly stored?: readonly Scheme[] | undefined;
  /** The parameter that the output embeddings shared before `untieHead`. */
  readonly shared?: string | undefined;
}

/** The scheme of each matrix of a model. @throws UnsupportedModelError */
export function schemesOf(model: Model, storage: StorageOptions): Map<Matrix, Scheme> {
  const { dtype, head, compute } = storage;
  const quantized = new Map(linearSchemes(model, storage));
  const output = model.output_embeddings()?.weight;
  const schemes = new Map<Matrix, Scheme>();
  for (const [, parameter] of model.named_parameters()) {
    if (!(parameter instanceof Matrix) || schemes.has(parameter)) continue;
    if (head && parameter === output) schemes.set(parameter, head);
    else schemes.set(parameter, quantized.get(parameter) ?? denseScheme(dtype, parameter.product, compute));
  }
  return schemes;
}

/** The matrices that are chosen by the paths of their modules. */
function linearSchemes(model: Model, storage: StorageOptions): (readonly [Matrix, Scheme])[] {
  const { dtype, scheme, skip, selective, compute } = storage;
  if (selective) {
    return choicesOf(model, selective).map((choice) => [
      choice.linear.weight,
      schemeFor(choice, selective, dtype, compute),
    ]);
  }
  if (!scheme) return [];
  const paths = new Set(quantizedModules(model, skip ?? null));
  return ownLinears(model).flatMap(([path, { weight }]) => (paths.has(path) ? [[weight, scheme] as const] : []));
}

/** How a config stores a model. A head that it wants apart from the matrix that it shares is untied. */
export function storageOf(model: Model, config: Quantization | undefined, dtype: FloatDType): StorageOptions {
  const selective = SelectiveConfig.is(config) ? config : undefined;
  const skip = BitsAndBytesConfig.is(config) ? config.llm_int8_skip_modules : null;
  const shared = wantsOwnHead(model, selective, dtype) ? untieHead(model) : undefined;
  return { dtype, scheme: schemeOf(config, computeFor(dtype)), skip, selective, shared };
}

/** True if a config asks for an output head apart from the matrix that it shares: in codes, or in another dtype. */
export function wantsOwnHead(model: Model, selective: SelectiveConfig | undefined, dtype: FloatDType): boolean {
  const head = model.output_embeddings();
  if (!selective || !head || sharedWithHead(model) === undefined) return false;
  const { scheme, pattern } = selective.said(head.path);
  return pattern !== undefined && scheme !== "auto" && scheme !== dtype;
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
  const skipped = skip ?? notQuantized(model);
  const found: string[] = [];
  for (const [path, module] of ownLinears(model)) {
    if (names(skipped, path)) continue;
    const experts = module.published_paths;
    const spared = experts.filter((one) => names(skipped, one));
    if (spared.length === 0) found.push(path);
    else if (spared.length < experts.length) {
      throw new UnsupportedModelError(
        `llm_int8_skip_modules names ${spared.length} of the ${experts.length} experts ${path}, such as ${spared[0]}; ` +
          "experts in different precisions are not supported",
        { hint: `name all of them, or "${path}"`, details: { option: "llm_int8_skip_modules" } },
      );
    }
  }
  return found;
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
