// Arguments of a call in a template.

import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { type Arguments, typeOf, type Value } from "./values.js";

/** Reads the arguments of one call by name or place, and refuses what is left. */
export class Call {
  readonly #name: string;
  readonly #args: readonly Value[];
  readonly #named: Map<string, Value>;
  #place = 0;

  constructor(name: string, { args, named }: Arguments) {
    this.#name = name;
    this.#args = args;
    this.#named = new Map(named);
  }

  /** The next argument, or undefined if it was not given. */
  any(name: string): Value {
    const at = this.#place++;
    if (at < this.#args.length) return this.#args[at];
    const value = this.#named.get(name);
    this.#named.delete(name);
    return value;
  }

  text(name: string): string;
  text(name: string, usual: string): string;
  text(name: string, usual?: string): string {
    const value = this.any(name) ?? usual;
    return typeof value === "string" ? value : this.#wrong(name, "text", value);
  }

  whole(name: string, usual: number): number {
    const value = this.any(name) ?? usual;
    return typeof value === "number" ? value : this.#wrong(name, "a whole number", value);
  }

  flag(name: string, usual: boolean): boolean {
    const value = this.any(name) ?? usual;
    return typeof value === "boolean" ? value : this.#wrong(name, "true or false", value);
  }

  /** The rest by place. */
  rest(): readonly Value[] {
    const rest = this.#args.slice(this.#place);
    this.#place = this.#args.length;
    return rest;
  }

  end(): void {
    if (this.#place < this.#args.length) refuse(`${this.#name} takes at most ${this.#place} arguments`);
    const [more] = this.#named.keys();
    if (more !== undefined) refuse(`${this.#name} has no argument ${more}`);
  }

  #wrong(name: string, wanted: string, value: Value): never {
    return refuse(`${this.#name}: ${name} must be ${wanted}, got ${typeOf(value)}`);
  }
}

/** @param given the arguments as they are read; `all`: those that are left, and by name */
export type Filter = (value: Value, given: Call, budget: Budget, all: Arguments) => Value;
