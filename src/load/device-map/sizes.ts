// Bytes of modules, as accelerate counts them.

import { parseDType, torchName } from "../../core/dtype.js";
import { OptionError, suggestion } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { distinct, type TreeModule, type TreeTensor, tensorsOf } from "./tree.js";

/** Bytes of one element, by torch's names and those of accelerate's own ones. */
const BYTES: ReadonlyMap<string, number> = new Map(
  Object.entries({
    float64: 8,
    float32: 4,
    float16: 2,
    bfloat16: 2,
    int64: 8,
    int32: 4,
    int16: 2,
    int8: 1,
    uint64: 8,
    uint32: 4,
    uint16: 2,
    uint8: 1,
    complex64: 8,
    complex128: 16,
    bool: 1 / 8,
    int4: 1 / 2,
    int2: 1 / 4,
    fp8: 1,
    float8_e4m3fn: 1,
    float8_e4m3fnuz: 1,
    float8_e5m2: 1,
    float8_e5m2fnuz: 1,
    float8_e8m0fnu: 1,
  }),
);

/** Bytes of one element of a dtype: "float16", "torch.float16", "bf16", "int4". @throws OptionError for an unknown one */
function elementBytes(dtype: unknown, option = "dtype"): number {
  const given = typeof dtype === "string" ? dtype.replace(/^torch\./, "") : "";
  const own = parseDType(given);
  const bytes = BYTES.get(given) ?? (own ? BYTES.get(torchName(own)) : undefined);
  if (bytes !== undefined) return bytes;
  const near = given === "" ? undefined : suggestion(given, [...BYTES.keys()]);
  throw new OptionError(`${option}: unknown dtype ${show(dtype)}${near ? `; did you mean "${near}"?` : ""}`, {
    details: { option },
    hint: 'such as "float16", "int8" or "int4"',
  });
}

/** How parameters count that will be converted. */
export interface Counting {
  /** For floats that are wider; undefined: all as they are stored. */
  readonly dtype?: string | undefined;
  /** For some parameters, by their names. */
  readonly special_dtypes?: Readonly<Record<string, string>> | undefined;
}

/** @throws OptionError for an unknown dtype */
function counter({ dtype, special_dtypes }: Counting): (name: string, tensor: TreeTensor) => number {
  const target = dtype === undefined ? undefined : elementBytes(dtype);
  const special = new Map(
    Object.entries(special_dtypes ?? {}).map(([name, one]) => [name, elementBytes(one, "special_dtypes")]),
  );
  return (name, { dtype: own, elements, bytes }) => {
    const other = special.get(name);
    if (other !== undefined) return elements * other;
    if (target === undefined && bytes !== undefined) return bytes;
    const size = elementBytes(own, "the dtype of a tensor");
    // Integers are not converted.
    if (target === undefined || /^(?:torch\.)?(?:u?int\d+|bool)$/.test(own)) return elements * size;
    return elements * Math.min(target, size);
  };
}

/**
 * Bytes of each module and tensor by its name, and of all under "". A tied tensor counts under its first name.
 * @param buffers "only": constants alone
 * @throws OptionError for an unknown dtype
 */
export function moduleSizes(tree: TreeModule, counting: Counting, buffers?: "only"): Map<string, number> {
  const count = counter(counting);
  const tensors = distinct(tensorsOf(tree, "buffers"));
  if (!buffers) tensors.unshift(...distinct(tensorsOf(tree, "parameters")));
  const sizes = new Map<string, number>();
  for (const [name, tensor] of tensors) {
    const bytes = count(name, tensor);
    for (const prefix of prefixesOf(name)) sizes.set(prefix, (sizes.get(prefix) ?? 0) + bytes);
  }
  return sizes;
}

/** "a.b.c" is in "", "a", "a.b", and itself. */
function prefixesOf(name: string): string[] {
  const parts = name.split(".");
  return Array.from({ length: parts.length + 1 }, (_, n) => parts.slice(0, n).join("."));
}

/** The names in `sizes` that nothing is below. */
export function leavesOf(sizes: ReadonlyMap<string, number>): string[] {
  const parents = new Set(
    [...sizes.keys()].filter((name) => name.includes(".")).map((name) => name.slice(0, name.lastIndexOf("."))),
  );
  return [...sizes.keys()].filter((name) => name !== "" && !parents.has(name));
}

/** A module, or a tensor of one, that is to be placed. */
export interface Entry {
  readonly name: string;
  /** Undefined for a tensor. */
  readonly module: TreeModule | undefined;
}

/** A module and its children by their names below it. */
export function childrenOf({ name, module }: Entry): Entry[] {
  return distinct(module?.children ?? []).map(([child, below]) => ({ name: `${name}.${child}`, module: below }));
}

/** True for a module that may be taken apart. */
export function canSplit({ module }: Entry, whole: readonly string[]): boolean {
  return module !== undefined && module.children.length > 0 && !whole.includes(module.class_name);
}

/** The largest of the modules that stay whole, and all that are as large. */
export function largestLayer(
  entries: readonly Entry[],
  sizes: ReadonlyMap<string, number>,
  whole: readonly string[],
): { bytes: number; names: string[] } {
  let bytes = 0;
  let names: string[] = [];
  const walk = (entry: Entry): void => {
    if (canSplit(entry, whole)) {
      for (const child of childrenOf(entry)) walk(child);
      return;
    }
    const size = sizes.get(entry.name) ?? 0;
    if (size > bytes) {
      bytes = size;
      names = [entry.name];
    } else if (size === bytes) names.push(entry.name);
  };
  for (const entry of entries) walk(entry);
  return { bytes, names };
}

/** The direct parameters, modules and constants of a tree. */
export function topEntries({ parameters, children, buffers }: TreeModule): Entry[] {
  const tensors = (list: TreeModule["parameters"]): Entry[] =>
    distinct(list).map(([name]) => ({ name, module: undefined }));
  return [
    ...tensors(parameters),
    ...distinct(children).map(([name, module]) => ({ name, module })),
    ...tensors(buffers),
  ];
}
