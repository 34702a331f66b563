// Parts of the library that come when they are needed. A method that does not wait takes its part with `now`: from_pretrained has opened it,
// before there is an object with that method. A Worker opens none ahead: it does a call again when what it needs has come (`withParts`).

import { OctavoError } from "./error-classes.js";

/** A call that does not wait found a part that has not come. */
class PartMissing extends OctavoError {
  readonly part: Part<unknown>;

  constructor(part: Part<unknown>) {
    super("ERR_UNSUPPORTED", "a part of the library that this call needs has not been loaded", {
      hint: "from_pretrained loads it: use what it returns",
    });
    this.part = part;
  }
}

export class Part<T> {
  readonly #load: () => Promise<T>;
  #value: T | undefined;

  constructor(load: () => Promise<T>) {
    this.#load = load;
  }

  async open(): Promise<T> {
    this.#value ??= await this.#load();
    return this.#value;
  }

  /** @throws OctavoError if it has not been opened */
  get now(): T {
    if (this.#value === undefined) throw new PartMissing(this);
    return this.#value;
  }
}

/** What `body` gives. If it finds that a part is missing, which it must find before it has changed anything, it runs again with it. */
export async function withParts<T>(body: () => T | Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await body();
    } catch (error) {
      if (!(error instanceof PartMissing)) throw error;
      await error.part.open();
    }
  }
}
