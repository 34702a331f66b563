// Leaves of the module tree that no checkpoint holds.

import type { Device } from "../core/device.js";
import { Tensor } from "../core/tensor.js";

/** What is known of a constant without a device. */
export interface BufferFacts {
  readonly elements: number;
  readonly dtype: "f32" | "i32";
}

/**
 * A constant of a module that no checkpoint holds (inverse frequencies, ALiBi slopes). It is a leaf of the tree: the loader
 * puts it on the device with the weights, and `Module.dispose` frees it. A model on several devices has a copy on each.
 */
export class Buffer {
  readonly #values: () => Float32Array | Int32Array;
  readonly #tensors = new Map<Device, Tensor>();
  #facts: BufferFacts | undefined;

  /** @param values the constant's elements; called once per device */
  constructor(values: () => Float32Array | Int32Array) {
    this.#values = values;
  }

  /** The constant on `device`, f32[n] or i32[n]; made there on first use. @throws OutOfMemoryError */
  on(device: Device): Tensor {
    let tensor = this.#tensors.get(device);
    if (!tensor) {
      const values = this.#values();
      tensor = Tensor.from(device, values, [values.length], undefined, "constant").keep();
      this.#tensors.set(device, tensor);
    }
    return tensor;
  }

  /** Its elements and their type, on a device or not. */
  get facts(): BufferFacts {
    if (!this.#facts) {
      const values = this.#values();
      this.#facts = { elements: values.length, dtype: values instanceof Int32Array ? "i32" : "f32" };
    }
    return this.#facts;
  }

  get nbytes(): number {
    return [...this.#tensors.values()].reduce((sum, tensor) => sum + tensor.nbytes, 0);
  }

  /** Bytes of the copy on a device; 0 if there is none. */
  bytesOn(device: Device): number {
    return this.#tensors.get(device)?.nbytes ?? 0;
  }

  /** Frees the copy on a device. */
  leave(device: Device): void {
    this.#tensors.get(device)?.dispose();
    this.#tensors.delete(device);
  }

  dispose(): void {
    for (const tensor of this.#tensors.values()) tensor.dispose();
    this.#tensors.clear();
  }
}
