// The texts: one for each storage of the weights, with what it took to write it.

import type { WorkerMemory, WorkerResult, WorkerStep } from "octavo/browser";
import { type Agreement, agreement, cut } from "./agreement.js";
import { define, element, megabytes } from "./page.js";

/** One text while it is written, and afterwards. */
export class Result {
  /** Of the weights. */
  readonly bits: string;
  /** Ids of its tokens, once it is finished. */
  ids: readonly number[] = [];
  /** Bytes of the model's weights. */
  weights = 0;
  readonly #article = made("article", "card result");
  readonly #written = made("span", "written");
  readonly #remarks = made("p", "remarks");
  readonly #list = made("dl", "figures");
  /** What each token added. */
  readonly #pieces: string[] = [];
  #begin = 0;
  #first = 0;

  constructor(bits: string, prompt: string) {
    this.bits = bits;
    const title = made("h2", "", `${bits} bits`);
    const text = made("p", "text");
    text.append(made("span", "prompt", prompt), this.#written);
    this.#article.dataset.bits = bits;
    this.#article.setAttribute("aria-label", `Text in ${bits} bits`);
    this.#article.append(title, text, this.#remarks, this.#list);
    this.#figures("–", "–", undefined);
    element("results").append(this.#article);
  }

  /** From here on the time counts. */
  start(): void {
    this.#begin = performance.now();
    this.#article.setAttribute("aria-busy", "true");
  }

  add({ text, tokens, memory }: WorkerStep): void {
    const now = performance.now();
    if (this.#pieces.length === 0) this.#first = now;
    // The last piece may come without a token of its own.
    this.#pieces[tokens - 1] = (this.#pieces[tokens - 1] ?? "") + text;
    this.#written.append(text);
    this.#figures(speed(tokens - 1, now - this.#first), milliseconds(this.#first - this.#begin), memory);
  }

  finish({ token_ids, decode_seconds, first_token_seconds, memory }: WorkerResult): void {
    this.ids = token_ids;
    this.weights = memory.weights;
    this.#figures(speed(token_ids.length - 1, decode_seconds * 1000), milliseconds(first_token_seconds * 1000), memory);
  }

  /** It is written as far as it will be. */
  end(): void {
    this.#article.removeAttribute("aria-busy");
    if (this.#pieces.length === 0) this.#article.remove();
  }

  note(text: string): void {
    this.#remarks.append(`${text} `);
  }

  /** Says how far it agrees with another text of the same model, and marks the first token that differs. */
  compare(other: Result): void {
    const { bits } = other;
    const found = agreement(other.ids, this.ids);
    this.note(agreementInWords(found, bits));
    this.note(`Memory: ${Math.round((100 * this.weights) / other.weights)} % of ${bits} bits.`);
    if (found.differs === undefined) return;
    const { before, token, after } = cut(this.#pieces, found.differs);
    const mark = made("mark", "", token === "" ? "∎" : token);
    mark.title = `the first token that is not that of ${bits} bits`;
    this.#written.replaceChildren(before, mark, after);
  }

  #figures(rate: string, first: string, memory: WorkerMemory | undefined): void {
    const bytes = (count: number | undefined): string => (count ? megabytes(count) : "–");
    define(this.#list, [
      ["Speed", rate],
      ["First token", first],
      ["Weights", bytes(memory?.weights)],
      ["KV cache", bytes(memory?.cache)],
      ["Peak", bytes(memory?.peak)],
    ]);
  }
}

function made(tag: string, className: string, text = ""): HTMLElement {
  return Object.assign(document.createElement(tag), { className, textContent: text });
}

function agreementInWords({ equal, of, differs }: Agreement, bits: string): string {
  if (differs === undefined) return `Equal to ${bits} bits: all ${of} tokens.`;
  return `Equal to ${bits} bits: ${equal} of ${of} tokens, up to the mark.`;
}

function speed(tokens: number, ms: number): string {
  return tokens > 0 && ms > 0 ? `${((tokens * 1000) / ms).toFixed(1)} tokens/s` : "–";
}

function milliseconds(ms: number): string {
  return `${ms.toFixed(0)} ms`;
}
