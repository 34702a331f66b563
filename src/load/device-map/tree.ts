// A tree of modules as the planning of device maps sees it: names, classes, and sizes of tensors. It is read once from a model
// (loaded or only declared), or from any object whose fields are modules and tensors, and nothing of it is kept.

import { isWhole } from "../../core/checks.js";
import { bytesOf, type DType } from "../../core/dtype.js";
import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { Buffer, Matrix, Module, Parameter } from "../../nn/module.js";

/** A parameter or a constant. */
export interface TreeTensor {
  /** What makes it the same tensor under several names. */
  readonly identity: object;
  /** Of its elements, as torch spells it. */
  readonly dtype: string;
  readonly elements: number;
  /** Bytes it takes as it is stored, where these are not elements of its dtype: codes with their statistics. */
  readonly bytes?: number | undefined;
  /** Checkpoints hold it: all parameters, and constants that are not made from the config. */
  readonly saved: boolean;
}

export type Named<T> = readonly [name: string, value: T];

/** A module: what it holds itself, and its children. */
export interface TreeModule {
  readonly identity: object;
  readonly class_name: string;
  readonly parameters: readonly Named<TreeTensor>[];
  readonly buffers: readonly Named<TreeTensor>[];
  readonly children: readonly Named<TreeModule>[];
}

/** How the parameters of a declared model will be stored. */
export interface StoredForm {
  readonly dtype: string;
  /** @returns undefined for elements of `dtype` */
  bytesOf(parameter: Parameter | Matrix): number | undefined;
}

/** A model that is more than its tree: it tells how its parameters will be stored. */
export interface HasForm {
  readonly module: Module;
  readonly form: StoredForm;
}

/** Limits of a tree that a caller made: deeper or larger ones are taken for a mistake. */
const DEEPEST = 100;
const LARGEST = 1_000_000;
const MOST_DIMS = 32;

/**
 * The tree of a model: what `from_pretrained` or `from_config` gives, a module, or an object with modules and tensors in its fields. An
 * object with a `shape` is a tensor (with `dtype`, and `buffer: true` for a constant), every other one is a module of its class.
 * @throws OptionError for what has no fields, or cannot be read
 */
export function treeOf(model: unknown): TreeModule {
  try {
    if (model instanceof Module) return moduleTree(model, undefined);
    const { module, form } = model as Partial<HasForm>;
    if (module instanceof Module) return moduleTree(module, form);
    if (isFields(model)) return new Reader().module(model, 0);
  } catch (error) {
    if (error instanceof OptionError) throw error;
    throw new OptionError("model: its modules cannot be read", { cause: error, details: { option: "model" } });
  }
  throw new OptionError(`model must be a model or a tree of modules, got ${show(model)}`, {
    details: { option: "model" },
    hint: "await AutoModelForCausalLM.from_config(await AutoConfig.from_pretrained(name)) declares one without loading it",
  });
}

/** The tree of a module of this library. Lists of modules are modules of their own, as in Python. */
function moduleTree(module: Module, form: StoredForm | undefined): TreeModule {
  const parameters: Named<TreeTensor>[] = [];
  const buffers: Named<TreeTensor>[] = [];
  for (const [name, value] of Object.entries(module)) {
    if (value instanceof Parameter || value instanceof Matrix) {
      const tensor = parameterOf(value, form);
      (isConstant(value) ? buffers : parameters).push([name, tensor]);
    } else if (value instanceof Buffer) buffers.push([name, constantOf(value)]);
    else if (!(value instanceof Module) && isTensor(value)) new Reader().tensor(name, value, parameters, buffers);
  }
  const children: Named<TreeModule>[] = [];
  const lists = new Map<string, Named<TreeModule>[]>();
  for (const [path, child] of module.children()) {
    const [, list, index] = /^(.+)\.(\d+)$/.exec(path) ?? [];
    const tree = moduleTree(child, form);
    if (list === undefined) children.push([path, tree]);
    else {
      let entries = lists.get(list);
      if (!entries) {
        entries = [];
        lists.set(list, entries);
        children.push([list, { ...EMPTY, identity: entries, class_name: "ModuleList", children: entries }]);
      }
      entries.push([index!, tree]);
    }
  }
  return { identity: module, class_name: module.class_name, parameters, buffers, children };
}

/** torch's and accelerate's names of dtypes. */
const TORCH: Readonly<Record<DType, string>> = {
  f32: "float32",
  f16: "float16",
  bf16: "bfloat16",
  i32: "int32",
  i8: "int8",
  u8: "uint8",
  u4: "int4",
};

const EMPTY = { parameters: [], buffers: [], children: [] } as const;

function isConstant(value: object): boolean {
  return (value as { buffer?: unknown }).buffer === true;
}

function parameterOf(value: Parameter | Matrix, form: StoredForm | undefined): TreeTensor {
  const elements = value.shape.reduce((n, size) => n * size, 1);
  const [first] = value.tensors;
  if (first) {
    const plain = bytesOf(first.dtype, elements) === value.nbytes;
    return {
      identity: value,
      elements,
      dtype: TORCH[first.dtype],
      bytes: plain ? undefined : value.nbytes,
      saved: true,
    };
  }
  const { dtype } = value as { dtype?: unknown };
  const own = typeof dtype === "string" ? dtype : (form?.dtype ?? "float32");
  return { identity: value, elements, dtype: own, bytes: form?.bytesOf(value), saved: true };
}

function constantOf(value: Buffer): TreeTensor {
  const { elements, dtype } = value.facts;
  return { identity: value, elements, dtype: TORCH[dtype], saved: false };
}

/** Fields of an object that can hold modules. */
function isFields(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !ArrayBuffer.isView(value);
}

function isTensor(value: unknown): value is object {
  return isFields(value) && Array.isArray((value as { shape?: unknown }).shape);
}

/** Reads a tree of a caller's own objects. */
class Reader {
  readonly #above: object[] = [];
  #count = 0;

  module(from: object, depth: number): TreeModule {
    if (this.#above.includes(from)) throw refuse("a module contains itself");
    if (depth > DEEPEST) throw refuse(`modules are nested more than ${DEEPEST} deep`);
    this.#above.push(from);
    const parameters: Named<TreeTensor>[] = [];
    const buffers: Named<TreeTensor>[] = [];
    const children: Named<TreeModule>[] = [];
    for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(from))) {
      if (++this.#count > LARGEST) throw refuse(`the tree has more than ${LARGEST} fields`);
      if (isTensor(value)) this.tensor(name, value, parameters, buffers);
      else if (isFields(value)) children.push([name, this.module(value, depth + 1)]);
      // Its entries, and not its length, which may be anything.
      else if (Array.isArray(value) && Object.values(value).some((entry) => isFields(entry) && !isTensor(entry))) {
        children.push([name, { ...this.module({ ...value }, depth + 1), identity: value, class_name: "ModuleList" }]);
      }
    }
    this.#above.pop();
    return { identity: from, class_name: classOf(from), parameters, buffers, children };
  }

  tensor(name: string, value: object, parameters: Named<TreeTensor>[], buffers: Named<TreeTensor>[]): void {
    const { shape, dtype, persistent } = value as { shape: readonly unknown[]; dtype?: unknown; persistent?: unknown };
    if (shape.length > MOST_DIMS || !shape.every(isWhole)) {
      throw refuse(`the tensor ${show(name)} has shape ${show(shape)}`);
    }
    const elements = (shape as readonly number[]).reduce((n, size) => n * size, 1);
    const tensor = {
      identity: value,
      elements,
      dtype: typeof dtype === "string" ? dtype : "float32",
      saved: persistent !== false,
    };
    (isConstant(value) ? buffers : parameters).push([name, tensor]);
  }
}

function refuse(what: string): OptionError {
  return new OptionError(`model: ${what}`, { details: { option: "model" } });
}

function classOf(value: object): string {
  const { class_name, constructor: made } = value as { class_name?: unknown; constructor?: { name?: unknown } };
  if (typeof class_name === "string") return class_name;
  return typeof made?.name === "string" ? made.name : "";
}

/** Distinct values of a list, by what makes them the same. */
export function distinct<T extends { readonly identity: object }>(
  list: Iterable<Named<T>>,
  seen = new Set<object>(),
): Named<T>[] {
  return [...list].filter(([, { identity }]) => !seen.has(identity) && seen.add(identity));
}

/** A module and all below it, first itself; with their paths, "" for the root. One that has several names comes under each. */
export function* modulesOf(module: TreeModule, path = ""): Iterable<Named<TreeModule>> {
  yield [path, module];
  for (const [name, child] of module.children) yield* modulesOf(child, join(path, name));
}

export function join(path: string, name: string): string {
  return path === "" ? name : `${path}.${name}`;
}

/** All parameters or constants below a module by their names, a tied one under each of its names. */
export function* tensorsOf(module: TreeModule, kind: "parameters" | "buffers"): Iterable<Named<TreeTensor>> {
  for (const [path, one] of modulesOf(module)) for (const [name, tensor] of one[kind]) yield [join(path, name), tensor];
}

/** Names of parameters that are the same, each list in the order of the alphabet. */
export function tiedParameters(module: TreeModule): readonly (readonly string[])[] {
  const groups = new Map<object, string[]>();
  for (const [name, { identity }] of tensorsOf(module, "parameters")) {
    const names = groups.get(identity);
    if (names) names.push(name);
    else groups.set(identity, [name]);
  }
  const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
  return [...groups.values()].filter((names) => names.length > 1).map((names) => [...names].sort(compare));
}
