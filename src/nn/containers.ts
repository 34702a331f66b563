// Modules that hold others in order. The names of their children are numbers.

import { isOf, listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { scope, type Tensor } from "../core/tensor.js";
import { Module } from "./module.js";

/** A module that makes one tensor of one. */
export interface Layer extends Module {
  forward(x: Tensor): Tensor;
}

function isLayer(value: unknown): value is Layer {
  return isOf(value, Module) && typeof (value as Partial<Layer>).forward === "function";
}

/** Modules that run one after the other. */
export class Sequential extends Module {
  readonly #items: Layer[];

  /** @throws OptionError for what is no module with a `forward` */
  constructor(...items: Layer[]) {
    super();
    const odd = items.find((item) => !isLayer(item));
    if (odd !== undefined || !items.every(isLayer)) {
      throw new OptionError(`Sequential: it holds modules with a forward, got ${show(odd)}`);
    }
    this.#items = items;
  }

  override *children(): Iterable<[string, Module]> {
    for (const [i, item] of this.#items.entries()) yield [String(i), item];
  }

  /** Puts another module in a place. */
  override replace(name: string, module: Module): void {
    this.#items[Number(name)] = module as Layer;
  }

  get length(): number {
    return this.#items.length;
  }

  /** The module at a place, from the end if it is negative. */
  at(index: number): Layer | undefined {
    return this.#items.at(index);
  }

  [Symbol.iterator](): Iterator<Layer> {
    return this.#items[Symbol.iterator]();
  }

  forward(x: Tensor): Tensor {
    return scope(() => this.#items.reduce((value, item) => item.forward(value), x));
  }
}

/** A list of modules, which whoever holds it runs. */
export class ModuleList extends Module {
  readonly #items: Module[];

  /** @throws OptionError for what is no list of modules */
  constructor(items: readonly Module[] = []) {
    super();
    const copy = listOf(items, (item): item is Module => isOf(item, Module));
    if (!copy) throw new OptionError(`ModuleList: it holds a list of modules, got ${show(items)}`);
    this.#items = copy;
  }

  override *children(): Iterable<[string, Module]> {
    for (const [i, item] of this.#items.entries()) yield [String(i), item];
  }

  override replace(name: string, module: Module): void {
    this.#items[Number(name)] = module;
  }

  /** @throws OptionError */
  append(module: Module): this {
    if (!isOf(module, Module)) throw new OptionError(`ModuleList: it holds modules, got ${show(module)}`);
    this.#items.push(module);
    return this;
  }

  get length(): number {
    return this.#items.length;
  }

  /** The module at a place, from the end if it is negative. */
  at(index: number): Module | undefined {
    return this.#items.at(index);
  }

  [Symbol.iterator](): Iterator<Module> {
    return this.#items[Symbol.iterator]();
  }
}
