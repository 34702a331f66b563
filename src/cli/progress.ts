// Progress on a terminal: one line on stderr while weights or a long prompt are read, or a text is evaluated, cleared at the end.
// It fits any width.

import { SingleBar } from "cli-progress";
import type { PromptProgress } from "../generate/prefill.js";
import type { ProgressEvent } from "../load/fill.js";
import { bytes } from "./output.js";

/** Least and most characters of a bar. */
const BAR = { least: 10, most: 30 };

/** `before`, a bar of at most the room that is left, and as many of the parts as fit, the first ones first. */
function line(columns: number, before: string, share: number, parts: readonly string[]): string {
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

const percent = (share: number): string => `${Math.floor(100 * Math.min(1, share))} %`;

/** "1 s left", "2 min left". */
function remaining(seconds: number): string {
  const whole = Math.max(1, Math.ceil(seconds));
  return whole < 100 ? `${whole} s left` : `${Math.ceil(whole / 60)} min left`;
}

/** "1.65/1.78 GB". */
function amounts(loaded: number, total: number): string {
  const [read, all] = [bytes(loaded), bytes(total)];
  const unit = all.slice(all.indexOf(" "));
  return `${read.endsWith(unit) ? read.slice(0, -unit.length) : read}/${all}`;
}

/** The line while weights are read: what is left to wait for first, then how much and how fast. */
export function loadingLine(
  { loaded, total, bytes_per_second }: Pick<ProgressEvent, "loaded" | "total" | "bytes_per_second">,
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
  return line(columns, "loading", share, parts);
}

/** The line while a prompt is read. */
export function promptLine({ loaded, total }: Pick<PromptProgress, "loaded" | "total">, columns: number): string {
  const count = `reading the prompt  ${loaded.toLocaleString("en-US")} of ${total.toLocaleString("en-US")}`;
  return line(columns, count, loaded / total, []);
}

/** A line on stderr that `draw` makes for the width of the terminal. */
class ProgressLine<T extends object> {
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
    if (this.#shown) this.#bar.update(loaded, event);
    else this.#bar.start(total, loaded, event);
    this.#shown = true;
  }

  stop(): void {
    this.#bar.stop();
  }
}

/** The progress of a load. */
export class LoadingBar extends ProgressLine<ProgressEvent> {
  constructor() {
    super(loadingLine);
  }

  hear(event: ProgressEvent): void {
    if (event.status === "initiate" || event.status === "progress") this.show(event, event.loaded, event.total);
  }
}

/** The progress of a prompt; nothing for one that is read at once. */
export class PromptBar extends ProgressLine<PromptProgress> {
  constructor() {
    super(promptLine);
  }

  hear(event: PromptProgress): void {
    if (event.status === "progress") this.show(event, event.loaded, event.total);
    if (event.status === "done") this.stop();
  }
}

/** The progress of work with a name. */
export class PercentBar extends ProgressLine<{ readonly share: number }> {
  constructor(name: string) {
    super(({ share }, columns) => line(columns, name, share, [percent(share)]));
    this.update(0);
  }

  /** @param share from 0 to 1 */
  update(share: number): void {
    this.show({ share }, share, 1);
  }
}
