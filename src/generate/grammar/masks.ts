// Which tokens may follow a text, as bits. A token is tried by its bytes, all tokens together on the tree of the vocabulary. Most of
// them stay inside what is on top of the stacks: those are found once for each state of an automaton, whatever lies below. Only where
// a token goes on behind the end of a rule is its rest tried on the stacks below.

import { DEAD, type Machine, type Stacks } from "./machine.js";
import type { Tree, Vocabulary } from "./vocabulary.js";

/** What a state of an automaton allows whatever lies below: tokens, and the nodes of the tree at which its rule has ended. */
interface Local {
  readonly bits: Uint32Array;
  readonly exits: Int32Array;
}

/** Bytes that kept masks may take, whole ones and those of single states each. */
const MOST_BYTES = 8 << 20;
const SPACE = 0x20;

export class Masks {
  readonly machine: Machine;
  readonly vocabulary: Vocabulary;
  readonly #ends: readonly number[];
  /** Of each tree of the vocabulary, by state. */
  readonly #locals = new Map<Tree, Map<number, Local>>();
  #localBytes = 0;
  #masks = new Map<number, Uint32Array>();
  #beginning: Uint32Array | undefined;
  /** Of each depth of the tree: the state, by number. */
  readonly #path: Int32Array;

  /** @param ends ids that end a text, which may come when it is complete */
  constructor(machine: Machine, vocabulary: Vocabulary, ends: readonly number[]) {
    this.machine = machine;
    this.vocabulary = vocabulary;
    this.#ends = ends.filter((id) => id < vocabulary.size);
    this.#path = new Int32Array(Math.max(...vocabulary.trees.map(({ longest }) => longest)) + 2);
    for (const tree of vocabulary.trees) this.#locals.set(tree, new Map());
  }

  /** The tokens that may follow; bit i % 32 of word i / 32 is token i. The same object for the same state, most times. */
  of(state: Stacks): Uint32Array {
    const known = this.#masks.get(state.id);
    if (known) return known;
    this.machine.tidy(); // numbers of states do not outlive a walk
    const bits = this.#empty();
    for (const [n, top] of state.tops.entries()) {
      const below = state.below[n]!;
      for (const tree of this.vocabulary.trees) {
        const local = this.#local(tree, top);
        for (let i = 0; i < bits.length; i++) bits[i]! |= local.bits[i]!;
        if (below === this.machine.bottom || local.exits.length === 0) continue;
        const after = this.machine.number(this.machine.after(below));
        for (const node of local.exits) this.#walk(tree, node + 1, tree.end[node]!, after, bits);
      }
    }
    this.#end(state, bits);
    return this.#keep(state.id, bits);
  }

  /** The same for the first token of a text before which there is none: a space there may be dropped. */
  first(): Uint32Array {
    const { machine, vocabulary } = this;
    if (vocabulary.begin === "kept") return this.of(machine.start);
    if (this.#beginning) return this.#beginning;
    this.machine.tidy();
    const bits = this.#empty();
    const start = machine.number(machine.start);
    for (const tree of vocabulary.trees) {
      for (let node = 0; node < tree.byte.length; node = tree.end[node]!) {
        const end = tree.end[node]!;
        if (tree.byte[node] === SPACE) {
          this.#set(tree, node, bits);
          this.#walk(tree, node + 1, end, start, bits);
        } else if (vocabulary.begin === "dropped") this.#walk(tree, node, end, start, bits);
      }
    }
    for (const id of vocabulary.notFirst) bits[id >>> 5]! &= ~(1 << (id & 31));
    this.#end(machine.start, bits);
    this.#beginning = bits;
    return bits;
  }

  /** The state after a token; undefined if it may not follow. */
  next(state: Stacks, id: number, first: boolean): Stacks | undefined {
    const { begin, bytes, notFirst } = this.vocabulary;
    const own = bytes[id];
    if (!own) return undefined;
    this.machine.tidy();
    if (!first || begin === "kept") return this.machine.run(state, own);
    if (notFirst.has(id)) return undefined;
    if (own[0] === SPACE) return this.machine.run(state, own.subarray(1));
    return begin === "dropped" ? this.machine.run(state, own) : undefined;
  }

  #end(state: Stacks, bits: Uint32Array): void {
    if (!state.done) return;
    for (const id of this.#ends) bits[id >>> 5]! |= 1 << (id & 31);
  }

  #local(tree: Tree, top: number): Local {
    const { automaton } = this.machine;
    // No token reaches the end of a long repetition, so all copies before it allow the same.
    const key = automaton.copies[top]! > tree.longest ? automaton.first[top]! : top;
    const locals = this.#locals.get(tree)!;
    const known = locals.get(key);
    if (known) return known;
    const bits = this.#empty();
    const exits: number[] = [];
    this.#walk(tree, 0, tree.byte.length, this.machine.number(this.machine.alone(key)), bits, exits);
    const local = { bits, exits: Int32Array.from(exits) };
    const bytes = bits.byteLength + local.exits.byteLength;
    if (this.#localBytes + bytes > MOST_BYTES) {
      for (const own of this.#locals.values()) own.clear();
      this.#localBytes = 0;
    }
    this.#localBytes += bytes;
    locals.set(key, local);
    return local;
  }

  /** Tries the nodes from `node` to before `end`, which are all below one parent, from a state. */
  #walk(tree: Tree, node: number, end: number, state: number, bits: Uint32Array, exits?: number[]): void {
    if (node >= end) return;
    const { machine } = this;
    const { byte, depth, end: ends, token } = tree;
    const { classOf, classes } = machine;
    const path = this.#path;
    let { table } = machine;
    path[depth[node]!] = state;
    for (let at = node; at < end; ) {
      const level = depth[at]!;
      const byteClass = classOf[byte[at]!]!;
      const from = path[level]!;
      let to = table[from * classes + byteClass]!;
      if (to < DEAD) {
        to = machine.step(from, byteClass);
        table = machine.table;
      }
      if (to === DEAD) {
        at = ends[at]!;
        continue;
      }
      path[level + 1] = to;
      if (token[at]! >= 0) this.#set(tree, at, bits);
      if (exits && machine.complete[to] === 1) exits.push(at);
      at++;
    }
  }

  #set(tree: Tree, node: number, bits: Uint32Array): void {
    const { same } = this.vocabulary;
    for (let id = tree.token[node]!; id >= 0; id = same[id]!) bits[id >>> 5]! |= 1 << (id & 31);
  }

  #empty(): Uint32Array {
    return new Uint32Array(Math.ceil(this.vocabulary.size / 32));
  }

  #keep(id: number, bits: Uint32Array): Uint32Array {
    if (this.#masks.size * bits.byteLength > MOST_BYTES) this.#masks.clear();
    this.#masks.set(id, bits);
    return bits;
  }
}
