// The pickle machine: it runs the 34 opcodes that torch.save writes, and builds values of pickle-values.ts. It calls nothing:
// REDUCE and its like know a short list of names (torch-globals.ts). Loops only, so that no depth of a file exhausts the stack.

import { FormatError } from "../core/errors.js";
import { quote } from "../sources/files.js";
import { OPCODES } from "./pickle-opcodes.js";
import {
  Dict,
  EMPTY_TUPLE,
  Global,
  isHashable,
  kindOfValue,
  List,
  levelsWith,
  MAX_DEPTH,
  Opaque,
  type PickleValue,
  PyFloat,
  type Refuse,
  SAVE_AGAIN,
  type StorageRef,
  Tuple,
  textOf,
} from "./pickle-values.js";
import { build, globalOf, newObject, reduce } from "./torch-globals.js";

/** Bytes of one pickle: a million tensors take a hundred million. */
export const MAX_PICKLE_BYTES = 256 << 20;
/** Opcodes of one pickle, some 32 for each tensor. No Map of JavaScript's can hold more entries than this. */
const MAX_OPCODES = 8_000_000;
/** Values that wait on the stack: picklers write dicts in batches of a thousand. */
const MAX_STACK = 100_000;
/** Bytes of one text. */
const MAX_TEXT = 1 << 20;
/** Characters of a line of GLOBAL. */
const MAX_NAME = 256;

const PROTOCOL = 2;
/** All sets: nothing looks into one. */
const SET = new Opaque("a set");

/** Thrown where a pickle goes on behind the bytes that were read; only files that hold more than one pickle see it. */
export class MoreBytes extends Error {}

/** The surroundings of a pickle. */
export interface PickleContext {
  readonly file: string;
  /** Offset of the first byte of `bytes` in the file. */
  readonly base: number;
  /** True if the file goes on behind `bytes`. */
  readonly more: boolean;
  /** The storage that a persistent id names; absent: there are none. */
  readonly storage?: (id: Tuple, refuse: Refuse) => StorageRef;
}

export interface Pickled {
  readonly value: PickleValue;
  /** Offset in `bytes` of what follows. */
  readonly end: number;
  /** Offsets in the file of the texts in it. */
  readonly texts: ReadonlyMap<string, number>;
}

/**
 * Reads the pickle at `start`.
 * @throws FormatError naming the offset in the file and the opcode; MoreBytes if `more` and the pickle goes on
 */
export function readPickle(bytes: Uint8Array, start: number, context: PickleContext): Pickled {
  return new Machine(bytes, start, context).run();
}

class Machine {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #start: number;
  readonly #context: PickleContext;
  readonly #stack: PickleValue[] = [];
  /** Heights of the stack at the marks. */
  readonly #marks: number[] = [];
  /** Picklers fill the memo from 0 on; places that others leave open are in `#sparse`. */
  readonly #memo: PickleValue[] = [];
  readonly #sparse = new Map<number, PickleValue>();
  readonly #texts = new Map<string, number>();
  #at: number;
  /** Of the current opcode. */
  #opcode = 0;
  #opcodeAt: number;

  constructor(bytes: Uint8Array, start: number, context: PickleContext) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#start = this.#at = this.#opcodeAt = start;
    this.#context = context;
  }

  run(): Pickled {
    const bytes = this.#bytes;
    this.#need(2);
    if (bytes[this.#at] !== 0x80) this.#refuse("a pickle begins with PROTO");
    for (let count = 0; ; count++) {
      if (count === MAX_OPCODES) this.#refuse(`the pickle has more than ${MAX_OPCODES} opcodes`);
      this.#opcodeAt = this.#at;
      this.#need(1);
      this.#opcode = bytes[this.#at++]!;
      if (this.#opcode === 0x2e) break;
      this.#step(this.#opcode);
    }
    const value = this.#pop();
    if (this.#stack.length > 0 || this.#marks.length > 0) this.#refuse("values are left on the stack");
    return { value, end: this.#at, texts: this.#texts };
  }

  readonly #refuse: Refuse = (problem, hint) => {
    const { file, base } = this.#context;
    const offset = base + this.#opcodeAt;
    const opcode = OPCODES.get(this.#opcode) ?? `0x${this.#opcode.toString(16).padStart(2, "0")}`;
    throw new FormatError(`${file}: byte ${offset}, ${opcode}: ${problem}`, {
      details: { file, offset, opcode, expected: "a pickle of tensors", got: problem },
      hint,
    });
  };

  #need(count: number): void {
    if (this.#at + count <= this.#bytes.length) return;
    if (this.#context.more) throw new MoreBytes();
    this.#refuse("the pickle is cut short", "the file is not complete; download or copy it again");
  }

  #push(value: PickleValue): void {
    if (this.#stack.length >= MAX_STACK) this.#refuse(`more than ${MAX_STACK} values wait on the stack`);
    this.#stack.push(value);
  }

  /** The values above the last mark belong to what is being built there; those below are out of reach. */
  #pop(): PickleValue {
    if (this.#stack.length <= (this.#marks.at(-1) ?? 0)) this.#refuse("the stack is empty");
    return this.#stack.pop()!;
  }

  #top(): PickleValue {
    if (this.#stack.length <= (this.#marks.at(-1) ?? 0)) this.#refuse("the stack is empty");
    return this.#stack.at(-1)!;
  }

  #popMark(): PickleValue[] {
    const mark = this.#marks.pop();
    if (mark === undefined) return this.#refuse("there is no MARK");
    return this.#stack.splice(mark);
  }

  #u8(): number {
    this.#need(1);
    return this.#bytes[this.#at++]!;
  }

  #u32(): number {
    this.#need(4);
    this.#at += 4;
    return this.#view.getUint32(this.#at - 4, true);
  }

  #step(opcode: number): void {
    const value = this.#value(opcode);
    if (value !== undefined) this.#push(value);
    else if (!this.#act(opcode)) {
      const known = OPCODES.has(opcode);
      this.#refuse(
        known ? "torch.save does not write this opcode" : "this is no opcode",
        known ? SAVE_AGAIN : "the file is damaged; download or copy it again",
      );
    }
  }

  /** The value that an opcode puts on the stack; undefined for an opcode that puts none there. */
  #value(opcode: number): PickleValue | undefined {
    switch (opcode) {
      case 0x4e:
        return null;
      case 0x88:
        return true;
      case 0x89:
        return false;
      case 0x4a: // BININT
        return this.#u32() | 0;
      case 0x4b: // BININT1
        return this.#u8();
      case 0x4d: // BININT2
        return this.#u8() + 256 * this.#u8();
      case 0x8a:
        return this.#long(this.#u8());
      case 0x47: // BINFLOAT
        this.#need(8);
        this.#at += 8;
        return new PyFloat(this.#view.getFloat64(this.#at - 8));
      case 0x58: // BINUNICODE
        return this.#text(this.#u32());
      case 0x55: // SHORT_BINSTRING, the texts of Python 2
        return this.#text(this.#u8());
      case 0x63:
        return this.#global();
      case 0x7d:
        return new Dict("dict");
      case 0x5d:
        return new List();
      case 0x29:
        return EMPTY_TUPLE;
      case 0x8f:
        return SET;
      case 0x74:
        return this.#tuple(this.#popMark());
      case 0x85: // TUPLE1, TUPLE2, TUPLE3
      case 0x86:
      case 0x87:
        return this.#tuple(Array.from({ length: opcode - 0x84 }, () => this.#pop()).reverse());
      case 0x68: // BINGET
        return this.#get(this.#u8());
      case 0x6a: // LONG_BINGET
        return this.#get(this.#u32());
      case 0x51: // BINPERSID
        return this.#storage(this.#pop());
      case 0x52: {
        const args = this.#arguments();
        return reduce(this.#callee(), args, this.#refuse);
      }
      case 0x81: {
        const args = this.#arguments();
        return newObject(this.#callee(), args, this.#refuse);
      }
      default:
        return undefined;
    }
  }

  /** Does what an opcode does to values that are there; false for an opcode that is not among these. */
  #act(opcode: number): boolean {
    switch (opcode) {
      case 0x80: {
        const protocol = this.#u8();
        if (this.#opcodeAt !== this.#start) this.#refuse("stands inside a pickle");
        if (protocol !== PROTOCOL) {
          this.#refuse(`pickle protocol ${protocol}; torch.save writes ${PROTOCOL}`, SAVE_AGAIN);
        }
        return true;
      }
      case 0x28: // MARK
        if (this.#marks.length >= MAX_STACK) this.#refuse(`more than ${MAX_STACK} marks`);
        this.#marks.push(this.#stack.length);
        return true;
      case 0x61: // APPEND
        this.#append([this.#pop()]);
        return true;
      case 0x65: // APPENDS
        this.#append(this.#popMark());
        return true;
      case 0x73: {
        const value = this.#pop();
        this.#set([this.#pop(), value]);
        return true;
      }
      case 0x75: // SETITEMS
        this.#set(this.#popMark());
        return true;
      case 0x71: // BINPUT
        this.#put(this.#u8());
        return true;
      case 0x72: // LONG_BINPUT
        this.#put(this.#u32());
        return true;
      case 0x62: {
        const state = this.#pop();
        build(this.#top(), state, this.#refuse);
        return true;
      }
      default:
        return false;
    }
  }

  /** A whole number of up to 255 bytes, little-endian in two's complement. */
  #long(count: number): number | bigint {
    this.#need(count);
    let value = 0n;
    for (let i = count - 1; i >= 0; i--) value = (value << 8n) | BigInt(this.#bytes[this.#at + i]!);
    this.#at += count;
    value = count === 0 ? 0n : BigInt.asIntN(8 * count, value);
    const small = Number(value);
    return Number.isSafeInteger(small) ? small : value;
  }

  #text(length: number): PickleValue {
    if (length > MAX_TEXT) this.#refuse(`a text of ${length} bytes; at most ${MAX_TEXT} are read`);
    this.#need(length);
    const at = this.#at;
    this.#at += length;
    const bytes = this.#bytes.subarray(at, at + length);
    const text = textOf(bytes);
    if (text === undefined) return this.#refuse("a text that is not UTF-8");
    if (typeof text === "string") this.#texts.set(text, this.#context.base + at);
    return text;
  }

  #line(): string {
    const begin = this.#at;
    for (;;) {
      if (this.#at - begin > MAX_NAME) this.#refuse(`a name of more than ${MAX_NAME} bytes`);
      if (this.#u8() === 0x0a) break;
    }
    const text = textOf(this.#bytes.subarray(begin, this.#at - 1));
    return typeof text === "string" ? text : this.#refuse("a name that is not UTF-8");
  }

  #global(): PickleValue {
    const module = this.#line();
    const name = this.#line();
    const found = globalOf(module, name);
    if (found) return found;
    const whole = quote(`${module}.${name}`);
    if (
      /^(torch\.nn\.modules|transformers\.(models|modeling))\b|(^|\.)(Module|Model)$|Model$/.test(`${module}.${name}`)
    ) {
      return this.#refuse(
        `the file holds a whole module (${whole}), not its weights; nothing of it is run`,
        SAVE_AGAIN,
      );
    }
    return this.#refuse(`the name ${whole} is none that weights need; nothing of it is looked up or run`, SAVE_AGAIN);
  }

  #tuple(items: PickleValue[]): Tuple {
    const tuple = new Tuple(items);
    tuple.depth = this.#depth(1, items);
    return tuple;
  }

  /** Levels of a container of `depth` that takes `items` in; seals them. */
  #depth(depth: number, items: Iterable<PickleValue>): number {
    let levels = depth;
    for (const item of items) levels = Math.max(levels, levelsWith(item));
    if (levels > MAX_DEPTH) this.#refuse(`values inside values, more than ${MAX_DEPTH} levels`);
    return levels;
  }

  #append(items: PickleValue[]): void {
    const list = this.#top();
    if (!(list instanceof List)) this.#refuse(`expected a list, got ${kindOfValue(list)}`);
    list.depth = this.#depth(list.depth, items);
    this.#changeable(list);
    for (const item of items) list.push(item);
  }

  #set(pairs: PickleValue[]): void {
    const dict = this.#top();
    if (!(dict instanceof Dict)) this.#refuse(`expected a dict, got ${kindOfValue(dict)}`);
    if (pairs.length % 2 !== 0) this.#refuse("a key has no value");
    dict.depth = this.#depth(dict.depth, pairs);
    this.#changeable(dict);
    for (let i = 0; i < pairs.length; i += 2) {
      const key = pairs[i]!;
      if (!isHashable(key)) this.#refuse(`${kindOfValue(key)} cannot be a key`);
      if (dict.entries.has(key))
        this.#refuse(`the key ${typeof key === "string" ? quote(key) : kindOfValue(key)} is set twice`);
      dict.set(key, pairs[i + 1]!);
    }
  }

  #changeable(container: List | Dict): void {
    if (container.sealed) this.#refuse("a value is changed after another took it in; it could hold itself");
  }

  #put(index: number): void {
    // Picklers count from 0 and write at least a byte for each.
    if (index > this.#opcodeAt - this.#start) this.#refuse(`the memo's place ${index} lies behind the pickle`);
    if (index <= this.#memo.length) this.#memo[index] = this.#top();
    else this.#sparse.set(index, this.#top());
  }

  #get(index: number): PickleValue {
    const value = index < this.#memo.length ? this.#memo[index] : this.#sparse.get(index);
    return value === undefined ? this.#refuse(`the memo has nothing at ${index}`) : value;
  }

  #storage(id: PickleValue): PickleValue {
    const { storage } = this.#context;
    if (!storage) return this.#refuse("a storage in a place where none can be");
    if (!(id instanceof Tuple)) return this.#refuse(`a persistent id must be a tuple, got ${kindOfValue(id)}`);
    return storage(id, this.#refuse);
  }

  #arguments(): readonly PickleValue[] {
    const args = this.#pop();
    return args instanceof Tuple ? args.items : this.#refuse(`expected a tuple of arguments, got ${kindOfValue(args)}`);
  }

  #callee(): Global {
    const callee = this.#pop();
    return callee instanceof Global ? callee : this.#refuse(`${kindOfValue(callee)} cannot be called`);
  }
}
