// What a command says when it fails: a sentence on stderr, one object on stdout with --json, and an exit code.

import {
  AbortError,
  type ErrorDetails,
  NotFoundError,
  OctavoError,
  OptionError,
  OutOfMemoryError,
} from "../core/errors.js";
import { scrub } from "../sources/address.js";
import { hasResult, printJson } from "./output.js";

/** Exit codes; 0 also if the reader of a pipe has closed it. */
export const EXIT = { ok: 0, failure: 1, usage: 2, notFound: 3, memory: 4, interrupted: 130 } as const;

/** An error as `--json` prints it, under the key `error`; later versions only add fields. */
export interface ErrorReport {
  /** Stable, such as "ERR_NOT_FOUND"; "ERR_UNEXPECTED" for an error that Octavo does not know. */
  readonly code: string;
  readonly message: string;
  /** The next thing to try. */
  readonly hint?: string;
  readonly details?: ErrorDetails;
}

/** The failure of a child process of this command, which has printed it already. */
export class PrintedError extends OctavoError {
  readonly exitCode: number;
  readonly report: ErrorReport | undefined;

  /** @param report of the child's own error, if it sent one */
  constructor(message: string, exitCode: number, report: ErrorReport | undefined) {
    super("ERR_CHILD", message);
    this.exitCode = exitCode;
    this.report = report;
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

const UNEXPECTED_HINT = "unexpected error; OCTAVO_DEBUG=1 shows where it happened";

/** The facts of an error, without its stack. Octavo's own errors hold no secrets; addresses in others lose theirs here. */
export function errorReport(error: unknown): ErrorReport {
  if (error instanceof PrintedError && error.report) return error.report;
  if (!(error instanceof OctavoError)) {
    const message = scrub(error instanceof Error ? error.message : String(error));
    return { code: "ERR_UNEXPECTED", message, hint: UNEXPECTED_HINT };
  }
  const { code, message, hint, details } = error;
  const ending = `\n  hint: ${hint}`;
  return {
    code,
    message: hint !== undefined && message.endsWith(ending) ? message.slice(0, -ending.length) : message,
    hint,
    details: Object.values(details).some((value) => value !== undefined) ? details : undefined,
  };
}

/** What the library's hints say in code, in the words of the command line. */
function inTerminal(error: unknown): unknown {
  if (!(error instanceof NotFoundError) || typeof error.details.id !== "string") return error;
  const { message, hint = "", details } = error;
  const said = hint.replace('{ hub: "https://huggingface.co" }', "--hub https://huggingface.co");
  return new NotFoundError(message.split("\n  hint: ")[0]!, { hint: said, details, cause: error });
}

let json = false;

/** From now on failures are told as JSON too. */
export function failAsJson(): void {
  json = true;
}

/**
 * Tells an error to people on stderr (one sentence and a hint; OCTAVO_DEBUG=1 adds the stack) and, with --json, to programs
 * on stdout, unless a result is there already.
 */
export function printError(thrown: unknown): void {
  const error = inTerminal(thrown);
  if (json && !hasResult()) printJson({ error: errorReport(error) });
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
    process.stderr.write(`  hint: ${UNEXPECTED_HINT}\n`);
  }
}

/** Tells an error and ends the process at once. */
export function die(error: unknown): never {
  printError(error);
  process.exit(exitCodeOf(error));
}

let interrupted = (): void => die(new AbortError("the command was interrupted"));

/** What Ctrl-C and SIGTERM do from now on; without a call, they end the process with a word. */
export function onInterrupt(handler: () => void): void {
  interrupted = handler;
}

/** Hears Ctrl-C and SIGTERM. */
export function hearInterrupts(): void {
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => interrupted());
}
