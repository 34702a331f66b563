// What a pickle may hold, as values of our own: plain data, places in the file, and nothing that could act. Names from a file
// are compared with a list, and never looked up in anything of JavaScript's.

import type { StoredDType } from "./stored.js";

export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | string
  | PyFloat
  | Opaque
  | Tuple
  | List
  | Dict
  | Global
  | Place;

/** A float: 3.0 is no count of anything, and must not be taken for 3. */
export class PyFloat {
  readonly value: number;

  constructor(value: number) {
    this.value = value;
  }
}

/** A value that is only passed by: bytes, a set, a device, a number of Python's that weights never are. */
export class Opaque {
  readonly kind: string;

  constructor(kind: string) {
    this.kind = kind;
  }
}

/** The element type that a name such as `torch.float16` means. */
export class DTypeName extends Opaque {
  readonly dtype: StoredDType;

  constructor(dtype: StoredDType, name: string) {
    super(`the dtype ${name}`);
    this.dtype = dtype;
  }
}

/** A name that the allow-list has. */
export class Global {
  /** Module and name, joined by a dot. */
  readonly name: string;

  constructor(name: string) {
    this.name = name;
  }
}

/** Levels of values inside values: tensors need five. */
export const MAX_DEPTH = 1000;

/** A value that holds others. Once inside another it does not change, so that no value can come to hold itself. */
abstract class Container {
  /** Levels, this one included. */
  depth = 1;
  /** True once it is inside another. */
  sealed = false;
}

export class Tuple extends Container {
  /** True if a dict may have it as a key. */
  readonly hashable: boolean;
  readonly items: readonly PickleValue[];

  constructor(items: readonly PickleValue[]) {
    super();
    this.items = items;
    this.hashable = items.every(isHashable);
  }
}

export const EMPTY_TUPLE = new Tuple([]);

/** Empty until the first value: a file may have millions that stay so. */
const NO_ITEMS: readonly PickleValue[] = [];
const NO_ENTRIES: ReadonlyMap<PickleValue, PickleValue> = new Map();

export class List extends Container {
  #items: PickleValue[] | undefined;

  get items(): readonly PickleValue[] {
    return this.#items ?? NO_ITEMS;
  }

  push(value: PickleValue): void {
    this.#items ??= [];
    this.#items.push(value);
  }
}

export class Dict extends Container {
  #entries: Map<PickleValue, PickleValue> | undefined;
  readonly kind: "dict" | "OrderedDict" | "Counter";

  constructor(kind: "dict" | "OrderedDict" | "Counter") {
    super();
    this.kind = kind;
  }

  /** Keys that are tuples are told apart by identity: nothing looks them up. */
  get entries(): ReadonlyMap<PickleValue, PickleValue> {
    return this.#entries ?? NO_ENTRIES;
  }

  set(key: PickleValue, value: PickleValue): void {
    this.#entries ??= new Map();
    this.#entries.set(key, value);
  }
}

/** Keys of a dict: texts, whole numbers, and tuples of them. */
export function isHashable(value: PickleValue): boolean {
  if (value instanceof Tuple) return value.hashable;
  return typeof value === "string" || typeof value === "number" || typeof value === "bigint";
}

/** Seals a value that goes into another; returns the levels that the other then has. */
export function levelsWith(value: PickleValue): number {
  if (!(value instanceof Container)) return 1;
  value.sealed = true;
  return value.depth + 1;
}

/** A storage or a view of one: a run of bytes, whose place in the file is known when its container has been read. */
export class Storage {
  /** Absolute offset of the storage's bytes in the file. */
  begin = 0;
  readonly key: string;
  readonly type: StorageType;
  /** Elements of its type. */
  readonly numel: number;

  constructor(key: string, type: StorageType, numel: number) {
    this.key = key;
    this.type = type;
    this.numel = numel;
  }
}

/** The part of a storage that a persistent id means. */
export class StorageRef {
  readonly storage: Storage;
  /** Bytes from the storage's beginning, and how many there are. */
  readonly offset: number;
  readonly bytes: number;

  constructor(storage: Storage, offset: number, bytes: number) {
    this.storage = storage;
    this.offset = offset;
    this.bytes = bytes;
  }
}

/** Elements of a storage in a shape; strides and offset are in elements. */
export class TensorValue {
  readonly dtype: StoredDType;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  readonly from: StorageRef;
  readonly offset: number;

  constructor(
    dtype: StoredDType,
    shape: readonly number[],
    strides: readonly number[],
    from: StorageRef,
    offset: number,
  ) {
    this.dtype = dtype;
    this.shape = shape;
    this.strides = strides;
    this.from = from;
    this.offset = offset;
  }
}

export type Place = StorageRef | TensorValue;

/** A class of storages: its name, and the type of its elements. */
export interface StorageType {
  readonly name: string;
  readonly dtype: StoredDType;
}

/** Ends the reading of a pickle at the current opcode. */
export type Refuse = (problem: string, hint?: string) => never;

/** Hint for what torch.save writes of other things than tensors. */
export const SAVE_AGAIN =
  "save the weights alone with Python: torch.save(model.state_dict(), 'pytorch_model.bin'), or in safetensors with save_pretrained";

/** The kind of a value in words, for messages. */
export function kindOfValue(value: PickleValue): string {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number" || typeof value === "bigint") {
    const text = String(value);
    return text.length > 30 ? `a number of ${text.length} digits` : text;
  }
  if (typeof value === "string") return "a text";
  if (value instanceof PyFloat) return "a float";
  if (value instanceof Opaque) return value.kind;
  if (value instanceof Tuple) return `a tuple of ${value.items.length}`;
  if (value instanceof List) return `a list of ${value.items.length}`;
  if (value instanceof Dict) return `a dict of ${value.entries.size}`;
  if (value instanceof Global) return `the name ${value.name}`;
  return value instanceof TensorValue ? "a tensor" : "a storage";
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
/** A short ASCII text is decoded faster one by one. */
const SHORT = 64;

/** A text of strict UTF-8; an opaque value for one with halves of surrogates, as Python may write; undefined for others. */
export function textOf(bytes: Uint8Array): string | Opaque | undefined {
  if (bytes.length <= SHORT && bytes.every((byte) => byte < 0x80)) return String.fromCharCode(...bytes);
  try {
    return UTF8.decode(bytes);
  } catch {
    const whole = bytes.slice();
    for (let i = 0; i + 2 < whole.length; i++) {
      if (whole[i] !== 0xed || whole[i + 1]! < 0xa0 || whole[i + 1]! > 0xbf || (whole[i + 2]! & 0xc0) !== 0x80)
        continue;
      whole.fill(0x3f, i, i + 3);
    }
    try {
      UTF8.decode(whole);
    } catch {
      return undefined;
    }
    return new Opaque("a text with halves of characters");
  }
}
