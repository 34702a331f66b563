// Long work on the host: it lets the event loop turn meanwhile, and hears of a signal.

import { throwIfAborted } from "./errors.js";

/** Lets the event loop turn once: what only awaits promises never does. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve));
}

/** Turns of the event loop during one piece of work: `if (turns.due) await turns.take()` costs next to nothing where none is due. */
export class Turns {
  readonly #what: string;
  readonly #signal: AbortSignal | undefined;
  readonly #every: number;
  #last = performance.now();

  /**
   * @param what the work, in the message of an abort
   * @param every milliseconds from one turn to the next
   */
  constructor(what: string, signal?: AbortSignal, every = 20) {
    this.#what = what;
    this.#signal = signal;
    this.#every = every;
  }

  get due(): boolean {
    return performance.now() - this.#last >= this.#every;
  }

  /** @throws AbortError */
  async take(): Promise<void> {
    await turn();
    throwIfAborted(this.#signal, this.#what);
    this.#last = performance.now();
  }
}
