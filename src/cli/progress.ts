// Progress on a terminal: one line on stderr while weights or a long prompt are read, or a text is evaluated, cleared at the end.
// It fits any width.

import type { PromptProgress } from "../generate/prefill.js";
import { amountsLine, line, ProgressLine, percent, remaining } from "../hub/bar.js";
import type { ProgressEvent } from "../load/fill.js";

/** The line while weights are downloaded or read. */
export function loadingLine(
  event: Pick<ProgressEvent, "loaded" | "total" | "bytes_per_second"> & Partial<Pick<ProgressEvent, "status">>,
  columns: number,
): string {
  return amountsLine(event.status === "download" ? "downloading" : "loading", event, columns);
}

/** The line while a prompt is read. */
export function promptLine({ loaded, total }: Pick<PromptProgress, "loaded" | "total">, columns: number): string {
  const count = `reading the prompt  ${loaded.toLocaleString("en-US")} of ${total.toLocaleString("en-US")}`;
  return line(columns, count, loaded / total, []);
}

/** The progress of a load. */
export class LoadingBar extends ProgressLine<ProgressEvent> {
  constructor() {
    super(loadingLine);
  }

  hear(event: ProgressEvent): void {
    const { status, loaded, total } = event;
    if (status === "download" || status === "initiate" || status === "progress") this.show(event, loaded, total);
    if (status === "download" && loaded >= total) this.stop(); // what follows has another total
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

/** The progress of work in many parts: how much, and how long the rest takes at the speed so far. */
export class CountBar extends ProgressLine<{ readonly done: number; readonly total: number }> {
  constructor(name: string) {
    let first: { readonly at: number; readonly done: number } | undefined;
    super(({ done, total }, columns) => {
      const at = performance.now() / 1000;
      first ??= { at, done };
      const speed = (done - first.done) / Math.max(1e-3, at - first.at);
      const left = speed > 0 ? [remaining((total - done) / speed)] : [];
      const count = `${done.toLocaleString("en-US")} of ${total.toLocaleString("en-US")}`;
      return line(columns, name, total > 0 ? done / total : 1, [percent(done / Math.max(1, total)), ...left, count]);
    });
  }

  update(done: number, total: number): void {
    this.show({ done, total }, done, total);
  }
}
