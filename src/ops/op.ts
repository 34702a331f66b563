// What an op is, and how a call is recorded. An op is a signature, a plain-loop reference and, optionally, a gradient rule and
// an equivalent in simpler ops; each has a file beside this one, and index.ts lists them.

import type { EncodableTensor } from "../core/command.js";
import type { Device } from "../core/device.js";
import type { DType, HostArray } from "../core/dtype.js";
import { DeviceError, ShapeError } from "../core/errors.js";
import { Signature } from "../core/signature.js";
import { scope, Tensor } from "../core/tensor.js";
import { beforeWrite, laterCall } from "./later.js";
import { type GradientRule, type Tape, tapes } from "./tape.js";
import { watchers } from "./watch.js";

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
  /** Checks that the signature cannot express. Throws ShapeError or OptionError. */
  check?(inputs: readonly (Tensor | undefined)[], attributes: readonly number[]): void;
  /** Plain loops: the definition of the op. Returns an error message for invalid data. */
  reference(operands: ReferenceOperands, attributes: Attributes): string | undefined;
  /**
   * Shapes of the outputs, where the signature cannot express them; `dims` are those bound by the inputs. An output dim that
   * inputs bind too must agree.
   */
  shape?(dims: Readonly<Record<string, number>>, attributes: Attributes): readonly (readonly number[])[];
  /** An equivalent in simpler ops: used where a backend has no kernel, and under a tape if there is no `gradient`. */
  compose?(inputs: readonly (Tensor | undefined)[], attributes: readonly number[]): readonly Tensor[];
  /** Records the gradients of the inputs. Ops without a rule cannot be differentiated. */
  gradient?: GradientRule;
  /** Names of the operands and outputs whose values `gradient` reads; without it the tape keeps all of them. */
  keeps?(wanted: readonly boolean[], attributes: readonly number[]): readonly string[];
  /**
   * The op costs little beside the memory of its outputs: a later op that reads them for its gradient does not keep them if this one keeps
   * all its operands anyway, and the backward pass runs it once more.
   */
  readonly cheap?: boolean;
}

export class Op {
  readonly signature: Signature;
  readonly definition: OpDefinition;
  #device: Device | undefined;
  #kernel = -1;

  /** @throws OctavoError if outputs of this signature cannot be allocated */
  constructor(definition: OpDefinition) {
    this.definition = definition;
    this.signature = new Signature(definition.signature);
    this.signature.checkOutputs(definition.shape !== undefined);
  }

  get name(): string {
    return this.signature.op;
  }

  /**
   * Records a call and returns its first output (an op without outputs writes in place and returns nothing).
   * @throws as `runAll`
   */
  run(inputs: readonly (Tensor | undefined)[], attributes: readonly number[]): Tensor {
    return this.runAll(inputs, attributes)[0] as Tensor;
  }

  /**
   * Records a call: checks shapes and dtypes, allocates the outputs, appends one command (or those of `compose`). Returns
   * the outputs. On a tape whose calls run later, memory and command wait until an output is used.
   * @throws ShapeError, DTypeError, DeviceError (no kernel, operands on different devices), OutOfMemoryError,
   * GradientError (an open tape needs the values of an operand written in place)
   */
  runAll(inputs: readonly (Tensor | undefined)[], attributes: readonly number[]): readonly Tensor[] {
    const { signature, definition } = this;
    signature.bind(inputs);
    definition.check?.(inputs, attributes);
    const device = inputs[0]!.device;
    const specs = signature.inputs;
    const kinds = signature.attrs;
    if (attributes.length !== kinds.length) {
      throw new ShapeError(`${this.name}: takes ${kinds.length} attributes, got ${attributes.length}`);
    }
    for (let i = 0; i < kinds.length; i++) {
      const value = attributes[i]!;
      if (kinds[i]!.type === "f32" || value === (value | 0)) continue;
      throw new ShapeError(`${this.name}: \`${kinds[i]!.name}\` must be a whole number of 32 bits, got ${value}`);
    }
    const tape = tapes.open;
    const later = tape?.later === true && !inputs.some((input, i) => input && isWritten(specs[i]!));
    // All operands are checked before anything is allocated or recorded: a rejected call leaves nothing behind.
    for (let i = 0; i < specs.length; i++) {
      const input = inputs[i];
      if (input === undefined) continue;
      if (input.device !== device) {
        throw new DeviceError(
          `${this.name}: operand \`${specs[i]!.name}\` is on ${input.device.name}, the first one on ${device.name}`,
        );
      }
      if (!later || !input.alive || !input.resident) void input.buffer; // throws if it was disposed
    }
    if (device !== this.#device) {
      this.#kernel = device.kernel(this.name);
      this.#device = device;
    }
    const wanted = tape && this.#wanted(tape, inputs);
    if (this.#kernel < 0 || (wanted && definition.compose && !definition.gradient)) {
      if (definition.compose) return scope(() => definition.compose!(inputs, attributes));
      throw new DeviceError(`${this.name}: device ${device.name} has no kernel for it`);
    }
    const outputs = later ? this.#later(device, inputs, attributes) : this.#now(device, inputs, attributes);
    if (wanted) this.#tape(tape, inputs, outputs, attributes, wanted);
    return outputs;
  }

  #now(device: Device, inputs: readonly (Tensor | undefined)[], attributes: readonly number[]): readonly Tensor[] {
    const { inputs: specs } = this.signature;
    for (let i = 0; i < specs.length; i++) {
      const input = inputs[i];
      if (input && isWritten(specs[i]!)) beforeWrite(input);
    }
    const outputs = this.#allocate(device, inputs, attributes);
    this.#record(device, this.#kernel, inputs, outputs, attributes);
    watchers.open?.(this.name, device, this.#written(inputs, outputs));
    return outputs;
  }

  #later(device: Device, inputs: readonly (Tensor | undefined)[], attributes: readonly number[]): readonly Tensor[] {
    const kernel = this.#kernel;
    return laterCall(device, inputs, this.#outputs(inputs, attributes), this.name, (operands, outputs) =>
      this.#record(device, kernel, operands, outputs, attributes),
    );
  }

  /** Appends the command. */
  #record(
    device: Device,
    kernel: number,
    inputs: readonly (EncodableTensor | undefined)[],
    outputs: readonly EncodableTensor[],
    attributes: readonly number[],
  ): void {
    const { inputs: specs, attrs: kinds } = this.signature;
    const { commands } = device;
    commands.begin(kernel, device.site);
    for (let i = 0; i < specs.length; i++) commands.tensor(inputs[i]);
    for (let i = 0; i < outputs.length; i++) commands.tensor(outputs[i]);
    for (let i = 0; i < kinds.length; i++) {
      if (kinds[i]!.type === "i32") commands.int(attributes[i]!);
      else commands.float(attributes[i]!);
    }
    commands.end();
    device.recordedOne();
  }

  /** What a call writes as a whole. */
  #written(inputs: readonly (Tensor | undefined)[], outputs: readonly Tensor[]): Tensor[] {
    const replaced = inputs.filter((input, i): input is Tensor => !!input && this.signature.inputs[i]!.replaced);
    return [...outputs, ...replaced];
  }

  /** Shapes and dtypes of the outputs of the call that the signature is bound to. */
  #outputs(inputs: readonly (Tensor | undefined)[], attributes: readonly number[]) {
    const { signature, definition } = this;
    const shapes = definition.shape?.(signature.dims(), named(signature, attributes));
    return signature.outputs.map((_, i) => {
      return { shape: shapes ? shapes[i]! : signature.outputShape(i), dtype: signature.outputDType(i, inputs) };
    });
  }

  #allocate(device: Device, inputs: readonly (Tensor | undefined)[], attributes: readonly number[]): Tensor[] {
    const outputs: Tensor[] = [];
    try {
      for (const { shape, dtype } of this.#outputs(inputs, attributes)) {
        outputs.push(Tensor.empty(device, shape, dtype, this.name));
      }
    } catch (error) {
      for (const output of outputs) output.dispose();
      throw error;
    }
    return outputs;
  }

  /** Which inputs the tape needs gradients of; undefined if none. Rejects writes to values it still needs. */
  #wanted(tape: Tape, inputs: readonly (Tensor | undefined)[]): readonly boolean[] | undefined {
    const specs = this.signature.inputs;
    let some = false;
    const wanted = specs.map(({ mutated, marked, name }, i) => {
      const input = inputs[i];
      if (mutated && !marked && input) tape.checkWrite(this.name, name, input);
      const tracked = tape.tracks(input);
      if (tracked && !(mutated && tape.mayOverwrite(input!))) some = true;
      return tracked && !mutated;
    });
    return some ? wanted : undefined;
  }

  #tape(
    tape: Tape,
    inputs: readonly (Tensor | undefined)[],
    outputs: readonly Tensor[],
    attributes: readonly number[],
    wanted: readonly boolean[],
  ): void {
    const { signature, definition } = this;
    const written = inputs.filter(
      (input, i): input is Tensor => input !== undefined && isWritten(signature.inputs[i]!),
    );
    const names = [...signature.inputs.slice(0, inputs.length), ...signature.outputs].map(({ name }) => name);
    const kept = definition.keeps?.(wanted, attributes);
    const again = definition.cheap && inputs.every((input, i) => !input || !kept || kept.includes(names[i]!));
    tape.record({
      op: this.name,
      inputs,
      outputs: [...outputs, ...written],
      attributes,
      wanted,
      gradient: definition.gradient,
      reads: (operand) => names[operand] !== undefined && (kept?.includes(names[operand]) ?? true),
      ...(again ? { again: (operands: readonly (Tensor | undefined)[]) => this.runAll(operands, attributes) } : {}),
    });
  }
}

/** True for an operand that is written in place. Setting marks is none: they only add up. */
function isWritten({ mutated, marked }: { readonly mutated: boolean; readonly marked: boolean }): boolean {
  return mutated && !marked;
}

function named({ attrs }: Signature, values: readonly number[]): Attributes {
  return Object.fromEntries(attrs.map(({ name }, i) => [name, values[i]!]));
}

/** Rows of a tensor with leading dims: the product of all dims but the last. */
export function rowsOf(shape: readonly number[]): number {
  let n = 1;
  for (let d = 0; d + 1 < shape.length; d++) n *= shape[d]!;
  return n;
}
