// A trie of words in typed arrays. Nodes are numbered by levels, so that the children of a node are neighbours, sorted by their
// unit; a million words take a few seconds and some 15 bytes for each node.

import { FormatError } from "../core/errors.js";

/** Nodes of one trie. Published vocabularies stay under 2^22. */
const MAX_NODES = 1 << 24;
/** Words of a node by their next unit, in one number: the unit times this, and their place. */
const PLACES = 2 ** 32;

export class Trie {
  /** For each node, the UTF-16 unit that leads to it. */
  readonly units: Uint16Array;
  /** For each node, the index of the word that ends there, or -1. */
  readonly words: Int32Array;
  /** For each node its parent. */
  readonly parents: Int32Array;
  readonly size: number;
  readonly #first: Int32Array; // children of n: first[n] up to first[n + 1]
  readonly #root = new Int32Array(65536); // children of the root, which are asked for most; 0 for none

  /**
   * @param words of two equal ones the later counts; empty ones count not at all
   * @param backwards whether they are read from their end
   * @param file the words' place, for messages
   * @throws FormatError when the words have too many characters
   */
  constructor(words: readonly string[], backwards: boolean, file: string) {
    const unitAt = (word: string, depth: number) => word.charCodeAt(backwards ? word.length - 1 - depth : depth);
    let most = 1;
    for (const word of words) most += word.length;
    let nodes = 1;
    let [units, ends, parents] = [new Uint16Array(1), new Int32Array(1).fill(-1), new Int32Array(1)];
    let [first, from, to] = [new Int32Array(2), new Int32Array(1), new Int32Array(1)];
    const grow = () => {
      if (nodes > MAX_NODES) {
        throw new FormatError(`${file}: the tokens have more than ${MAX_NODES} characters that are not shared`, {
          details: { file, expected: MAX_NODES },
        });
      }
      const size = Math.min(most, MAX_NODES + 1, Math.max(1024, 2 * nodes));
      units = grown(Uint16Array, units, size);
      ends = grown(Int32Array, ends, size);
      parents = grown(Int32Array, parents, size);
      first = grown(Int32Array, first, size + 1);
      from = grown(Int32Array, from, size);
      to = grown(Int32Array, to, size);
    };

    // Words [from, to) of the order have the beginning that leads to the node.
    const order = Int32Array.from(words.keys());
    to[0] = order.length;
    let depth = 0;
    for (let node = 0, level = 1; node < nodes; node++) {
      if (node === level) {
        level = nodes;
        depth++;
      }
      first[node] = nodes;
      sort(words, order, from[node]!, to[node]!, depth, unitAt);
      let i = from[node]!;
      const end = to[node]!;
      for (; i < end && words[order[i]!]!.length === depth; i++) ends[node] = Math.max(ends[node]!, order[i]!);
      while (i < end) {
        const unit = unitAt(words[order[i]!]!, depth);
        if (nodes === units.length) grow();
        const child = nodes++;
        units[child] = unit;
        ends[child] = -1;
        parents[child] = node;
        from[child] = i;
        while (i < end && unitAt(words[order[i]!]!, depth) === unit) i++;
        to[child] = i;
        if (node === 0) this.#root[unit] = child;
      }
    }
    first[nodes] = nodes;
    ends[0] = -1;
    this.size = nodes;
    this.units = units;
    this.words = ends;
    this.parents = parents;
    this.#first = first;
  }

  /** The child of a node for a unit, or 0. */
  child(node: number, unit: number): number {
    if (node === 0) return this.#root[unit]!;
    const { units } = this;
    let low = this.#first[node]!;
    const end = this.#first[node + 1]!;
    if (low === end) return 0;
    if (units[low] === unit) return low; // most nodes have one child
    let high = end;
    low++;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (units[middle]! < unit) low = middle + 1;
      else high = middle;
    }
    return low < end && units[low] === unit ? low : 0;
  }
}

function grown<T extends Uint16Array | Int32Array>(Kind: new (size: number) => T, old: T, size: number): T {
  const array = new Kind(size);
  array.set(old);
  return array;
}

/** Sorts the words [from, to) of an order by the unit at a depth; those that end there come first. */
function sort(
  words: readonly string[],
  order: Int32Array,
  from: number,
  to: number,
  depth: number,
  unitAt: (word: string, depth: number) => number,
): void {
  if (to - from < 2) return;
  const keys = new Float64Array(to - from);
  let ascending = true;
  for (let i = from; i < to; i++) {
    const word = words[order[i]!]!;
    const unit = word.length === depth ? -1 : unitAt(word, depth);
    keys[i - from] = unit * PLACES + order[i]!;
    ascending &&= i === from || keys[i - from]! > keys[i - from - 1]!;
  }
  if (ascending) return;
  keys.sort();
  for (let i = 0; i < keys.length; i++) order[from + i] = keys[i]! - Math.floor(keys[i]! / PLACES) * PLACES;
}
