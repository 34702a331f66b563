// The order of operations on a device that may have to wait for another device. While nothing is held, an operation runs at
// once; an operation that returns a promise holds all later ones until the promise settles.

/** An operation for the backend. A returned promise makes later ones wait; it must not reject. */
export type Operation = () => Promise<void> | void;

/** Number of finished entries after which the queue is compacted. */
const COMPACT_AT = 1024;

export class Stream {
  /** True while operations are held: callers must copy what a later run needs. */
  held = false;
  #waiting: (Operation | undefined)[] = [];
  /** Index of the first pending entry. */
  #at = 0;
  #error: unknown;

  /** Runs an operation after all earlier ones: at once, or later. @throws its error, if it ran at once */
  run(operation: Operation): void {
    if (this.held) this.#waiting.push(operation);
    else this.#start(operation);
  }

  /** The error of an operation that ran later, when nobody could catch it; returned once. */
  takeError(): unknown {
    const error = this.#error;
    this.#error = undefined;
    return error;
  }

  /** True if the stream is held now. */
  #start(operation: Operation): boolean {
    const until = operation();
    if (!(until instanceof Promise)) return false;
    this.held = true;
    void until.then(() => this.#resume());
    return true;
  }

  /** Runs pending operations, up to the next one that holds. Operations added meanwhile come last. */
  #resume(): void {
    while (this.#at < this.#waiting.length) {
      const operation = this.#waiting[this.#at]!;
      this.#waiting[this.#at++] = undefined;
      if (this.#at === COMPACT_AT) {
        this.#waiting.splice(0, this.#at);
        this.#at = 0;
      }
      try {
        if (this.#start(operation)) return;
      } catch (error) {
        this.#error ??= error;
      }
    }
    this.#waiting = [];
    this.#at = 0;
    this.held = false;
  }
}
