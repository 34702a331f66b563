// One request to a server and its answer, which end early if the client ends or the server stands still. This file knows time
// and bytes, but not HTTP.

/**
 * Looks at an answer within the time limit. Time is counted in looks rather than milliseconds: a thread that was busy looks
 * once when it is free again, so what it had no time to receive does not count as silence of the server.
 */
export const LOOKS = 15;
/** Bytes per second below which an answer stands still. */
const LEAST_RATE = 100;

export class Exchange {
  readonly #stop = new AbortController();
  #error: Error | undefined;
  #reject: ((error: Error) => void) | undefined;

  /** For `fetch`. */
  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** Why it ended early. */
  get error(): Error | undefined {
    return this.#error;
  }

  /** True while something of the server's is awaited. */
  get waiting(): boolean {
    return this.#reject !== undefined;
  }

  /** Ends the request, and what is awaited rejects with `error`. */
  end(error: Error): void {
    if (this.#error) return;
    this.#error = error;
    this.#reject?.(error);
    this.#stop.abort(error);
  }

  /** The result of `work`, or at once the error with which the exchange ends meanwhile. */
  async wait<T>(work: Promise<T>): Promise<T> {
    try {
      return await new Promise<T>((resolve, reject) => {
        this.#reject = reject;
        if (this.#error) reject(this.#error);
        work.then(resolve, reject);
      });
    } finally {
      this.#reject = undefined;
    }
  }
}

/** Counts what arrives while it is awaited. */
export class Pace {
  readonly #least: number;
  #bytes = 0;
  #silent = 0;
  #looks = 0;

  /** @param seconds the time limit */
  constructor(seconds: number) {
    this.#least = LEAST_RATE * seconds;
  }

  arrived(bytes: number): void {
    if (bytes === 0) return;
    this.#bytes += bytes;
    this.#silent = 0;
  }

  /** To be called `LOOKS` times within the time limit: if the answer stands still, the bytes that came lately. */
  look(): number | undefined {
    if (++this.#silent >= LOOKS) return 0;
    if (++this.#looks < LOOKS) return undefined;
    const bytes = this.#bytes;
    this.#looks = 0;
    this.#bytes = 0;
    return bytes < this.#least ? bytes : undefined;
  }
}
