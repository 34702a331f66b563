// The plan: which tensor of a checkpoint goes into which parameter, and how it will be stored. Pure; reads no weights
// and allocates nothing, so that everything that does not fit is refused before any work is done.

import type { Checkpoint } from "../checkpoints/checkpoint.js";
import type { TensorInfo } from "../checkpoints/safetensors.js";
import type { Device } from "../core/device.js";
import { CheckpointError } from "../core/errors.js";
import { type Architecture, treeNames } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { Linear, Matrix, type Module, type Parameter } from "../nn/module.js";
import { denseScheme, type FloatDType, type Scheme } from "../nn/weight.js";
import type { Compute } from "../ops/linear.js";
import type { Source } from "../sources/source.js";

/** One parameter to be filled. */
export interface PlanItem {
  /** Name in the tree (the first one, if it is tied). */
  readonly name: string;
  readonly parameter: Parameter | Matrix;
  readonly source: TensorInfo;
  /** How a matrix is stored; undefined for plain parameters. */
  readonly scheme: Scheme | undefined;
}

export interface Plan {
  readonly source: Source;
  readonly items: readonly PlanItem[];
  /** Tensors of the checkpoint that no parameter wants. */
  readonly unexpected: readonly string[];
  /** Bytes to read. */
  readonly bytes: number;
}

/** How the parameters of a model are stored. */
export interface Storage {
  /** Of everything that is not quantized. */
  readonly dtype: FloatDType;
  /** For the quantized linears; absent: there are none. */
  readonly scheme?: Scheme | undefined;
  /** Modules that `scheme` is not for; by default the output head. */
  readonly skip?: readonly string[] | null;
  /** For the output head, whatever `skip` says. A head that is tied gets a matrix of its own. */
  readonly head?: Scheme | undefined;
  /** How matrices that stay dense are multiplied, where that is not what `dtype` stands for. */
  readonly compute?: Compute | undefined;
}

/** The scheme of each matrix of a model. */
export function schemesOf(model: Model, { dtype, scheme, skip, head, compute }: Storage): Map<Matrix, Scheme> {
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
  if (!head) return undefined;
  const own = `${head.path}.weight`;
  const shared = [...model.named_parameters()].find(([name, one]) => one === head.weight && name !== own);
  if (!shared) return undefined;
  const { weight } = head;
  weight.product = false;
  head.weight = new Matrix(...weight.shape);
  head.weight.product = true;
  return shared[0];
}

/**
 * Names of the modules that a quantization scheme is applied to: every Linear but those that `skip` names (the
 * model's own list by default) and those that share their matrix with another module. An entry of `skip` matches whole components
 * of a path: "mlp" or "layers.0", never a part of a name.
 */
export function quantizedModules(model: Model, skip: readonly string[] | null): string[] {
  const users = new Map<Matrix, number>();
  for (const [, module] of model.named_modules()) {
    const { weight } = module as { weight?: unknown };
    if (weight instanceof Matrix) users.set(weight, (users.get(weight) ?? 0) + 1);
  }
  const skipped = skip ?? model.modules_not_quantized();
  const names: string[] = [];
  for (const [path, module] of model.named_modules()) {
    if (!(module instanceof Linear) || users.get(module.weight)! > 1) continue;
    if (!skipped.some((entry) => `.${path}.`.includes(`.${entry}.`))) names.push(path);
  }
  return names;
}

/** What a model needs besides its parameters before it runs: constants on the device, and how attention is computed. */
export function settle(device: Device, model: Model, compute: Compute): void {
  for (const [, buffer] of model.named_buffers()) buffer.on(device);
  model.attention = { ...model.attention, compute };
}

/** Entries of `skip` that no module of the model answers to. */
export function unknownModules(model: Module, skip: readonly string[]): string[] {
  const paths = [...model.named_modules()].map(([path]) => `.${path}.`);
  return skip.filter((entry) => !paths.some((path) => path.includes(`.${entry}.`)));
}

/**
 * Fits a checkpoint to a model, whose head is untied if it is stored in its own way.
 * @throws CheckpointError naming missing tensors, or the tensor whose shape is wrong with expected and got
 */
export function plan(model: Model, architecture: Architecture, checkpoint: Checkpoint, storage: Storage): Plan {
  const shared = storage.head && untieHead(model);
  const schemes = schemesOf(model, storage);
  const parameters = new Map(model.named_parameters());
  const sources = new Map<string, TensorInfo>();
  const unexpected: string[] = [];
  for (const [name, info] of checkpoint.tensors) {
    const names = treeNames(name, architecture.names);
    if (names.length === 0) continue;
    const known = names.find((one) => parameters.has(one));
    if (known === undefined) unexpected.push(name);
    else if (!sources.has(known)) sources.set(known, info);
  }

  const items = new Map<Parameter | Matrix, PlanItem>();
  const missing = new Map<Parameter | Matrix, string>();
  for (const [name, parameter] of parameters) {
    const source =
      sources.get(name) ??
      (shared && name === `${model.output_embeddings()!.path}.weight` ? sources.get(shared) : undefined);
    if (source === undefined) {
      if (!items.has(parameter) && !missing.has(parameter)) missing.set(parameter, name);
      continue;
    }
    missing.delete(parameter);
    if (items.has(parameter)) continue; // tied, and the file stores it under both names
    checkShape(name, parameter, source);
    items.set(parameter, {
      name,
      parameter,
      source,
      scheme: parameter instanceof Matrix ? schemes.get(parameter) : undefined,
    });
  }
  if (missing.size > 0) {
    const names = [...missing.values()];
    throw new CheckpointError(
      `${checkpoint.source.location} lacks ${names.length} of ${parameters.size} tensors of the model: ` +
        `${names.slice(0, 4).join(", ")}${names.length > 4 ? ", ..." : ""}`,
      {
        details: { file: checkpoint.source.location, missing: names.slice(0, 50) },
        hint: unexpected.length
          ? `the checkpoint has ${unexpected.length} tensors that the model does not know, such as ${unexpected[0]}`
          : "is the download complete?",
      },
    );
  }
  const list = [...items.values()];
  // In file order, so that reading is sequential.
  list.sort((a, b) => a.source.file.localeCompare(b.source.file) || a.source.offset - b.source.offset);
  return {
    source: checkpoint.source,
    items: list,
    unexpected,
    bytes: list.reduce((sum, item) => sum + item.source.bytes, 0),
  };
}

function checkShape(name: string, parameter: Parameter | Matrix, source: TensorInfo): void {
  const transposed = parameter instanceof Matrix && parameter.transposed;
  const expected = transposed ? [...parameter.shape].reverse() : [...parameter.shape];
  const { shape } = source;
  if (shape.length === expected.length && shape.every((size, d) => size === expected[d])) return;
  throw new CheckpointError(
    `tensor ${source.name}: expected shape [${expected.join(", ")}] for ${name}, got [${shape.join(", ")}]`,
    {
      details: { tensor: source.name, file: source.file, expected, got: shape },
      hint: "does config.json belong to this checkpoint?",
    },
  );
}
