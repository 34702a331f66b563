// The tokens of a vocabulary as a tree of their bytes, in one walk's order: a walk visits a node, then everything below it.

import type { TokenBytes } from "../../tokenizer/token-bytes.js";

/** Most bytes of a short token. */
const SHORT = 24;

interface Key {
  /** The token's bytes, a character for each. */
  readonly key: string;
  readonly id: number;
}

/** Some tokens, as a tree. */
export class Tree {
  /** Of each node: its byte, how many bytes lead to it, the node behind all below it, and its token or -1. */
  readonly byte: Uint8Array;
  readonly depth: Uint16Array;
  readonly end: Int32Array;
  readonly token: Int32Array;
  /** Bytes of the longest token. */
  readonly longest: number;

  /**
   * @param sorted tokens in the order of their bytes
   * @param same gets for each token the next one with the same bytes
   */
  constructor(sorted: readonly Key[], same: Int32Array) {
    let count = 0;
    let before = "";
    for (const { key } of sorted) {
      count += key.length - shared(before, key);
      before = key;
    }
    this.byte = new Uint8Array(count);
    this.depth = new Uint16Array(count);
    this.end = new Int32Array(count).fill(count);
    this.token = new Int32Array(count).fill(-1);
    const path: number[] = [];
    let node = 0;
    let longest = 0;
    before = "";
    for (const { key, id } of sorted) {
      const common = shared(before, key);
      while (path.length > common) this.end[path.pop()!] = node;
      for (let at = common; at < key.length; at++) {
        this.byte[node] = key.charCodeAt(at);
        this.depth[node] = at;
        path.push(node++);
      }
      const last = path.at(-1)!;
      same[id] = this.token[last]!;
      this.token[last] = id;
      longest = Math.max(longest, key.length);
      before = key;
    }
    this.longest = longest;
  }
}

export class Vocabulary {
  /** Ids are below this: rows of logits are so long, though tokenizers may know fewer tokens. */
  readonly size: number;
  /**
   * The short tokens and the few long ones. Nearly all tokens see only the next few characters, so that a long repetition is the same
   * for them almost everywhere.
   */
  readonly trees: readonly Tree[];
  /** The next token with the same bytes, or -1. */
  readonly same: Int32Array;
  /** 1 for bytes that some token has. */
  readonly usable = new Uint8Array(256);
  readonly bytes: readonly (Uint8Array | undefined)[];
  /** What becomes of a space at the beginning of a text. */
  readonly begin: TokenBytes["begin"];
  /** Tokens that cannot begin a text: what they would be is not known. */
  readonly notFirst: ReadonlySet<number>;

  /** @param without ids that are never text: those that end texts */
  constructor({ bytes, begin, notFirst }: TokenBytes, size: number, without: readonly number[]) {
    this.size = size;
    this.bytes = bytes;
    this.begin = begin;
    this.notFirst = notFirst;
    this.same = new Int32Array(size).fill(-1);
    const out = new Set(without);
    const sorted: Key[] = [];
    for (let id = 0; id < Math.min(size, bytes.length); id++) {
      const own = bytes[id];
      if (!own || own.length === 0 || own.length > 0xffff || out.has(id)) continue;
      let key = "";
      for (const byte of own) {
        key += String.fromCharCode(byte);
        this.usable[byte] = 1;
      }
      sorted.push({ key, id });
    }
    sorted.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : a.id - b.id));
    const isShort = ({ key }: Key): boolean => key.length <= SHORT;
    this.trees = [sorted.filter(isShort), sorted.filter((one) => !isShort(one))].map(
      (some) => new Tree(some, this.same),
    );
  }
}

function shared(a: string, b: string): number {
  const most = Math.min(a.length, b.length);
  let at = 0;
  while (at < most && a.charCodeAt(at) === b.charCodeAt(at)) at++;
  return at;
}
