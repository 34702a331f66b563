// The commands submitted since the last read without a failure. A call that fails on the device does not stop the calls
// after it, so the host keeps their commands. When a read reports a failure, the host walks the commands and marks the
// bytes that are spoilt. Without a failure it drops them unread. A block without memory is spoilt from the start; calls of
// a batch that the device dropped have failed.

import type { BackendFailure, BufferId } from "../../../core/backend.js";
import { type OctavoError, OutOfMemoryError } from "../../../core/errors.js";
import type { Signature } from "../../../core/signature.js";
import { Poison, type Range } from "../../_poison.js";
import type { Block } from "./buffers.js";
import type { CommandRecorder } from "./command-recorder.js";
import { type Check, graver } from "./error-scopes.js";
import { FLAG_SLOTS, FLAG_WORDS, failureText, untag } from "./errors.js";

/** Words that may accumulate without a read; beyond this the log reads the flags itself. */
const LONG = 1 << 20;
/** Words that an entry without commands counts for. */
const RANGE_WORDS = 16;

type Entry =
  | { readonly words: Int32Array }
  /** Allocation leaves the range invalid; a host write or a free makes it valid unless its check failed. */
  | { readonly range: Range; readonly allocated: boolean; readonly check: Check | undefined }
  /** Spoilt by a failure of another device. */
  | { readonly range: Range; readonly failure: BackendFailure };

/** An error of the device itself, not of a kernel. */
interface Refusal extends BackendFailure {
  readonly error: OctavoError | undefined;
}

function refusal(error: OctavoError): Refusal {
  return { op: "", site: 0, message: error.message, error };
}

export class FailureLog {
  readonly #recorder: CommandRecorder;
  readonly #signatureOf: (kernel: number) => Signature;
  readonly #poison = new Poison();
  #entries: Entry[] = [];
  /** Entries dropped so far, and calls in them. */
  #dropped = 0;
  #first = 0;
  /** Calls noted so far, which is the number of the next one. */
  #calls = 0;
  #words = 0;
  #looking = false;
  /** Why calls failed: the kernel's message, or the device error for calls that never ran. */
  readonly #failed = new Map<number, string | OctavoError>();
  /** The device's count of failures that are accounted for. */
  #known = 0;
  /** A failure that belongs to no call in the log; the next read rejects with it. */
  #stray: OctavoError | undefined;
  /** Reads settle one after the other. */
  #settled: Promise<unknown> = Promise.resolve();

  constructor(recorder: CommandRecorder, signatureOf: (kernel: number) => Signature) {
    this.#recorder = recorder;
    this.#signatureOf = signatureOf;
  }

  /** Notes commands before they are recorded; returns the number of the first. */
  submit(words: Int32Array): number {
    const first = this.#calls;
    this.#entries.push({ words });
    this.#words += words.length;
    for (let at = 0; at < words.length; at += words[at + 1]!) this.#calls++;
    return first;
  }

  /** Number of the next call. */
  get end(): number {
    return this.#calls;
  }

  /** Notes a new buffer, before anything is recorded that uses it. */
  allocated(buffer: BufferId, check: Check): void {
    this.#note({ range: { buffer, begin: 0, end: Number.POSITIVE_INFINITY }, allocated: true, check });
  }

  /** Notes bytes that the host wrote. */
  wrote(buffer: BufferId, begin: number, end: number, check: Check): void {
    this.#note({ range: { buffer, begin, end }, allocated: false, check });
    this.keepShort();
  }

  /** Notes bytes that were to come from another device, where they are spoilt. */
  spoilt(buffer: BufferId, begin: number, end: number, failure: BackendFailure): void {
    this.#note({ range: { buffer, begin, end }, failure });
    this.keepShort();
  }

  /** Notes that a buffer was freed. */
  freed(buffer: BufferId): void {
    this.#note({ range: { buffer, begin: 0, end: Number.POSITIVE_INFINITY }, allocated: false, check: undefined });
    this.keepShort();
  }

  /** A call that could not be recorded, or that the device did not run. */
  fail(call: number, reason: string | OctavoError): void {
    const known = this.#failed.get(call);
    if (known === undefined || (reason instanceof OutOfMemoryError && !(known instanceof OutOfMemoryError))) {
      this.#failed.set(call, reason);
    }
  }

  /** Notes a failure that cannot be attributed. */
  refuse(error: OctavoError): void {
    this.#stray = graver(this.#stray, error);
  }

  /** Keeps the log below `LONG` words even without reads. Call it after the submitted work is recorded. */
  keepShort(): void {
    if (this.#words < LONG || this.#looking) return;
    this.#looking = true;
    const done = (): void => {
      this.#looking = false;
    };
    this.#settle(this.#recorder.flag, 0, 0).then(done, done); // the next read reports errors
  }

  /** Bytes of a block after everything recorded so far; rejects if one of `checked` bytes is spoilt. */
  async read(buffer: BufferId, block: Block, offset: number, bytes: number, checked: number): Promise<Uint8Array> {
    const { data, spoilt } = await this.#settle(block, offset, bytes, { buffer, begin: offset, end: offset + checked });
    // A failure that cannot be attributed is reported once, by the first read that ends after it.
    const stray = this.#stray;
    this.#stray = undefined;
    if (stray) throw stray;
    if (spoilt) throw (spoilt as { failure?: Refusal }).failure?.error ?? spoilt;
    return data;
  }

  #settle(
    block: Block,
    offset: number,
    bytes: number,
    range?: Range,
  ): Promise<{ data: Uint8Array; spoilt: Error | undefined }> {
    const end = this.#dropped + this.#entries.length;
    const reading = this.#recorder.read(block, offset, bytes);
    const before = this.#settled;
    const settling = (async () => {
      const [back] = await Promise.all([reading, before]); // all earlier scopes have reported now
      if ((back.failures - this.#known) << 0 > 0) await this.#look();
      this.#walk(end);
      const spoilt = range && this.#poison.verdict(range.buffer, range.begin, range.end - range.begin);
      return { data: back.bytes, spoilt };
    })();
    this.#settled = settling.catch(() => {});
    return settling;
  }

  /** Reads the reports of all failed calls. */
  async #look(): Promise<void> {
    const { flag } = this.#recorder;
    const { bytes } = await this.#recorder.read(flag, 0, flag.bytes);
    const flags = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    let missing = (flags[0]! - this.#known) >>> 0;
    this.#known = flags[0]!;
    let last = "";
    for (let at = FLAG_WORDS; at < flags.length; at += FLAG_WORDS) {
      if (flags[at] === 0) continue;
      const call = untag(flags[at]!, this.#first);
      if (call >= this.#calls || this.#failed.has(call)) continue;
      last = failureText(flags[at + 1]!, flags[at + 2]! | 0, flags[at + 3]! | 0, flags[at + 4]! | 0);
      this.#failed.set(call, last);
      missing--;
    }
    if (missing <= 0) return;
    // Two failed calls shared a slot, so one failure cannot be attributed.
    const doubt = last || `more than ${FLAG_SLOTS} calls failed`;
    for (let call = this.#first; call < this.#calls; call++) if (!this.#failed.has(call)) this.#failed.set(call, doubt);
  }

  /** Accounts for the entries before `end`, and drops them. */
  #walk(end: number): void {
    const count = end - this.#dropped;
    if (count <= 0) return;
    const passed = this.#entries.splice(0, count);
    this.#dropped = end;
    for (const entry of passed) {
      if ("failure" in entry) {
        this.#poison.spoil(entry.range, entry.failure);
        this.#words -= RANGE_WORDS;
        continue;
      }
      if ("range" in entry) {
        const { range, allocated, check } = entry;
        if (check?.error) this.#poison.spoil(range, refusal(check.error));
        else if (!allocated) this.#poison.clear(range.buffer, range.begin, range.end);
        this.#words -= RANGE_WORDS;
        continue;
      }
      const { words } = entry;
      const well = this.#poison.clean && this.#failed.size === 0;
      this.#words -= words.length;
      for (let at = 0; at < words.length; at += words[at + 1]!, this.#first++) {
        if (!well) this.#poison.command(words, at, this.#signatureOf, () => this.#failureOf(words, at));
        this.#failed.delete(this.#first);
      }
    }
  }

  #failureOf(words: Int32Array, at: number): Refusal | undefined {
    const reason = this.#failed.get(this.#first);
    if (reason === undefined) return undefined;
    const message = typeof reason === "string" ? reason : reason.message;
    const error = reason instanceof OutOfMemoryError ? reason : undefined;
    return { op: this.#signatureOf(words[at]!).op, site: words[at + 2]!, message, error };
  }

  #note(entry: Entry): void {
    this.#entries.push(entry);
    this.#words += RANGE_WORDS;
  }
}
