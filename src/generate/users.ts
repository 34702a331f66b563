// Who uses a loaded model at present: calls that read its weights, which stay until the last one ends, and at most one that changes them
// and takes time, which nobody joins.

import { OctavoError } from "../core/errors.js";
import type { ModelPlacement } from "../nn/pass.js";

export class Users {
  #count = 0;
  /** Those among them that only read weights which lie elsewhere: they come one after the other. */
  #readers = 0;
  /** The call that changes the weights. */
  #alone: string | undefined;
  #disposed = false;
  readonly #free: () => Promise<void>;

  /** @param free called once, when the model was disposed and the last one has ended */
  constructor(free: () => Promise<void>) {
    this.#free = free;
  }

  /** @throws OctavoError after dispose(), and while a call that takes time changes the weights */
  checkUsable(): void {
    if (this.#disposed) throw new OctavoError("ERR_DISPOSED", "the model was used after dispose()");
    if (this.#alone === undefined) return;
    throw new OctavoError("ERR_IN_USE", `the model is being changed by ${this.#alone}`, {
      hint: "wait until that has ended",
    });
  }

  /** @throws OctavoError while anybody uses the model */
  checkUnused(method: string): void {
    this.#checkOthers(method, 0);
  }

  #checkOthers(method: string, own: number): void {
    if (this.#count === own) return;
    throw new OctavoError("ERR_IN_USE", `${method}: the model is generating, being read or being saved`, {
      hint: "wait until that has ended",
    });
  }

  /** @throws as checkUsable */
  hold(): void {
    this.checkUsable();
    this.#count++;
  }

  async release(): Promise<void> {
    if (this.#count === 0) throw new OctavoError("ERR_NOT_HELD", "release: nothing holds the model");
    this.#count--;
    if (this.#disposed && this.#count === 0) await this.#free();
  }

  /**
   * Reads weights. If some lie elsewhere they come to their device, and no pass begins meanwhile.
   * @param away what brings them, if some do
   * @throws as checkUsable, and while passes bring them
   */
  async reading<T>(method: string, away: ModelPlacement | undefined, body: () => Promise<T>): Promise<T> {
    this.checkUsable();
    if (away) this.#checkOthers(method, this.#readers);
    this.hold();
    const end = away?.reading?.();
    if (away) this.#readers++;
    try {
      return await body();
    } finally {
      end?.();
      if (away) this.#readers--;
      await this.release();
    }
  }

  /** Runs what takes time and changes the weights: until it has ended nobody else begins. @throws as checkUsable and checkUnused */
  async alone<T>(method: string, body: () => Promise<T>): Promise<T> {
    this.checkUsable();
    this.checkUnused(method);
    this.hold();
    this.#alone = method;
    try {
      return await body();
    } finally {
      this.#alone = undefined;
      await this.release();
    }
  }

  /** Nobody begins any more; the last one frees the model. Doing so twice does nothing. */
  async dispose(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    if (this.#count === 0) await this.#free();
  }
}
