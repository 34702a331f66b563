// The plan: which tensor of a checkpoint goes into which parameter, and how it will be stored. Pure; reads no weights
// and allocates nothing, so that everything that does not fit is refused before any work is done.

import type { Checkpoint } from "../checkpoints/checkpoint.js";
import type { StoredTensor } from "../checkpoints/stored.js";
import { CheckpointError } from "../core/errors.js";
import type { Architecture, CausalLM } from "../nn/decoder.js";
import { Linear, Matrix, type Module, type Parameter } from "../nn/module.js";
import { denseScheme, type FloatDType, type Scheme } from "../nn/weight.js";
import type { Compute } from "../ops/linear.js";
import type { Source } from "../sources/source.js";

/** One parameter to be filled. */
export interface PlanItem {
  /** Name in the tree (the first one, if it is tied). */
  readonly name: string;
  readonly parameter: Parameter | Matrix;
  readonly source: StoredTensor;
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

/** What the output head of a language model is called. */
const HEAD = "lm_head";
/** The head of a language model stays in full precision, and with it what is tied to it. */
const DEFAULT_SKIP: readonly string[] = [HEAD];

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
export function schemesOf(model: Module, { dtype, scheme, skip, head, compute }: Storage): Map<Matrix, Scheme> {
  const quantized = new Set(scheme ? quantizedModules(model, skip ?? null).map((path) => `${path}.weight`) : []);
  const schemes = new Map<Matrix, Scheme>();
  for (const [name, parameter] of model.named_parameters()) {
    if (!("product" in parameter) || schemes.has(parameter)) continue;
    if (head && name === `${HEAD}.weight`) schemes.set(parameter, head);
    else schemes.set(parameter, quantized.has(name) ? scheme! : denseScheme(dtype, parameter.product, compute));
  }
  return schemes;
}

/**
 * Gives the output head a matrix of its own if it shares one.
 * @returns the name of what it shared, or undefined
 */
export function untieHead(model: Module): string | undefined {
  const [, head] = [...model.named_modules()].find(([path]) => path === HEAD) ?? [];
  if (!(head instanceof Linear)) return undefined;
  const shared = [...model.named_parameters()].find(([name, one]) => one === head.weight && name !== `${HEAD}.weight`);
  if (!shared) return undefined;
  const { weight } = head;
  weight.product = false;
  head.weight = new Matrix(...weight.shape);
  head.weight.product = true;
  return shared[0];
}

/**
 * Names of the modules that a quantization scheme is applied to: every Linear but those that `skip` names (the output
 * head by default) and those that share their matrix with another module. An entry of `skip` matches whole components
 * of a path: "mlp" or "layers.0", never a part of a name.
 */
export function quantizedModules(model: Module, skip: readonly string[] | null): string[] {
  const users = new Map<Matrix, number>();
  for (const [, module] of model.named_modules()) {
    const { weight } = module as { weight?: Matrix };
    if (weight && "product" in weight) users.set(weight, (users.get(weight) ?? 0) + 1);
  }
  const names: string[] = [];
  for (const [path, module] of model.named_modules()) {
    if (!(module instanceof Linear) || users.get(module.weight)! > 1) continue;
    if (!(skip ?? DEFAULT_SKIP).some((entry) => `.${path}.`.includes(`.${entry}.`))) names.push(path);
  }
  return names;
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
export function plan(model: CausalLM, architecture: Architecture, checkpoint: Checkpoint, storage: Storage): Plan {
  const shared = storage.head && untieHead(model);
  const schemes = schemesOf(model, storage);
  const parameters = new Map(model.named_parameters());
  const sources = new Map<string, StoredTensor>();
  const unexpected: string[] = [];
  for (const [name, info] of checkpoint.tensors) {
    if (architecture.ignore.some((pattern) => pattern.test(name))) continue;
    const known = [name, architecture.prefix + name, withoutPrefix(name, architecture.prefix)].find((n) =>
      parameters.has(n),
    );
    if (known === undefined) unexpected.push(name);
    else if (!sources.has(known)) sources.set(known, info);
  }

  const items = new Map<Parameter | Matrix, PlanItem>();
  const missing = new Map<Parameter | Matrix, string>();
  for (const [name, parameter] of parameters) {
    const source = sources.get(name) ?? (shared && name === `${HEAD}.weight` ? sources.get(shared) : undefined);
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
      scheme: "product" in parameter ? schemes.get(parameter) : undefined,
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

function withoutPrefix(name: string, prefix: string): string {
  return name.startsWith(prefix) ? name.slice(prefix.length) : name;
}

function checkShape(name: string, parameter: Parameter | Matrix, source: StoredTensor): void {
  const transposed = "transposed" in parameter && parameter.transposed;
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
