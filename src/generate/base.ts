// What all loaded models share as users hold them: where they were loaded from, the memory they take, and their disposal.

import type { Device } from "../core/device.js";
import { OctavoError } from "../core/errors.js";
import type { Loaded } from "../load/index.js";
import type { ConfigJson, Task } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { Linear, Matrix } from "../nn/module.js";
import type { FloatDType } from "../nn/weight.js";

export abstract class LoadedModel<M extends Model> implements AsyncDisposable {
  readonly config: ConfigJson;
  readonly generation_config: ConfigJson;
  readonly device: Device;
  readonly dtype: FloatDType;
  /** Bytes of the checkpoint's tensors, as published. */
  readonly checkpoint_bytes: number;
  readonly warnings: readonly string[];
  /** The module tree, with the checkpoint's names. */
  readonly module: M;
  readonly #ownsDevice: boolean;
  /** Number of operations that read the weights; the weights stay until the last one ends. */
  #users = 0;
  #disposed = false;

  protected constructor(
    loaded: Omit<Loaded<Task>, "model"> & { readonly model: M },
    device: Device,
    ownsDevice: boolean,
    warnings: readonly string[] = [],
  ) {
    this.module = loaded.model;
    this.config = loaded.config;
    this.generation_config = loaded.generation_config;
    this.dtype = loaded.dtype;
    this.checkpoint_bytes = loaded.checkpoint_bytes;
    this.warnings = [...loaded.warnings, ...warnings];
    this.device = device;
    this.#ownsDevice = ownsDevice;
  }

  /**
   * Bytes of the parameters as transformers counts them: the codes of quantized matrices, without their statistics.
   * See `weight_bytes` for the memory really held.
   */
  get_memory_footprint(): number {
    let bytes = 0;
    for (const parameter of this.module.parameters()) bytes += parameter.footprint;
    return bytes;
  }

  /** Bytes that the weights take on the device, statistics and padding included. */
  get weight_bytes(): number {
    let bytes = 0;
    for (const parameter of this.module.parameters()) bytes += parameter.nbytes;
    return bytes;
  }

  /** Columns of quantized matrices that have held an outlier activation so far, summed over the layers. */
  async outlier_columns(): Promise<number> {
    this.checkUsable();
    let columns = 0;
    for (const parameter of this.module.parameters()) {
      if (!(parameter instanceof Matrix)) continue;
      columns += (await parameter.weight.statistics?.())?.outlier_columns ?? 0;
    }
    return columns;
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
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#users === 0) void this.#free();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#users === 0) await this.#free();
  }

  async #free(): Promise<void> {
    this.module.dispose();
    this.device.arena.trim();
    if (this.#ownsDevice) await this.device.close();
  }

  /** @throws OctavoError after dispose() */
  checkUsable(): void {
    if (this.#disposed) throw new OctavoError("ERR_DISPOSED", "the model was used after dispose()");
  }

  /** Begins work that reads the weights: they stay until `release`, even if the model is disposed meanwhile. */
  hold(): void {
    this.#users++;
  }

  /** Ends work begun by `hold`; if the model was disposed meanwhile, the last one frees the weights. */
  async release(): Promise<void> {
    this.#users--;
    if (this.#disposed && this.#users === 0) await this.#free();
  }
}
