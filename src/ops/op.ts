// What an op is, and how a call of one is recorded. An op is a signature, a plain-loop reference and (where it has one)
// a gradient; each lives in a file of its own beside this one and index.ts lists them.

import type { Device } from "../core/device.js";
import type { DType, HostArray } from "../core/dtype.js";
import { DeviceError, ShapeError } from "../core/errors.js";
import { Signature } from "../core/signature.js";
import { Tensor } from "../core/tensor.js";

/** An operand as a reference sees it: contiguous rows on the host; f16 and bf16 widened; u4 packed two to a byte. */
export interface HostTensor {
  readonly shape: readonly number[];
  readonly dtype: DType;
  readonly data: HostArray;
}

/** Operands by name; optional ones may be missing. Outputs and operands written in place are filled by the reference. */
export type ReferenceOperands = Readonly<Record<string, HostTensor>>;
export type Attributes = Readonly<Record<string, number>>;

export interface OpDefinition {
  readonly signature: string;
  /** Checks that the signature cannot say. Throws ShapeError or OptionError. */
  check?(inputs: readonly (Tensor | undefined)[], attributes: readonly number[]): void;
  /** Plain loops, no cleverness: the meaning of the op. Returns a sentence if the data cannot be computed. */
  reference(operands: ReferenceOperands, attributes: Attributes): string | undefined;
  /** Records the gradients of the inputs from those of the output; the training room fills these in. */
  gradient?(inputs: readonly (Tensor | undefined)[], attributes: readonly number[], dy: Tensor): (Tensor | undefined)[];
}

export class Op {
  readonly signature: Signature;
  readonly definition: OpDefinition;
  #device: Device | undefined;
  #kernel = -1;

  constructor(definition: OpDefinition) {
    this.definition = definition;
    this.signature = new Signature(definition.signature);
  }

  get name(): string {
    return this.signature.op;
  }

  /**
   * Records a call: checks shapes and dtypes, allocates the outputs, appends one command. Returns the first output (an
   * op without outputs writes in place and returns nothing).
   * @throws ShapeError, DTypeError, DeviceError (no kernel, operands on different devices), OutOfMemoryError
   */
  run(inputs: readonly (Tensor | undefined)[], attributes: readonly number[]): Tensor {
    const { signature } = this;
    signature.bind(inputs);
    this.definition.check?.(inputs, attributes);
    const device = inputs[0]!.device;
    if (device !== this.#device) {
      this.#kernel = device.kernel(this.name);
      this.#device = device;
      if (this.#kernel < 0) {
        this.#device = undefined;
        throw new DeviceError(`${this.name}: device ${device.name} has no kernel for it`);
      }
    }
    const specs = signature.inputs;
    const kinds = signature.attrs;
    if (attributes.length !== kinds.length) {
      throw new ShapeError(`${this.name}: takes ${kinds.length} attributes, got ${attributes.length}`);
    }
    // All operands are looked at before anything is allocated or recorded: a refused call leaves nothing behind.
    for (let i = 0; i < specs.length; i++) {
      const input = inputs[i];
      if (input === undefined) continue;
      if (input.device !== device) {
        throw new DeviceError(
          `${this.name}: operand \`${specs[i]!.name}\` is on ${input.device.name}, the first one on ${device.name}`,
        );
      }
      void input.buffer; // throws if it was disposed
    }
    let output: Tensor | undefined;
    if (signature.outputs.length > 0) {
      output = Tensor.empty(device, signature.outputShape(0), signature.outputDType(0, inputs), this.name);
    }
    const { commands } = device;
    commands.begin(this.#kernel, device.site);
    for (let i = 0; i < specs.length; i++) commands.tensor(inputs[i]);
    if (output) commands.tensor(output);
    for (let i = 0; i < kinds.length; i++) {
      if (kinds[i]!.type === "i32") commands.int(attributes[i]!);
      else commands.float(attributes[i]!);
    }
    commands.end();
    device.recordedOne();
    return output as Tensor;
  }
}

/** Rows of a tensor with leading dims: the product of all dims but the last. */
export function rowsOf(shape: readonly number[]): number {
  let n = 1;
  for (let d = 0; d + 1 < shape.length; d++) n *= shape[d]!;
  return n;
}
