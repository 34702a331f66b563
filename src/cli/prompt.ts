// Reads prompts from an argument, standard input, or a file with one prompt per line.

import type { Readable } from "node:stream";
import { AbortError, OptionError, throwIfAborted } from "../core/errors.js";
import { decodeText } from "../sources/text.js";
import { note } from "./output.js";
import { readText } from "./text.js";

export interface PromptSource {
  /** As given; "-" is standard input. */
  readonly prompt: string | undefined;
  readonly batchFile: string | undefined;
  /** Read \n, \t and \\ in the prompt as people write them in a shell. */
  readonly escape: boolean;
  /** No word to people who are to type. */
  readonly quiet?: boolean;
  /** Ends the wait for standard input. */
  readonly signal?: AbortSignal;
  /** By default the process's own. */
  readonly stdin?: Readable & { readonly isTTY?: boolean };
}

/**
 * The prompts to continue.
 * @throws OptionError for two sources, or bytes that are no text; NotFoundError for a missing batch file; AbortError
 */
export async function readPrompts(source: PromptSource): Promise<string[]> {
  const { prompt, batchFile } = source;
  if (batchFile !== undefined) {
    if (prompt !== undefined) throw new OptionError("a prompt and --batch-file cannot be used together");
    const lines = (await readText(batchFile)).split(/\r?\n/).filter((line) => line !== "");
    if (lines.length === 0) throw new OptionError(`${batchFile} holds no prompt`, { hint: "one prompt per line" });
    return source.escape ? lines.map(unescaped) : lines;
  }
  const text = prompt === undefined || prompt === "-" ? await typed(source) : prompt;
  return [source.escape ? unescaped(text) : text];
}

/** All of standard input, without the line end that echo and editors add. */
async function typed({ quiet, signal, stdin = process.stdin }: PromptSource): Promise<string> {
  if (stdin.isTTY && !quiet)
    note(`type a prompt, end with ${process.platform === "win32" ? "Ctrl+Z, Enter" : "Ctrl+D"}`);
  throwIfAborted(signal, "reading the prompt");
  const stop = (): void =>
    void stdin.destroy(new AbortError("reading the prompt was aborted", { cause: signal?.reason }));
  signal?.addEventListener("abort", stop, { once: true });
  try {
    const parts: Buffer[] = [];
    for await (const part of stdin) parts.push(Buffer.from(part as Uint8Array));
    return decodeText(Buffer.concat(parts), "standard input").replace(/\r?\n$/, "");
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", t: "\t", r: "\r", "\\": "\\" };

function unescaped(text: string): string {
  return text.replace(/\\([ntr\\])/g, (_, letter: string) => ESCAPES[letter]!);
}
