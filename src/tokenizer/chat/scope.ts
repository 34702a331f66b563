// Variables of a chat template, its text as it is made, and what loops say about themselves.

import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { Callable, type Value } from "./values.js";

/** Variables of a block, over those of the blocks around it. */
export class Scope {
  readonly #own = new Map<string, Value>();
  readonly #around: Scope | undefined;

  constructor(around?: Scope) {
    this.#around = around;
  }

  get(name: string): Value {
    for (let scope: Scope | undefined = this; scope !== undefined; scope = scope.#around) {
      if (scope.#own.has(name)) return scope.#own.get(name);
    }
    return undefined;
  }

  set(name: string, value: Value): void {
    this.#own.set(name, value);
  }
}

/** How a block ended. */
export type End = "break" | "continue" | undefined;

/** Text as it is made. */
export class Output {
  readonly #parts: string[] = [];
  #length = 0;

  add(text: string, budget: Budget): void {
    budget.output(this.#length, text.length);
    this.#length += text.length;
    this.#parts.push(text);
  }

  text(): string {
    return this.#parts.join("");
  }
}

/** An attribute of `loop` at item i, in a recursive one at a depth; `changed` remembers what it was called with. */
export function ofLoop(
  name: string,
  items: readonly Value[],
  i: number,
  depth: number,
  changed: (values: readonly Value[]) => boolean,
): Value {
  switch (name) {
    case "index":
      return i + 1;
    case "index0":
      return i;
    case "revindex":
      return items.length - i;
    case "revindex0":
      return items.length - i - 1;
    case "first":
      return i === 0;
    case "last":
      return i === items.length - 1;
    case "length":
      return items.length;
    case "previtem":
      return items[i - 1];
    case "nextitem":
      return items[i + 1];
    case "depth": // of recursive loops
      return depth + 1;
    case "depth0":
      return depth;
    case "cycle":
      return new Callable(name, ({ args }) =>
        args.length === 0 ? refuse("cycle needs values") : args[i % args.length],
      );
    case "changed":
      return new Callable(name, ({ args }) => changed(args));
    default:
      return undefined;
  }
}
