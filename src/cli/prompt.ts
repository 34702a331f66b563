// Reads prompts from an argument, standard input, or a file with one prompt per line.

import { OptionError } from "../core/errors.js";
import { decodeText, readText } from "./text.js";

export interface PromptSource {
  /** As given; "-" is standard input. */
  readonly prompt: string | undefined;
  readonly batchFile: string | undefined;
  /** Read \n, \t and \\ in the prompt as people write them in a shell. */
  readonly escape: boolean;
}

/**
 * The prompts to continue.
 * @throws OptionError if there is none, two sources, or bytes that are no text; NotFoundError for a missing batch file
 */
export async function readPrompts(source: PromptSource): Promise<string[]> {
  const { prompt, batchFile } = source;
  if (batchFile !== undefined) {
    if (prompt !== undefined) throw new OptionError("a prompt and --batch-file cannot be used together");
    const lines = (await readText(batchFile)).split(/\r?\n/).filter((line) => line !== "");
    if (lines.length === 0) throw new OptionError(`${batchFile} holds no prompt`, { hint: "one prompt per line" });
    return source.escape ? lines.map(unescaped) : lines;
  }
  let text = prompt;
  if (text === undefined && process.stdin.isTTY) {
    throw new OptionError("there is no prompt", {
      hint: 'octavo generate <model> "Once upon a time", or pipe the prompt in',
    });
  }
  if (text === undefined || text === "-") {
    const parts: Buffer[] = [];
    for await (const part of process.stdin) parts.push(Buffer.from(part as Uint8Array));
    // echo and editors add this line end.
    text = decodeText(Buffer.concat(parts), "standard input").replace(/\r?\n$/, "");
  }
  return [source.escape ? unescaped(text) : text];
}

const ESCAPES: Readonly<Record<string, string>> = { n: "\n", t: "\t", r: "\r", "\\": "\\" };

export function unescaped(text: string): string {
  return text.replace(/\\([ntr\\])/g, (_, letter: string) => ESCAPES[letter]!);
}
