// Lines of progress on a terminal: a bar on stderr that fits any width and is cleared at the end. The command line draws its own with them.

import { SingleBar } from "cli-progress";
import { bytes } from "../core/show.js";
import type { DownloadEvent } from "../sources/source.js";

/** Least and most characters of a bar. */
const BAR = { least: 10, most: 30 };

/** `before`, a bar of at most the room that is left, and as many of the parts as fit, the first ones first. */
export function line(columns: number, before: string, share: number, parts: readonly string[]): string {
  const room = columns - 1; // the cursor's place
  let text = "";
  for (const part of parts) {
    const longer = `${text}  ${part}`;
    if (before.length + longer.length > room) break;
    text = longer;
  }
  const left = Math.min(BAR.most, room - before.length - text.length - 3);
  if (left < BAR.least) return `${before}${text}`.slice(0, room);
  const filled = Math.round(Math.min(1, share) * left);
  return `${before} [${"=".repeat(filled)}${"-".repeat(left - filled)}]${text}`;
}

export const percent = (share: number): string => `${Math.floor(100 * Math.min(1, share))} %`;

/** "1 s left", "2 min left". */
export function remaining(seconds: number): string {
  const whole = Math.max(1, Math.ceil(seconds));
  return whole < 100 ? `${whole} s left` : `${Math.ceil(whole / 60)} min left`;
}

/** "1.65/1.78 GB". */
function amounts(loaded: number, total: number): string {
  const [read, all] = [bytes(loaded), bytes(total)];
  const unit = all.slice(all.indexOf(" "));
  return `${read.endsWith(unit) ? read.slice(0, -unit.length) : read}/${all}`;
}

/** What is left to wait for first, then how much and how fast. */
export function amountsLine(
  name: string,
  { loaded, total, bytes_per_second }: Pick<DownloadEvent, "loaded" | "total" | "bytes_per_second">,
  columns: number,
): string {
  const share = total > 0 ? loaded / total : 1;
  const known = loaded > 0 && bytes_per_second > 0;
  const parts = [
    percent(share),
    ...(known ? [remaining((total - loaded) / bytes_per_second)] : []),
    amounts(loaded, total),
    ...(known ? [`${bytes(Math.round(bytes_per_second))}/s`] : []),
  ];
  return line(columns, name, share, parts);
}

/** A line on stderr that `draw` makes for the width of the terminal. */
export class ProgressLine<T extends object> {
  readonly #bar: SingleBar;
  #shown = false;

  constructor(draw: (event: T, columns: number) => string) {
    this.#bar = new SingleBar({
      stream: process.stderr,
      format: (_, { maxWidth }, event: T) => draw(event, maxWidth),
      clearOnComplete: true,
      hideCursor: true,
    });
  }

  show(event: T, loaded: number, total: number): void {
    if (this.#shown) {
      this.#bar.setTotal(total);
      this.#bar.update(loaded, event);
    } else this.#bar.start(total, loaded, event);
    this.#shown = true;
  }

  /** Clears the line. A later event draws it again. */
  stop(): void {
    this.#bar.stop();
    this.#shown = false;
  }
}

/** The progress of downloads; their total grows while files become known. */
export class DownloadBar extends ProgressLine<DownloadEvent> {
  constructor() {
    super((event, columns) => amountsLine("downloading", event, columns));
  }

  hear(event: DownloadEvent): void {
    this.show(event, event.loaded, event.total);
    if (event.loaded >= event.total) this.stop();
  }
}
