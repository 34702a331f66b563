// The WASM backend in the calling thread: submitted commands run at once.

import type { Backend, BackendFailure, BufferId } from "../../core/backend.js";
import { rejection, WasmDevice } from "./device.js";

export class WasmHere extends WasmDevice implements Backend {
  free(buffer: BufferId): void {
    if (!this.closed) this.instance.exports.release(buffer);
  }

  write(buffer: BufferId, offset: number, bytes: Uint8Array): void {
    this.writeNow(buffer, offset, bytes);
  }

  spoil(buffer: BufferId, offset: number, bytes: number, failure: BackendFailure): void {
    if (this.lost) return;
    this.range(buffer, offset, bytes);
    this.tell(failure);
    this.instance.exports.spoil(buffer, offset, bytes, failure.site);
  }

  submit(commands: Int32Array, words: number): void {
    if (this.lost) return;
    const { exports } = this.instance;
    this.putWords(exports.words(words), commands, words);
    try {
      exports.submit(words);
    } catch (error) {
      this.lose(`the kernel ended the module: ${(error as Error).message}`);
    }
  }

  async read(buffer: BufferId, offset: number, bytes: number, checked = bytes): Promise<Uint8Array> {
    if (this.trap) throw rejection(this.trap);
    return this.readNow(buffer, offset, bytes, checked);
  }

  async close(): Promise<void> {
    await this.end();
  }
}
