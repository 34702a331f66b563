// The names that a pickle of weights may use, and what each makes of its arguments. Names outside this list do not exist here.

import { isWhole } from "../core/checks.js";
import { quote } from "../sources/files.js";
import {
  Dict,
  DTypeName,
  EMPTY_TUPLE,
  Global,
  kindOfValue,
  List,
  Opaque,
  type PickleValue,
  type Refuse,
  StorageRef,
  type StorageType,
  TensorValue,
  Tuple,
} from "./pickle-values.js";
import { MAX_RANK } from "./safetensors-header.js";
import { elementsOf, STORED_BITS, type StoredDType } from "./stored.js";

const STORAGES: readonly (readonly [name: string, dtype: StoredDType])[] = [
  ["FloatStorage", "F32"],
  ["DoubleStorage", "F64"],
  ["HalfStorage", "F16"],
  ["BFloat16Storage", "BF16"],
  ["ByteStorage", "U8"],
  ["CharStorage", "I8"],
  ["ShortStorage", "I16"],
  ["IntStorage", "I32"],
  ["LongStorage", "I64"],
  ["BoolStorage", "BOOL"],
  ["ComplexFloatStorage", "C64"],
];

/** Classes of storages, by their names with modules. An untyped one counts bytes. */
const STORAGE_TYPES: ReadonlyMap<string, StorageType> = new Map([
  ...STORAGES.flatMap(([name, dtype]): [string, StorageType][] =>
    ["torch", "torch.cuda"].map((module) => [`${module}.${name}`, { name, dtype }]),
  ),
  ...["torch.storage.UntypedStorage", "torch.UntypedStorage"].map((name): [string, StorageType] => [
    name,
    { name: "UntypedStorage", dtype: "U8" },
  ]),
]);

const DTYPES: ReadonlyMap<string, StoredDType> = new Map<string, StoredDType>([
  ...(["float32", "float"] as const).map((name): [string, StoredDType] => [name, "F32"]),
  ...(["float64", "double"] as const).map((name): [string, StoredDType] => [name, "F64"]),
  ...(["float16", "half"] as const).map((name): [string, StoredDType] => [name, "F16"]),
  ["bfloat16", "BF16"],
  ["uint8", "U8"],
  ["int8", "I8"],
  ["int16", "I16"],
  ["int32", "I32"],
  ["int64", "I64"],
  ["bool", "BOOL"],
  ["complex64", "C64"],
  ["uint16", "U16"],
  ["uint32", "U32"],
  ["uint64", "U64"],
  ["float8_e4m3fn", "F8_E4M3"],
  ["float8_e5m2", "F8_E5M2"],
  ["float8_e4m3fnuz", "F8_E4M3FNUZ"],
  ["float8_e5m2fnuz", "F8_E5M2FNUZ"],
  ["float8_e8m0fnu", "F8_E8M0"],
]);

/** Types whose elements nothing here can describe. They may be named, but no tensor may have them. */
const UNREADABLE = new Set(["torch.complex128", "torch.float4_e2m1fn_x2", "torch.complex32"]);
const UNREADABLE_STORAGES = new Set(["torch.ComplexDoubleStorage", "torch.storage.TypedStorage", "torch.TypedStorage"]);

/** What a callable makes of its arguments. */
type Make = (args: readonly PickleValue[], refuse: Refuse) => PickleValue;

const parameter: Make = (args, refuse) => {
  const [data, requires = true] = args;
  if (!(data instanceof TensorValue)) return refuse(`a parameter of ${kindOfValue(data ?? null)}`);
  if (typeof requires !== "boolean") return refuse(`requires_grad must be a bool, got ${kindOfValue(requires)}`);
  return data;
};

/** @param kind of the value, which is only passed by */
const opaque = (kind: string): Make => {
  const value = new Opaque(kind);
  return () => value;
};

const bytes = opaque("bytes");

const CALLABLES: ReadonlyMap<string, readonly [least: number, most: number, make: Make]> = new Map([
  ["torch._utils._rebuild_tensor", [4, 4, (args, refuse) => tensor(args, undefined, refuse)]],
  ["torch._utils._rebuild_tensor_v2", [6, 7, (args, refuse) => rebuild(args, undefined, args[6], refuse)]],
  [
    "torch._utils._rebuild_tensor_v3",
    [7, 8, (args, refuse) => rebuild(args, dtypeOf(args[6]!, refuse), args[7], refuse)],
  ],
  ["torch._utils._rebuild_parameter", [3, 3, parameter]],
  ["torch._utils._rebuild_parameter_with_state", [4, 4, parameter]],
  ["torch.nn.parameter.Parameter", [1, 2, parameter]],
  ["torch.nn.Parameter", [1, 2, parameter]],
  ["torch.Size", [0, 1, ([items = EMPTY_TUPLE], refuse) => sizeTuple(items, refuse)]],
  ["torch.device", [1, 2, opaque("a device")]],
  ["collections.OrderedDict", [0, 1, ([items], refuse) => dictOf("OrderedDict", items, refuse)]],
  ["collections.Counter", [0, 1, ([items], refuse) => dictOf("Counter", items, refuse)]],
  [
    "_codecs.encode",
    [
      2,
      2,
      ([text, how], refuse) =>
        typeof text === "string" && how === "latin1"
          ? bytes([], refuse)
          : refuse("_codecs.encode is for a text in latin1"),
    ],
  ],
  ["builtins.set", [0, 1, opaque("a set")]],
  ["builtins.bytearray", [0, 2, bytes]],
  ["builtins.complex", [0, 2, opaque("a complex number")]],
]);

/** The value that a name stands for; undefined for one that is not allowed. */
export function globalOf(module: string, name: string): PickleValue | undefined {
  // Python 2's name of the same module.
  const whole = `${module === "__builtin__" ? "builtins" : module}.${name}`;
  if (CALLABLES.has(whole) || STORAGE_TYPES.has(whole) || UNREADABLE_STORAGES.has(whole)) return new Global(whole);
  const dtype = module === "torch" ? DTYPES.get(name) : undefined;
  if (dtype) return new DTypeName(dtype, name);
  return UNREADABLE.has(whole) ? new Opaque(`the dtype ${name}`) : undefined;
}

/** REDUCE. */
export function reduce({ name }: Global, args: readonly PickleValue[], refuse: Refuse): PickleValue {
  const known = CALLABLES.get(name);
  if (!known) return refuse(`${name} cannot be called`);
  const [least, most, make] = known;
  if (args.length < least || args.length > most) {
    return refuse(`${name} with ${args.length} arguments instead of ${least === most ? least : `${least} to ${most}`}`);
  }
  return make(args, refuse);
}

/** NEWOBJ: only parameters are made that way. */
export function newObject(of: Global, args: readonly PickleValue[], refuse: Refuse): PickleValue {
  if (CALLABLES.get(of.name)?.[2] !== parameter || !of.name.endsWith(".Parameter")) {
    return refuse(`${of.name} is not made that way in files of weights`);
  }
  return reduce(of, args, refuse);
}

/** BUILD: an OrderedDict may have `_metadata` beside its entries, which is of no use here. */
export function build(target: PickleValue, state: PickleValue, refuse: Refuse): void {
  if (!(target instanceof Dict && target.kind === "OrderedDict")) refuse(`${kindOfValue(target)} takes no state`);
  if (!(state instanceof Dict)) refuse(`the state of an OrderedDict must be a dict, got ${kindOfValue(state)}`);
}

/** The class of a storage. */
export function storageType(value: PickleValue, refuse: Refuse): StorageType {
  const name = value instanceof Global ? value.name : undefined;
  const type = name === undefined ? undefined : STORAGE_TYPES.get(name);
  if (type) return type;
  return refuse(name === undefined ? `a storage of ${kindOfValue(value)}` : `storages of ${name} cannot be read`);
}

/** Bytes of an element: all types of storages have whole ones. */
export function widthOf(dtype: StoredDType): number {
  return STORED_BITS.get(dtype)! / 8;
}

/** A whole number that counts or places something in a file. */
export function count(value: PickleValue | undefined, what: string, refuse: Refuse): number {
  if (isWhole(value)) return value;
  return refuse(`${what} must be a whole number of at least 0, got ${kindOfValue(value ?? null)}`);
}

function dtypeOf(value: PickleValue, refuse: Refuse): StoredDType {
  if (value instanceof DTypeName) return value.dtype;
  return refuse(`a tensor of ${kindOfValue(value)} cannot be read`);
}

function sizeTuple(items: PickleValue, refuse: Refuse): Tuple {
  if (items instanceof Tuple) return items;
  return items instanceof List ? new Tuple(items.items) : refuse(`a size of ${kindOfValue(items)}`);
}

/** Python 2 writes the entries as a list of pairs. */
function dictOf(kind: "OrderedDict" | "Counter", items: PickleValue | undefined, refuse: Refuse): Dict {
  const dict = new Dict(kind);
  if (items === undefined) return dict;
  if (items instanceof Dict) {
    for (const [key, value] of items.entries) dict.set(key, value);
    dict.depth = items.depth;
    return dict;
  }
  if (!(items instanceof List)) return refuse(`${kind} of ${kindOfValue(items)}`);
  for (const pair of items.items) {
    const two = pair instanceof List || pair instanceof Tuple ? pair.items : [];
    const [key, value] = two;
    if (two.length !== 2 || typeof key !== "string") return refuse(`${kind} of entries that are not pairs with a name`);
    if (dict.entries.has(key)) return refuse(`the key ${quote(key)} is set twice`);
    dict.set(key, value!);
  }
  dict.depth = items.depth;
  return dict;
}

/** The newer ways to rebuild a tensor: what follows size and strides must be of no effect. */
function rebuild(
  args: readonly PickleValue[],
  dtype: StoredDType | undefined,
  metadata: PickleValue | undefined,
  refuse: Refuse,
): TensorValue {
  const [, , , , requires, hooks] = args;
  if (typeof requires !== "boolean") return refuse(`requires_grad must be a bool, got ${kindOfValue(requires!)}`);
  if (!(hooks instanceof Dict && hooks.entries.size === 0) && hooks !== null) {
    return refuse(`a tensor with hooks (${kindOfValue(hooks!)})`);
  }
  if (metadata instanceof Dict) {
    for (const [key, value] of metadata.entries) {
      if ((key === "conj" || key === "neg") && value === false) continue;
      return refuse(`a tensor with the flag ${typeof key === "string" ? quote(key) : kindOfValue(key)}`);
    }
  } else if (metadata !== undefined && metadata !== null) {
    return refuse(`metadata of ${kindOfValue(metadata)}`);
  }
  return tensor(args, dtype, refuse);
}

/**
 * A tensor from storage, offset, size and strides. Every element lies inside the storage, and there are no more of them than the
 * storage has: a stride of 0 would otherwise make a terabyte of one element.
 */
function tensor(args: readonly PickleValue[], named: StoredDType | undefined, refuse: Refuse): TensorValue {
  const [from, first, size, steps] = args;
  if (!(from instanceof StorageRef)) return refuse(`a tensor over ${kindOfValue(from!)}`);
  const dtype = named ?? from.storage.type.dtype;
  const offset = count(first, "the offset", refuse);
  const shape = counts(size!, "the size", refuse);
  const strides = counts(steps!, "the strides", refuse);
  if (shape.length !== strides.length) return refuse(`${shape.length} sizes and ${strides.length} strides`);
  const width = widthOf(dtype);
  const there = from.bytes / width;
  const elements = elementsOf(shape);
  // A view of an empty tensor may begin anywhere: it has no element there.
  if (elements === 0) return new TensorValue(dtype, shape, strides, from, 0);
  const reach = shape.reduce((far, dim, d) => far + (dim - 1) * strides[d]!, 1);
  // Sums and products of such numbers may be rounded, but never down to what fits into a file.
  if (!(offset + reach <= there)) {
    return refuse(`a tensor ends at element ${offset + reach} of a storage of ${Math.floor(there)}`);
  }
  if (elements > there) return refuse(`a tensor of ${elements} elements over a storage of ${Math.floor(there)}`);
  return new TensorValue(dtype, shape, strides, from, offset);
}

function counts(value: PickleValue, what: string, refuse: Refuse): number[] {
  if (!(value instanceof Tuple)) return refuse(`${what} must be a tuple, got ${kindOfValue(value)}`);
  if (value.items.length > MAX_RANK)
    return refuse(`${what} of ${value.items.length} dims; at most ${MAX_RANK} are read`);
  return value.items.map((item) => count(item, what, refuse));
}
