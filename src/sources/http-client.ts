// HTTP requests for ranges of files. Every failure of a server becomes a typed error, and none is waited for without end: not
// for silence, nor for bytes that drip. This file knows addresses and bytes; remote-file.ts assembles files from chunks.

import { AbortError } from "../core/errors.js";
import { Exchange, LOOKS, Pace } from "./exchange.js";
import {
  brokenOff,
  changed,
  mayRepeat,
  misleading,
  noSize,
  RETRY_STATUS,
  refused,
  standstill,
  tooLarge,
  unreachable,
  webPage,
} from "./http-errors.js";
import type { FileIdentity } from "./range-cache.js";

/** A response whose body is being read. */
export interface Answer {
  /** Size and etag of the whole file; the size is undefined if the server does not send it. */
  readonly size: number | undefined;
  readonly etag: string;
  /** Offset of the body's first byte in the file: 0 if the server ignores ranges. */
  readonly start: number;
  /** True if the server sent the range, false if it sent the whole file. */
  readonly ranged: boolean;
  readonly headers: Headers;
  /** Of a range, at most the bytes that were asked for. */
  readonly body: AsyncIterable<Uint8Array>;
  /** Ends the answer; for one whose body is not read. */
  drop(): void;
}

export interface HttpOptions {
  readonly signal?: AbortSignal;
  /** Access token of the hub, sent as `Authorization: Bearer`. */
  readonly token?: string;
  /** Seconds for which a server may send nothing, or next to nothing; by default `TIMEOUT`. */
  readonly timeout?: number;
  /** True in a browser, whose servers may forbid pages of other origins to read. */
  readonly page?: boolean;
}

/** Seconds for which a server may be silent, if the caller sets no other number. */
export const TIMEOUT = 30;
/** Milliseconds to wait before each retry. */
const PAUSES = [200, 800, 2500];
/** Time limits that a request may wait for its turn, while other answers of this client arrive. */
const PATIENCE = 10;
/** The largest size that is believed: no published file comes near it, and the caches' notes of its chunks still fit memory. */
const MOST_BYTES = 2 ** 40;
/** Bypasses the browser's HTTP cache, which would hold a second copy; Node has no such field. */
const UNCACHED: object = { cache: "no-store" };

/** A request that was answered. */
interface Sent {
  readonly response: Response;
  readonly exchange: Exchange;
}

export class HttpClient {
  /** Answers that wait for their readers; each is let go by a call, to give its connection to another request. */
  readonly holding = new Set<() => void>();
  /** Set once a large file comes from a server that ignores ranges; for the errors of requests that are not answered. */
  streaming = false;
  readonly #token: string | undefined;
  readonly #timeout: number;
  readonly #page: boolean;
  readonly #live = new Set<Exchange>();
  readonly #release: () => void;
  #ended: AbortError | undefined;
  /** Answers and pieces of answers so far. */
  #arrivals = 0;

  constructor({ signal, token, timeout = TIMEOUT, page = false }: HttpOptions) {
    this.#token = token || undefined;
    this.#timeout = timeout;
    this.#page = page;
    const abort = (): void => this.#end(new AbortError("loading was aborted", { cause: signal?.reason }));
    this.#release = () => signal?.removeEventListener("abort", abort);
    if (signal?.aborted) abort();
    else signal?.addEventListener("abort", abort, { once: true });
  }

  /** Ends all requests. */
  close(): void {
    this.#release();
    this.#end(new AbortError("the source was closed"));
  }

  #end(error: AbortError): void {
    this.#ended ??= error;
    for (const exchange of this.#live) exchange.end(this.#ended);
  }

  /**
   * Asks for bytes `start` to `end` (not included) of a file, or for all of it.
   * @throws NotFoundError, NetworkError, FormatError (a page instead of the file, a size that cannot be), AbortError
   */
  async get(url: string, what: string, start = 0, end: number = Number.POSITIVE_INFINITY): Promise<Answer> {
    const part = start > 0 || end < Number.POSITIVE_INFINITY;
    const sent = await this.#request(url, "GET", part ? { Range: `bytes=${start}-${end - 1}` } : {});
    try {
      return await this.#read(sent, url, what, start, end);
    } catch (error) {
      this.#drop(sent);
      throw error;
    }
  }

  async #read(sent: Sent, url: string, what: string, start: number, end: number): Promise<Answer> {
    const { status, ok, headers } = sent.response;
    const etag = etagOf(headers);
    const drop = (): void => this.#drop(sent);
    if (status === 416) {
      const total = /^bytes \*\/(\d+)$/.exec(headers.get("content-range") ?? "")?.[1] ?? "0";
      if (start > 0) throw changed(url, `${end} bytes or more`, `${total} bytes`);
      if (!/^0+$/.test(total)) throw misleading(url, "the first bytes", `none of ${total} bytes`);
      drop();
      return { size: 0, etag, start: 0, ranged: true, headers, body: none(), drop };
    }
    if (!ok || status === 204 || status === 205) {
      throw refused(url, what, status, waitOf(headers), headers);
    }
    const type = headers.get("content-type") ?? "";
    if (/^text\/html\b/i.test(type)) throw webPage(url, what);
    const encoding = headers.get("content-encoding");
    const encoded = encoding !== null && encoding !== "identity";
    if (status !== 206) {
      const length = encoded ? null : headers.get("content-length");
      const size = length === null ? undefined : sizeOf(length, url, what);
      return {
        size,
        etag,
        start: 0,
        ranged: false,
        headers,
        body: this.#pieces(url, sent, Number.POSITIVE_INFINITY),
        drop,
      };
    }
    if (/^multipart\//i.test(type)) throw misleading(url, "one range", type);
    if (encoded) throw misleading(url, "bytes as they are", `a range of ${encoding}`);
    const total = totalOf(headers.get("content-range"), url, start);
    const size = total === undefined ? await this.#sizeByHead(url, what, etag) : sizeOf(total, url, what);
    return { size, etag, start, ranged: true, headers, body: this.#pieces(url, sent, end - start), drop };
  }

  /** Size and etag of a file, from a request for its first byte: not every server with ranges answers HEAD. */
  async identity(url: string, what: string): Promise<FileIdentity | undefined> {
    const { size, etag, ranged, body } = await this.get(url, what, 0, 1);
    for await (const _ of body) if (!ranged) break; // leaving the loop ends the request
    return size === undefined ? undefined : { size, etag };
  }

  /**
   * Waits before the next attempt.
   * @param least seconds that the server asks for
   * @throws AbortError; `error` after too many `failures`
   */
  async pause(failures: number, error: unknown, least = 0): Promise<void> {
    this.checkAborted();
    const wait = PAUSES[failures - 1];
    if (wait === undefined) throw error;
    const exchange = this.#begin();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const milliseconds = Math.max(wait, 1000 * Math.min(least, this.#timeout));
    try {
      await exchange.wait(new Promise<void>((resolve) => (timer = setTimeout(resolve, milliseconds))));
    } finally {
      clearTimeout(timer);
      this.#live.delete(exchange);
    }
  }

  /** @throws AbortError */
  checkAborted(): void {
    if (this.#ended) throw this.#ended;
  }

  #begin(): Exchange {
    const exchange = new Exchange();
    this.#live.add(exchange);
    return exchange;
  }

  #drop({ response, exchange }: Sent): void {
    this.#live.delete(exchange);
    response.body?.cancel().catch(() => {}); // it has ended, or is being read
  }

  async #request(url: string, method: string, headers: Record<string, string>): Promise<Sent> {
    if (this.#token !== undefined) headers.Authorization = `Bearer ${this.#token}`;
    for (let failures = 1; ; failures++) {
      this.checkAborted();
      const exchange = this.#begin();
      let response: Response;
      try {
        response = await this.#answer(url, method, headers, exchange);
      } catch (cause) {
        this.#live.delete(exchange);
        if (exchange.error) throw exchange.error;
        const error = unreachable(url, cause, this.#page);
        if (!mayRepeat(cause, this.#arrivals > 0, this.#page, failures)) throw error;
        await this.pause(failures, error);
        continue;
      }
      this.#arrivals++;
      if (!RETRY_STATUS.has(response.status) || failures > PAUSES.length) return { response, exchange };
      this.#drop({ response, exchange });
      await this.pause(failures, undefined, waitOf(response.headers));
    }
  }

  /**
   * Sends a request and waits for the head of its answer. Other answers of this client may hold the connections that it needs:
   * while they arrive it waits longer, and those that wait for their readers are let go.
   */
  async #answer(url: string, method: string, headers: Record<string, string>, exchange: Exchange): Promise<Response> {
    let seen = this.#arrivals;
    let silent = 0;
    let looks = 0;
    const timer = setInterval(() => {
      silent = this.#arrivals === seen ? silent + 1 : 0;
      seen = this.#arrivals;
      for (const letGo of [...this.holding]) letGo();
      if (silent < LOOKS && ++looks < PATIENCE * LOOKS) return;
      exchange.end(standstill(url, this.#timeout, 0, this.streaming));
    }, this.#look);
    try {
      return await exchange.wait(fetch(url, { ...UNCACHED, method, headers, signal: exchange.signal }));
    } finally {
      clearInterval(timer);
    }
  }

  /** Milliseconds between two looks. */
  get #look(): number {
    return (1000 * this.#timeout) / LOOKS;
  }

  /** A server on another origin may hide Content-Range, but never the length of a whole file. */
  async #sizeByHead(url: string, what: string, etag: string): Promise<number> {
    const sent = await this.#request(url, "HEAD", {});
    this.#drop(sent);
    const { ok, status, headers } = sent.response;
    const length = ok ? headers.get("content-length") : null;
    if (length === null) throw noSize(url, what, status, this.#page);
    const other = etagOf(headers);
    if (other !== "" && etag !== "" && other !== etag) throw changed(url, `etag ${etag}`, `etag ${other}`);
    return sizeOf(length, url, what);
  }

  /** The body in pieces, `most` bytes of it. */
  async *#pieces(url: string, { response, exchange }: Sent, most: number): AsyncGenerator<Uint8Array> {
    const reader = response.body?.getReader();
    const pace = new Pace(this.#timeout);
    const timer = setInterval(() => {
      const bytes = exchange.waiting ? pace.look() : undefined;
      if (bytes !== undefined) exchange.end(standstill(url, this.#timeout, bytes, this.streaming));
    }, this.#look);
    let left = most;
    let ended = !reader;
    try {
      while (reader) {
        const { done, value } = await exchange.wait(reader.read());
        ended = done;
        if (done || left === 0) return;
        this.#arrivals++;
        pace.arrived(value.length);
        const wanted = value.subarray(0, left);
        left -= wanted.length;
        yield wanted;
      }
    } catch (cause) {
      ended = true;
      throw exchange.error ?? brokenOff(url, cause);
    } finally {
      clearInterval(timer);
      this.#live.delete(exchange);
      if (!ended) reader?.cancel().catch(() => {});
    }
  }
}

async function* none(): AsyncGenerator<Uint8Array> {}

function etagOf(headers: Headers): string {
  return headers.get("etag") || headers.get("last-modified") || "";
}

/** A size in bytes. @throws FormatError for one that no file has */
function sizeOf(text: string, url: string, what: string): number {
  const size = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (size <= MOST_BYTES) return size;
  throw tooLarge(url, what, text, MOST_BYTES);
}

/** The size of the whole file in a Content-Range; undefined if it is hidden or left open. @throws NetworkError */
function totalOf(header: string | null, url: string, start: number): string | undefined {
  if (header === null) return undefined;
  const [, first, last, total] = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(header) ?? [];
  const open = total === "*";
  if (Number(first) !== start || !(Number(last) >= start) || !(open || Number(last) < Number(total))) {
    throw misleading(url, `bytes from ${start}`, header);
  }
  return open ? undefined : total;
}

/** Seconds that a server asks to wait before the next request. */
function waitOf(headers: Headers): number | undefined {
  const text = headers.get("retry-after")?.trim() ?? "";
  const seconds = /^\d+$/.test(text) ? Number(text) : (Date.parse(text) - Date.now()) / 1000;
  return seconds > 0 ? Math.ceil(seconds) : undefined;
}
