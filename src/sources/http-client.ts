// HTTP requests for ranges of files. Every failure of a server becomes a typed error. This file knows addresses and bytes;
// remote-file.ts assembles files from chunks.

import { AbortError, FormatError, NetworkError, NotFoundError, type OctavoError } from "../core/errors.js";
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
  readonly body: AsyncIterable<Uint8Array>;
}

export interface HttpOptions {
  readonly signal?: AbortSignal;
  /** Access token of the hub, sent as `Authorization: Bearer`. */
  readonly token?: string;
}

/** Milliseconds to wait before each retry. */
const PAUSES = [200, 800, 2500];
/** Bypasses the browser's HTTP cache, which would hold a second copy; Node has no such field. */
const UNCACHED: object = { cache: "no-store" };
const RETRY_STATUS: ReadonlySet<number> = new Set([408, 425, 429, 500, 502, 503, 504]);

export class HttpClient {
  readonly #signal: AbortSignal | undefined;
  readonly #token: string | undefined;
  readonly #closing = new AbortController();

  constructor({ signal, token }: HttpOptions) {
    this.#signal = signal;
    this.#token = token;
  }

  /** Ends all requests. */
  close(): void {
    this.#closing.abort(new AbortError("the source was closed"));
  }

  /**
   * Asks for bytes `start` to `end` (not included) of a file.
   * @throws NotFoundError, NetworkError, FormatError (a page instead of the file), AbortError
   */
  async get(url: string, what: string, start: number, end: number): Promise<Answer> {
    const response = await this.#request(url, "GET", { Range: `bytes=${start}-${end - 1}` });
    const page = /^text\/html\b/i.test(response.headers.get("content-type") ?? "");
    if (response.status === 416) {
      const total = /^bytes \*\/(\d+)$/.exec(response.headers.get("content-range") ?? "")?.[1];
      const size = total === undefined ? 0 : Number(total);
      if (start > 0) throw changed(url, `${end} bytes or more`, `${size} bytes`);
      return { size, etag: etagOf(response), start: 0, ranged: true, body: none() };
    }
    if (!response.ok || page) {
      await response.body?.cancel();
      throw page && response.ok ? webPage(url, what) : refused(url, what, response.status);
    }
    const ranged = response.status === 206;
    const range = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(response.headers.get("content-range") ?? "");
    if (range && Number(range[1]) !== start) {
      await response.body?.cancel();
      throw new NetworkError(`${url}: asked for bytes from ${start}, got bytes from ${range[1]}`, { details: { url } });
    }
    let size = range && range[3] !== "*" ? Number(range[3]) : undefined;
    if (ranged && size === undefined) size = await this.#sizeByHead(url, what);
    if (!ranged && !response.headers.has("content-encoding")) size = lengthOf(response);
    return { size, etag: etagOf(response), start: ranged ? start : 0, ranged, body: this.#pieces(url, response) };
  }

  /** Size and etag of a file, from a request for its first byte: not every server with ranges answers HEAD. */
  async identity(url: string, what: string): Promise<FileIdentity | undefined> {
    const { size, etag, ranged, body } = await this.get(url, what, 0, 1);
    for await (const _ of body) if (!ranged) break; // leaving the loop ends the request
    return size === undefined ? undefined : { size, etag };
  }

  /** Waits before the next attempt. @throws AbortError; `error` after too many `failures` */
  async pause(failures: number, error: unknown): Promise<void> {
    this.checkAborted();
    const wait = PAUSES[failures - 1];
    if (wait === undefined) throw error;
    await new Promise((resolve) => setTimeout(resolve, wait));
    this.checkAborted();
  }

  /** @throws AbortError */
  checkAborted(): void {
    if (this.#signal?.aborted) throw new AbortError("loading was aborted", { cause: this.#signal.reason });
    if (this.#closing.signal.aborted) throw this.#closing.signal.reason;
  }

  async #request(url: string, method: string, headers: Record<string, string>): Promise<Response> {
    if (this.#token !== undefined) headers.Authorization = `Bearer ${this.#token}`;
    const signal = AbortSignal.any([this.#closing.signal, ...(this.#signal ? [this.#signal] : [])]);
    for (let failures = 1; ; failures++) {
      this.checkAborted();
      let response: Response;
      try {
        response = await fetch(url, { ...UNCACHED, method, headers, signal });
      } catch (cause) {
        this.checkAborted();
        throw unreachable(url, cause);
      }
      if (!RETRY_STATUS.has(response.status) || failures > PAUSES.length) return response;
      await response.body?.cancel();
      await this.pause(failures, undefined);
    }
  }

  /** A server on another origin may hide Content-Range, but never the length of a whole file. */
  async #sizeByHead(url: string, what: string): Promise<number> {
    const response = await this.#request(url, "HEAD", {});
    const size = response.ok ? lengthOf(response) : undefined;
    if (size !== undefined) return size;
    throw new NetworkError(`${url}: the server does not say how large the ${what} is`, {
      details: { url, status: response.status },
      hint: "let it send Access-Control-Expose-Headers: Content-Range, ETag",
    });
  }

  async *#pieces(url: string, response: Response): AsyncGenerator<Uint8Array> {
    const reader = response.body?.getReader();
    if (!reader) return;
    let whole = false;
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        yield value;
      }
      whole = true;
    } catch (cause) {
      this.checkAborted();
      throw new NetworkError(`${url}: the connection broke off`, { details: { url }, cause });
    } finally {
      if (!whole) await reader.cancel().catch(() => {});
    }
  }
}

async function* none(): AsyncGenerator<Uint8Array> {}

function etagOf(response: Response): string {
  return response.headers.get("etag") ?? response.headers.get("last-modified") ?? "";
}

function lengthOf(response: Response): number | undefined {
  const length = response.headers.get("content-length");
  return length !== null && /^\d+$/.test(length) ? Number(length) : undefined;
}

function unreachable(url: string, cause: unknown): NetworkError {
  return new NetworkError(`${url}: the server cannot be reached, or it does not allow this page to read from it`, {
    details: { url },
    hint: "check the address and the connection; a server on another origin must send Access-Control-Allow-Origin",
    cause,
  });
}

function refused(url: string, what: string, status: number): OctavoError {
  const details = { url, file: url, status, expected: what };
  if (status === 404 || status === 410) {
    return new NotFoundError(`${url}: no such ${what} (${status})`, {
      details,
      hint: "the address must be that of the folder that holds config.json, or the id of a model on the hub",
    });
  }
  if (status === 401 || status === 403) {
    return new NetworkError(`${url}: the server does not let you read the ${what} (${status})`, {
      details,
      hint: "there is no such model, or it is private or gated: accept its terms on its page and pass `token`",
    });
  }
  return new NetworkError(`${url}: the server answered ${status} for the ${what}`, {
    details,
    hint: RETRY_STATUS.has(status) ? "the server is busy or in trouble; try again later" : undefined,
  });
}

const PAGE = "an HTML page";

/** True for the error of an HTML page in place of a file. */
export function isWebPage(error: unknown): boolean {
  return error instanceof FormatError && error.details.got === PAGE;
}

function webPage(url: string, what: string): FormatError {
  return new FormatError(`${url}: expected a ${what}, got ${PAGE}`, {
    details: { file: url, offset: 0, expected: what, got: PAGE },
    hint: "the server answers unknown addresses with a page; check the address of the folder",
  });
}

/** The error of a file that changed while it was read. */
export function changed(url: string, expected: string, got: string): FormatError {
  return new FormatError(`${url}: the file changed on the server while it was read: expected ${expected}, got ${got}`, {
    details: { file: url, expected, got },
    hint: "load it again; on the hub, pass the full commit as `revision`",
  });
}
