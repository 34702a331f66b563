// One file behind a server, read in chunks of 1 MB: from the cache, or from the network with several requests in flight and a
// bounded number of chunks in memory. A server that ignores ranges is read as one stream, which waits for its reader.

import { FormatError, NetworkError } from "../core/errors.js";
import { costOf, firstAnswer } from "./first-answer.js";
import type { Answer } from "./http-client.js";
import { changed, endedEarly } from "./http-errors.js";
import { findKept, type RemoteContext, unusable, usable } from "./kept.js";
import { type CachedFile, CHUNK_BYTES, type FileIdentity } from "./range-cache.js";
import { bytesFor, type ReadOptions, type SourceFile } from "./source.js";

/** Chunks per request. */
const RUN = 8;
/** Chunks requested ahead of the reader, which keeps three or four requests in flight. */
const AHEAD = 24;
/** A connection that broke off after fewer bytes has brought nothing: the next attempt is not the first again. */
const PROGRESS_BYTES = 64 << 10;

interface Waiting {
  readonly promise: Promise<Uint8Array>;
  resolve(bytes: Uint8Array): void;
  reject(error: unknown): void;
}

function waiting(): Waiting {
  let resolve: Waiting["resolve"] = () => {};
  let reject: Waiting["reject"] = () => {};
  const promise = new Promise<Uint8Array>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  promise.catch(() => {}); // the chunk may never be read
  return { promise, resolve, reject };
}

/** Neighbouring chunks that are being fetched. */
interface Run {
  /** The chunk that is being filled, and its bytes so far. */
  next: number;
  current: Uint8Array;
  filled: number;
  readonly end: number;
  /** Nobody needs the rest. */
  stopped: boolean;
}

export class RemoteFile implements SourceFile {
  readonly far = true;
  readonly path: string;
  readonly size: number;
  readonly #identity: FileIdentity;
  readonly #what: string;
  readonly #context: RemoteContext;
  #cached: CachedFile | undefined;
  readonly #chunks = new Map<number, Promise<Uint8Array>>();
  /** Chunks that are asked for and have not come. */
  readonly #waiting = new Map<number, Waiting>();
  /** False if the server ignores ranges. */
  #ranged = true;
  /** Of a server that ignores ranges: the run that reads the file, from some chunk to the end. */
  #stream: Run | undefined;
  /** The last chunk that a stream may read, and the callbacks to run when that changes. */
  #until = 0;
  #moved: (() => void)[] = [];
  /** Callers that have opened it and not closed it. */
  #users = 0;
  /** True once it is read onward: the whole of it will be needed. */
  #onward = false;

  /**
   * Requests the file's size and etag. A cached file costs one byte; the cache also serves files whose server cannot be
   * reached.
   * @throws NotFoundError, NetworkError, FormatError, AbortError
   */
  static async open(path: string, what: string, context: RemoteContext): Promise<RemoteFile> {
    const cached = await findKept(path, what, context);
    if (cached) return new RemoteFile(path, what, cached, context, cached);
    const { answer, held } = await firstAnswer(path, what, context);
    const identity = { size: held?.length ?? answer.size!, etag: answer.etag };
    const kept = await usable(context.cache?.create(path, identity), context);
    const file = new RemoteFile(path, what, identity, context, kept);
    if (held) await file.#takeWhole(held);
    else file.#continue(answer);
    return file;
  }

  private constructor(
    path: string,
    what: string,
    identity: FileIdentity,
    context: RemoteContext,
    cached: CachedFile | undefined,
  ) {
    this.path = path;
    this.size = identity.size;
    this.#identity = { size: identity.size, etag: identity.etag };
    this.#what = what;
    this.#context = context;
    this.#cached = cached;
  }

  async read(position: number, count: number, { onward = false }: ReadOptions = {}): Promise<Uint8Array> {
    this.#context.client.checkAborted();
    if (position + count > this.size) throw this.#short(position, count);
    const bytes = bytesFor(count, this.path);
    if (count === 0) return bytes;
    const first = Math.floor(position / CHUNK_BYTES);
    const last = Math.floor((position + count - 1) / CHUNK_BYTES);
    this.#onward ||= onward;
    for (let chunk = first; chunk <= last; chunk++) {
      const ahead = chunk + AHEAD;
      this.#moveTo(onward ? ahead : Math.min(last, ahead));
      this.#ask(chunk, this.#until);
      const from = await this.#chunks.get(chunk)!;
      const start = chunk * CHUNK_BYTES;
      const begin = Math.max(0, position - start);
      bytes.set(from.subarray(begin, position + count - start), start + begin - position);
      if (onward && start + from.length <= position + count) this.#chunks.delete(chunk);
    }
    return bytes;
  }

  /** Counts a caller of `open`. */
  enter(): this {
    this.#users++;
    return this;
  }

  /**
   * A file stays open with its source, which `end`s it. But a stream whose header alone was read gives its connection back:
   * a server without ranges may have few, and other headers are read before the weights.
   */
  async close(): Promise<void> {
    this.#users = Math.max(0, this.#users - 1);
    if (this.#users === 0 && !this.#onward) this.#letGo();
  }

  async end(): Promise<void> {
    this.#moveTo(this.#count);
    const cached = this.#cached;
    this.#cached = undefined; // requests that end later write nothing
    await cached?.close();
  }

  get #count(): number {
    return Math.ceil(this.size / CHUNK_BYTES);
  }

  #end(chunk: number): number {
    return Math.min(this.size, (chunk + 1) * CHUNK_BYTES);
  }

  #moveTo(chunk: number): void {
    this.#until = chunk;
    for (const go of this.#moved.splice(0)) go();
  }

  /** Requests the chunks from `first` to `last` that are not requested yet; of a stream only the first. */
  #ask(first: number, last: number): void {
    for (let chunk = first; chunk <= last && chunk < this.#count; chunk++) {
      if (this.#chunks.has(chunk)) continue;
      if (this.#cached?.has(chunk)) this.#chunks.set(chunk, this.#fromCache(this.#cached, chunk));
      else if (!this.#ranged) {
        this.#expect(chunk);
        this.#flow(chunk);
      } else {
        const end = Math.min((Math.floor(chunk / RUN) + 1) * RUN, this.#count);
        let next = chunk;
        while (next < end && !this.#chunks.has(next) && !this.#cached?.has(next)) this.#expect(next++);
        void this.#run(this.#begin(chunk, next));
      }
      if (!this.#ranged) return;
    }
  }

  #expect(chunk: number): void {
    const one = waiting();
    this.#waiting.set(chunk, one);
    this.#chunks.set(chunk, one.promise);
  }

  #begin(first: number, end: number): Run {
    return { next: first, current: this.#room(first), filled: 0, end, stopped: false };
  }

  #room(chunk: number): Uint8Array {
    return new Uint8Array(this.#end(chunk) - chunk * CHUNK_BYTES);
  }

  async #fromCache(cached: CachedFile, chunk: number): Promise<Uint8Array> {
    const bytes = await cached.read(chunk).catch(() => undefined);
    const wanted = this.#end(chunk) - chunk * CHUNK_BYTES;
    if (bytes?.length === wanted) return bytes;
    const one = waiting();
    this.#waiting.set(chunk, one);
    if (this.#ranged) void this.#run(this.#begin(chunk, chunk + 1));
    else this.#flow(chunk);
    return one.promise;
  }

  /** Continues with the response that gave the file's size and etag. */
  #continue(answer: Answer): void {
    this.#ranged = answer.ranged;
    if (this.size === 0) answer.drop();
    else if (answer.ranged) {
      this.#expect(0);
      void this.#run(this.#begin(0, 1), answer);
    } else this.#flow(0, answer);
  }

  /** Lets the stream run on to this chunk; one that has passed it begins again, as the server knows only the whole file. */
  #flow(chunk: number, answer?: Answer): void {
    const before = this.#stream;
    if (!before || before.next > chunk) {
      if (before) before.stopped = true;
      this.#stream = this.#begin(chunk, this.#count);
      this.#context.client.streaming = true;
      void this.#run(this.#stream, answer);
    }
    this.#moveTo(this.#until);
  }

  /** Ends a stream that waits for its reader. A later read begins it again. */
  #letGo(): void {
    if (!this.#stream || this.#waiting.size > 0) return;
    this.#stream.stopped = true;
    this.#stream = undefined;
    this.#moveTo(this.#until);
  }

  /** Fetches the chunks of a run with one request, or with several where connections break off. */
  async #run(run: Run, begun?: Answer): Promise<void> {
    const { client } = this.#context;
    let failures = 0;
    try {
      for (let answer = begun; !run.stopped && run.next < run.end; answer = undefined) {
        const position = run.next * CHUNK_BYTES + run.filled;
        answer ??= await client.get(this.path, this.#what, position, this.#end(run.end - 1));
        this.#check(answer);
        try {
          await this.#take(run, answer, position);
        } catch (error) {
          if (!(error instanceof NetworkError)) throw error;
          if (run.stopped || run.next === run.end) return;
          const came = run.next * CHUNK_BYTES + run.filled - position;
          failures = (came < PROGRESS_BYTES ? failures : 0) + costOf(error);
          await client.pause(failures, error);
        }
      }
    } catch (error) {
      this.#fail(run, error);
    } finally {
      if (this.#stream === run) this.#stream = undefined;
    }
  }

  /** Takes the bytes of an answer, from `position` on. @throws NetworkError if it ends before the run */
  async #take(run: Run, { body, start, ranged }: Answer, position: number): Promise<void> {
    let skip = position - start;
    for await (const arrived of body) {
      this.#context.received += arrived.length;
      let bytes = arrived.subarray(Math.min(skip, arrived.length));
      skip -= arrived.length - bytes.length;
      while (bytes.length > 0 && !run.stopped && run.next < run.end) {
        const part = bytes.subarray(0, run.current.length - run.filled);
        run.current.set(part, run.filled);
        run.filled += part.length;
        bytes = bytes.subarray(part.length);
        if (run.filled < run.current.length) continue;
        await this.#give(run.next, run.current);
        run.next++;
        run.filled = 0;
        if (run.next === run.end) break;
        run.current = this.#room(run.next);
        await this.#turn(run);
      }
      if (run.stopped || (run.next === run.end && !ranged)) return; // a range ends by itself, and its connection is kept
    }
    if (run.next < run.end) throw endedEarly(this.path, run.next * CHUNK_BYTES + run.filled, this.size);
  }

  async #give(chunk: number, bytes: Uint8Array): Promise<void> {
    await this.#keep(chunk, bytes);
    const one = this.#waiting.get(chunk);
    this.#waiting.delete(chunk);
    if (one) one.resolve(bytes);
    else if (!this.#chunks.has(chunk)) this.#chunks.set(chunk, Promise.resolve(bytes));
  }

  /** Rejects what was expected of a run. The next read requests it again. */
  #fail(run: Run, error: unknown): void {
    if (run.stopped) return;
    for (const [chunk, one] of this.#waiting) {
      if (chunk < run.next || chunk >= run.end) continue;
      one.reject(error);
      this.#waiting.delete(chunk);
      this.#chunks.delete(chunk);
    }
  }

  /** Waits while a stream is too far ahead of the reader. */
  async #turn(run: Run): Promise<void> {
    const { holding } = this.#context.client;
    const letGo = (): void => this.#letGo();
    while (!this.#ranged && !run.stopped && run.next > this.#until && this.#waiting.size === 0) {
      holding.add(letGo);
      await new Promise<void>((resolve) => this.#moved.push(resolve));
      holding.delete(letGo);
    }
  }

  #check(answer: Answer): void {
    const { size, etag, ranged } = answer;
    const before = this.#identity;
    let error: FormatError | undefined;
    if (etag !== before.etag) error = changed(this.path, `etag ${before.etag || "none"}`, `etag ${etag || "none"}`);
    if (size !== undefined && size !== before.size) error = changed(this.path, `${before.size} bytes`, `${size} bytes`);
    if (error) {
      answer.drop();
      throw error;
    }
    if (!ranged) this.#ranged = false;
  }

  async #keep(chunk: number, bytes: Uint8Array): Promise<void> {
    const cached = this.#cached;
    if (!cached) return;
    try {
      await cached.write(chunk, bytes);
    } catch (error) {
      if (this.#cached !== cached) return;
      this.#cached = undefined;
      this.#context.warn(unusable(error));
      await cached.close().catch(() => {});
    }
  }

  async #takeWhole(bytes: Uint8Array): Promise<void> {
    for (let chunk = 0; chunk < this.#count; chunk++) {
      const part = bytes.slice(chunk * CHUNK_BYTES, this.#end(chunk));
      this.#chunks.set(chunk, Promise.resolve(part));
      await this.#keep(chunk, part);
    }
    this.#ranged = false;
  }

  #short(position: number, count: number): FormatError {
    return new FormatError(`${this.path}: ended at byte ${this.size} while it was read`, {
      details: { file: this.path, offset: this.size, expected: position + count, got: this.size },
    });
  }
}
