// A server of files in memory or on disk that can misbehave on request, and that records its requests.

import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";

export interface Asked {
  readonly path: string;
  readonly method: string;
  readonly range: string | undefined;
  readonly authorization: string | undefined;
}

/** Answers a request itself (true), or leaves it to the server. */
export type Misbehave = (request: IncomingMessage, response: ServerResponse, body: Buffer | undefined) => boolean;

export class FileServer {
  readonly asked: Asked[] = [];
  /** Content by path; takes precedence over files on disk. */
  readonly files = new Map<string, Buffer>();
  /** False ignores ranges and sends whole files. */
  ranges = true;
  misbehave: Misbehave | undefined;
  /** Requests that are answered at once; others wait for their end. */
  connections = Number.POSITIVE_INFINITY;
  #active = 0;
  readonly #queue: (() => void)[] = [];
  readonly #folder: string | undefined;
  readonly #server: Server;

  constructor(folder?: string) {
    this.#folder = folder;
    this.#server = createServer((request, response) => this.#inTurn(request, response));
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    return this;
  }

  get address(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** Resets everything for the next test. */
  reset(): void {
    this.asked.length = 0;
    this.files.clear();
    this.ranges = true;
    this.misbehave = undefined;
    this.connections = Number.POSITIVE_INFINITY;
  }

  #inTurn(request: IncomingMessage, response: ServerResponse): void {
    const go = (): void => {
      this.#active++;
      response.on("close", () => {
        this.#active--;
        this.#queue.shift()?.();
      });
      this.#answer(request, response);
    };
    if (this.#active < this.connections) go();
    else this.#queue.push(go);
  }

  #content(path: string): Buffer | undefined {
    const known = this.files.get(path);
    if (known || !this.#folder) return known;
    const file = join(this.#folder, path);
    return existsSync(file) && statSync(file).isFile() ? readFileSync(file) : undefined;
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const path = decodeURIComponent(new URL(request.url!, "http://x").pathname);
    const { range, authorization } = request.headers;
    this.asked.push({ path, method: request.method!, range, authorization });
    const body = this.#content(path);
    if (this.misbehave?.(request, response, body)) return;
    if (!body) {
      response.writeHead(404).end();
      return;
    }
    const etag = etagOf(body);
    const wanted = this.ranges ? /^bytes=(\d+)-(\d+)$/.exec(range ?? "") : null;
    if (!wanted) {
      response.writeHead(200, { "Content-Length": body.length, ETag: etag });
      response.end(request.method === "HEAD" ? undefined : body);
      return;
    }
    const start = Number(wanted[1]);
    const end = Math.min(body.length, Number(wanted[2]) + 1);
    if (start >= body.length) {
      response.writeHead(416, { "Content-Range": `bytes */${body.length}` }).end();
      return;
    }
    response.writeHead(206, {
      "Content-Length": end - start,
      "Content-Range": `bytes ${start}-${end - 1}/${body.length}`,
      ETag: etag,
    });
    response.end(body.subarray(start, end));
  }
}

export function etagOf(body: Buffer): string {
  return `"${createHash("sha1").update(body).digest("hex").slice(0, 16)}"`;
}
