// The order of what a device is handed, where it must wait for another device. While nothing is held, an operation runs
// at once; an operation that returns a promise holds all later ones back until the promise has settled.

/** Something for the backend. A promise says that what comes later must wait for it; it must not reject. */
export type Operation = () => Promise<void> | void;

/** Entries that have run before their places are given back. */
const COMPACT_AT = 1024;

export class Stream {
  /** True while operations are held back: what runs them later must have copies of what they need. */
  held = false;
  #waiting: (Operation | undefined)[] = [];
  /** Where the first that still waits stands. */
  #at = 0;
  #error: unknown;

  /** Runs an operation behind all earlier ones: at once, or later. @throws what it throws, if it ran at once */
  run(operation: Operation): void {
    if (this.held) this.#waiting.push(operation);
    else this.#start(operation);
  }

  /** What an operation threw that ran later, when nobody was there to catch it; given once. */
  takeError(): unknown {
    const error = this.#error;
    this.#error = undefined;
    return error;
  }

  /** True if the stream is held now. */
  #start(operation: Operation): boolean {
    const until = operation();
    if (!until) return false;
    this.held = true;
    void until.then(() => this.#resume());
    return true;
  }

  /** Runs what waits, up to the next operation that holds. Operations that are added meanwhile come behind. */
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
