// Tracks invalid bytes of buffers for backends that do so in JavaScript (the native backend and WASM use
// native/poison.cpp). A failed command spoils its outputs; a command that would read spoilt bytes is skipped and spoils its
// own outputs; a write makes bytes valid again.

import type { BackendFailure, BufferId } from "../core/backend.js";
import { FORGET } from "../core/command.js";
import { bytesOf, DTYPES } from "../core/dtype.js";
import type { Signature } from "../core/signature.js";

/** Bytes `begin` to `end` of a buffer. */
export interface Range {
  readonly buffer: BufferId;
  readonly begin: number;
  readonly end: number;
}

/** An operand of a command. */
interface Reach extends Range {
  readonly read: boolean;
  readonly written: boolean;
  /** Written without gaps. */
  readonly whole: boolean;
}

export class Poison {
  #spoilt: (Range & { readonly failure: BackendFailure })[] = [];

  get clean(): boolean {
    return this.#spoilt.length === 0;
  }

  /** The failure that spoilt a byte of a range. */
  find(buffer: BufferId, begin: number, end: number): BackendFailure | undefined {
    return this.#spoilt.find((r) => r.buffer === buffer && r.begin < end && begin < r.end)?.failure;
  }

  /** The failure that a read of `bytes` from `offset` on must reject with, if any. */
  verdict(buffer: BufferId, offset: number, bytes: number): Error | undefined {
    const failure = this.find(buffer, offset, offset + bytes);
    return failure && Object.assign(new Error(failure.message), { failure });
  }

  /** Marks a range as spoilt without a failed command. */
  spoil({ buffer, begin, end }: Range, failure: BackendFailure): void {
    this.clear(buffer, begin, end);
    this.#spoilt.push({ buffer, begin, end, failure });
  }

  /** Marks a range as valid. */
  clear(buffer: BufferId, begin: number, end: number): void {
    if (this.clean || begin >= end) return;
    this.#spoilt = this.#spoilt.flatMap((r) => {
      if (r.buffer !== buffer || r.begin >= end || begin >= r.end) return [r];
      const rest = [
        { ...r, end: begin },
        { ...r, begin: end },
      ];
      return rest.filter((part) => part.begin < part.end);
    });
  }

  /** Forgets a buffer that was freed or has a new owner. */
  forget(buffer: BufferId): void {
    this.clear(buffer, 0, Number.POSITIVE_INFINITY);
  }

  /**
   * Runs the command at `words[start]` and tracks its outputs. `run` executes it and returns the failure, if any; it is not
   * called for a command that would read spoilt bytes.
   */
  command(
    words: Int32Array,
    start: number,
    signatureOf: (kernel: number) => Signature,
    run: () => BackendFailure | undefined,
  ): void {
    const kernel = words[start]!;
    if (kernel === FORGET) {
      this.forget(words[start + 3]!);
      return;
    }
    let reaches: readonly Reach[] | undefined;
    let failure: BackendFailure | undefined;
    if (!this.clean) {
      reaches = reachesOf(words, start, signatureOf(kernel));
      for (const { read, buffer, begin, end } of reaches) {
        if (read) failure ??= this.find(buffer, begin, end);
      }
    }
    failure ??= run();
    if (failure === undefined && this.clean) return;
    for (const { buffer, begin, end, written, whole } of reaches ?? reachesOf(words, start, signatureOf(kernel))) {
      if (failure ? written : whole) this.clear(buffer, begin, end);
      if (failure && written && begin < end) this.#spoilt.push({ buffer, begin, end, failure });
    }
  }
}

/** The operands that an encoded command has (core/command.ts), as ranges; only for rows, not for panels. */
function reachesOf(words: Int32Array, start: number, { inputs, outputs }: Signature): Reach[] {
  const reaches: Reach[] = [];
  let at = start + 3;
  for (const [index, { mutated, replaced, marked }] of [...inputs, ...outputs].entries()) {
    const header = words[at]!;
    if (header === 0) {
      at++;
      continue;
    }
    const rank = header & 0xff;
    const strided = (header & 0x1000000) !== 0;
    const dims = words.subarray(at + 4, at + 4 + rank);
    let elements = dims.reduce((n, size) => n * size, 1);
    if (strided && elements > 0) elements = dims.reduce((far, n, d) => far + (n - 1) * words[at + 4 + rank + d]!, 1);
    const begin = (words[at + 2]! >>> 0) + words[at + 3]! * 4294967296;
    const output = index >= inputs.length;
    reaches.push({
      buffer: words[at + 1]!,
      begin,
      end: begin + bytesOf(DTYPES[(header >>> 8) & 0xff]!, elements),
      read: !output && !replaced && !marked,
      written: output || (mutated && !marked),
      whole: (output || replaced) && !strided,
    });
    at += 4 + rank + (strided ? rank : 0);
  }
  return reaches;
}
