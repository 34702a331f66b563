// Mutants of pickles that know opcodes: one is taken out, doubled, exchanged, or gets another argument. A pickle that was changed
// in its bytes alone is refused at once as a rule; one whose opcodes still fit together gets further.

import { mutateBytes } from "./bytes.js";
import type { Chance } from "./chance.js";

const u32 = (value: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
};

const op = (opcode: number | string, ...args: Uint8Array[]): Buffer =>
  Buffer.concat([typeof opcode === "number" ? Buffer.of(opcode) : Buffer.from(opcode, "latin1"), ...args]);

const text = (words: string): Buffer => op("X", u32(Buffer.byteLength(words)), Buffer.from(words));

const GLOBALS = [
  ...["torch FloatStorage", "torch HalfStorage", "torch LongStorage", "torch BoolStorage", "torch ComplexFloatStorage"],
  ...[
    "torch ComplexDoubleStorage",
    "torch.storage UntypedStorage",
    "torch.storage TypedStorage",
    "torch.cuda FloatStorage",
  ],
  ...[
    "torch float16",
    "torch float8_e4m3fn",
    "torch complex128",
    "torch Size",
    "torch device",
    "torch.nn.parameter Parameter",
  ],
  ...["torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3"],
  ...["torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state", "torch._utils _rebuild_qtensor"],
  ...["collections OrderedDict", "collections Counter", "builtins set", "__builtin__ bytearray", "_codecs encode"],
  ...["os system", "builtins eval", "numpy dtype", "__proto__ x", "constructor constructor", " ", "\u001b[2J \u202e"],
];
const TEXTS = [
  ...["storage", "module", "cpu", "cuda:0", "0", "1", "99", "-1", "../x", "", "latin1", "__proto__", "constructor"],
  ...["lm_head.weight", "model.norm.weight", "\u001b[2J", "\u202e", "é", "😀", "state_dict", "y".repeat(5000)],
];
const NUMBERS = [
  ...[0, 1, 2, 3, 7, 8, 16, 64, 255].map((n) => op("K", Buffer.of(n))),
  ...[-1, -(2 ** 31), 2 ** 31 - 1].map((n) => op("J", u32(n))),
  ...["", "ff", "ffffffffff", "00000000000020", "ffffffffffffffff7f", "000000000000000080", "ff".repeat(200)].map(
    (hex) => op(0x8a, Buffer.of(hex.length / 2), Buffer.from(hex, "hex")),
  ),
  op("G", Buffer.from("4010000000000000", "hex")),
];
const SIMPLE = [..."N()]}RQbtuase".split(""), ...[0x81, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8f]].map((one) => op(one));
const MEMO = [0, 1, 2, 5, 40, 255].flatMap((i) => [
  op("h", Buffer.of(i)),
  op("q", Buffer.of(i)),
  op("j", u32(i)),
  op("r", u32(i)),
]);

/** An opcode that means something in some place. */
function odd(chance: Chance): Buffer {
  switch (chance.below(8)) {
    case 0:
      return op("c", Buffer.from(`${chance.one(GLOBALS).replace(" ", "\n")}\n`));
    case 1:
      return text(chance.one(TEXTS));
    case 2:
    case 3:
      return chance.one(NUMBERS);
    case 4:
    case 5:
      return chance.one(SIMPLE);
    case 6:
      return chance.one(MEMO);
    default:
      return Buffer.of(chance.below(256));
  }
}

/** The opcodes of a well-formed pickle, each with its argument. */
function split(pickle: Buffer): Buffer[] {
  const out: Buffer[] = [];
  for (let at = 0; at < pickle.length; ) {
    const end = at + 1 + argument(pickle, at + 1, pickle[at]!);
    out.push(pickle.subarray(at, end));
    at = end;
  }
  return out;
}

/** Bytes of an opcode's argument. */
function argument(pickle: Buffer, at: number, opcode: number): number {
  if (opcode === 0x63) return pickle.indexOf(10, pickle.indexOf(10, at) + 1) + 1 - at; // GLOBAL
  if (opcode === 0x58) return 4 + pickle.readUInt32LE(at); // BINUNICODE
  if (opcode === 0x8a) return 1 + pickle[at]!; // LONG1
  return ARGUMENTS.get(String.fromCharCode(opcode)) ?? 0;
}

const ARGUMENTS = new Map([
  ...["\x80", "K", "q", "h"].map((one): [string, number] => [one, 1]),
  ["M", 2],
  ...["J", "r", "j"].map((one): [string, number] => [one, 4]),
  ["G", 8],
]);

export function mutatePickle(chance: Chance, pickle: Buffer): Buffer {
  if (chance.is(0.1)) return mutateBytes(chance, pickle);
  const list = split(pickle);
  for (let left = chance.few(); left > 0 && list.length > 2; left--) {
    const at = 1 + chance.below(list.length - 1);
    switch (chance.below(7)) {
      case 0:
        list.splice(at, 1);
        break;
      case 1:
        list.splice(at, 0, list[at]!);
        break;
      case 2:
        list.splice(at, 0, odd(chance));
        break;
      case 3: {
        const other = 1 + chance.below(list.length - 1);
        [list[at], list[other]] = [list[other]!, list[at]!];
        break;
      }
      case 4:
        list.splice(at, 0, ...list.slice(at, at + chance.one([2, 8, 40])));
        break;
      default: {
        // Of the same kind, so that the rest still fits.
        const opcode = list[at]![0]!;
        if (opcode === 0x63) list[at] = op("c", Buffer.from(`${chance.one(GLOBALS).replace(" ", "\n")}\n`));
        else if (opcode === 0x58) list[at] = text(chance.one(TEXTS));
        else if (opcode === 0x4b || opcode === 0x4a || opcode === 0x8a) list[at] = chance.one(NUMBERS);
        else list[at] = odd(chance);
      }
    }
  }
  return Buffer.concat(list);
}
