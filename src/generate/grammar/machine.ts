// Runs automata that call each other. A state of the machine is the set of all stacks that a text may have led to: what is on top, and
// below it the states to return to. Equal sets are one object, and where each byte leads is kept, so most steps are one look-up.

import { OctavoError } from "../../core/errors.js";
import type { Automaton } from "./automaton.js";

/** Stacks: the states on top, below each the stacks under it; and whether the empty stack is one of them. */
export interface Stacks {
  readonly id: number;
  readonly tops: readonly number[];
  readonly below: readonly Stacks[];
  /** Nothing is left to be done: a text that led here is complete. */
  readonly done: boolean;
}

/** No byte leads on. */
export const DEAD = -1;
const UNKNOWN = -2;

/** Numbers that the table of steps may have by default, and sets of stacks that one step may make. */
const MOST_CELLS = 1 << 21;
const MOST_STACKS = 100_000;

export class Machine {
  readonly automaton: Automaton;
  /** Bytes between which no state tells have one class. */
  readonly classOf = new Uint8Array(256);
  readonly classes: number;
  /** [state * classes + class]: where a byte leads. */
  table: Int32Array;
  /** By number: the states that were met. */
  readonly states: Stacks[] = [];
  /** By number: 1 if a text may end there. */
  complete = new Uint8Array(1024);
  readonly #numbers = new Map<number, number>();
  #known = new Map<string, Stacks>();
  #unions = new Map<string, Stacks>();
  #ids = 0;
  #made = 0;
  #epoch = 0;
  readonly #byteOf: number[] = [];
  readonly #most: number;
  /** The empty stack alone. */
  readonly bottom: Stacks;
  /** Before a text. */
  readonly start: Stacks;

  /** @param most numbers that the table of steps may have before everything is forgotten */
  constructor(automaton: Automaton, most = MOST_CELLS) {
    this.automaton = automaton;
    this.#most = most;
    const cuts = new Set([0]);
    for (const own of automaton.bytes) {
      for (let n = 0; n < own.length; n += 3) {
        cuts.add(own[n]!);
        cuts.add(own[n + 1]! + 1);
      }
    }
    for (let byte = 0; byte < 256; byte++) {
      if (cuts.has(byte)) this.#byteOf.push(byte);
      this.classOf[byte] = this.#byteOf.length - 1;
    }
    this.classes = this.#byteOf.length;
    this.table = new Int32Array(64 * this.classes).fill(UNKNOWN);
    this.bottom = this.#stacks([], true);
    this.start = this.#closed([[automaton.start, this.bottom]]);
  }

  /** How often everything known was forgotten: numbers of states are of one epoch. */
  get epoch(): number {
    return this.#epoch;
  }

  /** The number of a state. */
  number(state: Stacks): number {
    const known = this.#numbers.get(state.id);
    if (known !== undefined) return known;
    const number = this.states.push(state) - 1;
    this.#numbers.set(state.id, number);
    if (this.table.length < (number + 1) * this.classes) {
      const grown = new Int32Array(2 * this.table.length).fill(UNKNOWN);
      grown.set(this.table);
      this.table = grown;
    }
    if (this.complete.length <= number) {
      const grown = new Uint8Array(2 * this.complete.length);
      grown.set(this.complete);
      this.complete = grown;
    }
    this.complete[number] = state.done ? 1 : 0;
    return number;
  }

  /** Where a class of bytes leads from a state, both by number; DEAD for nowhere. */
  step(state: number, byteClass: number): number {
    const cell = state * this.classes + byteClass;
    const known = this.table[cell]!;
    if (known !== UNKNOWN) return known;
    const next = this.#next(this.states[state]!, this.#byteOf[byteClass]!);
    const number = next ? this.number(next) : DEAD;
    this.table[cell] = number;
    return number;
  }

  /** Where bytes lead; undefined for nowhere. */
  run(state: Stacks, bytes: ArrayLike<number>): Stacks | undefined {
    let at = this.number(state);
    for (let n = 0; n < bytes.length; n++) {
      at = this.step(at, this.classOf[bytes[n]!]!);
      if (at === DEAD) return undefined;
    }
    return this.states[at];
  }

  /** Forgets what is known if that is much. States that someone holds stay valid; their numbers do not. */
  tidy(): void {
    if (this.states.length * this.classes < this.#most && this.#known.size < MOST_STACKS) return;
    this.#epoch++;
    this.states.length = 0;
    this.#numbers.clear();
    this.#known = new Map();
    this.#unions = new Map();
    this.table = new Int32Array(64 * this.classes).fill(UNKNOWN);
  }

  /** The state with this state of an automaton on top and nothing below. */
  alone(top: number): Stacks {
    return this.#stacks([[top, this.bottom]], false);
  }

  /** The state after what is on top of some stacks has ended. */
  after(below: Stacks): Stacks {
    return this.#closed(
      below.tops.map((top, n) => [top, below.below[n]!]),
      below.done,
    );
  }

  #next(state: Stacks, byte: number): Stacks | undefined {
    const reached: [number, Stacks][] = [];
    for (const [n, top] of state.tops.entries()) {
      const own = this.automaton.bytes[top]!;
      for (let i = 0; i < own.length; i += 3) {
        if (byte >= own[i]! && byte <= own[i + 1]!) reached.push([own[i + 2]!, state.below[n]!]);
      }
    }
    return reached.length === 0 ? undefined : this.#closed(reached);
  }

  /** Follows free ways, calls and returns; keeps the tops from which a byte leads on. */
  #closed(reached: readonly (readonly [number, Stacks])[], done = false): Stacks {
    const { bytes, free, calls, ends, tails } = this.automaton;
    const found = new Map<number, Stacks>();
    const todo: [number, Stacks][] = [];
    let complete = done;
    this.#made = 0;
    const add = (top: number, below: Stacks): void => {
      const before = found.get(top);
      const all = before ? this.#union(before, below) : below;
      if (all === before) return;
      found.set(top, all);
      todo.push([top, below]);
    };
    for (const [top, below] of reached) add(top, below);
    for (let next = todo.pop(); next; next = todo.pop()) {
      const [top, below] = next;
      for (const to of free[top]!) add(to, below);
      const called = calls[top]!;
      for (let n = 0; n < called.length; n += 2) {
        const back = called[n + 1]!;
        add(called[n]!, tails[back] === 1 ? below : this.#stacks([[back, below]], false));
      }
      if (ends[top] !== 1) continue;
      complete ||= below.done;
      for (const [n, back] of below.tops.entries()) add(back, below.below[n]!);
    }
    const tops = [...found].filter(([top]) => bytes[top]!.length > 0);
    return this.#stacks(tops, complete);
  }

  /** The one object for some stacks. */
  #stacks(entries: readonly (readonly [number, Stacks])[], done: boolean): Stacks {
    const sorted = [...entries].sort((a, b) => a[0] - b[0]);
    const key = `${done ? "." : ""}${sorted.map(([top, { id }]) => `${top}:${id}`).join()}`;
    const known = this.#known.get(key);
    if (known) return known;
    if (++this.#made > MOST_STACKS) {
      throw new OctavoError("ERR_UNSUPPORTED", "the grammar can be read in too many ways at once", {
        hint: "make it less ambiguous",
      });
    }
    const made = { id: this.#ids++, tops: sorted.map(([top]) => top), below: sorted.map(([, own]) => own), done };
    this.#known.set(key, made);
    return made;
  }

  #union(a: Stacks, b: Stacks): Stacks {
    if (a === b) return a;
    const key = a.id < b.id ? `${a.id} ${b.id}` : `${b.id} ${a.id}`;
    const known = this.#unions.get(key);
    if (known) return known;
    const entries = new Map(a.tops.map((top, n) => [top, a.below[n]!]));
    for (const [n, top] of b.tops.entries()) {
      const own = entries.get(top);
      entries.set(top, own ? this.#union(own, b.below[n]!) : b.below[n]!);
    }
    const union = this.#stacks([...entries], a.done || b.done);
    this.#unions.set(key, union);
    return union;
  }
}
