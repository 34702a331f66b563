// Output of all commands: results on stdout, everything else on stderr, numbers in words, tables. No command logic here;
// failures.ts tells errors.

import { bytes as bytesOf, table } from "../core/show.js";

export { bytes, table } from "../core/show.js";
export { isInteractive } from "../hub/progress.js";

/** A closed pipe is not an error: its reader has read enough. */
export function endWithReaders(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EPIPE") process.exit(0);
      if (stream === process.stdout) process.stderr.write(`error: cannot write the result: ${error.message}\n`);
      process.exit(1);
    });
  }
}

/** Writes a result. */
export function print(text: string): void {
  process.stdout.write(text);
}

/** Writes one line about the work. */
export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** What hears a command's warnings, which says each of them once, and nothing for a command that is quiet. */
export function warner(quiet = false): (message: string) => void {
  const said = new Set<string>();
  return (message) => {
    if (quiet || said.has(message)) return;
    said.add(message);
    note(`warning: ${message}`);
  };
}

let result = false;

/** True once a result was written as JSON. */
export const hasResult = (): boolean => result;

/** Writes a result as one JSON object, lists of numbers on one line (strings hold no line ends, so they are unaffected). */
export function printJson(value: unknown): void {
  result = true;
  const text = JSON.stringify(value, null, 2);
  const lists = /\[\n[\s\d.,e+-]+\]/g;
  print(`${text.replace(lists, (list) => list.replace(/\s+/g, " ").replace("[ ", "[").replace(" ]", "]"))}\n`);
}

/** True if a stream may get colours: it is a terminal, and NO_COLOR is unset (https://no-color.org). */
export function colourful(stream: { readonly isTTY?: boolean }, env: NodeJS.ProcessEnv): boolean {
  return stream.isTTY === true && !env.NO_COLOR && env.TERM !== "dumb";
}

/** A text in fainter ink, where stderr can show it. */
export function dim(text: string): string {
  return colourful(process.stderr, process.env) ? `\x1b[2m${text}\x1b[22m` : text;
}

/** "12 ms", "1.24 s". */
export function duration(seconds: number): string {
  if (seconds < 0.0995) return `${(seconds * 1000).toPrecision(2)} ms`;
  if (seconds < 0.9995) return `${(seconds * 1000).toFixed(0)} ms`;
  return seconds < 60 ? `${seconds.toPrecision(3)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

/** "5.48 million". */
export function countOf(n: number): string {
  if (n >= 1e9) return `${(n / 1e9).toPrecision(3)} billion`;
  if (n >= 1e6) return `${(n / 1e6).toPrecision(3)} million`;
  return n.toLocaleString("en-US");
}

/** "1 token", "2 tokens". */
export function plural(n: number, word: string): string {
  return `${n.toLocaleString("en-US")} ${word}${n === 1 ? "" : "s"}`;
}

/** What a SelectiveConfig stores in which scheme; nothing for none. */
export function sharesText(
  shares: readonly { scheme: string; linears: number; parameters: number; bytes: number }[],
): string {
  if (shares.length === 0) return "";
  const rows = shares.map(({ scheme, linears, parameters, bytes: size }) => [
    scheme,
    String(linears),
    countOf(parameters),
    bytesOf(size),
    ((8 * size) / (parameters || 1)).toFixed(2),
  ]);
  return `\nlinears by scheme\n${table([["scheme", "linears", "parameters", "size", "bits each"], ...rows], [1, 2, 3, 4], "  ")}`;
}
