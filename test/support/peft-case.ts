// A training fixture of peft: the model that it trains, with its adapters, in any storage, and what peft made of them step by step.

import { join } from "node:path";
import { expect } from "vitest";
import type { Adapters } from "../../src/adapters/set.js";
import type { Device } from "../../src/core/device.js";
import type { Tensor } from "../../src/core/tensor.js";
import { type Loaded, loadModel } from "../../src/load/index.js";
import type { CausalLM } from "../../src/nn/decoder.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../../src/quant/config.js";
import { Disk } from "../../src/sources/disk.js";
import { adamW, adapt, decoded, largest, off, type Step, stepOf, type Training } from "./adapter-steps.js";
import { FIXTURES, readArrays, readJson } from "./fixtures.js";

export class PeftCase {
  readonly base: string;
  readonly kind: string;
  readonly training: Training;
  readonly golden: ReturnType<typeof readArrays>;
  #model: CausalLM | undefined;
  #adapters: Adapters | undefined;

  /** @param base a model of the fixtures; `kind` its folder below peft/ */
  constructor(base: string, kind: string) {
    this.base = base;
    this.kind = kind;
    this.training = readJson<Training>("peft", base, kind, "expected.json");
    this.golden = readArrays("peft", base, kind, "expected.safetensors");
  }

  async load(device: Device, options: BitsAndBytesOptions): Promise<Loaded> {
    const { base } = this;
    const quantization = new BitsAndBytesConfig(options);
    const source = new Disk(join(FIXTURES, "models", base));
    const loaded = await loadModel(source, "causal-lm", { device, name: base, dtype: "float32", quantization });
    this.#model = loaded.model;
    return loaded;
  }

  /** Puts adapters of the fixture on a model: those before the first step, or after the last. */
  async put(loaded: Loaded, which: "initial" | "final" = "initial"): Promise<Map<string, Tensor>> {
    const { adapters, tensors } = await adapt(loaded, ["peft", this.base, this.kind, which]);
    this.#adapters = adapters;
    return tensors;
  }

  takeOff(): void {
    this.#adapters?.dispose();
    this.#adapters = undefined;
  }

  unload(): void {
    this.takeOff();
    this.#model?.dispose();
    this.#model = undefined;
  }

  /** Gradients are those wanted, none of which is next to nothing. The library's are f32 as well. */
  close({ gradients }: Step, want: (key: string) => ArrayLike<number>): void {
    for (const [key, got] of gradients) {
      const wanted = want(key);
      expect(largest(wanted), key).toBeGreaterThan(1e-3);
      expect(off(got, wanted), key).toBeLessThan(this.training.tolerance.adapter * Math.max(1, largest(wanted)));
    }
  }

  /** The gradients of the library's first step. */
  firstGradient(key: string): ArrayLike<number> {
    return this.golden.get(`grad_step1.${key}`)!.values;
  }

  /** Takes the library's steps of AdamW on dense weights: its losses and its adapters. */
  async learnsAsPeft(device: Device): Promise<void> {
    const { training, base, kind } = this;
    const loaded = await this.load(device, {});
    const tensors = await this.put(loaded);
    const update = adamW(training);
    for (const [t, want] of training.losses.entries()) {
      const step = await stepOf(device, loaded.model, tensors, training.batches[t % 2]!);
      if (t === 0) this.close(step, (key) => this.firstGradient(key));
      expect(Math.abs(step.loss - want), `loss of step ${t + 1}`).toBeLessThan(training.tolerance.loss);
      await update(tensors, step.gradients);
    }
    const final = readArrays("peft", base, kind, "final", "adapter_model.safetensors");
    expect(final.size).toBe(tensors.size);
    for (const [key, tensor] of tensors) {
      const { values } = final.get(`base_model.model.${key}`)!;
      expect(off(await tensor.readFloats(), values), key).toBeLessThan(training.tolerance.adapter);
    }
  }

  /** A first step over quantized weights is that over the floats that they stand for. */
  async stepsAsDecoded(device: Device, options: BitsAndBytesOptions, got: Step): Promise<void> {
    this.unload();
    const dense = await this.load(device, options);
    decoded(dense.model);
    const want = await stepOf(device, dense.model, await this.put(dense), this.training.batches[0]!);
    expect(Math.abs(got.loss - want.loss)).toBeLessThan(this.training.tolerance.loss);
    this.close(got, (key) => want.gradients.get(key)!);
  }
}
