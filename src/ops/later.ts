// Calls that are recorded when one of their outputs is first used. Where a backward pass computes something again, its ops are such
// calls: so only what a gradient rule reads is computed, when it reads it.

import type { EncodableTensor } from "../core/command.js";
import type { Device } from "../core/device.js";
import type { DType } from "../core/dtype.js";
import type { Later, Storage } from "../core/storage.js";
import { Tensor } from "../core/tensor.js";

type Inputs = readonly (Tensor | undefined)[];

/** What an output is. */
interface Output {
  readonly shape: readonly number[];
  readonly dtype: DType;
}

/** Records the command of a call. */
type RecordCall = (inputs: Inputs, outputs: readonly EncodableTensor[]) => void;

const waiting = new Set<LaterCall>();

class LaterCall implements Later {
  readonly device: Device;
  readonly #path: string;
  readonly #inputs: Inputs;
  readonly #record: RecordCall;
  readonly #outputs: { readonly output: Output; readonly storage: Storage }[] = [];

  constructor(device: Device, inputs: Inputs, record: RecordCall) {
    this.device = device;
    this.#path = device.path;
    this.#inputs = inputs.map((tensor) => tensor?.alias().keep());
    this.#record = record;
    waiting.add(this);
  }

  output(output: Output, label: string): Tensor {
    const tensor = Tensor.later(this.device, output.shape, output.dtype, label, this);
    this.#outputs.push({ output, storage: tensor.storage as Storage });
    return tensor;
  }

  reads(storage: object): boolean {
    return this.#inputs.some((tensor) => tensor?.storage === storage);
  }

  make(): void {
    waiting.delete(this);
    const before = this.device.enter(this.#path);
    try {
      for (const tensor of this.#inputs) void tensor?.buffer;
      for (const { storage } of this.#outputs) {
        storage.later = undefined;
        storage.restore();
      }
      this.#record(
        this.#inputs,
        this.#outputs.map(({ output: { shape, dtype }, storage }) => {
          return { buffer: storage.block!.buffer, offset: 0, dtype, shape, strides: null, panels: false };
        }),
      );
    } finally {
      this.device.enter(before);
      this.#end();
    }
    for (const { storage } of this.#outputs) if (storage.references === 0) storage.evict();
  }

  drop(): void {
    if (this.#outputs.every(({ storage }) => storage.references === 0)) this.#end();
  }

  #end(): void {
    waiting.delete(this);
    for (const tensor of this.#inputs) tensor?.dispose();
  }
}

/** The outputs of a call that `record` records when one of them is first used. Its inputs are held until then. */
export function laterCall(
  device: Device,
  inputs: Inputs,
  outputs: readonly Output[],
  label: string,
  record: RecordCall,
): readonly Tensor[] {
  const call = new LaterCall(device, inputs, record);
  return outputs.map((output) => call.output(output, label));
}

/** Records the calls that are still to read what lies in `tensor`'s memory: it is about to be written. */
export function beforeWrite(tensor: Tensor): void {
  if (waiting.size === 0) return;
  for (const call of [...waiting]) if (waiting.has(call) && call.reads(tensor.storage)) call.make();
}
