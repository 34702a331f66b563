// The WASM backend in a thread of its own: calls queue what is to be done in the shared memory, and the thread says when
// a read is ready. So the calling thread, Node's with its event loop, waits for nothing.

import type { Backend, BackendFailure, BufferId } from "../../core/backend.js";
import { OutOfMemoryError } from "../../core/errors.js";
import { rejection, WasmDevice } from "./device.js";
import type { ThreadMessage } from "./threads.js";

/** Where memory has run out and the queue holds some: how long it may take to give it back, in ms. */
const PATIENCE_MS = 20_000;
/** The thread that takes from the queue; the others help it compute. */
const OWNER = 0;

interface Waiting {
  readonly bytes: number;
  resolve(bytes: Uint8Array): void;
  reject(error: Error): void;
}

export class WasmServed extends WasmDevice implements Backend {
  /** Reads (and the closing) under way, by the address of their completion. */
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

  async read(buffer: BufferId, offset: number, bytes: number, sound = bytes): Promise<Uint8Array> {
    const { exports } = this.instance;
    if (this.trap) throw rejection(this.trap);
    // Answers must not overtake each other: only when none is under way may this one be given at once.
    if (this.#waiting.size === 0 && exports.queue_idle()) return this.readNow(buffer, offset, bytes, sound);
    this.range(buffer, offset, Math.max(bytes, sound));
    return this.#wait(bytes, (completion) => exports.queue_read(buffer, offset, sound, completion));
  }

  /** The one place where the calling thread waits: memory has run out, and is there again once the queue has run. */
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
      // What was queued runs first. If it fails nobody is there any more to hear of it.
      await this.#wait(0, (completion) => exports.queue_close(completion)).catch(() => {});
    }
    await this.end();
  }

  /** A promise for what `queue` appends with a completion. */
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
