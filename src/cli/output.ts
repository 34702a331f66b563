// Output of all commands: results on stdout, everything else on stderr, numbers in words, tables, errors without stack
// traces, exit codes. No command logic here.

import { AbortError, NotFoundError, OctavoError, OptionError, OutOfMemoryError } from "../core/errors.js";

/** Exit codes; 0 also if the reader of a pipe has closed it. */
export const EXIT = { ok: 0, failure: 1, usage: 2, notFound: 3, memory: 4, interrupted: 130 } as const;

/** The failure of a child process of this command, which has printed it already. */
export class PrintedError extends OctavoError {
  readonly exitCode: number;

  constructor(message: string, exitCode: number) {
    super("ERR_CHILD", message);
    this.exitCode = exitCode;
  }
}

/** The exit code that an error means. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof PrintedError) return error.exitCode;
  if (error instanceof OptionError) return EXIT.usage;
  if (error instanceof NotFoundError) return EXIT.notFound;
  if (error instanceof OutOfMemoryError) return EXIT.memory;
  if (error instanceof AbortError) return EXIT.interrupted;
  return EXIT.failure;
}

/** Prints an error for people: one sentence and a hint. OCTAVO_DEBUG=1 adds the stack. */
export function printError(error: unknown): void {
  if (error instanceof PrintedError) return;
  const debug = process.env.OCTAVO_DEBUG === "1";
  if (error instanceof AbortError && !debug) {
    process.stderr.write("interrupted\n");
    return;
  }
  const message = error instanceof Error ? error.message : String(error);
  process.stderr.write(`error: ${message}\n`);
  if (debug && error instanceof Error) {
    process.stderr.write(`${error.stack}\n`);
    if (error.cause instanceof Error) process.stderr.write(`cause: ${error.cause.stack}\n`);
  } else if (!(error instanceof OctavoError)) {
    process.stderr.write("  hint: unexpected error; OCTAVO_DEBUG=1 shows where it happened\n");
  }
}

/** A closed pipe is not an error: its reader has read enough. */
export function endWithReaders(): void {
  for (const stream of [process.stdout, process.stderr]) {
    stream.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code === "EPIPE") process.exit(EXIT.ok);
      if (stream === process.stdout) process.stderr.write(`error: cannot write the result: ${error.message}\n`);
      process.exit(EXIT.failure);
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

/** Writes a result as one JSON object, lists of numbers on one line (strings hold no line ends, so they are unaffected). */
export function printJson(value: unknown): void {
  const text = JSON.stringify(value, null, 2);
  const lists = /\[\n[\s\d.,e+-]+\]/g;
  print(`${text.replace(lists, (list) => list.replace(/\s+/g, " ").replace("[ ", "[").replace(" ]", "]"))}\n`);
}

/** True if stderr can show progress bars. */
export function isInteractive(): boolean {
  const { CI, TERM, HF_HUB_DISABLE_PROGRESS_BARS: off } = process.env;
  return process.stderr.isTTY === true && !CI && TERM !== "dumb" && off !== "1";
}

/** "5.87 MB": three digits, decimal units as on disks. */
export function bytes(count: number): string {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let value = count;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit++;
  }
  return unit === 0 ? `${count} B` : `${value.toPrecision(3)} ${units[unit]}`;
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

/** Rows in columns of minimal width; the columns in `right` are aligned to the right. */
export function table(rows: readonly (readonly string[])[], right: readonly number[] = [], indent = ""): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, c) => {
      widths[c] = Math.max(widths[c] ?? 0, cell.length);
    });
  }
  return rows
    .map((row) => {
      const cells = row.map((cell, c) => (right.includes(c) ? cell.padStart(widths[c]!) : cell.padEnd(widths[c]!)));
      return `${indent}${cells.join("  ")}`.trimEnd();
    })
    .map((line) => `${line}\n`)
    .join("");
}
