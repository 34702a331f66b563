// Hostile pickles, made by hand: each is refused with a typed error before anything of a claimed size is allocated, and nothing
// that a pickle names is ever looked up or run. Hostile containers are in torch-containers.test.ts.

import { describe, expect, test } from "vitest";
import {
  dict,
  global,
  opcodes,
  type Py,
  pickle,
  raw,
  records,
  stateDict,
  storageOf,
  tensorOf,
  torchFile,
  tuple,
  zip,
} from "../support/torch-file.js";
import { one, open, refused, TENSORS } from "../support/torch-refused.js";

/** A zip file whose pickle has these bytes. */
const withPickle = (bytes: Uint8Array): Buffer => zip(records(bytes, [one]));
/** A zip file whose object is this value. */
const withObject = (value: Py): Buffer => withPickle(pickle(value));
const storage = storageOf("FloatStorage", "0", 4);
const named = (value: Py): Buffer => withObject(dict(["a", value]));
/** A pickle of these opcodes between its frame. */
const withOpcodes = (...bytes: (number | string)[]): Buffer => withPickle(opcodes(0x80, 2, ...bytes, "."));

test("the base that all others are made of is read", async () => {
  for (const container of ["zip", "legacy"] as const) {
    for (const local of [true, false]) {
      expect((await open(torchFile(TENSORS, container), local)).tensors.get("a")).toMatchObject({ shape: [2, 2] });
    }
  }
});

/** Everything that a gadget could be made of: code, other files, more of Python. */
const GLOBALS: [string, string][] = [
  ...["system", "popen", "execve", "spawnl", "remove", "putenv"].map((name): [string, string] => ["os", name]),
  ...["eval", "exec", "getattr", "open", "__import__", "compile", "map", "type", "print", "input", "list", "dict"].map(
    (name): [string, string] => ["builtins", name],
  ),
  ...["eval", "execfile", "apply", "file", "getattr"].map((name): [string, string] => ["__builtin__", name]),
  ["posix", "system"],
  ["nt", "system"],
  ["subprocess", "Popen"],
  ["subprocess", "check_output"],
  ["runpy", "_run_code"],
  ["importlib", "import_module"],
  ["pty", "spawn"],
  ["socket", "socket"],
  ["ctypes", "CDLL"],
  ["pickle", "loads"],
  ["_pickle", "loads"],
  ["marshal", "loads"],
  ["types", "FunctionType"],
  ["operator", "attrgetter"],
  ["functools", "partial"],
  ["shutil", "rmtree"],
  ["webbrowser", "open"],
  ["code", "interact"],
  ["copyreg", "_reconstructor"],
  ["copy_reg", "_reconstructor"],
  ["collections", "namedtuple"],
  ["numpy", "load"],
  ["numpy", "dtype"],
  ["numpy.core.multiarray", "scalar"],
  ["torch", "load"],
  ["torch.hub", "load"],
  ["torch.storage", "_load_from_bytes"],
  ["torch.jit", "load"],
  ["torch.utils.cpp_extension", "load_inline"],
  ["torch.serialization", "_get_layout"],
  ["torch._tensor", "_rebuild_from_type_v2"],
  ["torch._utils", "_rebuild_device_tensor_from_numpy"],
  ["torch._utils", "_rebuild_sparse_tensor"],
  ["torch._utils", "_rebuild_qtensor"],
  ["torch._utils", "_rebuild_meta_tensor_no_storage"],
  ["torch._utils", "_rebuild_wrapper_subclass"],
  ["torch._utils", "_rebuild_nested_tensor"],
  ["torch", "QInt8Storage"],
  ["torch", "FloatStorage.__class__"],
  ["torch.nn.modules.linear", "Linear"],
  ["transformers.models.llama.modeling_llama", "LlamaForCausalLM"],
  ["__main__", "x"],
  ["", ""],
  ["constructor", "constructor"],
  ["__proto__", "toString"],
  ["collections.OrderedDict", "__init__"],
];

describe("names", () => {
  test.each(GLOBALS)("%s.%s is refused where it stands", async (module, name) => {
    const error = await refused(named({ call: global(module, name), with: ["x"] }), /, GLOBAL: the (name|file holds)/);
    expect(error.details.opcode).toBe("GLOBAL");
    expect(Number(error.details.offset)).toBeGreaterThan(0);
  });

  test.each<[string, Py, RegExp]>([
    ["a storage that is called", { call: global("torch", "FloatStorage"), with: [4] }, /FloatStorage cannot be called/],
    ["a text that is called", { call: "os", with: [] }, /REDUCE: a text cannot be called/],
    ["a dtype that is called", { call: global("torch", "float32"), with: [] }, /the dtype float32 cannot be called/],
    ["arguments that are no tuple", raw("ccollections\nOrderedDict\n]R"), /expected a tuple of arguments, got a list/],
    [
      "too few arguments",
      { call: global("torch._utils", "_rebuild_tensor"), with: [storage] },
      /with 1 arguments instead of 4/,
    ],
    ["NEWOBJ", raw("ccollections\nOrderedDict\n)\x81"), /NEWOBJ: .*is not made that way/],
    ["BUILD on a dict", { build: dict(), state: dict() }, /BUILD: a dict of 0 takes no state/],
    ["BUILD on a tensor", { build: tensorOf(storage, [2, 2]), state: dict() }, /BUILD: a tensor takes no state/],
    [
      "BUILD with a text",
      { build: { call: global("collections", "OrderedDict"), with: [] }, state: "x" },
      /must be a dict, got a text/,
    ],
    ["_codecs.encode in another encoding", { call: global("_codecs", "encode"), with: ["x", "rot13"] }, /latin1/],
    ["pairs that are none", { call: global("collections", "OrderedDict"), with: [{ list: ["ab"] }] }, /not pairs/],
    [
      "a parameter of a text",
      { call: global("torch.nn.parameter", "Parameter"), with: ["x"] },
      /a parameter of a text/,
    ],
  ])("%s", async (_, value, message) => {
    await refused(named(value), message);
  });
});

describe("opcodes", () => {
  const others: [string, number | string][] = [
    ["STACK_GLOBAL", 0x93],
    ["INST", "i"],
    ["OBJ", "o"],
    ["EXT1", 0x82],
    ["EXT2", 0x83],
    ["EXT4", 0x84],
    ["NEWOBJ_EX", 0x92],
    ["PERSID", "P"],
    ["GET", "g"],
    ["PUT", "p"],
    ["DUP", "2"],
    ["POP", "0"],
    ["POP_MARK", "1"],
    ["FRAME", 0x95],
    ["MEMOIZE", 0x94],
    ["BINBYTES", "B"],
    ["SHORT_BINBYTES", "C"],
    ["BINBYTES8", 0x8e],
    ["BYTEARRAY8", 0x96],
    ["NEXT_BUFFER", 0x97],
    ["READONLY_BUFFER", 0x98],
    ["LONG4", 0x8b],
    ["BINUNICODE8", 0x8d],
    ["SHORT_BINUNICODE", 0x8c],
    ["ADDITEMS", 0x90],
    ["FROZENSET", 0x91],
    ["INT", "I"],
    ["LONG", "L"],
    ["FLOAT", "F"],
    ["STRING", "S"],
    ["BINSTRING", "T"],
    ["UNICODE", "V"],
    ["DICT", "d"],
    ["LIST", "l"],
  ];
  test.each(others)("%s", async (name, opcode) => {
    const error = await refused(
      withOpcodes("}", opcode, "\0\0\0\0\0\0\0\0\n\n"),
      /torch.save does not write this opcode/,
    );
    expect(error.details.opcode).toBe(name);
  });

  const deep = (count: number): string => `]${"\x85".repeat(count)}`;
  test.each<[string, Buffer, RegExp]>([
    ["one that is none", withOpcodes("\xff"), /0xff: this is no opcode/],
    ["no PROTO", withPickle(opcodes("}.")), /a pickle begins with PROTO/],
    ["protocol 4", withPickle(opcodes(0x80, 4, "}.")), /pickle protocol 4; torch.save writes 2/],
    ["PROTO inside", withOpcodes("}", 0x80, 2), /stands inside a pickle/],
    ["no STOP", withPickle(opcodes(0x80, 2, "}")), /cut short/],
    ["nothing on the stack", withOpcodes(), /STOP: the stack is empty/],
    ["two values", withOpcodes("}}"), /values are left on the stack/],
    ["an open mark", withOpcodes("(}"), /values are left on the stack/],
    ["no mark", withOpcodes("}t"), /there is no MARK/],
    ["a pop below a mark", withOpcodes("N(\x85"), /the stack is empty/],
    [
      "bytes after STOP",
      withPickle(Buffer.concat([pickle(stateDict(TENSORS)), opcodes("}.")])),
      /2 bytes follow its pickle/,
    ],
    ["a place of the memo that is empty", withOpcodes("h\x05"), /the memo has nothing at 5/],
    ["a place of the memo behind the pickle", withOpcodes("}r\xff\xff\xff\x7f"), /place 2147483647 lies behind/],
    ["a text longer than the rest", withOpcodes("X\xff\xff\0\0abc"), /cut short/],
    ["a text of four gigabytes", withOpcodes("X\xff\xff\xff\xffabc"), /a text of 4294967295 bytes/],
    ["a text that is not UTF-8", withOpcodes("X\x02\0\0\0\xc3\x28"), /not UTF-8/],
    [
      "half a character as a name",
      named(tensorOf(storage, [2])) && withOpcodes("}X\x03\0\0\0\xed\xa0\x80Ns"),
      /cannot be a key/,
    ],
    ["a name without an end", withOpcodes(`c${"o".repeat(5000)}`), /a name of more than 256 bytes/],
    ["a key that is a list", withOpcodes("}]Ns"), /a list of 0 cannot be a key/],
    ["a key that is a tuple of lists", withOpcodes("}]\x85Ns"), /a tuple of 1 cannot be a key/],
    ["a key without a value", withOpcodes("}(Nu"), /a key has no value/],
    ["a key twice", withOpcodes("}(K\x01NK\x01Nu"), /the key 1 is set twice/],
    ["a list that is a dict", withOpcodes("}Na"), /expected a list, got a dict/],
    ["a dict that is a list", withOpcodes("]NNs"), /expected a dict, got a list/],
    ["a list that holds itself", withOpcodes("]q\0h\0a"), /it could hold itself/],
    ["a dict that holds itself", withOpcodes("}q\0K\x01h\0s"), /it could hold itself/],
    ["a list in a tuple in itself", withOpcodes("]q\0h\0\x85a"), /it could hold itself/],
    ["a tower of tuples", withOpcodes(deep(1000)), /more than 1000 levels/],
    ["a very high tower", withOpcodes(deep(200_000)), /more than 1000 levels/],
    ["a mountain of values", withOpcodes("N".repeat(200_000)), /more than 100000 values wait/],
    ["a mountain of marks", withOpcodes("(".repeat(200_000)), /more than 100000 marks/],
  ])("%s", async (_, bytes, message) => {
    await refused(bytes, message);
  });

  test("a billion laughs are twenty lists", async () => {
    const laughs = Array.from(
      { length: 20 },
      (_, i) => `](${`h${String.fromCharCode(i)}`.repeat(10)}eq${String.fromCharCode(i + 1)}`,
    );
    await refused(withOpcodes("(]q\0", ...laughs, "t"), /expected a dict of tensors by their names, got a tuple of 21/);
  });

  test("numbers of 2 KB are read as such, and count nothing", async () => {
    const long: Py = { long: 2n ** 1000n };
    await refused(named(tensorOf(storageOf("FloatStorage", "0", long), [1])), /got a number of 302 digits/);
  });
});

describe("tensors and storages", () => {
  const odd = [
    -1,
    { float: 4 },
    null,
    "4",
    true,
    2 ** 53,
    { long: 2n ** 63n },
    { long: 2n ** 64n },
    { long: -(2n ** 31n) },
  ];
  test.each(odd.map((value, i) => [i, value] as const))("odd number %i in place of one", async (_, value) => {
    const refusal = /must be a whole number|of a storage of 4|instead of|cannot be|ends at element/;
    await refused(named(tensorOf(storageOf("FloatStorage", "0", value as Py), [1])), refusal);
    const call = global("torch._utils", "_rebuild_tensor");
    for (const at of [1, 2, 3]) {
      const args: Py[] = [storage, 0, tuple(2), tuple(1)];
      args[at] = at === 1 ? (value as Py) : tuple(value as Py, 1);
      if (at === 2) args[3] = tuple(1, 1);
      if (at === 3) args[2] = tuple(2, 1);
      await refused(named({ call, with: args }), refusal);
    }
  });

  test.each<[string, Py, RegExp]>([
    [
      "a stride of 0 that makes much of little",
      tensorOf(storage, [2 ** 31 - 1, 2 ** 31 - 1], { strides: [0, 0] }),
      /over a storage of 4/,
    ],
    ["one element more than there is", tensorOf(storage, [5]), /ends at element 5 of a storage of 4/],
    ["an offset behind the end", tensorOf(storage, [1], { offset: 4 }), /ends at element 5/],
    ["strides that leave the storage", tensorOf(storage, [2, 2], { strides: [3, 1] }), /ends at element 5/],
    [
      "sizes whose product overflows",
      tensorOf(storage, Array(64).fill(2 ** 50) as number[], { strides: Array(64).fill(1) as number[] }),
      /ends at element/,
    ],
    ["more dims than torch has", tensorOf(storage, Array(65).fill(1) as number[]), /65 dims/],
    ["strides of another rank", tensorOf(storage, [2, 2], { strides: [1] }), /2 sizes and 1 strides/],
    [
      "a size that is a list",
      { call: global("torch._utils", "_rebuild_tensor"), with: [storage, 0, { list: [1] }, tuple(1)] },
      /the size must be a tuple/,
    ],
    ["no storage", tensorOf("x", [1]), /a tensor over a text/],
    [
      "the storage's type with other numbers",
      tuple(storage, storageOf("FloatStorage", "0", 3)),
      /was of 4 elements of FloatStorage, and is now of 3/,
    ],
    [
      "the storage's bytes as another type",
      tuple(storage, storageOf("IntStorage", "0", 4)),
      /is now of 4 of IntStorage/,
    ],
    ["a record that is too short", storageOf("FloatStorage", "0", 5), /has 16 bytes instead of 20/],
    ["a record that is too long", storageOf("DoubleStorage", "0", 1), /has 16 bytes instead of 8/],
    ["no such record", storageOf("FloatStorage", "7", 4), /no record "data\/7"/],
    ["a key that leads elsewhere", storageOf("FloatStorage", "../../x", 4), /must be digits/],
    ["a type that is none", storageOf("Size", "0", 4), /storages of torch.Size cannot be read/],
    ["a type nothing here knows", storageOf("ComplexDoubleStorage", "0", 1), /ComplexDoubleStorage cannot be read/],
    ["an id that is a text", { id: "0" }, /must be a tuple, got a text/],
    ["an id of a module", { id: tuple("module", null, null) }, /a persistent id of "module"/],
    [
      "an id with a part too many",
      { id: tuple("storage", global("torch", "FloatStorage"), "0", "cpu", 4, null) },
      /6 parts instead of 5/,
    ],
    [
      "hooks",
      {
        call: global("torch._utils", "_rebuild_tensor_v2"),
        with: [storage, 0, tuple(1), tuple(1), false, dict([1, "x"])],
      },
      /with hooks/,
    ],
    [
      "a conjugate",
      {
        call: global("torch._utils", "_rebuild_tensor_v2"),
        with: [storage, 0, tuple(1), tuple(1), false, dict(), dict(["conj", true])],
      },
      /the flag "conj"/,
    ],
    [
      "a dtype that is none",
      {
        call: global("torch._utils", "_rebuild_tensor_v3"),
        with: [storage, 0, tuple(1), tuple(1), false, dict(), "float32"],
      },
      /a tensor of a text/,
    ],
    [
      "a dtype nothing here knows",
      {
        call: global("torch._utils", "_rebuild_tensor_v3"),
        with: [storage, 0, tuple(1), tuple(1), false, dict(), global("torch", "complex128")],
      },
      /the dtype complex128/,
    ],
  ])("%s", async (_, value, message) => {
    await refused(named(value), message);
  });

  test.each<[string, Py, RegExp]>([
    ["a list", { list: [1] }, /expected a dict of tensors by their names, got a list of 1/],
    ["a tensor", tensorOf(storage, [1]), /got a tensor/],
    ["a dict of numbers", dict(["epoch", 3]), /expected tensors by their names, got "epoch" \(3\)/],
    [
      "a state dict inside another",
      dict(["epoch", 3], ["state_dict", dict(["a", tensorOf(storage, [1])])]),
      /holds them under "state_dict"/,
    ],
    ["only texts", dict(["a", "x"], ["b", null]), /expected tensors by their names/],
  ])("an object that is %s", async (_, value, message) => {
    await refused(withObject(value), message);
  });

  test("an empty tensor begins anywhere, as torch writes views of empty ones", async () => {
    const { tensors } = await open(named(tensorOf(storage, [0, 3], { offset: 2 ** 40, strides: [2 ** 40, 1] })));
    expect(tensors.get("a")).toMatchObject({ shape: [0, 3], bytes: 0 });
  });

  test("names of JavaScript's own are names like others", async () => {
    const names = ["__proto__", "constructor", "prototype", "toString", "hasOwnProperty"];
    const { tensors } = await open(withObject(dict(...names.map((name) => [name, tensorOf(storage, [1])] as const))));
    expect([...tensors.keys()]).toEqual(names);
    expect(Object.keys(Object.prototype)).toEqual([]);
  });
});
