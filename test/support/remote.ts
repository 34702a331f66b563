// Calls functions in the Worker of a page through requests to the page's server, for browsers without a driver. `GET /call`
// waits for the next call; the Worker posts the result to `/answer`.

import type { IncomingMessage, ServerResponse } from "node:http";
import { text } from "node:stream/consumers";

interface Call {
  readonly name: string;
  readonly args: readonly unknown[];
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/** A function of the Worker; its result travels as JSON. */
type Callable = (...args: never[]) => Promise<unknown>;

export class RemoteCalls<Functions extends { readonly [Name in keyof Functions]: Callable }> {
  readonly #calls: Call[] = [];
  #asking: ServerResponse | undefined;

  /** Await each call before the next one. */
  call<Name extends keyof Functions & string>(
    name: Name,
    ...args: Parameters<Functions[Name]>
  ): Promise<Awaited<ReturnType<Functions[Name]>>> {
    return new Promise((resolve, reject) => {
      this.#calls.push({ name, args, resolve: resolve as Call["resolve"], reject });
      this.#give();
    });
  }

  /** Answers a request of the Worker; false if it is another request. */
  serve(request: IncomingMessage, response: ServerResponse): boolean {
    if (request.url === "/call") {
      this.#asking = response;
      // A page that is gone takes no more calls; the one that replaces it asks again.
      response.on("close", () => {
        if (this.#asking === response) this.#asking = undefined;
      });
      this.#give();
    } else if (request.url === "/answer") {
      const call = this.#calls.shift();
      response.end();
      void text(request).then((body) => {
        const { result, error } = JSON.parse(body) as { result?: unknown; error?: string };
        if (error === undefined) call?.resolve(result);
        else call?.reject(new Error(error));
      });
    } else return false;
    return true;
  }

  /** Gives the first call to the Worker, if it waits. */
  #give(): void {
    const call = this.#calls[0];
    if (!call || !this.#asking) return;
    const { name, args } = call;
    this.#asking.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify({ name, args }));
    this.#asking = undefined;
  }
}
