// One file behind a server, read in chunks of 1 MB: from the cache, or from the network with several requests in flight and a
// bounded number of chunks in memory. A server that ignores ranges is read as one stream.

import { FormatError, NetworkError, OctavoError } from "../core/errors.js";
import { type Answer, changed, type HttpClient } from "./http-client.js";
import { type CachedFile, CHUNK_BYTES, type FileIdentity, type RangeCache } from "./range-cache.js";
import type { ReadOptions, SourceFile } from "./source.js";

/** Chunks per request. */
const RUN = 8;
/** Chunks requested ahead of the reader, which keeps three or four requests in flight. */
const AHEAD = 24;
/** A file without ranges is held in memory up to this size. Larger files are streamed and need a Content-Length. */
const HELD_BYTES = 64 << 20;

export interface RemoteContext {
  readonly client: HttpClient;
  readonly cache: RangeCache | undefined;
  /** Bytes received from the server so far. */
  received: number;
  /** Called when the cache fails; the file is then read without it. */
  warn(message: string): void;
}

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

export class RemoteFile implements SourceFile {
  readonly path: string;
  readonly size: number;
  readonly #identity: FileIdentity;
  readonly #what: string;
  readonly #context: RemoteContext;
  #cached: CachedFile | undefined;
  readonly #chunks = new Map<number, Promise<Uint8Array>>();
  /** False if the server ignores ranges. */
  #ranged = true;
  /** The first chunk that the reader may still need, and the callbacks to run when it moves on. */
  #floor = 0;
  #moved: (() => void)[] = [];

  /**
   * Requests the file's size and etag. A cached file costs one byte; the cache also serves files whose server cannot be
   * reached.
   * @throws NotFoundError, NetworkError, FormatError, AbortError
   */
  static async open(path: string, what: string, context: RemoteContext): Promise<RemoteFile> {
    const { client, cache } = context;
    const cached = await cache?.find(path).catch((error) => context.warn(unusable(error)));
    if (cached) {
      let now: FileIdentity | undefined = cached;
      try {
        now = await client.identity(path, what);
      } catch (error) {
        client.checkAborted();
        const offline = error instanceof NetworkError && error.details.status === undefined;
        if (!offline) {
          await cached.close();
          throw error;
        }
        context.warn(`${path}: the server cannot be reached; using the cached file`);
      }
      if (now && now.size === cached.size && now.etag === cached.etag) {
        return new RemoteFile(path, what, cached, context, cached);
      }
      await cached.close();
    }
    const answer = await client.get(path, what, 0, CHUNK_BYTES);
    const held = !answer.ranged && (answer.size ?? 0) <= HELD_BYTES ? await hold(path, answer) : undefined;
    context.received += held?.length ?? 0;
    const identity = { size: held?.length ?? answer.size!, etag: answer.etag };
    const kept = await cache?.create(path, identity).catch((error) => context.warn(unusable(error)));
    const file = new RemoteFile(path, what, identity, context, kept ?? undefined);
    if (held) await file.#takeWhole(held);
    else file.#begin(answer);
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
    const bytes = new Uint8Array(count);
    if (count === 0) return bytes;
    const first = Math.floor(position / CHUNK_BYTES);
    const last = Math.floor((position + count - 1) / CHUNK_BYTES);
    this.#moveTo(first);
    for (let chunk = first; chunk <= last; chunk++) {
      this.#ask(chunk, onward ? Math.max(last, chunk + AHEAD) : last);
      const from = await this.#chunks.get(chunk)!;
      const start = chunk * CHUNK_BYTES;
      const begin = Math.max(0, position - start);
      bytes.set(from.subarray(begin, position + count - start), start + begin - position);
      if (onward && start + from.length <= position + count) this.#chunks.delete(chunk);
      this.#moveTo(chunk);
    }
    return bytes;
  }

  /** A file stays open with its source, which `end`s it. */
  async close(): Promise<void> {}

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
    this.#floor = chunk;
    for (const go of this.#moved.splice(0)) go();
  }

  /** Requests the chunks from `first` to `last` that are not requested yet. */
  #ask(first: number, last: number): void {
    for (let chunk = first; chunk <= last && chunk < this.#count; chunk++) {
      if (this.#chunks.has(chunk)) continue;
      if (this.#cached?.has(chunk)) this.#chunks.set(chunk, this.#fromCache(this.#cached, chunk));
      else {
        let end = this.#ranged ? (Math.floor(chunk / RUN) + 1) * RUN : this.#count;
        end = Math.min(end, this.#count);
        let next = chunk + 1;
        while (next < end && !this.#chunks.has(next) && !this.#cached?.has(next)) next++;
        void this.#run(this.#announce(chunk, next), chunk);
      }
    }
  }

  #announce(first: number, end: number): Waiting[] {
    return Array.from({ length: end - first }, (_, i) => {
      const one = waiting();
      this.#chunks.set(first + i, one.promise);
      return one;
    });
  }

  async #fromCache(cached: CachedFile, chunk: number): Promise<Uint8Array> {
    const bytes = await cached.read(chunk).catch(() => undefined);
    const wanted = this.#end(chunk) - chunk * CHUNK_BYTES;
    if (bytes?.length === wanted) return bytes;
    const one = waiting();
    void this.#run([one], chunk);
    return one.promise;
  }

  /** Continues with the response that gave the file's size and etag. */
  #begin(answer: Answer): void {
    this.#ranged = answer.ranged;
    if (this.size === 0) return;
    const end = answer.ranged ? 1 : this.#count;
    void this.#run(this.#announce(0, end), 0, answer);
  }

  /** Fetches neighbouring chunks with one request, or with several where connections break off. */
  async #run(chunks: readonly Waiting[], first: number, answer?: Answer): Promise<void> {
    const { client } = this.#context;
    let done = 0;
    let failures = 0;
    let current = new Uint8Array(this.#end(first) - first * CHUNK_BYTES);
    let filled = 0;
    while (done < chunks.length) {
      try {
        const position = (first + done) * CHUNK_BYTES + filled;
        const from =
          answer ?? (await client.get(this.path, this.#what, position, this.#end(first + chunks.length - 1)));
        answer = undefined;
        this.#check(from);
        let skip = position - from.start;
        for await (const arrived of from.body) {
          failures = 0;
          this.#context.received += arrived.length;
          let bytes = arrived.subarray(Math.min(skip, arrived.length));
          skip -= arrived.length - bytes.length;
          while (bytes.length > 0 && done < chunks.length) {
            const part = bytes.subarray(0, current.length - filled);
            current.set(part, filled);
            filled += part.length;
            bytes = bytes.subarray(part.length);
            if (filled < current.length) continue;
            await this.#keep(first + done, current);
            chunks[done]!.resolve(current);
            done++;
            filled = 0;
            if (done === chunks.length) break;
            current = new Uint8Array(this.#end(first + done) - (first + done) * CHUNK_BYTES);
            await this.#room(first + done);
          }
          if (done === chunks.length && !from.ranged) break; // the rest is not needed; a range ends by itself
        }
        if (done === chunks.length) return;
        throw new NetworkError(`${this.path}: the server ended after ${(first + done) * CHUNK_BYTES + filled} bytes`, {
          details: { url: this.path, expected: this.size, got: (first + done) * CHUNK_BYTES + filled },
          hint: "the file on the server is cut short, or the connection broke off",
        });
      } catch (error) {
        const again = error instanceof NetworkError && error.details.status === undefined;
        try {
          if (!again) throw error;
          await client.pause(++failures, error);
        } catch (final) {
          for (const chunk of chunks.slice(done)) chunk.reject(final);
          // The next read of them requests them again.
          for (let i = done; i < chunks.length; i++) this.#chunks.delete(first + i);
          return;
        }
      }
    }
  }

  /** Waits while the stream is too far ahead of the reader. */
  async #room(chunk: number): Promise<void> {
    while (!this.#ranged && chunk > this.#floor + AHEAD) {
      await new Promise<void>((resolve) => this.#moved.push(resolve));
      this.#context.client.checkAborted();
    }
  }

  #check({ size, etag }: Answer): void {
    const before = this.#identity;
    if (size !== undefined && size !== before.size) throw changed(this.path, `${before.size} bytes`, `${size} bytes`);
    if (etag !== before.etag) throw changed(this.path, `etag ${before.etag || "none"}`, `etag ${etag || "none"}`);
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

/** The whole body of a server without ranges. @throws FormatError if it is too large to be held */
async function hold(path: string, { body, size }: Answer): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let total = 0;
  for await (const part of body) {
    parts.push(part);
    total += part.length;
    if (total > HELD_BYTES) {
      throw new FormatError(
        `${path}: the server sends neither ranges nor the size of a file above ${HELD_BYTES} bytes`,
        {
          details: { file: path, expected: "Accept-Ranges or Content-Length", got: "neither" },
          hint: "use a static server that answers Range requests",
        },
      );
    }
  }
  if (size !== undefined && total < size) {
    throw new NetworkError(`${path}: the server ended after ${total} of ${size} bytes`, {
      details: { url: path, expected: size, got: total },
      hint: "the file on the server is cut short, or the connection broke off",
    });
  }
  const bytes = new Uint8Array(total);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function unusable(error: unknown): string {
  const { name = "", message = String(error) } = (error ?? {}) as Partial<Error>;
  const full = name === "QuotaExceededError" || /quota/i.test(message);
  if (error instanceof OctavoError) return error.message;
  return full
    ? "the browser's storage is full: further downloads are not kept"
    : `the cache cannot be used (${name || "error"}: ${message}): downloads are not kept`;
}
