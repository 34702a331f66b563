// What all loaded models share as users hold them: where they were loaded from, the memory they take, how they print, and their
// disposal.

import type { FolderFiles, FolderWriter } from "../checkpoints/folder.js";
import { Device } from "../core/device.js";
import { torchName } from "../core/dtype.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { pick, readOptions } from "../core/options.js";
import { sentence, show } from "../core/show.js";
import { PUSH, type Pushed, type PushOptions } from "../hub/push-options.js";
import type { AttnImplementation } from "../load/attn-implementation.js";
import type { PlacedModel } from "../load/fill.js";
import type { Loaded } from "../load/index.js";
import type { Savable, Saved } from "../load/save.js";
import { folderName, SAVE, type SaveOptions } from "../load/save-options.js";
import { dequantizeModel, stateOf } from "../load/state.js";
import type { Architecture, ConfigJson, Task } from "../nn/architecture.js";
import { checkTree, type NonFinite } from "../nn/finite.js";
import { Model } from "../nn/model.js";
import { Linear, Matrix } from "../nn/module.js";
import type { AttentionChoice } from "../nn/pass.js";
import { treeOf } from "../nn/print.js";
import { StateTensor } from "../nn/state.js";
import type { FloatDType } from "../nn/weight.js";
import type { AdapterHost } from "./adapter-methods.js";
import { AttentionState } from "./attention-state.js";
import { type ModelMemory, memoryOf } from "./memory.js";
import { MovingMethods } from "./moving-methods.js";
import { Places } from "./places.js";
import type { SaveAdapters } from "./save-adapters.js";
import { hasMethods } from "./training-methods.js";
import { Users } from "./users.js";

type LoadedAs<M extends Model> = Omit<Loaded<Task>, "model"> & { readonly model: M };

/**
 * Places the parts of a model that is all on its device; `place` takes them there. For cpu_offload and disk_offload.
 * @throws OctavoError for a model that is spread already, that has adapters, or that something uses; what `place` throws
 */
export let rearrange: (model: LoadedModel<Model>, method: string, place: () => Promise<PlacedModel>) => Promise<void>;

export abstract class LoadedModel<M extends Model> extends MovingMethods implements AsyncDisposable {
  readonly config: ConfigJson;
  readonly generation_config: ConfigJson;
  /** Bytes of the checkpoint's tensors, as published. */
  readonly checkpoint_bytes: number;
  readonly warnings: readonly string[];
  /** The task that it was loaded for. */
  readonly task: Task;
  /** The module tree, with the checkpoint's names. */
  readonly module: M;
  readonly #places: Places;
  readonly #attention: AttentionState;
  readonly #origin: Omit<Savable, "model" | "config" | "dtype"> | undefined;
  readonly #architecture: Architecture;
  readonly #users = new Users(() => this.#free());

  /**
   * @param warnings of a model of this kind, about its files
   * @throws OptionError for anything but a model that was loaded: users get theirs from `from_pretrained`
   */
  protected constructor(
    loaded: LoadedAs<M>,
    device: Device,
    ownsDevice: boolean,
    warnings: (loaded: LoadedAs<M>) => readonly string[] = () => [],
  ) {
    super();
    if (!isLoaded(loaded) || !Device.is(device)) {
      throw new OptionError("a model is not made by its constructor", {
        hint: "await AutoModelForCausalLM.from_pretrained(name)",
      });
    }
    this.module = loaded.model;
    this.task = loaded.task;
    this.config = loaded.config;
    this.generation_config = loaded.generation_config;
    this.checkpoint_bytes = loaded.checkpoint_bytes;
    this.warnings = [...loaded.warnings, ...warnings(loaded)].map((text) => sentence(text));
    this.#places = new Places(loaded, device, ownsDevice);
    const { architecture, quantization, origin, model, config, attn_implementation: given } = loaded;
    this.#attention = new AttentionState({ model, config, dtype: () => this.dtype, given });
    this.#origin = origin && { architecture, quantization, origin };
    this.#architecture = architecture;
  }

  /**
   * Bytes of the parameters as transformers counts them: the codes of quantized matrices, without their statistics.
   * See `weight_bytes` for the memory really held.
   */
  get_memory_footprint(): number {
    let bytes = 0;
    for (const parameter of this.module.parameters()) bytes += parameter.footprint;
    return bytes + (this.adapters?.nbytes ?? 0);
  }

  /** Bytes that the weights take on the device, statistics and padding included. */
  get weight_bytes(): number {
    let bytes = 0;
    for (const parameter of this.module.parameters()) bytes += parameter.nbytes;
    return bytes + (this.adapters?.nbytes ?? 0);
  }

  /**
   * The memory of the model's devices by what it holds, in bytes: weights, caches, recorded steps, and the rest. As text it is a table.
   * @throws OctavoError after dispose()
   */
  memory(): ModelMemory {
    this.checkUsable();
    const { device, module, adapters } = this;
    return memoryOf({ device, module, adapters, places: this.hf_device_map });
  }

  /** True for a model itself, which a proxy of one is not. */
  static is(value: unknown): value is LoadedModel<Model> {
    return typeof value === "function" && #places in value;
  }

  /** How attention is computed, by transformers' name: what was asked for, else "sdpa". */
  get attn_implementation(): AttnImplementation {
    return this.#attention.implementation;
  }

  /**
   * Sets `attn_implementation`, for the calls that follow. The fused kernel serves all of them; `sdpa_kernel` holds for "sdpa" alone.
   * @throws OptionError: "flash_attention_2" takes models in 16 bits, and models whose ALiBi depends on it are loaded with it
   */
  set_attn_implementation(name: AttnImplementation): void {
    this.#attention.set(name);
  }

  /** True between `to_bettertransformer` and `reverse_bettertransformer`. */
  get use_bettertransformer(): boolean {
    return this.#attention.better;
  }

  /**
   * The model itself, as optimum's BetterTransformer: the same numbers, since padded batches are computed by their real tokens and
   * attention is fused in any case. Until it is reversed it is not saved, gives no attentions, and follows `sdpa_kernel`.
   * @throws OptionError, OctavoError for what optimum refuses: a type it does not know, a model converted already
   */
  to_bettertransformer(): this {
    this.checkUsable();
    this.#attention.transform();
    return this;
  }

  /** The model itself, as it was. @throws OctavoError for a model that is no BetterTransformer */
  reverse_bettertransformer(): this {
    this.#attention.reverse();
    return this;
  }

  /** How passes compute attention that a call makes now. @throws OctavoError, OptionError (AttentionState.choice) */
  attending(output_attentions = false): AttentionChoice {
    return this.#attention.choice(output_attentions === true);
  }

  /** The tree of modules as Python prints it, with how each weight is stored. */
  override toString(): string {
    return `${this.constructor.name} on ${this.device.name}, ${torchName(this.dtype)}: ${treeOf(this.module)}`;
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }

  /**
   * The tensors by the names and in the form in which `save_pretrained` writes them. Each is read from the device when it is asked
   * for. Those of an offloaded model come to their device for it: not while it generates.
   */
  async state_dict(): Promise<Map<string, StateTensor>> {
    const state = await this.#reading("state_dict", () => stateOf(this.#savable("state_dict")));
    if (!this.#places.offloaded) return state;
    const guarded = (one: StateTensor): StateTensor => {
      const { dtype, shape } = one;
      return new StateTensor({ dtype, shape, bytes: () => this.#reading("state_dict", () => one.bytes()) });
    };
    return new Map([...state].map(([name, one]) => [name, guarded(one)]));
  }

  /**
   * Writes the model into a folder that Octavo, transformers and bitsandbytes open: weights as they are stored here, config.json,
   * and the files of tokenizer, processors and generation that lay beside the original. What the folder held is replaced as a
   * whole, or stays. Of a model with adapters it writes these alone, as PEFT and transformers do; merge_and_unload() makes it whole.
   * @throws OptionError, AbortError, OutOfMemoryError; OctavoError in a page; FileError
   */
  async save_pretrained(folder: string, options: SaveOptions & SaveAdapters = {}): Promise<Saved> {
    const name = folderName(folder, "save_pretrained");
    return this.#reading("save_pretrained", async () => {
      this.#attention.checkSavable();
      if (this.adapters) {
        const { folders, source } = this.#origin?.origin ?? {};
        const { saveAdapters } = await import("./save-adapters.js");
        return saveAdapters(this.adapters, folders, name, options, source);
      }
      const { saveModel } = await import("../load/save.js");
      return saveModel(this.#savable("save_pretrained"), name, options);
    });
  }

  /**
   * Writes what `save_pretrained` would into a folder that is being written: part of a checkpoint.
   * @throws as save_pretrained
   */
  async saveInto(files: FolderFiles, options: SaveOptions & SaveAdapters = {}): Promise<Saved> {
    if (!hasMethods(files, "tensors", "bytes")) {
      throw new OptionError(`saveInto: expected the files of a folder that is being written, got ${show(files)}`);
    }
    const folders: FolderWriter = { replace: (_folder, _replaces, write) => write(files) };
    return this.#reading("save_pretrained", async () => {
      this.#attention.checkSavable();
      if (this.adapters) {
        const { saveAdapters } = await import("./save-adapters.js");
        return saveAdapters(this.adapters, folders, "checkpoint", options, undefined);
      }
      const { origin, ...rest } = this.#savable("save_pretrained");
      const { saveModel } = await import("../load/save.js");
      return saveModel({ ...rest, origin: { ...origin, folders } }, "checkpoint", options);
    });
  }

  /**
   * Saves the model as `save_pretrained` does, and uploads it to a hub as one commit, through the package @huggingface/hub.
   * @param id "org/name"; it is made if it does not exist
   * @param options those of save_pretrained and of pushFolder; `dry_run` only says what would be uploaded
   * @throws as save_pretrained and pushFolder; OctavoError in a page
   */
  async push_to_hub(id: string, options: PushOptions & SaveOptions = {}): Promise<Pushed> {
    const given = readOptions("push_to_hub", { ...SAVE, ...PUSH }, options);
    this.#attention.checkSavable();
    const push = this.#savable("push_to_hub").origin.push;
    if (!push) throw new OctavoError("ERR_UNSUPPORTED", "push_to_hub: there are no files here to be uploaded");
    return push((folder) => this.save_pretrained(folder, pick(SAVE, given)), id, pick(PUSH, given));
  }

  /**
   * Turns quantized matrices into floats of the model's dtype, and gives the model itself.
   * @throws OctavoError while something else uses the model; OutOfMemoryError
   */
  dequantize(): this {
    this.checkUsable();
    this.checkIdle("dequantize");
    dequantizeModel(this.module, this.dtype, this.#places.compute);
    return this;
  }

  async #rearrange(method: string, place: () => Promise<PlacedModel>): Promise<void> {
    this.checkUsable();
    this.checkPlain(method);
    await this.#users.alone(method, () => this.#places.rearrange(method, place));
  }

  /** @throws OctavoError for a model that is in use, is offloaded, or has adapters */
  protected checkPlain(method: string): void {
    this.checkIdle(method);
    if (!this.adapters) return;
    throw new OctavoError("ERR_UNSUPPORTED", `${method}: adapters need their weights in their place`, {
      hint: "merge_and_unload() first, or load the model without the adapter",
    });
  }

  static {
    rearrange = (model, method, place) => model.#rearrange(method, place);
  }

  protected checkCast(dtype: FloatDType): void {
    this.#attention.checkCast(dtype);
  }

  protected get users(): Users {
    return this.#users;
  }

  protected get places(): Places {
    return this.#places;
  }

  protected get adapterHost(): AdapterHost {
    return { architecture: this.#architecture, origin: this.#origin?.origin ?? {} };
  }

  /** @throws OctavoError while something reads the weights, or some of them lie where they are not used */
  protected checkIdle(method: string): void {
    this.#places.checkHere(method);
    this.#users.checkUnused(method);
  }

  /** Reads weights, wherever they lie. @throws OctavoError after dispose(), and while passes bring them */
  #reading<T>(method: string, body: () => Promise<T>): Promise<T> {
    return this.#users.reading(method, this.#places.offloaded ? this.module.placement : undefined, body);
  }

  /** @throws OctavoError for a model that was not loaded from a folder */
  #savable(method: string): Savable {
    const { module, config, dtype } = this;
    if (!this.#origin) {
      throw new OctavoError("ERR_UNSUPPORTED", `${method} needs a model that was loaded by from_pretrained`);
    }
    return { ...this.#origin, model: module, config, dtype, vocab_size: this.resized };
  }

  /**
   * Runs a forward pass, and says where the first infinity or NaN arose: the module's path, the op, and a parameter of that module that is
   * not finite itself, if there is one. Undefined if all results are finite. Every result of the pass is read, which is slow and takes
   * as much memory on the host as all of them together.
   * @param inputs those of `forward`
   * @throws what `forward` throws; OctavoError after dispose()
   */
  async check_finite(inputs: object): Promise<NonFinite | undefined> {
    this.checkUsable();
    this.hold();
    try {
      return await checkTree(this.module, () => this.forward(inputs as never));
    } finally {
      await this.release();
    }
  }

  /** Columns of quantized matrices that have held an outlier activation so far, summed over the layers. */
  async outlier_columns(): Promise<number> {
    this.#places.checkHere("outlier_columns");
    return this.#reading("outlier_columns", async () => {
      let columns = 0;
      for (const parameter of this.module.parameters()) {
        if (!(parameter instanceof Matrix)) continue;
        columns += (await parameter.weight.statistics?.())?.outlier_columns ?? 0;
      }
      return columns;
    });
  }

  /** Paths of the quantized linears, by their names in checkpoints. */
  get quantized_modules(): readonly string[] {
    const paths: string[] = [];
    for (const [, module] of this.module.named_modules()) {
      if (!(module instanceof Linear) || !module.weight.filled || module.weight.weight.scheme === "dense") continue;
      paths.push(...module.published_paths);
    }
    return paths;
  }

  /**
   * Frees the weights, and the memory that the device kept for reuse. A running generation fails at its next step, and the
   * weights are freed after it. Disposing twice does nothing.
   */
  dispose(): void {
    void this.#users.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#users.dispose();
  }

  async #free(): Promise<void> {
    this.adapters?.dispose();
    this.module.dispose();
    await this.#places.close();
  }

  /** @throws OctavoError after dispose(), and while a call that takes time changes the weights */
  checkUsable(): void {
    this.#users.checkUsable();
  }

  /**
   * Begins work that reads the weights: they stay until `release`, even if the model is disposed meanwhile.
   * @throws as checkUsable
   */
  hold(): void {
    this.#users.hold();
  }

  /** Ends work begun by `hold`; if the model was disposed meanwhile, the last one frees the weights. */
  async release(): Promise<void> {
    await this.#users.release();
  }
}

/** True for what the loader returns. */
function isLoaded(value: unknown): boolean {
  try {
    const { model, config, generation_config, warnings } = value as Loaded<Task>;
    return model instanceof Model && isObject(config) && isObject(generation_config) && Array.isArray(warnings);
  } catch {
    return false; // nothing with members, or with members that cannot be read
  }
}

function isObject(value: unknown): boolean {
  return typeof value === "object" && value !== null;
}
