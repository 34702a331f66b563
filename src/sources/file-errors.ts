// What a file system refuses, as typed errors: one wrapper for all that is written.

import { FileError, OctavoError } from "../core/errors.js";
import { cut, printable } from "../core/show.js";

/** The system's error code ("ENOENT"), or the error's text when it has none. */
export function systemCode(cause: unknown): string {
  if (typeof cause === "object" && cause !== null && "code" in cause && typeof cause.code === "string") {
    return cause.code;
  }
  return String(cause);
}

/** What the user can do about it. */
export interface WriteHints {
  /** The disk or the user's share of it is full. */
  readonly full: string;
  /** The system does not allow it, or it fails otherwise. */
  readonly otherwise: string;
}

const FULL = /^(ENOSPC|EDQUOT|EFBIG)$/;

/** A failed call of the file system as a typed error that names the place; others as they are: they tell of another thing. */
function writeError(cause: unknown, path: string, hints: WriteHints): unknown {
  const code = systemCode(cause);
  if (cause instanceof OctavoError || !/^E[A-Z0-9]+$/.test(code)) return cause;
  const full = FULL.test(code);
  const { syscall } = cause as { readonly syscall?: unknown };
  const what = full ? "the disk is full" : "cannot be written";
  const where = typeof syscall === "string" ? ` in ${syscall}` : "";
  return new FileError(`${cut(printable(path), 300)}: ${what} (${code}${where})`, {
    details: { file: path, code },
    hint: full ? hints.full : hints.otherwise,
    cause,
  });
}

/** The result of `work`. @throws FileError for what the file system refuses, and other errors as they are */
export async function writing<T>(path: string, hints: WriteHints, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    throw writeError(cause, path, hints);
  }
}
