// States: the tensors of a module by their names in checkpoints, as they are saved and as they are taken back.

import { elementsOf, type StoredDType } from "../checkpoints/stored.js";
import { convertBytes } from "../checkpoints/values.js";
import { type DType, isFloat, widen } from "../core/dtype.js";
import { CheckpointError, OctavoError, OptionError } from "../core/errors.js";
import { flag, type Options, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { contiguous } from "../ops/copy.js";
import { unpack } from "../ops/pack.js";
import { Matrix, type Parameter } from "./parameter.js";
import { PendingCodes, PendingFloats, STORED_FLOATS, type StateBytes } from "./pending.js";
import { denseScheme, type FloatDType, type StoredNames, type Weight, type WeightPart } from "./weight.js";

/** A tensor as checkpoints store it. Its bytes stay where they are until they are read. */
export class StateTensor {
  /** The element type, in the words of safetensors: "F32", "BF16", "I8" ... */
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly #bytes: () => Promise<Uint8Array>;

  constructor({ dtype, shape, bytes }: Omit<WeightPart, "name">) {
    this.dtype = dtype;
    this.shape = shape;
    this.#bytes = bytes;
  }

  /** True for a state tensor itself, which a proxy of one is not. */
  static is(value: unknown): value is StateTensor {
    return typeof value === "object" && value !== null && #bytes in value;
  }

  /** Number of elements. */
  get size(): number {
    return elementsOf(this.shape);
  }

  /** The bytes as files hold them. @throws OctavoError if the model was disposed */
  bytes(): Promise<Uint8Array> {
    return this.#bytes();
  }

  /** The elements: codes as integers, floats of any dtype as f32. @throws OctavoError if the model was disposed */
  async read(): Promise<Float32Array | Int8Array | Uint8Array> {
    const bytes = await this.#bytes();
    if (this.dtype === "U8") return bytes;
    if (this.dtype === "I8") return new Int8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return widen("f32", convertBytes(this.dtype, bytes, "f32"));
  }
}

/** What `load_state_dict` takes: tensors, or those of a state, by name. */
export type State = ReadonlyMap<string, StateTensor | Tensor> | Readonly<Record<string, StateTensor | Tensor>>;

const LOAD_STATE = {
  /** Keys that are missing, or that nothing takes, are an error (default: true). */
  strict: flag(),
  /** Floats keep the state's dtype instead of the parameter's. */
  assign: flag(),
};

export interface LoadStateOptions extends Options<typeof LOAD_STATE> {}

/** The keys that `load_state_dict` did not find, and those that it did not take. */
export interface LoadedKeys {
  readonly missing_keys: readonly string[];
  readonly unexpected_keys: readonly string[];
}

const STORED: Readonly<Record<DType, StoredDType>> = {
  ...STORED_FLOATS,
  ...{ i32: "I32", i8: "I8", u8: "U8", u4: "U8" },
};

/** A tensor on a device as part of a state. */
export function stateTensor(tensor: Tensor): StateTensor {
  const { shape, dtype } = tensor;
  return new StateTensor({
    dtype: STORED[dtype],
    shape: dtype === "u4" ? [Math.ceil(tensor.size / 2)] : shape,
    async bytes() {
      const rows = scope(() => {
        const own = contiguous(unpack(tensor));
        return own === tensor ? own.alias() : own;
      });
      try {
        return await rows.readBytes();
      } finally {
        rows.dispose();
      }
    },
  });
}

/** "experts.w1.weight" of expert 3 is "experts.3.w1.weight", as `Linear.published_paths` has it. */
export function ofExpert(name: string, expert: number): string {
  const path = name.slice(0, name.lastIndexOf("."));
  const at = path.lastIndexOf(".");
  return `${name.slice(0, at)}.${expert}${name.slice(at)}`;
}

/** The state of named parameters. */
export async function stateOf(named: Iterable<[string, Parameter | Matrix]>): Promise<Map<string, StateTensor>> {
  const state = new Map<string, StateTensor>();
  for (const [name, parameter] of named) {
    if (!(parameter instanceof Matrix) && parameter.filled) {
      state.set(name, stateTensor(parameter.value));
      continue;
    }
    for (const part of await partsOf(name, parameter)) state.set(part.name, new StateTensor(part));
  }
  return state;
}

async function partsOf(name: string, parameter: Parameter | Matrix): Promise<readonly WeightPart[]> {
  if (!(parameter instanceof Matrix) || !parameter.filled) return parameter.pending?.parts(name) ?? [];
  const { weight, experts, dtype } = parameter;
  if (experts === 1) return weight.parts(name, undefined, undefined, dtype);
  const each = parameter.shape[0] / experts;
  const lists = Array.from({ length: experts }, (_, e) => weight.parts(ofExpert(name, e), e * each, each, dtype));
  return (await Promise.all(lists)).flat();
}

/** What a parameter takes of a state: its own tensor, or the tensors of its codes. */
interface Taken {
  readonly name: string;
  readonly parameter: Parameter | Matrix;
  readonly codes: StoredNames | undefined;
}

/** Python's words for a shape. */
const size = (shape: readonly number[]): string => `torch.Size([${shape.join(", ")}])`;

/** See `Module.load_state_dict`. */
export async function loadState(
  owner: string,
  named: readonly (readonly [string, Parameter | Matrix])[],
  given: State,
  options: LoadStateOptions,
): Promise<LoadedKeys> {
  const { strict = true, assign = false } = readOptions("load_state_dict", LOAD_STATE, options);
  const state = entriesOfState(given);
  const taken: Taken[] = [];
  const missing_keys: string[] = [];
  const problems: string[] = [];
  const used = new Set<string>();
  for (const [name, parameter] of named) {
    if (parameter instanceof Matrix && parameter.experts > 1) {
      for (let e = 0; e < parameter.experts; e++) used.add(ofExpert(name, e));
      problems.push(`${name} is a stack of ${parameter.experts} experts, which load_state_dict does not take.`);
      continue;
    }
    const scheme = parameter instanceof Matrix ? (parameter.scheme ?? parameter.inner?.alike) : undefined;
    const codes = scheme?.claims?.(name, (key) => state.has(key));
    const own = state.get(name);
    for (const key of codes?.names.values() ?? [name]) used.add(key);
    if (!own) {
      used.delete(name);
      if (!parameter.optional) missing_keys.push(name);
      continue;
    }
    const problem = codes ? undefined : misfit(name, parameter, own);
    if (problem) problems.push(problem);
    else taken.push({ name, parameter, codes });
  }
  const unexpected_keys = [...state.keys()].filter((key) => !used.has(key));
  if (strict) {
    const list = (keys: readonly string[]): string => keys.map((key) => `"${key}"`).join(", ");
    if (unexpected_keys.length > 0) problems.unshift(`Unexpected key(s) in state_dict: ${list(unexpected_keys)}. `);
    if (missing_keys.length > 0) problems.unshift(`Missing key(s) in state_dict: ${list(missing_keys)}. `);
  }
  if (problems.length > 0) {
    throw new CheckpointError(`Error(s) in loading state_dict for ${owner}:\n    ${problems.join("\n    ")}`, {
      details: { missing_keys, unexpected_keys },
    });
  }
  const away = taken.find(({ parameter }) => parameter.tensors.some((tensor) => !tensor.resident));
  if (away) {
    throw new OctavoError("ERR_OFFLOADED", `load_state_dict: ${away.name} is offloaded to cpu or disk`, {
      hint: "load the model without offload",
    });
  }
  for (const one of taken) await take(one, state, assign);
  return { missing_keys, unexpected_keys };
}

function misfit(
  name: string,
  { shape }: Parameter | Matrix,
  { dtype, shape: stored }: StateTensor,
): string | undefined {
  if (stored.join() !== shape.join() && !(dtype === "U8" || dtype === "I8")) {
    return `size mismatch for ${name}: copying a param with shape ${size(stored)} from checkpoint, the shape in current model is ${size(shape)}.`;
  }
  if (dtype === "F32" || dtype === "F16" || dtype === "BF16" || dtype === "F64") return undefined;
  return `${name} holds ${dtype} ${size(stored)} in the state_dict: codes go into a module that is quantized in the same way, with their scales.`;
}

async function take(
  { name, parameter, codes }: Taken,
  state: Map<string, StateTensor>,
  assign: boolean,
): Promise<void> {
  const device = parameter.tensors[0]?.device;
  if (codes) {
    const tensors = new Map<string, StateBytes>();
    for (const [role, key] of codes.names) {
      const { dtype, shape } = state.get(key)!;
      tensors.set(role, { dtype, shape, bytes: (await state.get(key)!.bytes()).slice() });
    }
    const matrix = parameter as Matrix;
    const pending = new PendingCodes(codes, tensors);
    if (device) refill(matrix, pending.weight(device, matrix.shape, matrix.experts));
    else matrix.pending = pending;
    return;
  }
  const own = state.get(name)!;
  const held = floatsOf(parameter);
  const dtype = (assign ? undefined : held) ?? ({ F16: "f16", BF16: "bf16" } as const)[own.dtype as "F16"] ?? "f32";
  // A copy: the state may be a tensor or a file's buffer that changes.
  const bytes = new Uint8Array(convertBytes(own.dtype, await own.bytes(), dtype, name));
  const pending = new PendingFloats(parameter.shape, dtype, () => bytes);
  if (!device) {
    parameter.pending = pending;
    return;
  }
  if (parameter instanceof Matrix) takeMatrix(name, parameter, pending);
  else if (parameter.value.dtype === dtype) parameter.value.writeBytes(bytes);
  else parameter.fill(pending.tensor(device));
}

/** The dtype of a parameter's values. */
function floatsOf(parameter: Parameter | Matrix): FloatDType | undefined {
  const { pending } = parameter;
  if (pending instanceof PendingFloats) return pending.dtype;
  if (parameter instanceof Matrix && parameter.dtype) return parameter.dtype;
  const dtype = parameter.tensors[0]?.dtype;
  return dtype && isFloat(dtype) ? dtype : undefined;
}

function takeMatrix(name: string, matrix: Matrix, pending: PendingFloats): void {
  const { shape, experts, product } = matrix;
  const weight = matrix.inner!;
  const scheme = matrix.schemeFor(pending.dtype);
  const data = weight.tensors[0]!;
  const dense = weight.scheme === "dense";
  const same = dense && data.dtype === pending.dtype;
  // One without trainable tensors lies on several devices.
  if (same && weight.trainable.length > 0 && !data.panels) {
    data.writeBytes(pending.bytes());
    return;
  }
  if (!dense && !scheme) {
    throw new CheckpointError(`${name} is stored as ${weight.scheme}, and nothing says how new floats are quantized`, {
      hint: "load the original checkpoint with another quantization_config",
    });
  }
  const stored = scheme ?? (same ? weight.alike : undefined) ?? denseScheme(pending.dtype, product);
  refill(matrix, pending.weight(data.device, shape, experts, stored));
  matrix.dtype = pending.dtype;
}

/** Takes a weight in place of the stored one, over the same devices; adapters stay around it. */
function refill(matrix: Matrix, weight: Weight): void {
  matrix.refill(matrix.inner?.likewise?.(weight) ?? weight);
}

/** @throws OptionError for what is no state */
function entriesOfState(given: unknown): Map<string, StateTensor> {
  const state = new Map<string, StateTensor>();
  let entries: [unknown, unknown][];
  try {
    entries = given instanceof Map ? [...given] : Object.entries(given as object);
  } catch (cause) {
    throw new OptionError(`load_state_dict: a state is a Map or an object of tensors, got ${show(given)}`, { cause });
  }
  if (typeof given !== "object") {
    throw new OptionError(`load_state_dict: a state is a Map or an object of tensors, got ${show(given)}`);
  }
  for (const [name, value] of entries) {
    if (typeof name === "string" && Tensor.is(value)) state.set(name, stateTensor(value));
    else if (typeof name === "string" && StateTensor.is(value)) state.set(name, value);
    else throw new OptionError(`load_state_dict: ${show(name)} holds ${show(value)}, which is no tensor`);
  }
  return state;
}
