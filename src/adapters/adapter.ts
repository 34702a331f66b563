// One adapter on a model: its layers, by the modules that they are for, and how they get their first values. Putting them on the
// model and taking them away again is set.ts.

import type { Device } from "../core/device.js";
import { narrow } from "../core/dtype.js";
import { OctavoError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import { normal, uniform } from "../nn/init.js";
import type { Model } from "../nn/model.js";
import { Matrix, Parameter } from "../nn/module.js";
import { constant, PendingFloats } from "../nn/pending.js";
import { denseScheme, storeRows, type Weight } from "../nn/weight.js";
import { copyInto } from "../ops/copy.js";
import type { AnyLoraConfig } from "./config.js";
import { isTransposed, roleOf, usersOf } from "./matrices.js";
import type { StackTarget, Target, Targets } from "./targets.js";
import type { TokenTarget } from "./token-indices.js";
import { TokensLayer } from "./tokens.js";
import { type Layer, magnitudes, type Role } from "./weight.js";

/** A layer over the matrix of a module. */
export interface Place {
  /** In names of the adapter's tensors. */
  readonly path: string;
  /** The module's path, if it is another one. */
  readonly module?: string;
  readonly matrix: Matrix;
  readonly role: Role;
  readonly layer: Layer;
  /** Of a whole matrix: files store it as [inputs, outputs]. */
  readonly transposed?: boolean;
  /** Its layer is that of a place before, of another use of the same matrix: files hold it once. */
  readonly tied?: boolean;
}

/** A norm's weight, or a bias, in place of the model's. */
export interface Replaced {
  /** The name of the model's. */
  readonly name: string;
  readonly base: Parameter;
  readonly own: Parameter;
}

export interface Adapter {
  readonly name: string;
  readonly config: AnyLoraConfig;
  readonly places: readonly Place[];
  /** Of modules that are saved whole: they work while the adapter does. */
  readonly replaced: readonly Replaced[];
  /** Biases of the model, which are the adapter's as long as it is there. */
  readonly biases: readonly Replaced[];
}

/** A matrix or a vector of a module that is saved whole. */
export interface WholePart {
  readonly name: string;
  readonly base: Parameter | Matrix;
  readonly role: Role;
  readonly transposed: boolean;
}

/** What an adapter needs of a model, with names as in files, before it has values. */
export interface Blueprint {
  readonly targets: readonly (Target & { readonly role: Role })[];
  /** Stacks of experts. */
  readonly stacks: readonly StackTarget[];
  /** Matrices of which it has some rows. */
  readonly tokens: readonly TokenTarget[];
  /** Matrices and vectors of modules that are saved whole, by their names. */
  readonly whole: readonly WholePart[];
  readonly biases: readonly { readonly name: string; readonly base: Parameter }[];
}

/** First values of a layer that are a part of the model's weight, and the weight that it begins over. */
export interface First {
  /** f32[r,K] */
  readonly a: Float32Array;
  /** f32[N,r] */
  readonly b: Float32Array;
  /** Records the weight without the layer's product, stored as the model's is. */
  residual(): Weight;
}

/** First values of those targets that have them: look-ups begin as usual. */
export type Firsts = ReadonlyMap<Blueprint["targets"][number], First>;

/** The parts of an adapter for these targets. @throws OctavoError for a matrix that other modules use in the same way */
export function blueprintOf(
  model: Model,
  architecture: Architecture,
  { config, targets, stacks, tokens, saved }: Targets,
): Blueprint {
  const whole = saved.flatMap(({ path, module }) =>
    [...module.named_modules(path)].flatMap(([inner, part]) =>
      Object.entries(part).flatMap(([field, base]): WholePart[] => {
        if (!(base instanceof Parameter || base instanceof Matrix) || !base.filled) return [];
        const name = `${inner}.${field}`;
        return [{ name, base, role: roleOf(part), transposed: isTransposed(architecture, name) }];
      }),
    ),
  );
  const alone = aloneIn(model);
  for (const { path, module } of targets) alone(path, module.weight, roleOf(module));
  for (const { name, base, role } of whole) if (base instanceof Matrix) alone(name, base, role);
  const taken = new Set<unknown>(whole.map(({ base }) => base));
  const adapted = new Set(targets.map(({ path }) => `${path}.bias`));
  const { bias } = config.fields;
  const biases = [...model.named_parameters()].flatMap(([name, base]) => {
    if (bias === "none" || !(base instanceof Parameter) || !base.filled || taken.has(base)) return [];
    if (!/(^|\.)bias$/.test(name) || (bias === "lora_only" && !adapted.has(name))) return [];
    return [{ name, base }];
  });
  return {
    targets: targets.map((target) => ({ ...target, role: roleOf(target.module) })),
    ...{ stacks, tokens, whole, biases },
  };
}

/** A check that only one module uses a matrix in a role: an adapter over it would change the others too. */
function aloneIn(model: Model): (path: string, matrix: Matrix, role: Role) => void {
  const users = usersOf(model);
  return (path, matrix, role) => {
    if (matrix.experts > 1)
      throw new OctavoError("ERR_UNSUPPORTED", `${path} holds experts: name it in target_parameters`);
    if (users.get(matrix)!.filter((one) => one.role === role).length === 1) return;
    throw new OctavoError(
      "ERR_UNSUPPORTED",
      `${path} shares its matrix with other modules, and takes no adapter of its own`,
    );
  };
}

/** Shapes of A and B as they lie on the device (see LoraLayer). */
export function shapesOf({ module, rank, role }: Blueprint["targets"][number]): {
  readonly a: readonly [number, number];
  readonly b: readonly [number, number];
  readonly outputs: number;
} {
  const [N, K] = module.weight.shape;
  return role === "product" ? { a: [rank, K], b: [N, rank], outputs: N } : { a: [N, rank], b: [K, rank], outputs: K };
}

/** Shapes of A and B of a stack (see StackLayer). */
export function stackShapes({ experts, rank, inputs, outputs }: StackTarget): {
  readonly a: readonly [number, number];
  readonly b: readonly [number, number];
} {
  return { a: [experts * rank, inputs], b: [outputs, rank * experts] };
}

/** The layers of an adapter over stacks that are one tensor in files. */
export function stackPlaces({ path, parts, experts, scale }: StackTarget, a: Parameter, b: Parameter): Place[] {
  return parts.map(({ module, matrix, at }) => {
    return { path, module, matrix, role: "product", layer: { kind: "stack", a, b, at, experts, scale } };
  });
}

/** The layers of an adapter with rows of its own: of a table that the head shares, one for each use. @throws OutOfMemoryError */
export function tokenPlaces({ path, matrix, rows, roles, ...how }: TokenTarget, own: Parameter): Place[] {
  const layer = new TokensLayer(own, rows, matrix.shape[0], how);
  return roles.map((role, i) => ({ path, matrix, role, layer, ...(i > 0 && { tied: true }) }));
}

/** The device of the first matrix that an adapter is for. */
export function homeOf({ targets: [first], stacks: [stack] }: Blueprint): Device {
  return deviceOf(first?.module.weight ?? stack!.parts[0]!.matrix);
}

/** Bytes that an adapter takes on the device. */
export function bytesOf({ targets, stacks, tokens, whole, biases }: Blueprint, config: AnyLoraConfig): number {
  const size = (shape: readonly number[]): number => shape.reduce((n, one) => n * one, 4);
  const layers = targets.map((target) => {
    const { a, b, outputs } = shapesOf(target);
    return size(a) + size(b) + (config.fields.use_dora ? 4 * outputs : 0);
  });
  for (const { a, b } of stacks.map(stackShapes)) layers.push(size(a) + size(b));
  for (const { matrix, rows } of tokens) {
    layers.push(size([rows.length, matrix.shape[1]]) + TokensLayer.bytes(matrix.shape[0]));
  }
  const copies = [...whole, ...biases].map(({ base }) => size(base.shape));
  return [...layers, ...copies].reduce((sum, bytes) => sum + bytes, 0);
}

/** The device of a parameter's values. */
export function deviceOf(base: Parameter | Matrix): Device {
  return base.tensors[0]!.device;
}

/**
 * A new adapter with its first values: it changes nothing yet, unless `init_lora_weights` is false.
 * @param firsts first values that are parts of the model's weights
 * @throws OutOfMemoryError
 */
export function newAdapter(name: string, config: AnyLoraConfig, blueprint: Blueprint, firsts?: Firsts): Adapter {
  const made: Disposable[] = [];
  const keep = <T extends { dispose(): void }>(one: T): T => {
    made.push({ [Symbol.dispose]: () => one.dispose() });
    return one;
  };
  const begun = (pending: PendingFloats, device: Device): Parameter => {
    const parameter = keep(new Parameter(...pending.shape));
    parameter.pending = pending;
    parameter.to(device);
    return parameter;
  };
  try {
    const places: Place[] = blueprint.targets.map((target) => {
      const { path, module, scale, role } = target;
      const first = firsts?.get(target);
      const device = deviceOf(module.weight);
      const [a, b] = (first ? given(first, target) : firstValues(config, target)).map((one) => begun(one, device)) as [
        Parameter,
        Parameter,
      ];
      const plain = { kind: "lora", a, b, scale, dropout: config.fields.lora_dropout } as const;
      let magnitude: Parameter | undefined;
      if (config.fields.use_dora) {
        using residual = first?.residual();
        magnitude = keep(new Parameter(magnitudes(residual ?? module.weight.inner!, plain, role)));
      }
      return { path, matrix: module.weight, role, layer: { ...plain, magnitude } };
    });
    for (const target of blueprint.stacks) {
      const device = deviceOf(target.parts[0]!.matrix);
      const [a, b] = stackValues(config, target).map((one) => begun(one, device)) as [Parameter, Parameter];
      places.push(...stackPlaces(target, a, b));
    }
    for (const target of blueprint.tokens) {
      const { matrix, rows } = target;
      const device = deviceOf(matrix);
      using values = scope(() => matrix.inner!.rows(Tensor.from(device, rows, [rows.length], "i32")));
      const added = tokenPlaces(target, keep(new Parameter(values.alias())));
      keep(added[0]!.layer as TokensLayer);
      places.push(...added);
    }
    const replaced: Replaced[] = [];
    for (const { name, base, role, transposed } of blueprint.whole) {
      if (base instanceof Matrix) {
        const matrix = keep(new Matrix(...base.shape));
        using values = base.inner!.dense("f32");
        matrix.fill(storeRows(denseScheme("f32", false), values, name));
        places.push({ path: name, matrix: base, role, layer: { kind: "whole", matrix }, transposed });
      } else replaced.push({ name, base, own: keep(copyOf(base)) });
    }
    const biases = blueprint.biases.map(({ name, base }) => ({ name, base, own: keep(copyOf(base)) }));
    return { name, config, places, replaced, biases };
  } catch (error) {
    for (const one of made) one[Symbol.dispose]();
    throw error;
  }
}

/**
 * Takes first values out of the model's weights, when their adapter is put on the model: out of all or, if that fails, none. So for a
 * moment these weights are there twice.
 * @throws OutOfMemoryError
 */
export function takeOut(firsts: Firsts): void {
  const left: (readonly [Matrix, Weight])[] = [];
  try {
    for (const [{ module }, first] of firsts) left.push([module.weight, first.residual()]);
  } catch (error) {
    for (const [, weight] of left) weight.dispose();
    throw error;
  }
  for (const [matrix, weight] of left) matrix.refill(weight);
}

/** First values as they wait for a device. */
function given({ a, b }: First, target: Blueprint["targets"][number]): PendingFloats[] {
  const shapes = shapesOf(target);
  return [[shapes.a, a] as const, [shapes.b, b] as const].map(
    ([shape, values]) => new PendingFloats(shape, "f32", () => narrow("f32", values)),
  );
}

/** f32 values of a parameter in one of their own. */
function copyOf(base: Parameter): Parameter {
  const from = base.own!;
  const own = new Parameter(Tensor.empty(from.device, from.shape, "f32", "adapter"));
  copyInto(from, own.value);
  return own;
}

/** The first values of A and B. */
function firstValues({ fields }: AnyLoraConfig, target: Blueprint["targets"][number]) {
  const { a, b } = shapesOf(target);
  const { init_lora_weights: init } = fields;
  if (target.role === "lookup") {
    return [init === false ? normal(a, 1) : constant(a, 0), normal(b, 1)];
  }
  const first = init === "gaussian" ? normal(a, 1 / target.rank) : uniform(a, 1 / Math.sqrt(a[1]));
  return [first, init === false ? uniform(b, 1 / Math.sqrt(target.rank)) : constant(b, 0)];
}

/** The same for a stack: B begins as that of one module with the ranks of all experts. */
function stackValues({ fields: { init_lora_weights: init } }: AnyLoraConfig, target: StackTarget): PendingFloats[] {
  const { a, b } = stackShapes(target);
  const first = init === "gaussian" ? normal(a, 1 / target.rank) : uniform(a, 1 / Math.sqrt(a[1]));
  return [first, init === false ? uniform(b, 1 / Math.sqrt(b[1])) : constant(b, 0)];
}

/** Its parameters by the names that PEFT gives them in memory. */
export function* parametersOf({ name, places, replaced, biases }: Adapter): Iterable<[string, Parameter | Matrix]> {
  for (const { path, role, layer, tied } of places) {
    if (tied) continue;
    if (layer.kind === "tokens") {
      yield [`${path}.token_adapter.trainable_tokens_delta.${name}`, layer.rows];
      continue;
    }
    if (layer.kind === "stack") {
      if (layer.at > 0) continue; // shares both with the stack before
      yield [`${path}.lora_A.${name}.weight`, layer.a];
      yield [`${path}.lora_B.${name}.weight`, layer.b];
      continue;
    }
    if (layer.kind === "whole") {
      yield [inMemory(path, name), layer.matrix];
      continue;
    }
    if (role === "product") {
      yield [`${path}.lora_A.${name}.weight`, layer.a];
      yield [`${path}.lora_B.${name}.weight`, layer.b];
    } else {
      yield [`${path}.lora_embedding_A.${name}`, layer.a];
      yield [`${path}.lora_embedding_B.${name}`, layer.b];
    }
    if (layer.magnitude) yield [`${path}.lora_magnitude_vector.${name}.weight`, layer.magnitude];
  }
  for (const { name: base, own } of replaced) yield [inMemory(base, name), own];
  for (const { name: base, own } of biases) yield [base, own];
}

/** "norm.weight" of the adapter x is "norm.modules_to_save.x.weight". */
function inMemory(path: string, name: string): string {
  const at = path.lastIndexOf(".");
  return `${path.slice(0, at)}.modules_to_save.${name}${path.slice(at)}`;
}

export function disposeAdapter(adapter: Adapter): void {
  for (const [, parameter] of parametersOf(adapter)) parameter.dispose();
  for (const { layer, tied } of adapter.places) if (layer.kind === "tokens" && !tied) layer.dispose();
}
