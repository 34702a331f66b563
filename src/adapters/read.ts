// Reads the folder of an adapter: adapter_config.json, and adapter_model.safetensors or adapter_model.bin with PEFT's names. What the
// files say is checked against the model before anything is allocated; values are checked while they are read.

import { readSafetensorsHeader } from "../checkpoints/safetensors.js";
import { elementsOf, STORED_BITS, type StoredTensor } from "../checkpoints/stored.js";
import { convertBytes } from "../checkpoints/values.js";
import type { Device } from "../core/device.js";
import { CheckpointError, FormatError, NotFoundError, OctavoError, throwIfAborted } from "../core/errors.js";
import { listed, shapeText } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { bytesInOrder, READ_BYTES, readDType } from "../load/read.js";
import { Matrix, Parameter } from "../nn/module.js";
import { denseScheme, PANEL_ROWS, storeRows, type Weight } from "../nn/weight.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { taping } from "../ops/tape.js";
import { readJsonFile } from "../sources/json.js";
import { type Source, withFile } from "../sources/source.js";
import {
  type Adapter,
  type Blueprint,
  blueprintOf,
  bytesOf,
  deviceOf,
  disposeAdapter,
  type First,
  type Firsts,
  homeOf,
  type Place,
  parametersOf,
  shapesOf,
  stackPlaces,
  stackShapes,
  tokenPlaces,
} from "./adapter.js";
import { type AnyLoraConfig, configFromJson } from "./config.js";
import { firstsOf } from "./decompose.js";
import type { Adapters } from "./set.js";
import { type StackTarget, targetsOf } from "./targets.js";
import type { TokenTarget } from "./token-indices.js";
import type { TokensLayer } from "./tokens.js";

export const ADAPTER_CONFIG = "adapter_config.json";
const WEIGHTS = ["adapter_model.safetensors", "adapter_model.bin"] as const;
/** What PEFT puts before the paths of modules. */
export const PREFIX = "base_model.model.";

export interface ReadOptions {
  /** Its parameters ask for gradients. */
  readonly trainable: boolean;
  readonly signal: AbortSignal | undefined;
  readonly warn: (message: string) => void;
  /** The adapter of that name which is on the model, if it is to take these values. */
  readonly instead?: Adapter;
}

/** The config of the adapter in a folder. @throws NotFoundError, FormatError, UnsupportedModelError */
export async function readConfig(source: Source, warn: (message: string) => void): Promise<AnyLoraConfig> {
  const path = source.path(ADAPTER_CONFIG);
  if (!(await source.names([ADAPTER_CONFIG])).has(ADAPTER_CONFIG)) {
    throw source.forbidden?.([ADAPTER_CONFIG]) ?? absent(source, ADAPTER_CONFIG);
  }
  return configFromJson(await readJsonFile(source, path, { what: ADAPTER_CONFIG, python: true }), path, warn);
}

function absent(source: Source, what: string): NotFoundError {
  return new NotFoundError(`${source.location}: there is no ${what}`, {
    details: { file: source.location, expected: what },
    hint: "is this the folder of an adapter, as PEFT saves one?",
  });
}

/** An adapter that was read. */
export interface Read {
  readonly adapter: Adapter;
  /** With what it began, which is to be taken out of the model's weights: it was trained over what is left. */
  readonly firsts: Firsts | undefined;
}

/**
 * Reads an adapter of a model from a folder. The caller puts it on the model, or disposes it.
 * @throws NotFoundError, FormatError, UnsupportedModelError for the files; OptionError, CheckpointError where they do not fit the
 * model; OutOfMemoryError, NetworkError, AbortError
 */
export async function readAdapter(
  adapters: Adapters,
  source: Source,
  given: string,
  { trainable, signal, warn, instead }: ReadOptions,
): Promise<Read> {
  const name = instead?.name ?? adapters.free(given);
  const stored = await readConfig(source, warn);
  const weights = await source.names(WEIGHTS);
  const found = WEIGHTS.find((one) => weights.has(one));
  if (!found) throw source.forbidden?.(WEIGHTS) ?? absent(source, WEIGHTS.join(" or "));
  const file = source.path(found);
  await source.bring?.([found]);
  const pickled = found.endsWith(".bin");
  const read = pickled ? (await import("../checkpoints/torch.js")).readTorchHeader : readSafetensorsHeader;
  const header = await read(source, file);
  for (const warning of header.warnings ?? []) warn(warning);
  const { config, ...named } = fitting(file, () => targetsOf(adapters.model, adapters.architecture, stored));
  const ready = config.with({ inference_mode: !trainable });
  if (!instead) adapters.checkConfig(ready);
  const blueprint = blueprintOf(adapters.model, adapters.architecture, { config: ready, ...named });
  const plan = planOf(blueprint, ready, header.tensors, file);
  homeOf(blueprint).arena.checkRoom(bytesOf(blueprint, ready), `the adapter ${name}`);
  const made: { dispose(): void }[] = [];
  try {
    const building = { source, trainable, signal, made };
    const adapter = await built(name, ready, plan, building);
    const firsts = instead ? undefined : await firstsOf(adapters.model, ready, blueprint, signal);
    for (const { target, table } of plan.layers) {
      if (table) await sameTable(building, target, table, ready.fields.fan_in_fan_out, firsts?.get(target));
    }
    return { adapter, firsts };
  } catch (error) {
    for (const one of made) one.dispose();
    throw error;
  }
}

/**
 * Puts the values of an adapter's folder into an adapter of the same form that is on the model, in place.
 * @throws as readAdapter; CheckpointError for an adapter of another form
 */
export async function restoreAdapter(adapters: Adapters, into: Adapter, source: Source): Promise<void> {
  const options = { trainable: true, signal: undefined, warn: () => {}, instead: into };
  const { adapter: read } = await readAdapter(adapters, source, into.name, options);
  try {
    const values = new Map(parametersOf(read));
    const own = [...parametersOf(into)];
    const odd = own.find(([name, { shape }]) => shapeText(values.get(name)?.shape ?? []) !== shapeText(shape));
    if (odd || values.size !== own.length) {
      throw new CheckpointError(`${source.location}: the adapter there is not like ${into.name} of the model`, {
        details: { file: source.location, tensor: odd?.[0] },
        hint: "go on with the config that the checkpoint was made with",
      });
    }
    taping(undefined, () => {
      for (const [name, { data }] of own) scope(() => void copyInto(values.get(name)!.data, data));
    });
  } finally {
    disposeAdapter(read);
  }
}

/**
 * Puts a copy of an adapter on the model, which is not trained and does not work yet.
 * @throws OptionError if the name is taken, or the adapter has biases, of which a model has one set; OutOfMemoryError
 */
export function copyAdapter(adapters: Adapters, from: Adapter, name: string): void {
  const copy = adapters.add(name, from.config.with({ inference_mode: true, init_lora_weights: true }));
  const own = [...parametersOf(copy)];
  taping(undefined, () => {
    for (const [i, [, { data }]] of [...parametersOf(from)].entries())
      scope(() => void copyInto(data, own[i]![1].data));
  });
}

/** Errors about names say which file they come from. */
function fitting<T>(file: string, body: () => T): T {
  try {
    return body();
  } catch (error) {
    if (!(error instanceof OctavoError) || error.code !== "ERR_OPTION") throw error;
    throw new CheckpointError(`${file}: ${error.message.split("\n")[0]}`, {
      details: { ...error.details, file },
      hint: "is it an adapter of another model?",
      cause: error,
    });
  }
}

interface Plan {
  readonly layers: readonly {
    readonly target: Blueprint["targets"][number];
    readonly a: StoredTensor;
    readonly b: StoredTensor;
    readonly magnitude: StoredTensor | undefined;
    /** The matrix of an embedding, which PEFT saves beside its adapter. */
    readonly table: StoredTensor | undefined;
  }[];
  readonly stacks: readonly { readonly target: StackTarget; readonly a: StoredTensor; readonly b: StoredTensor }[];
  readonly tokens: readonly { readonly target: TokenTarget; readonly from: StoredTensor }[];
  readonly whole: readonly { readonly part: Blueprint["whole"][number]; readonly from: StoredTensor }[];
  readonly biases: readonly { readonly part: Blueprint["biases"][number]; readonly from: StoredTensor }[];
}

/** Which tensor is what. @throws CheckpointError for missing, unexpected and misshapen ones */
function planOf(
  { targets, stacks, tokens, whole, biases }: Blueprint,
  { fields }: AnyLoraConfig,
  tensors: ReadonlyMap<string, StoredTensor>,
  file: string,
): Plan {
  const left = new Map<string, StoredTensor>();
  const twice: string[] = [];
  for (const [key, tensor] of tensors) {
    const name = key.startsWith(PREFIX) ? key.slice(PREFIX.length) : key;
    if (left.has(name)) twice.push(name);
    left.set(name, tensor);
  }
  const missing: string[] = [];
  const optional = (key: string, shape: readonly number[]): StoredTensor | undefined => {
    const tensor = left.get(key);
    if (!tensor) return undefined;
    left.delete(key);
    readDType(tensor);
    if (shapeText(tensor.shape) === shapeText(shape)) return tensor;
    throw new CheckpointError(`${file}: ${key} has shape ${shapeText(tensor.shape)}, expected ${shapeText(shape)}`, {
      details: { file, tensor: key, expected: shape, got: tensor.shape },
      hint: "is it an adapter of another model, or with another rank?",
    });
  };
  const needed = (key: string, shape: readonly number[]): StoredTensor => {
    const tensor = optional(key, shape);
    if (!tensor) missing.push(key);
    return tensor as StoredTensor;
  };
  const layers = targets.map((target) => {
    const { path, role, rank, module } = target;
    const [N, K] = module.weight.shape;
    const [A, B] = role === "product" ? ["lora_A.weight", "lora_B.weight"] : ["lora_embedding_A", "lora_embedding_B"];
    const [inputs, outputs] = role === "product" ? [K, N] : [N, K];
    const vector = `${path}.lora_magnitude_vector`;
    const named = left.has(`${vector}.weight`) ? `${vector}.weight` : vector;
    return {
      target,
      a: needed(`${path}.${A}`, [rank, inputs]),
      b: needed(`${path}.${B}`, [outputs, rank]),
      magnitude: fields.use_dora ? needed(named, magnitudeShape(left.get(named), outputs)) : undefined,
      table: optional(`${path}.base_layer.weight`, fields.fan_in_fan_out && role === "product" ? [K, N] : [N, K]),
    };
  });
  const stacked = stacks.map((target) => {
    const { a, b } = stackShapes(target);
    const { path } = target;
    return { target, a: needed(`${path}.lora_A.weight`, a), b: needed(`${path}.lora_B.weight`, b) };
  });
  const rows = tokens.map((target) => {
    const shape = [target.rows.length, target.matrix.shape[1]];
    return { target, from: needed(`${target.path}.token_adapter.trainable_tokens_delta`, shape) };
  });
  const stripped = whole.map((part) => {
    const shape = part.transposed ? [...part.base.shape].reverse() : part.base.shape;
    return { part, from: needed(part.name, shape) };
  });
  const adapted = new Set(targets.map(({ path }) => `${path}.bias`));
  const trained = biases.map((part) => {
    const wrapped = part.name.replace(/\.bias$/, ".base_layer.bias");
    const key = adapted.has(part.name) && left.has(wrapped) ? wrapped : part.name;
    return { part, from: needed(key, part.base.shape) };
  });
  const say = (keys: readonly string[], what: string): void => {
    if (keys.length === 0) return;
    throw new CheckpointError(`${file}: ${what}: ${listed(keys, 3)}`, {
      details: { file, keys: keys.slice(0, 100), count: keys.length },
      hint: "its adapter_config.json and the model decide which tensors an adapter has",
    });
  };
  say(twice, `${twice.length} tensors are there twice, with and without "${PREFIX}"`);
  say(missing, `${missing.length} tensors are missing`);
  say([...left.keys()], `${left.size} tensors are not expected`);
  return { layers, stacks: stacked, tokens: rows, whole: stripped, biases: trained };
}

/** DoRA's vectors were [1,N] in the first versions. */
function magnitudeShape(stored: StoredTensor | undefined, outputs: number): readonly number[] {
  return stored?.shape.length === 2 && stored.shape[0] === 1 ? [1, outputs] : [outputs];
}

interface Building {
  readonly source: Source;
  readonly trainable: boolean;
  readonly signal: AbortSignal | undefined;
  readonly made: { dispose(): void }[];
}

async function built(name: string, config: AnyLoraConfig, plan: Plan, building: Building): Promise<Adapter> {
  const { made } = building;
  const keep = <T extends { dispose(): void }>(one: T): T => {
    made.push(one);
    return one;
  };
  const vector = async (device: Device, from: StoredTensor, shape: readonly number[]): Promise<Parameter> => {
    const parameter = keep(new Parameter(Tensor.empty(device, shape, "f32", "adapter")));
    await readInto(building, from, (values, at) => {
      parameter.value.writeBytes(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), 4 * at);
    });
    return parameter;
  };
  const matrixOf = async (base: Matrix, from: StoredTensor, transposed: boolean): Promise<Matrix> => {
    const matrix = keep(new Matrix(...base.shape));
    const device = deviceOf(base);
    if (!transposed) matrix.fill(await readMatrix(building, device, from, base.product));
    else {
      const columns = await vector(device, from, from.shape);
      using rows = scope(() => contiguous(columns.value.permute(1, 0)));
      matrix.fill(storeRows(denseScheme("f32", base.product && !building.trainable), rows, from.name));
      columns.dispose();
    }
    return matrix;
  };
  const places: Place[] = [];
  for (const { target, a, b, magnitude } of plan.layers) {
    const { path, module, role, scale, rank } = target;
    const device = deviceOf(module.weight);
    const { outputs } = shapesOf(target);
    const layer = {
      kind: "lora" as const,
      a: role === "product" ? await vector(device, a, a.shape) : turned(keep(await vector(device, a, a.shape)), keep),
      b: await vector(device, b, [outputs, rank]),
      magnitude: magnitude && (await vector(device, magnitude, [outputs])),
      scale,
      dropout: config.fields.lora_dropout,
    };
    places.push({ path, matrix: module.weight, role, layer });
  }
  for (const { target, a, b } of plan.stacks) {
    const device = deviceOf(target.parts[0]!.matrix);
    places.push(...stackPlaces(target, await vector(device, a, a.shape), await vector(device, b, b.shape)));
  }
  for (const { target, from } of plan.tokens) {
    const added = tokenPlaces(target, await vector(deviceOf(target.matrix), from, from.shape));
    keep(added[0]!.layer as TokensLayer);
    places.push(...added);
  }
  const replaced: Adapter["replaced"][number][] = [];
  for (const { part, from } of plan.whole) {
    const { name: of, base, role, transposed } = part;
    if (base instanceof Matrix) {
      const matrix = await matrixOf(base, from, transposed);
      places.push({ path: of, matrix: base, role, layer: { kind: "whole", matrix }, transposed });
    } else replaced.push({ name: of, base, own: await vector(deviceOf(base), from, base.shape) });
  }
  const biases: Adapter["biases"][number][] = [];
  for (const { part, from } of plan.biases) {
    biases.push({ ...part, own: await vector(deviceOf(part.base), from, part.base.shape) });
  }
  return { name, config, places, replaced, biases };
}

/** A of a look-up, f32[r,N] in files, as the rows of its entries. */
function turned(parameter: Parameter, keep: (one: Parameter) => Parameter): Parameter {
  const rows = scope(() => contiguous(parameter.value.permute(1, 0)));
  const own = keep(new Parameter(rows));
  parameter.dispose();
  return own;
}

/** Reads floats of a tensor in pieces, and gives each with the place of its first one. @throws FormatError for what is no number */
async function readInto(
  { source, signal }: Building,
  from: StoredTensor,
  take: (values: Float32Array, at: number) => void,
): Promise<void> {
  const give = (bytes: Uint8Array, at: number): void => {
    const raw = convertBytes(from.dtype, bytes, "f32", from.name);
    const values = raw.byteOffset % 4 === 0 ? floats(raw) : floats(raw.slice());
    const broken = values.findIndex((value) => !Number.isFinite(value));
    if (broken >= 0) {
      throw new FormatError(`${from.file}: ${from.name}: element ${at + broken} is ${values[broken]}`, {
        details: { file: from.file, tensor: from.name, element: at + broken },
        hint: "the adapter seems to be broken: its training may have diverged",
      });
    }
    take(values, at);
  };
  throwIfAborted(signal, "loading an adapter");
  if (from.strides) return give(await bytesInOrder(source, from), 0);
  const width = STORED_BITS.get(from.dtype)! / 8;
  const count = elementsOf(from.shape);
  const most = READ_BYTES / 8;
  await withFile(source, from.file, "adapter", async (opened) => {
    for (let at = 0; at < count; at += most) {
      const some = Math.min(most, count - at);
      throwIfAborted(signal, "loading an adapter");
      give(await opened.read(from.offset + at * width, some * width, { onward: true }), at);
    }
  });
}

const floats = (bytes: Uint8Array): Float32Array => new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);

/** A matrix that takes the place of the model's: in panels for products, in rows where an optimizer writes to it. */
async function readMatrix(building: Building, device: Device, from: StoredTensor, product: boolean): Promise<Weight> {
  const [N = 0, K = 0] = from.shape;
  const builder = denseScheme("f32", product && !building.trainable).begin(device, [N, K], from.name);
  try {
    const step = PANEL_ROWS * Math.max(1, Math.floor(READ_BYTES / (64 * Math.max(1, K))));
    let row = 0;
    let waiting = new Float32Array(0);
    const put = (all: boolean): void => {
      while (waiting.length >= step * K || (all && waiting.length > 0)) {
        const rows = Math.min(step, waiting.length / K);
        using piece = Tensor.from(device, waiting.subarray(0, rows * K), [rows, K], "f32", "adapter");
        builder.put(piece, row);
        row += rows;
        waiting = waiting.slice(rows * K);
      }
    };
    await readInto(building, from, (values) => {
      const joined = new Float32Array(waiting.length + values.length);
      joined.set(waiting);
      joined.set(values, waiting.length);
      waiting = joined;
      put(false);
    });
    put(true);
    return builder.finish();
  } catch (error) {
    builder[Symbol.dispose]();
    throw error;
  }
}

/**
 * PEFT saves an embedding beside its adapter. It must be the model's own, or what is left of it without the adapter's beginning.
 * @throws CheckpointError if it is another one
 */
async function sameTable(
  building: Building,
  { module: { weight: matrix }, role }: Blueprint["targets"][number],
  from: StoredTensor,
  transposed: boolean,
  first: First | undefined,
): Promise<void> {
  const [N, K] = matrix.shape;
  using rows = scope(() => {
    using left = first?.residual();
    const stored = (left ?? matrix.inner!).dense("f32");
    return transposed && role === "product" ? contiguous(stored.permute(1, 0)) : stored;
  });
  const own = await rows.readFloats();
  let off = 0;
  let size = 0;
  await readInto(building, from, (values, at) => {
    for (const [i, value] of values.entries()) {
      off = Math.max(off, Math.abs(value - own[at + i]!));
      size = Math.max(size, Math.abs(value));
    }
  });
  // Rounding to bf16, in which either may be stored, moves a value by 2^-8 of itself; codes move it further.
  if (off <= size * (matrix.inner!.scheme === "dense" ? 2 ** -8 : 0.2)) return;
  throw new CheckpointError(`${from.file}: ${from.name} is not the matrix [${N}, ${K}] of this model`, {
    details: { file: from.file, tensor: from.name },
    hint: "the adapter was trained on a model whose embedding had been changed; load that model",
  });
}
