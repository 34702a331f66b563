// Error scopes. A device says later, by promise, whether it could do what was asked of it; until then an invalid object
// looks like any other, and everything that uses it is dropped. So all that can be refused is made under a guard, and who
// must know waits until the guards before him have been heard.

import { DeviceError, type OctavoError, OutOfMemoryError } from "../../../core/errors.js";

/** What became of something that a device was asked for. */
export interface Check {
  /** False until the device has answered. */
  known: boolean;
  error: OctavoError | undefined;
}

export function unchecked(): Check {
  return { known: false, error: undefined };
}

/** Makes an error of what the device says; `memory` is true if it says that it has too little. */
export type Refused = (message: string, memory: boolean) => OctavoError;

/** From the outermost scope to the innermost. */
const FILTERS = ["validation", "internal", "out-of-memory"] as const satisfies readonly GPUErrorFilter[];

export class Scopes {
  readonly #device: GPUDevice;
  #heard: Promise<void> = Promise.resolve();

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Resolves when all that was guarded so far is known. */
  get heard(): Promise<void> {
    return this.#heard;
  }

  /**
   * Runs `make`, whose outcome goes into `check`; guards are heard in the order in which they were made. `refused` turns
   * what the device says into an error; what it says of memory comes first, for the rest follows from it.
   */
  guard<T>(check: Check, refused: Refused, make: () => T): T {
    for (const filter of FILTERS) this.#device.pushErrorScope(filter);
    try {
      return make();
    } finally {
      const told = FILTERS.map(() => this.#device.popErrorScope());
      this.#heard = this.#hear(told, this.#heard, check, refused);
    }
  }

  async #hear(
    told: readonly Promise<GPUError | null>[],
    before: Promise<void>,
    check: Check,
    refused: Refused,
  ): Promise<void> {
    try {
      const errors = await Promise.all(told);
      await before;
      const error = errors.find((one) => one !== null);
      if (error) check.error ??= refused(error.message.split("\n")[0] || "it gives no reason", error === errors[0]);
    } catch {
      await before; // the device is lost, which is reported on its own
    }
    check.known = true;
  }
}

/** For the guard of something that is not done if the device refuses it. */
export function refusing(what: string): Refused {
  return (message, memory) =>
    memory
      ? new OutOfMemoryError(`webgpu: the device has no memory left for ${what}: ${message}`)
      : new DeviceError(`webgpu: ${what} was refused: ${message}`);
}

/** The error that explains why work was refused that used these: that of memory, for others may follow from it. */
export function causeOf(checks: Iterable<Check>): OctavoError | undefined {
  let cause: OctavoError | undefined;
  for (const { error } of checks) cause = graver(cause, error);
  return cause;
}

/** The first of two errors, unless only the second is about memory. */
export function graver(first: OctavoError | undefined, second: OctavoError | undefined): OctavoError | undefined {
  return first === undefined || (second instanceof OutOfMemoryError && !(first instanceof OutOfMemoryError))
    ? second
    : first;
}
