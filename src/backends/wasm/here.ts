// The WASM backend in the thread that calls: what is submitted runs at once.

import type { Backend, BackendFailure, BufferId } from "../../core/backend.js";
import { failed, WasmDevice } from "./device.js";

export class WasmHere extends WasmDevice implements Backend {
  /** How the device was lost, until a read has said so. */
  #last: BackendFailure | undefined;

  free(buffer: BufferId): void {
    if (!this.closed) this.instance.exports.release(buffer);
  }

  write(buffer: BufferId, offset: number, bytes: Uint8Array): void {
    const at = this.range(buffer, offset, bytes.length);
    this.instance.memory(at + bytes.length).set(bytes, at);
  }

  submit(commands: Int32Array, words: number): void {
    if (this.trap !== undefined) return;
    const { exports } = this.instance;
    this.putWords(exports.words(words), commands, words);
    try {
      exports.submit(words);
    } catch (error) {
      this.lose(`the kernel ended the module: ${(error as Error).message}`);
      this.#last = this.runningFailure(this.trap!);
    }
  }

  async read(buffer: BufferId, offset: number, bytes: number): Promise<Uint8Array> {
    if (this.#last) {
      const failure = this.#last;
      this.#last = undefined;
      throw failed(failure);
    }
    if (this.trap !== undefined) throw this.lostError();
    return this.readNow(buffer, offset, bytes);
  }

  async close(): Promise<void> {
    await this.end();
  }
}
