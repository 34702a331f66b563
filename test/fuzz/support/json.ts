// Mutants of JSON that know its structure. Leaves and keys are raw text, so that a mutant may hold what JSON.stringify never
// writes: a key twice, 1e999, a lone surrogate, a comma too many.

import { mutateBytes } from "./bytes.js";
import type { Chance } from "./chance.js";

type Node =
  | { readonly kind: "object"; readonly entries: [key: string, value: Node][] }
  | { readonly kind: "list"; readonly items: Node[] }
  | { readonly kind: "leaf"; text: string };

/** What a format's own reader looks for, as raw JSON. */
export interface Words {
  /** Values that mean something somewhere in such a file. */
  readonly values: readonly string[];
  /** Keys that a reader looks at; some files have them and some have not. */
  readonly keys: readonly string[];
}

/** Quoted, as `Words` wants them. */
export const texts = (...words: readonly string[]): string[] => words.map((word) => JSON.stringify(word));

const NUMBERS = [
  ..."0 -0 1 -1 2 3 7 0.5 -2.5 1.0 3e0 1E2 64 255 256 1024 65535 65537 16777216 16777217".split(" "),
  ..."2147483647 2147483648 -2147483649 4294967295 4294967296 9007199254740991 9007199254740993".split(" "),
  ..."18446744073709551616 1e18 1e38 4e38 1e308 1e999 -1e999 1e-30 1e-50 5e-324 1e-999".split(" "),
  ..."NaN Infinity -Infinity 00 01 +1 .5 1. 1e 0x1f 1_0 --1".split(" "),
];

const STRINGS = [
  ...texts(
    "",
    " ",
    "x",
    "0",
    "-1",
    "true",
    "null",
    "\n",
    "\u0000",
    "\u001b[2J",
    "\u202e",
    "\u2028",
    "é",
    "e\u0301",
    "😀",
  ),
  ...texts("__proto__", "constructor", "prototype", "toString", "hasOwnProperty", "then", "length"),
  ...texts("../x", "/etc/passwd", "C:\\x", "http://127.0.0.1:1/", "%s%n", "$&$`", "{{x}}", "<|endoftext|>", "\ufffd"),
  ...['"\\ud800"', '"\\udc00\\ud800"', '"\\q"', '"\\u00"', '"\t"', "'x'", '"', '"\\"', "x"],
];

const WHOLES = [
  ..."null true false [] {} [[]] [null] [0] [1,2] [-1] [{}]".split(" "),
  ...[
    '["x"]',
    '{"x":1}',
    '{"__proto__":{"x":1}}',
    '{"constructor":{"prototype":{"x":1}}}',
    '{"length":-1}',
    '{"then":1}',
  ],
  ...[
    "",
    " ",
    ",",
    ":",
    "]",
    "}",
    "tru",
    "True",
    "None",
    "undefined",
    "/**/0",
    "0//",
    "\u00a0",
    "[1,]",
    '{"x":1,}',
    "{x:1}",
  ],
];

/** Values that are large: long, wide or deep. */
function large(chance: Chance): string {
  const size = chance.one([65, 129, 1000, 6000]);
  switch (chance.below(7)) {
    case 0:
      return JSON.stringify(chance.one(["y", "é", "😀", "\n", "\u0001"]).repeat(size));
    case 1:
      return "[".repeat(size) + "]".repeat(chance.is(0.8) ? size : size - 1);
    case 2:
      return `${'{"d":'.repeat(size)}0${"}".repeat(size)}`;
    case 3:
      return `[${new Array<string>(size).fill(chance.one(["0", "1", '"x"', "[]", "{}", "null"])).join(",")}]`;
    case 4:
      return `{${Array.from({ length: size }, (_, i) => `"k${i}":${i}`).join(",")}}`;
    case 5:
      return chance.one(["9", "1"]).repeat(size);
    default:
      return `0.${"3".repeat(size)}`;
  }
}

function odd(chance: Chance, words: Words): string {
  const kind = chance.below(12);
  if (kind < 4 && words.values.length > 0) return chance.one(words.values);
  if (kind < 7) return chance.one(NUMBERS);
  if (kind < 9) return chance.one(STRINGS);
  return kind < 11 ? chance.one(WHOLES) : large(chance);
}

function parse(value: unknown): Node {
  if (Array.isArray(value)) return { kind: "list", items: value.map(parse) };
  if (typeof value !== "object" || value === null) return { kind: "leaf", text: JSON.stringify(value) };
  return { kind: "object", entries: Object.entries(value).map(([key, inner]) => [JSON.stringify(key), parse(inner)]) };
}

function write(node: Node): string {
  if (node.kind === "leaf") return node.text;
  if (node.kind === "list") return `[${node.items.map(write).join(",")}]`;
  return `{${node.entries.map(([key, value]) => `${key}:${write(value)}`).join(",")}}`;
}

/** A node's place: the node above it, and where it stands there. */
interface Spot {
  readonly node: Node;
  readonly above: Node | undefined;
  readonly at: number;
}

function spots(node: Node, above?: Node, at = 0, into: Spot[] = []): Spot[] {
  into.push({ node, above, at });
  if (node.kind === "list") for (const [i, item] of node.items.entries()) spots(item, node, i, into);
  if (node.kind === "object") for (const [i, [, value]] of node.entries.entries()) spots(value, node, i, into);
  return into;
}

/** A subtree of the same text: nodes are changed in place, and must not stand twice. */
const copy = (node: Node): Node =>
  node.kind === "leaf"
    ? { ...node }
    : node.kind === "list"
      ? { kind: "list", items: node.items.map(copy) }
      : { kind: "object", entries: node.entries.map(([key, value]) => [key, copy(value)]) };

/** Puts a node in another's place; returns the root. */
function put(root: Node, { above, at }: Spot, node: Node): Node {
  if (above === undefined) return node;
  if (above.kind === "list") above.items[at] = node;
  if (above.kind === "object") above.entries[at]![1] = node;
  return root;
}

const leaf = (text: string): Node => ({ kind: "leaf", text });

type Change = (chance: Chance, root: Node, words: Words) => Node;

const replace: Change = (chance, root, words) => put(root, chance.one(spots(root)), leaf(odd(chance, words)));

/** A number that is near the right one: one off, its double, another sign. */
const nudge: Change = (chance, root) => {
  const numbers = spots(root).flatMap(({ node }) => (node.kind === "leaf" && /^-?\d/.test(node.text) ? [node] : []));
  if (numbers.length === 0) return root;
  const node = chance.one(numbers);
  const value = Number(node.text);
  node.text = String(
    chance.one([value + 1, value - 1, value * 2, value / 2, -value, value + 8, value * 2048, value + 2 ** 32]),
  );
  return root;
};

const remove: Change = (chance, root) => {
  const { above, at } = chance.one(spots(root));
  if (above?.kind === "list") above.items.splice(at, 1);
  if (above?.kind === "object") above.entries.splice(at, 1);
  return root;
};

const repeat: Change = (chance, root) => {
  const { above, at } = chance.one(spots(root));
  if (above?.kind === "list") above.items.push(copy(above.items[at]!));
  if (above?.kind === "object") above.entries.push([above.entries[at]![0], copy(above.entries[at]![1])]);
  return root;
};

/** A subtree in the place of another. */
const move: Change = (chance, root) => {
  const all = spots(root);
  return put(root, chance.one(all), copy(chance.one(all).node));
};

const wrap: Change = (chance, root) => {
  const spot = chance.one(spots(root));
  let node = spot.node;
  for (let depth = chance.one([1, 1, 1, 2, 130]); depth > 0; depth--) {
    node = chance.is(0.5) ? { kind: "list", items: [node] } : { kind: "object", entries: [['"x"', node]] };
  }
  return put(root, spot, node);
};

const rename: Change = (chance, root, words) => {
  const objects = spots(root).flatMap(({ node }) => (node.kind === "object" && node.entries.length > 0 ? [node] : []));
  if (objects.length === 0) return root;
  const entry = chance.one(chance.one(objects).entries);
  entry[0] = chance.is(0.5) && words.keys.length > 0 ? chance.one(words.keys) : chance.one(STRINGS);
  return root;
};

/** Sets a key that a reader looks at, or adds an odd one. */
const set: Change = (chance, root, words) => {
  const objects = spots(root).flatMap(({ node }) => (node.kind === "object" ? [node] : []));
  // The root holds most of the keys that mean anything.
  const object = chance.is(0.6) ? objects[0] : chance.one(objects);
  if (object === undefined) return root;
  const key = chance.is(0.85) && words.keys.length > 0 ? chance.one(words.keys) : chance.one(STRINGS);
  const entry = object.entries.find(([name]) => name === key);
  const value = leaf(odd(chance, words));
  if (entry) entry[1] = value;
  else object.entries.push([key, value]);
  return root;
};

const shuffle: Change = (chance, root) => {
  const { node } = chance.one(spots(root));
  const list: unknown[] = node.kind === "list" ? node.items : node.kind === "object" ? node.entries : [];
  for (let i = list.length - 1; i > 0; i--) {
    const j = chance.below(i + 1);
    [list[i], list[j]] = [list[j], list[i]];
  }
  return root;
};

const CHANGES: readonly Change[] = [
  replace,
  replace,
  replace,
  nudge,
  nudge,
  remove,
  repeat,
  move,
  wrap,
  rename,
  set,
  set,
  set,
  shuffle,
];

/** The bytes of a value's JSON with a few changes. Some mutants have changed bytes besides, or nothing else. */
export function mutateJson(chance: Chance, value: unknown, words: Words): Buffer {
  const bytesToo = chance.is(0.1);
  let root = parse(value);
  for (let left = bytesToo ? chance.below(2) : chance.few(); left > 0; left--)
    root = chance.one(CHANGES)(chance, root, words);
  const bytes = Buffer.from(write(root));
  return bytesToo ? mutateBytes(chance, bytes) : bytes;
}
