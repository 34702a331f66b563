// The adapters of a model: which there are, which work, and what their parameters are. All changes are recorded at once, and a change
// that fails leaves the model as it was.

import { OptionError } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import type { Architecture } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import type { Matrix, Parameter } from "../nn/module.js";
import {
  type Adapter,
  type Blueprint,
  blueprintOf,
  bytesOf,
  disposeAdapter,
  type Firsts,
  homeOf,
  newAdapter,
  parametersOf,
  takeOut,
} from "./adapter.js";
import type { Choice } from "./choice.js";
import type { AnyLoraConfig } from "./config.js";
import { isDecomposition } from "./first-values.js";
import { RowAdapters, type RowMasks } from "./rows.js";
import { AdaptedStack } from "./stack.js";
import { targetsOf } from "./targets.js";
import { Adapted } from "./weight.js";

/** The name by which rows of a batch have no adapter. */
export const BASE = "__base__";

/** A name that can be part of a parameter's name, and of a folder's path. @throws OptionError */
export function adapterName(value: unknown): string {
  const fits = typeof value === "string" && /^[^./\\:\p{C}]{1,200}$/u.test(value) && value !== BASE;
  if (fits) return value;
  throw new OptionError(`an adapter's name is a word without dots and slashes, got ${show(value)}`, {
    details: { option: "adapter_name" },
  });
}

/** A new adapter before it has values. */
export interface Prepared {
  readonly name: string;
  readonly config: AnyLoraConfig;
  readonly blueprint: Blueprint;
}

interface State extends Choice {
  active: readonly string[];
  enabled: boolean;
  merged: ReadonlySet<string>;
  training: boolean;
  rows: RowMasks | undefined;
}

export class Adapters {
  readonly model: Model;
  readonly architecture: Architecture;
  /** Called before all adapters are freed. */
  onDispose: (() => void) | undefined;
  readonly #adapters = new Map<string, Adapter>();
  readonly #state: State = { active: [], enabled: true, merged: new Set(), training: false, rows: undefined };

  constructor(model: Model, architecture: Architecture) {
    this.model = model;
    this.architecture = architecture;
  }

  get names(): readonly string[] {
    return [...this.#adapters.keys()];
  }

  get size(): number {
    return this.#adapters.size;
  }

  get choice(): Choice {
    return this.#state;
  }

  /** @throws OptionError if there is no such adapter */
  get(name: unknown): Adapter {
    const adapter = typeof name === "string" ? this.#adapters.get(name) : undefined;
    if (adapter) return adapter;
    if (this.size === 0) throw noAdapters();
    throw new OptionError(`adapter with name ${show(name)} not found`, {
      details: { option: "adapter_name" },
      hint: `there are ${listed(this.names)}`,
    });
  }

  /** @throws OptionError if the name is taken or no name */
  free(name: unknown): string {
    const fit = adapterName(name);
    if (!this.#adapters.has(fit)) return fit;
    throw new OptionError(`adapter with name ${show(fit)} already exists`, {
      details: { option: "adapter_name" },
      hint: "use another name, or delete_adapter() first",
    });
  }

  /** What a new adapter needs of the model. @throws OptionError, OctavoError, OutOfMemoryError */
  prepare(given: unknown, asked: AnyLoraConfig): Prepared {
    const name = this.free(given);
    const { config, ...named } = targetsOf(this.model, this.architecture, asked);
    this.checkConfig(config);
    const blueprint = blueprintOf(this.model, this.architecture, { config, ...named });
    homeOf(blueprint).arena.checkRoom(bytesOf(blueprint, config), `the adapter ${name}`);
    return { name, config, blueprint };
  }

  /** Makes an adapter with first values, and puts it on the model; it does not work yet. @throws as `prepare` and `put` */
  add(given: unknown, config: AnyLoraConfig): Adapter {
    return this.begin(this.prepare(given, config));
  }

  /** The same of what was prepared. @param firsts first values that are parts of the model's weights */
  begin({ name, config, blueprint }: Prepared, firsts?: Firsts): Adapter {
    const adapter = newAdapter(name, config, blueprint, firsts);
    this.put(adapter, !config.fields.inference_mode, firsts);
    return adapter;
  }

  /**
   * Only one adapter of a model may have its biases, as in PEFT; and parts are taken of the model's own weights, which others are not in.
   * @throws OptionError
   */
  checkConfig({ fields }: AnyLoraConfig): void {
    const { merged } = this.#state;
    if (merged.size > 0 && isDecomposition(fields.init_lora_weights)) {
      throw new OptionError(
        `${fields.init_lora_weights} takes parts of the weights, with ${listed([...merged])} merged into them`,
        {
          details: { option: "init_lora_weights" },
          hint: "unmerge_adapter() first",
        },
      );
    }
    if (fields.bias === "none") return;
    const other = [...this.#adapters.values()].find(({ biases }) => biases.length > 0);
    if (other) {
      throw new OptionError(`bias: ${fields.bias} cannot be used: the biases are those of the adapter ${other.name}`, {
        details: { option: "bias" },
      });
    }
  }

  /**
   * Puts an adapter on the model, which frees it from now on, also if this fails; it does not work yet.
   * @param trainable its parameters ask for gradients
   * @param firsts what it began with, which the model's weights lack from now on
   * @throws OptionError if its name or the biases are taken by now; OutOfMemoryError
   */
  put(adapter: Adapter, trainable: boolean, firsts?: Firsts): void {
    try {
      this.free(adapter.name);
      this.checkConfig(adapter.config);
    } catch (error) {
      disposeAdapter(adapter);
      throw error;
    }
    this.#adapters.set(adapter.name, adapter);
    try {
      for (const { matrix, role, layer } of adapter.places) {
        if (layer.kind === "stack") adaptedStack(matrix, this.#state).set(adapter.name, layer);
        else adapted(matrix, this.#state).set(adapter.name, role, layer);
      }
      if (trainable) for (const [, parameter] of parametersOf(adapter)) parameter.requires_grad_();
      if (firsts) takeOut(firsts);
    } catch (error) {
      this.delete(adapter.name);
      throw error;
    }
    for (const { base, own } of adapter.biases) base.replaceBy(own);
    this.#apply();
  }

  /**
   * Adapters that are to be at work, or merged, together.
   * @throws OptionError if one is not there or named twice, or if one has a module whole that another one changes too
   */
  together(names: readonly unknown[]): readonly Adapter[] {
    const all = names.map((name) => this.get(name));
    if (new Set(all).size < all.length) {
      throw new OptionError(`a name of an adapter is given twice in ${listed(names.map(String))}`, {
        details: { option: "adapter_names" },
      });
    }
    for (const one of all) {
      for (const [what, changes] of wholeOf(one)) {
        const other = all.find((other) => other !== one && changes(other));
        if (!other) continue;
        throw new OptionError(`${one.name} has ${what}, and ${other.name} changes it too: use one of them`, {
          details: { option: "adapter_names" },
        });
      }
    }
    return all;
  }

  /** From now on these adapters work, and no others. @throws as `together` */
  activate(names: readonly unknown[]): void {
    this.#state.active = this.together(names).map(({ name }) => name);
    this.#apply();
  }

  enable(on: boolean): void {
    if (this.size === 0) throw noAdapters();
    this.#state.enabled = on;
    this.#apply();
  }

  train(on: boolean): void {
    this.#state.training = on;
  }

  /** Says that the stored weights hold these adapters now. */
  holds(names: readonly string[]): void {
    this.#state.merged = new Set(names);
  }

  /** Takes an adapter off the model and frees it. */
  delete(name: string): void {
    const adapter = this.#adapters.get(name);
    if (!adapter) return;
    this.#adapters.delete(name);
    if (this.size === 0) this.#state.enabled = true; // was said of those that are gone
    this.#state.active = this.#state.active.filter((one) => one !== name);
    for (const { matrix } of adapter.places) {
      const { weight } = matrix;
      const over = weight instanceof Adapted || weight instanceof AdaptedStack;
      if (over && !weight.remove(name)) matrix.unwrap();
    }
    for (const { base } of [...adapter.replaced, ...adapter.biases]) base.replaceBy(undefined);
    this.#apply();
    disposeAdapter(adapter);
  }

  /** Parameters of all adapters by the names that PEFT gives them. */
  *named_parameters(): Iterable<[string, Parameter | Matrix]> {
    for (const adapter of this.#adapters.values()) yield* parametersOf(adapter);
  }

  /** Biases of the model that adapters have their own of, by the same names. */
  get biases(): ReadonlySet<unknown> {
    return new Set([...this.#adapters.values()].flatMap(({ biases }) => biases.map(({ base }) => base)));
  }

  /** Bytes on the device. */
  get nbytes(): number {
    let bytes = 0;
    for (const [, parameter] of this.named_parameters()) bytes += parameter.nbytes;
    return bytes;
  }

  /**
   * The adapter of each of `rows` rows, "__base__" for none. The caller disposes it.
   * @throws OptionError for names that are not there, another number of them, or adapters that are not for single rows
   */
  perRow(names: readonly string[], rows: number): RowAdapters {
    if (names.length !== rows) {
      throw new OptionError(`adapter_names: there are ${names.length} names for ${rows} rows`, {
        details: { option: "adapter_names" },
      });
    }
    if (this.#state.merged.size > 0) {
      throw new OptionError("adapter_names cannot be used while adapters are merged", {
        hint: "unmerge_adapter() first",
      });
    }
    const used = [...new Set(names.filter((name) => name !== BASE))].map((name) => this.get(name));
    for (const { name, config, replaced, places, biases } of used) {
      const more = replaced.length + biases.length > 0 || places.some(({ layer }) => layer.kind !== "lora");
      if (!more && !config.fields.use_dora) continue;
      throw new OptionError(
        `adapter_names: ${name} is not for single rows, as it has whole modules, rows of tokens, stacks of experts, biases or DoRA`,
        { details: { option: "adapter_names" } },
      );
    }
    const every = used.map(({ name }) => name);
    return new RowAdapters(this.model.device!, names, every, (masks, body) => this.#during(masks, body));
  }

  #during<T>(masks: RowMasks, body: () => T): T {
    const before = this.#state.rows;
    this.#state.rows = masks;
    this.#apply();
    try {
      return body();
    } finally {
      this.#state.rows = before;
      this.#apply();
    }
  }

  /** What works now, as a text: keys and values that were computed by it are void once it is another. */
  get working(): string {
    const { enabled, active, merged } = this.#state;
    return JSON.stringify([enabled ? active : [], [...merged]]);
  }

  /** Puts vectors of modules that are saved whole in the place of the model's, or takes them away. */
  #apply(): void {
    const { active, enabled, rows } = this.#state;
    const adapters = [...this.#adapters.values()];
    for (const { replaced } of adapters) for (const { base } of replaced) base.replaceBy(undefined);
    if (!enabled || rows) return;
    for (const name of active) {
      for (const { base, own } of this.#adapters.get(name)?.replaced ?? []) base.replaceBy(own);
    }
  }

  dispose(): void {
    this.onDispose?.();
    for (const name of this.names) this.delete(name);
  }
}

/** What an adapter has whole, or rows of it, and whether another adapter changes that too. */
function* wholeOf({ places, replaced }: Adapter): Iterable<readonly [string, (other: Adapter) => boolean]> {
  for (const { path, matrix, role, layer } of places) {
    if (layer.kind !== "whole" && layer.kind !== "tokens") continue;
    const what = layer.kind === "whole" ? `${path} whole` : `rows of ${path}`;
    yield [what, (other) => other.places.some((place) => place.matrix === matrix && place.role === role)];
  }
  for (const { name, base } of replaced)
    yield [`${name} whole`, (other) => other.replaced.some((one) => one.base === base)];
}

/** The matrix's weight with adapters over it. */
function adapted(matrix: Matrix, choice: Choice): Adapted {
  const { weight } = matrix;
  if (weight instanceof Adapted) return weight;
  matrix.wrap((base) => new Adapted(base, choice));
  return matrix.weight as Adapted;
}

/** The same of a stack of experts. */
function adaptedStack(matrix: Matrix, choice: Choice): AdaptedStack {
  const { weight } = matrix;
  if (weight instanceof AdaptedStack) return weight;
  matrix.wrap((base) => new AdaptedStack(base, choice));
  return matrix.weight as AdaptedStack;
}

export function noAdapters(): OptionError {
  return new OptionError("no adapter loaded: please load an adapter first", {
    hint: "await model.load_adapter(folder)",
  });
}
