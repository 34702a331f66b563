// Methods of loaded models that are about adapters, in the words of transformers and PEFT. In Python a PeftModel is a model around a
// model; here it is the model itself, so both spellings are its own.

import type { Firsts } from "../adapters/adapter.js";
import type { AnyLoraConfig, Decomposing, DrawnLora, LoraOptions } from "../adapters/config.js";
import type { MergeError, Merging } from "../adapters/merge.js";
import type { Read } from "../adapters/read.js";
import type { RowAdapters } from "../adapters/rows.js";
import type { Adapters, Prepared } from "../adapters/set.js";
import type { Combination } from "../adapters/weighted.js";
import type { Files } from "../checkpoints/folder-in-memory.js";
import { isList, isOf, listOf } from "../core/checks.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { pick, readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import { SOURCE } from "../load/options.js";
import type { Savable } from "../load/save.js";
import type { Architecture } from "../nn/architecture.js";
import type { Matrix, Parameter } from "../nn/module.js";
import type { StateTensor } from "../nn/state.js";
import type { Source } from "../sources/source.js";
import { LOAD_ADAPTER, type LoadAdapterOptions, MERGE, type MergeOptions, WEIGHTED } from "./adapter-options.js";
import { ADAPTERS } from "./parts.js";
import { VocabularyMethods } from "./vocabulary-methods.js";
import { warnOnce } from "./warn.js";

/** What adapters need to know of the model that holds them. */
export interface AdapterHost {
  readonly architecture: Architecture;
  readonly origin: Partial<Savable["origin"]>;
}

export abstract class AdapterMethods extends VocabularyMethods {
  #adapters: Adapters | undefined;
  #merging: Merging | undefined;
  /** A PeftModel: adapters that are added to others do not work until they are set, as in PEFT. */
  #peft = false;

  abstract hold(): void;
  abstract release(): Promise<void>;

  /** Without it there are no adapters. */
  protected abstract get adapterHost(): AdapterHost | undefined;

  /** The adapters, if there are any. */
  get adapters(): Adapters | undefined {
    return this.#adapters?.size ? this.#adapters : undefined;
  }

  /** @throws OctavoError for a model that was not loaded from files */
  #set(method: string): Adapters {
    this.checkUsable();
    this.checkIdle(method);
    const host = this.adapterHost;
    if (!host) throw new OctavoError("ERR_UNSUPPORTED", `${method} needs a model that was loaded by from_pretrained`);
    this.#adapters ??= new ADAPTERS.now.Adapters(this.module, host.architecture);
    return this.#adapters;
  }

  /** @throws OptionError if there are no adapters */
  #some(method: string): Adapters {
    const adapters = this.#set(method);
    if (adapters.size === 0) throw ADAPTERS.now.noAdapters();
    return adapters;
  }

  #merger(adapters: Adapters): Merging {
    this.#merging ??= new ADAPTERS.now.Merging(adapters);
    return this.#merging;
  }

  /** What is merged is taken out again, with a warning: the weights are the model's own from here on. */
  #apart(): void {
    if (!this.#merging || this.#merging.names.length === 0) return;
    warnOnce("unmerge", "adapters that were merged are taken out of the weights again");
    this.#merging.unmerge();
  }

  /**
   * Loads an adapter, as PEFT saves one, from a folder, a hub or a server: named as from_pretrained finds models; or from the bytes of
   * its files, by their names. It works at once, and others no longer do; on a PeftModel that has others it waits for `set_adapter`. The model that the adapter's files name is
   * not looked for. A load that fails leaves the model as it was.
   * @throws OptionError, NotFoundError, FormatError, UnsupportedModelError, CheckpointError, NetworkError, OutOfMemoryError, AbortError
   */
  async load_adapter(
    which: string | URL | Files,
    name?: string | LoadAdapterOptions,
    options?: LoadAdapterOptions,
  ): Promise<this> {
    const given = readOptions("load_adapter", LOAD_ADAPTER, typeof name === "string" ? options : (name ?? options));
    const adapters = this.#set("load_adapter");
    const called = adapters.free(typeof name === "string" ? name : (given.adapter_name ?? "default"));
    const trainable = given.is_trainable ?? false;
    let read: Read;
    this.hold();
    try {
      const source = await this.#open(which, given);
      try {
        const warn = (message: string): void => warnOnce(message, message);
        read = await ADAPTERS.now.readAdapter(adapters, source, called, { trainable, signal: given.signal, warn });
      } finally {
        await source.close();
      }
    } finally {
      await this.release();
    }
    try {
      this.#set("load_adapter"); // the model may have been disposed meanwhile, or generate now
    } catch (error) {
      ADAPTERS.now.disposeAdapter(read.adapter);
      throw error;
    }
    adapters.put(read.adapter, trainable, read.firsts);
    this.#begin(adapters, called);
    return this;
  }

  async #open(which: unknown, given: LoadAdapterOptions): Promise<Source> {
    const files = ADAPTERS.now.filesOf(which);
    if (files) return ADAPTERS.now.sourceInMemory(files);
    const open = this.adapterHost?.origin.source;
    const where = isOf(which, URL) ? addressOf(which) : which;
    if (typeof where !== "string" || where === "") {
      throw new OptionError(`load_adapter: expected a folder or an id such as "org/name", got ${show(which)}`, {
        hint: 'or the files: { "adapter_config.json": bytes, "adapter_model.safetensors": bytes }',
      });
    }
    if (!open)
      throw new OctavoError("ERR_UNSUPPORTED", "load_adapter needs a model that was loaded by from_pretrained");
    return open(where, { ...pick(SOURCE, given), signal: given.signal });
  }

  /** A new adapter begins to work, unless it is one more on a PeftModel. */
  #begin(adapters: Adapters, name: string): void {
    if (this.#peft && adapters.size > 1) return;
    this.#apart();
    adapters.activate([name]);
  }

  /**
   * Adds an adapter with first values, whose parameters ask for gradients. It works at once, as load_adapter says.
   * First values that are parts of the model's weights (`init_lora_weights`) take a while: the result is then a promise, and the
   * weights lack these parts from then on, whatever becomes of the adapter.
   * @param config a LoraConfig, and then the name ("default"); the other order is PEFT's, and the same
   * @throws OptionError, OctavoError, OutOfMemoryError
   */
  add_adapter(config: DrawnLora | string, name?: string | DrawnLora): this;
  add_adapter(config: Decomposing | string, name?: string | Decomposing): Promise<this>;
  add_adapter(
    config: AnyLoraConfig | LoraOptions | string,
    name?: string | AnyLoraConfig | LoraOptions,
  ): this | Promise<this>;
  add_adapter(config: unknown, name?: unknown): this | Promise<this> {
    const [first, second] = typeof config === "string" ? [name, config] : [config, name];
    const adapters = this.#set("add_adapter");
    const called = adapters.free(second === undefined || second === null ? "default" : second);
    const read = ADAPTERS.now.loraConfig("add_adapter", first);
    const { name: base } = this.adapterHost!.origin;
    const given = read.with({ base_model_name_or_path: base ?? read.fields.base_model_name_or_path });
    const { init_lora_weights: init, loftq_config: loftq } = read.fields;
    if (init !== "loftq" && loftq && Object.keys(loftq).length > 0) {
      warnOnce("loftq_config", `loftq_config is for init_lora_weights: "loftq", and says nothing beside ${show(init)}`);
    }
    if (ADAPTERS.now.isDecomposition(init)) return this.#addDecomposing(adapters.prepare(called, given));
    adapters.add(called, given);
    this.#begin(adapters, called);
    return this;
  }

  async #addDecomposing(prepared: Prepared): Promise<this> {
    let firsts: Firsts | undefined;
    this.hold();
    try {
      firsts = await ADAPTERS.now.firstsOf(this.module, prepared.config, prepared.blueprint);
    } finally {
      await this.release();
    }
    const adapters = this.#set("add_adapter"); // the model may have been disposed meanwhile, or generate now
    adapters.begin(prepared, firsts);
    this.#begin(adapters, prepared.name);
    return this;
  }

  /** From here on the model counts as a PeftModel. */
  asPeft(): this {
    this.#peft = true;
    return this;
  }

  /** True for a model that PeftModel.from_pretrained or get_peft_model has given adapters. */
  get isPeft(): boolean {
    return this.#peft && this.adapters !== undefined;
  }

  /** From now on these adapters work, and their changes add up. @throws OptionError */
  set_adapter(names: string | readonly string[]): this {
    const adapters = this.#some("set_adapter");
    const list = namesOf("set_adapter", names);
    for (const name of list) adapters.get(name);
    this.#apart();
    adapters.activate(list);
    return this;
  }

  /** `set_adapter`, by the name that diffusers has. @throws OptionError */
  set_adapters(names: string | readonly string[]): this {
    return this.set_adapter(names);
  }

  /** Names of the adapters that work, in order. @throws OptionError if there are no adapters */
  active_adapters(): string[] {
    this.checkUsable();
    if (!this.adapters) throw ADAPTERS.now.noAdapters();
    return [...this.adapters.choice.active];
  }

  /** The name of the first adapter that works. */
  get active_adapter(): string | undefined {
    return this.adapters?.choice.active[0];
  }

  /** The configs of all adapters by their names. */
  get peft_config(): Readonly<Record<string, AnyLoraConfig>> {
    const { adapters } = this;
    return Object.fromEntries((adapters?.names ?? []).map((name) => [name, adapters!.get(name).config]));
  }

  /** No adapter works until enable_adapters(); trained biases stay, as in PEFT. @throws OptionError if there are none */
  disable_adapters(): this {
    const adapters = this.#some("disable_adapters");
    this.#apart();
    adapters.enable(false);
    return this;
  }

  /** @throws OptionError if there are no adapters */
  enable_adapters(): this {
    this.#some("enable_adapters").enable(true);
    return this;
  }

  /** PEFT's context manager: `using off = model.disable_adapter()` ends with the block. @throws as disable_adapters */
  disable_adapter(): Disposable {
    this.disable_adapters();
    return { [Symbol.dispose]: () => void this.enable_adapters() };
  }

  /** As disable_adapters. @throws OptionError */
  disable_adapter_layers(): this {
    return this.disable_adapters();
  }

  /** As enable_adapters. @throws OptionError */
  enable_adapter_layers(): this {
    return this.enable_adapters();
  }

  /** Takes adapters off the model and frees them. If none works then, the first that is left does, as in PEFT. @throws OptionError */
  delete_adapter(names: string | readonly string[]): this {
    const adapters = this.#some("delete_adapter");
    const list = namesOf("delete_adapter", names);
    for (const name of list) adapters.get(name);
    this.#apart();
    const { active } = adapters.choice;
    for (const name of list) adapters.delete(name);
    const [next] = adapters.names;
    if (active.length > 0 && adapters.choice.active.length === 0 && next !== undefined) {
      // Each time: what the model answers is another's from here on.
      console.warn(`octavo: ${active.join(", ")} worked and is deleted now; ${next} works from here on`);
      adapters.activate([next]);
    }
    return this;
  }

  /**
   * Puts adapters into the stored weights, so that they cost nothing. Matrices in 8 or 4 bits are quantized anew, which adds an
   * error of its own: it is measured and returned, for each of them. The weights before are freed.
   * @throws OptionError, OctavoError for matrices that cannot be merged, FormatError for values that are no numbers
   */
  async merge_adapter(
    names?: readonly string[] | null | MergeOptions,
    safe_merge?: boolean,
  ): Promise<{ readonly errors: readonly MergeError[] }> {
    const listed = names === undefined || names === null || isList(names);
    const given = readOptions(
      "merge_adapter",
      MERGE,
      listed ? { adapter_names: names ?? undefined, safe_merge } : names,
    );
    return { errors: await this.#merge("merge_adapter", given) };
  }

  /** @param then what is done at once with the merged weights */
  async #merge(
    method: string,
    { adapter_names, safe_merge = false }: MergeOptions,
    then?: (merger: Merging, names: readonly string[]) => void,
  ): Promise<readonly MergeError[]> {
    const adapters = this.#some(method);
    const names = adapter_names ?? adapters.choice.active;
    this.hold();
    try {
      await this.#merger(adapters).check(names, safe_merge, then !== undefined);
    } finally {
      await this.release();
    }
    const merger = this.#merger(this.#some(method)); // the model may have been disposed meanwhile, or generate now
    const errors = merger.merge(names);
    this.hold();
    try {
      then?.(merger, names);
      return await errors;
    } finally {
      await this.release();
    }
  }

  /** Takes merged adapters out of the stored weights: up to the rounding of floats, and of codes up to that of codes. */
  unmerge_adapter(): this {
    const adapters = this.#some("unmerge_adapter");
    this.#merger(adapters).unmerge();
    return this;
  }

  /**
   * Puts adapters into the stored weights for good, and takes all adapters off: what is left is a plain model, which
   * save_pretrained writes whole. What rounding has cost is told as a warning.
   * @throws as merge_adapter
   */
  async merge_and_unload(options: MergeOptions = {}): Promise<this> {
    const given = readOptions("merge_and_unload", MERGE, options);
    const errors = await this.#merge("merge_and_unload", given, (merger, names) => {
      merger.takeOver(names);
      merger.keep();
      this.adapters?.dispose();
      this.#peft = false;
    });
    warnOf(errors);
    return this;
  }

  /** Takes all adapters off and frees them: what is left is the model as it was loaded. @throws OptionError */
  unload(): this {
    const adapters = this.#some("unload");
    this.#apart();
    adapters.dispose();
    this.#peft = false;
    return this;
  }

  /**
   * Adds an adapter that is the weighted sum of others. It does not work until set_adapter.
   * @throws OptionError, OctavoError, OutOfMemoryError
   */
  add_weighted_adapter(
    adapters: readonly string[],
    weights: readonly number[],
    adapter_name: string,
    options: { combination_type?: Combination } = {},
  ): this {
    const { combination_type } = readOptions("add_weighted_adapter", WEIGHTED, options);
    const all = this.#some("add_weighted_adapter");
    if (combination_type === undefined) {
      throw new OptionError('add_weighted_adapter: combination_type is needed: "cat" (exact) or "linear"', {
        details: { option: "combination_type" },
        hint: "PEFT's default, a decomposition of the sum, is not here",
      });
    }
    ADAPTERS.now.addWeighted(all, adapters, weights, adapter_name, combination_type);
    return this;
  }

  /** The tensors of an adapter by their names in its file. @throws OptionError */
  async get_adapter_state_dict(name?: string): Promise<Map<string, StateTensor>> {
    this.checkUsable();
    const { adapters } = this;
    if (!adapters) throw ADAPTERS.now.noAdapters();
    const adapter = adapters.get(name ?? adapters.choice.active[0] ?? adapters.names[0]);
    ADAPTERS.now.checkTables(adapters, adapter);
    return ADAPTERS.now.adapterState(adapter);
  }

  /** All parameters: the model's by their names in checkpoints, and those of adapters as PEFT calls them. */
  *named_parameters(): Iterable<[string, Parameter | Matrix]> {
    const { adapters } = this;
    const trained = adapters?.biases ?? new Set();
    for (const entry of this.module.named_parameters()) if (!trained.has(entry[1])) yield entry;
    if (adapters) yield* adapters.named_parameters();
  }

  /** The same without names, each once. */
  *parameters(): Iterable<Parameter | Matrix> {
    yield* new Set([...this.named_parameters()].map(([, parameter]) => parameter));
  }

  /** Numbers of parameters: those that ask for gradients, and all. */
  get_nb_trainable_parameters(): [trainable: number, all: number] {
    let trainable = 0;
    let all = 0;
    for (const parameter of this.parameters()) {
      const count = parameter.shape.reduce((n, size) => n * size, 1);
      all += count;
      if (parameter.requires_grad) trainable += count;
    }
    return [trainable, all];
  }

  /** Prints those numbers, in PEFT's words. */
  print_trainable_parameters(): void {
    const [trainable, all] = this.get_nb_trainable_parameters();
    const [some, total] = [trainable, all].map((n) => n.toLocaleString("en-US"));
    const share = ((100 * trainable) / Math.max(1, all)).toFixed(4);
    console.log(`trainable params: ${some} || all params: ${total} || trainable%: ${share}`);
  }
}

/**
 * The adapters of the rows of a batch, if a call names them; "__base__" is none. The caller disposes it.
 * @param rows of the session that serves the batch: all of a prompt have its adapter
 * @throws OptionError
 */
export function adaptersOfRows(
  { adapters }: AdapterMethods,
  names: unknown,
  prompts: number,
  rows = Array.from({ length: prompts }, (_, row) => row),
): RowAdapters | undefined {
  if (names === undefined) return undefined;
  const list = listOf(names, (one): one is string => typeof one === "string");
  if (!list) {
    throw new OptionError(`adapter_names must be a list of names, one for each row, got ${show(names)}`, {
      details: { option: "adapter_names" },
    });
  }
  if (!adapters) throw ADAPTERS.now.noAdapters();
  if (list.length !== prompts) adapters.perRow(list, prompts); // says so
  return adapters.perRow(
    rows.map((prompt) => list[prompt]!),
    rows.length,
  );
}

/** Undefined for what was made by hand without what a URL holds. */
function addressOf(url: URL): string | undefined {
  try {
    return url.href;
  } catch {
    return undefined;
  }
}

/** Names as callers give them: one, or a list. @throws OptionError */
function namesOf(call: string, names: unknown): readonly string[] {
  const list = typeof names === "string" ? [names] : listOf(names, (one): one is string => typeof one === "string");
  if (list && list.length > 0) return list.map((name) => ADAPTERS.now.adapterName(name));
  throw new OptionError(`${call}: expected the name of an adapter, or a list of some, got ${show(names)}`, {
    details: { option: "adapter_name" },
  });
}

/** Tells what quantizing anew has cost where it is most. */
function warnOf(errors: readonly MergeError[]): void {
  const worst = errors.reduce<MergeError | undefined>((a, b) => (a && a.of_change >= b.of_change ? a : b), undefined);
  if (!worst) return;
  const share = `${(100 * worst.of_change).toFixed(1)} %`;
  warnOnce(
    `merged ${worst.module} ${share}`,
    `merging into ${worst.scheme} rounded ${errors.length} matrices anew; in ${worst.module} the error is ${share} of the adapter's change`,
  );
}
