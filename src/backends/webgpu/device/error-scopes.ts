// Error scopes. A device reports failures later, through promises; until then an invalid object looks like any other, and
// the device drops all work that uses it. Every call that can fail runs inside an error scope; callers await the scopes
// opened before theirs.

import { DeviceError, type OctavoError, OutOfMemoryError } from "../../../core/errors.js";

/** The outcome of one guarded call. */
export interface Check {
  /** False until the device has reported. */
  known: boolean;
  error: OctavoError | undefined;
}

export function unchecked(): Check {
  return { known: false, error: undefined };
}

/** Turns a message of the device into an error; `memory` is true for out-of-memory errors. */
export type Refused = (message: string, memory: boolean) => OctavoError;

/** Outermost scope first. */
const FILTERS = ["validation", "internal", "out-of-memory"] as const satisfies readonly GPUErrorFilter[];

export class ErrorScopes {
  readonly #device: GPUDevice;
  #heard: Promise<void> = Promise.resolve();

  constructor(device: GPUDevice) {
    this.#device = device;
  }

  /** Resolves when all scopes opened so far have reported. */
  get heard(): Promise<void> {
    return this.#heard;
  }

  /**
   * Runs `make` inside error scopes; the outcome goes into `check`. Scopes report in the order in which they were opened.
   * `refused` turns a message of the device into an error. Out-of-memory errors come first, because others follow from them.
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
      if (error) check.error ??= refused(error.message.split("\n")[0] || "no reason given", error === errors[0]);
    } catch {
      await before; // the device is lost; the backend reports that itself
    }
    check.known = true;
  }
}

/** For calls that have no effect when the device refuses them. */
export function refusing(what: string): Refused {
  return (message, memory) =>
    memory
      ? new OutOfMemoryError(`webgpu: the device has no memory left for ${what}: ${message}`)
      : new DeviceError(`webgpu: ${what} was refused: ${message}`);
}

/** The error to report for work that used these: an out-of-memory error if there is one, because others follow from it. */
export function causeOf(checks: Iterable<Check>): OctavoError | undefined {
  let cause: OctavoError | undefined;
  for (const { error } of checks) cause = graver(cause, error);
  return cause;
}

/** The first of two errors, unless only the second is an out-of-memory error. */
export function graver(first: OctavoError | undefined, second: OctavoError | undefined): OctavoError | undefined {
  return first === undefined || (second instanceof OutOfMemoryError && !(first instanceof OutOfMemoryError))
    ? second
    : first;
}
