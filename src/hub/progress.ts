// The progress of the downloads of one call, over all its files: to a callback, or as a line on the terminal.

import type { DownloadEvent } from "../sources/source.js";
import type { DownloadBar } from "./bar.js";
import { isOn } from "./environment.js";

/** Milliseconds between two reports. */
const INTERVAL = 100;

export class DownloadProgress {
  readonly #hear: ((event: DownloadEvent) => void) | undefined;
  readonly #name: string;
  #loaded = 0;
  #total = 0;
  /** Bytes of them that came since `#begin`; others were there before. */
  #received = 0;
  #begin = 0;
  #reported = 0;
  #bar: Promise<DownloadBar> | undefined;

  /** @param hear where to; by default a bar, where stderr is a terminal */
  constructor(name: string, hear?: (event: DownloadEvent) => void) {
    this.#name = name;
    this.#hear = hear;
  }

  /** Counts a file that will come. */
  expect(bytes: number): void {
    if (this.#total === this.#loaded) {
      this.#begin = performance.now();
      this.#received = 0;
    }
    this.#total += bytes;
  }

  /** @param received false for bytes that were there before */
  advance(file: string, bytes: number, received: boolean): void {
    this.#loaded += bytes;
    if (received) this.#received += bytes;
    const done = this.#loaded >= this.#total;
    const now = performance.now();
    if (!done && now - this.#reported < INTERVAL) return;
    this.#reported = now;
    const bytes_per_second = this.#received / Math.max(1e-3, (now - this.#begin) / 1000);
    this.#report({ file, loaded: this.#loaded, total: this.#total, bytes_per_second });
  }

  /** No bytes come any more of what was expected. */
  stop(): void {
    void this.#bar?.then((bar) => bar.stop());
  }

  #report(event: DownloadEvent): void {
    if (this.#hear) {
      this.#hear(event);
      return;
    }
    if (!this.#bar) {
      if (!isInteractive()) return;
      process.stderr.write(`downloading ${this.#name} into the Hugging Face cache (HF_HUB_OFFLINE=1 forbids it)\n`);
      // Loaded here: most programs never need it.
      this.#bar = import("./bar.js").then(({ DownloadBar }) => new DownloadBar());
    }
    void this.#bar.then((bar) => bar.hear(event));
  }
}

/** True if stderr can show progress bars. */
export function isInteractive(): boolean {
  const { CI, TERM, HF_HUB_DISABLE_PROGRESS_BARS: off } = process.env;
  return process.stderr.isTTY === true && !CI && TERM !== "dumb" && !isOn(off);
}
