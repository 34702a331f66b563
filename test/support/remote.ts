// Calls functions in the Worker of a page through requests to the page's server, for browsers without a driver. The Worker
// asks `/call` for the next call and posts what comes of it to `/answer` (test/runtimes/remote-worker.ts).
//
// Requests get lost: on a busy machine Firefox cancels one that waits and sends it again, and what the first one was answered
// is gone. So calls have numbers. The Worker says which call it wants, and asks again until it has it; an answer that arrives
// twice counts once.

import type { IncomingMessage, ServerResponse } from "node:http";
import { json } from "node:stream/consumers";

interface Call {
  readonly name: string;
  readonly args: readonly unknown[];
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/** What the Worker posts: the number of the call that it wants. */
export interface Wanted {
  readonly number: number;
}

/** What the Worker posts when a call has ended. */
export interface Answer {
  readonly number: number;
  readonly result?: unknown;
  readonly error?: string;
}

/** A function of the Worker; its result travels as JSON. */
type Callable = (...args: never[]) => Promise<unknown>;

/** A Worker that waits for longer asks again; so does one whose request was lost. */
const WAIT_MS = 3000;
/** Below the limit of the suites, so that it is a call that fails, and says how far it came. */
const LIMIT_MS = 115_000;

export class RemoteCalls<Functions extends { readonly [Name in keyof Functions]: Callable }> {
  /** The number of the first of `#calls`. */
  #number = 1;
  readonly #calls: Call[] = [];
  #asking: ServerResponse | undefined;
  /** Times of `performance.now()`: of the Worker's last question, and of the first time that the first call was given. */
  #asked: number | undefined;
  #given: number | undefined;

  /** Await each call before the next one. */
  async call<Name extends keyof Functions & string>(
    name: Name,
    ...args: Parameters<Functions[Name]>
  ): Promise<Awaited<ReturnType<Functions[Name]>>> {
    let limit: NodeJS.Timeout | undefined;
    try {
      return await new Promise((resolve, reject) => {
        limit = setTimeout(() => reject(new Error(`${name} is not answered: ${this.#progress()}`)), LIMIT_MS);
        this.#calls.push({ name, args, resolve: resolve as Call["resolve"], reject });
        this.#give();
      });
    } finally {
      clearTimeout(limit);
    }
  }

  /** Answers a request of the Worker; false if it is another request. */
  serve(request: IncomingMessage, response: ServerResponse): boolean {
    if (request.url === "/call") void this.#listen(request, response).catch(() => response.destroy());
    else if (request.url === "/answer") void this.#take(request, response).catch(() => response.destroy());
    else return false;
    return true;
  }

  async #listen(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { number } = (await json(request)) as Wanted;
    this.#asked = performance.now();
    if (number !== this.#number) throw new Error(`call ${number} is wanted, and ${this.#number} is next`);
    this.#asking = response;
    const late = setTimeout(() => response.writeHead(204).end(), WAIT_MS);
    response.on("close", () => {
      clearTimeout(late);
      if (this.#asking === response) this.#asking = undefined;
    });
    this.#give();
  }

  async #take(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { number, result, error } = (await json(request)) as Answer;
    response.writeHead(204).end();
    if (number !== this.#number) return;
    const call = this.#calls.shift();
    this.#number++;
    this.#given = undefined;
    if (error === undefined) call?.resolve(result);
    else call?.reject(new Error(error));
  }

  /** Gives the first call to the Worker, if it waits. */
  #give(): void {
    const call = this.#calls[0];
    if (!call || !this.#asking || this.#asking.writableEnded) return;
    const { name, args } = call;
    this.#asking.writeHead(200, { "Content-Type": "application/json" }).end(JSON.stringify({ name, args }));
    this.#asking = undefined;
    this.#given ??= performance.now();
  }

  #progress(): string {
    const ago = (time: number): string => `${((performance.now() - time) / 1000).toFixed(1)} s ago`;
    if (this.#asked === undefined) return "the page never asked for a call";
    const asked = `the page asked for a call ${ago(this.#asked)}`;
    return `${asked}, and ${this.#given === undefined ? "got none" : `first got this one ${ago(this.#given)}`}`;
  }
}
