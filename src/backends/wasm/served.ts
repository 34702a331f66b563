// The WASM backend in a thread of its own: calls append work to a queue in the shared memory, and the thread posts a message
// when a read is ready. The calling thread never blocks, so its event loop keeps turning.

import type { Backend, BackendFailure, BufferId } from "../../core/backend.js";
import { OutOfMemoryError } from "../../core/errors.js";
import { rejection, WasmDevice } from "./device.js";
import type { ThreadMessage } from "./threads.js";

/** Milliseconds to wait for queued frees when memory has run out. */
const PATIENCE_MS = 20_000;
/** Number of the thread that runs the queue; the others help it compute. */
const OWNER = 0;

interface Waiting {
  readonly bytes: number;
  resolve(bytes: Uint8Array): void;
  reject(error: Error): void;
}

export class WasmServed extends WasmDevice implements Backend {
  /** Pending reads, and the pending close, by the address of their completion. */
  readonly #waiting = new Map<number, Waiting>();
  #closing: Promise<void> | undefined;

  free(buffer: BufferId): void {
    if (this.closed || this.lost) return;
    if (!this.instance.exports.queue_free(buffer)) throw noMemory();
  }

  write(buffer: BufferId, offset: number, bytes: Uint8Array): void {
    this.range(buffer, offset, bytes.length);
    if (this.lost) return;
    const { instance } = this;
    if (instance.exports.queue_idle()) {
      this.writeNow(buffer, offset, bytes);
      return;
    }
    const payload = instance.exports.queue_write(buffer, offset, bytes.length) >>> 0;
    if (payload === 0) throw noMemory();
    instance.memory(payload + bytes.length).set(bytes, payload);
    instance.exports.queue_push();
  }

  spoil(buffer: BufferId, offset: number, bytes: number, failure: BackendFailure): void {
    this.range(buffer, offset, bytes);
    if (this.lost) return;
    this.tell(failure);
    if (!this.instance.exports.queue_spoil(buffer, offset, bytes, failure.site)) throw noMemory();
  }

  submit(commands: Int32Array, words: number): void {
    const { exports } = this.instance;
    if (this.lost) return;
    this.putWords(exports.queue_commands(words), commands, words);
    exports.queue_push();
  }

  async read(buffer: BufferId, offset: number, bytes: number, checked = bytes): Promise<Uint8Array> {
    const { exports } = this.instance;
    if (this.trap) throw rejection(this.trap);
    // Reads resolve in order: this one may be answered at once only if none is pending.
    if (this.#waiting.size === 0 && exports.queue_idle()) return this.readNow(buffer, offset, bytes, checked);
    this.range(buffer, offset, Math.max(bytes, checked));
    return this.#wait(bytes, (completion) => exports.queue_read(buffer, offset, checked, completion));
  }

  /** The one place where the calling thread blocks: memory has run out, and the queue holds frees. */
  protected override drain(): boolean {
    const { exports } = this.instance;
    if (this.lost || exports.queue_idle()) return false;
    const nothing = new Int32Array(new SharedArrayBuffer(4));
    for (const end = performance.now() + PATIENCE_MS; performance.now() < end; ) {
      Atomics.wait(nothing, 0, 0, 1);
      if (exports.queue_idle()) return true;
    }
    return false;
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { exports } = this.instance;
    if (!this.lost) {
      // Queued work runs first. Its failures are dropped: no read is pending.
      await this.#wait(0, (completion) => exports.queue_close(completion)).catch(() => {});
    }
    await this.end();
  }

  /** A promise for the work that `queue` appends with a completion. */
  #wait(bytes: number, queue: (completion: number) => number): Promise<Uint8Array> {
    const { exports } = this.instance;
    const completion = exports.completion_new(bytes) >>> 0;
    if (completion === 0) throw noMemory();
    return new Promise((resolve, reject) => {
      if (this.#waiting.size === 0) this.workers[OWNER]!.hold(true);
      this.#waiting.set(completion, { bytes, resolve, reject });
      if (queue(completion)) return;
      this.#take(completion);
      exports.completion_free(completion);
      reject(noMemory());
    });
  }

  #take(completion: number): Waiting | undefined {
    const waiting = this.#waiting.get(completion);
    if (this.#waiting.delete(completion) && this.#waiting.size === 0) this.workers[OWNER]!.hold(false);
    return waiting;
  }

  protected override heard(thread: number, message: ThreadMessage): void {
    if ("broke" in message || this.closed) {
      super.heard(thread, message);
      return;
    }
    const completion = message.done >>> 0;
    const waiting = this.#take(completion);
    if (!waiting) return;
    const { instance } = this;
    const failure = this.failureAt(instance.exports.completion_failure(completion));
    const at = instance.exports.completion_bytes(completion) >>> 0;
    const bytes = failure ? undefined : instance.memory(at + waiting.bytes).slice(at, at + waiting.bytes);
    instance.exports.completion_free(completion);
    if (failure) waiting.reject(rejection(failure));
    else waiting.resolve(bytes!);
  }

  protected override lose(why: string): void {
    if (this.lost) return;
    super.lose(why);
    for (const completion of [...this.#waiting.keys()]) this.#take(completion)!.reject(rejection(this.trap!));
    for (const worker of this.workers) void worker.terminate();
  }
}

function noMemory(): OutOfMemoryError {
  return new OutOfMemoryError("wasm: no memory is left to queue more (4 GB at most in all)");
}
