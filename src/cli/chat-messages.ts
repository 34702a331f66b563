// Messages of a conversation from the lines that people type, paste or pipe.

import type { Interface } from "node:readline";

/** Milliseconds in which the lines of a paste arrive. */
const PASTE_MS = 20;

/** Messages from lines: some have several, and lines that come together, as those of a paste, are one. */
export class Messages implements AsyncIterable<string> {
  readonly #lines: Interface;
  readonly #terminal: boolean;
  #open: string[] = [];
  #block = false;

  constructor(lines: Interface, terminal: boolean) {
    this.#lines = lines;
    this.#terminal = terminal;
  }

  /** Throws away a text of several lines that has not ended; false if there is none. */
  discard(): boolean {
    if (this.#open.length === 0 && !this.#block) return false;
    this.#open = [];
    this.#block = false;
    process.stderr.write("\n");
    this.#ask();
    return true;
  }

  #ask(): void {
    if (!this.#terminal) return;
    this.#lines.setPrompt(this.#open.length > 0 || this.#block ? "... " : "> ");
    this.#lines.prompt();
  }

  /** The message that a line completes; undefined while it goes on. */
  #add(line: string): string | undefined {
    const fence = line.trim() === '"""';
    const goes = !this.#block && !fence && line.endsWith("\\");
    if (fence) this.#block = !this.#block;
    else this.#open.push(goes ? line.slice(0, -1) : line);
    if (this.#block || goes) return undefined;
    const text = this.#open.join("\n");
    this.#open = [];
    return text;
  }

  /** True for lines that came together, and of which none is a command or has a meaning of its own. */
  #isPaste(lines: readonly string[]): boolean {
    if (!this.#terminal || lines.length < 2 || this.#open.length > 0 || this.#block) return false;
    return !lines.some((line) => line.startsWith("/") || line.trim() === '"""' || line.endsWith("\\"));
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<string> {
    const waiting: string[] = [];
    let wake = (): void => {};
    let closed = false;
    this.#lines.on("line", (line) => {
      waiting.push(line);
      wake();
    });
    this.#lines.on("close", () => {
      closed = true;
      wake();
    });
    this.#ask();
    for (;;) {
      if (waiting.length === 0) {
        if (closed) break;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        // What is pasted comes in one piece.
        if (this.#terminal) await new Promise((resolve) => setTimeout(resolve, PASTE_MS));
        continue;
      }
      if (this.#isPaste(waiting)) {
        yield waiting.splice(0).join("\n");
      } else {
        const text = this.#add(waiting.shift()!);
        if (text !== undefined) yield text;
      }
      if (!closed) this.#ask();
    }
    if (!this.#terminal && this.#open.length > 0) yield this.#open.join("\n");
  }
}
