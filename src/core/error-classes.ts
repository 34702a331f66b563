// The error classes, and nothing else: the package exports this file as it is. Every error that Octavo throws is an
// OctavoError with a stable `code`, one sentence with the expected and the actual value, and at most one hint.

import { LONGEST_MESSAGE, sentence, show, withoutUser } from "./show.js";

/** Most characters of a hint, beside those of the message. */
const LONGEST_HINT = 400;

/** Machine-readable facts of an error: file, byte offset, key, expected, got, and so on. */
export type ErrorDetails = Readonly<
  Record<string, string | number | boolean | readonly (string | number)[] | undefined>
>;

export interface OctavoErrorOptions {
  readonly hint?: string;
  readonly details?: ErrorDetails;
  readonly cause?: unknown;
}

/** Base class: `code` is stable, `hint` is the next thing to try, `details` are the facts. */
export class OctavoError extends Error {
  readonly code: string;
  readonly hint: string | undefined;
  readonly details: ErrorDetails;

  /** Making an error never fails, whatever it is given: a text that is none is shown as a value. */
  constructor(code: string, message: string, options?: OctavoErrorOptions) {
    const { hint: given, details, cause } = read(options);
    const hint = given === undefined ? undefined : text(given, LONGEST_HINT) || undefined;
    const said = text(message, LONGEST_MESSAGE);
    super(hint ? `${said}\n  hint: ${hint}` : said, { cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = hint;
    this.details = details === undefined ? {} : harmless(details);
  }
}

/** What a message repeats may come from a file, which must not write to the terminal as it likes. */
function text(value: unknown, most: number): string {
  return sentence(typeof value === "string" ? value : show(value), most);
}

/** Details without the passwords of addresses. */
function harmless(details: ErrorDetails): ErrorDetails {
  try {
    const said = Object.entries(details).filter(([, value]) => typeof value === "string" && value.includes("@"));
    if (said.length === 0) return details;
    return { ...details, ...Object.fromEntries(said.map(([name, value]) => [name, withoutUser(value as string)])) };
  } catch {
    return {}; // a proxy, for instance
  }
}

function read(options: OctavoErrorOptions | undefined): OctavoErrorOptions {
  try {
    const { hint, details, cause } = options ?? {};
    return { hint, details, cause };
  } catch {
    return {}; // a getter that throws
  }
}

/** An op or a tensor got a shape it cannot take. Thrown while recording. */
export class ShapeError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_SHAPE", message, options);
  }
}

/** An op or a tensor got a dtype it cannot take. Thrown while recording. */
export class DTypeError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_DTYPE", message, options);
  }
}

/** A device is missing, closed, or cannot do what was asked. */
export class DeviceError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_DEVICE", message, options);
  }
}

/** A kernel failed while it ran; rejects every `read` of its outputs and of everything computed from them. */
export class KernelError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_KERNEL", message, options);
  }
}

/** The requested memory does not fit; names the largest owners. */
export class OutOfMemoryError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_OUT_OF_MEMORY", message, options);
  }
}

/** A file violates its format. `details.file` and `details.offset` or `details.key` say where. */
export class FormatError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_FORMAT", message, options);
  }
}

/** A file, folder, shard, tensor or model id cannot be found. */
export class NotFoundError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_NOT_FOUND", message, options);
  }
}

/** A file or a folder could not be written. `details.file`, and `details.code` as the system gives it. */
export class FileError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_FILE", message, options);
  }
}

/** A server was unreachable, refused, or broke off. `details.url` and, if it answered, `details.status`. */
export class NetworkError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_NETWORK", message, options);
  }
}

/** A checkpoint does not fit the model it is read into: tensors missing, unexpected or of another shape. */
export class CheckpointError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_CHECKPOINT", message, options);
  }
}

/** config.json (or generation_config.json) holds a value that the model does not accept. */
export class ConfigError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_CONFIG", message, options);
  }
}

/** Octavo does not support this architecture (`model_type`). */
export class UnsupportedModelError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_UNSUPPORTED_MODEL", message, options);
  }
}

/** A gradient is not available: the op has no rule, or values were overwritten. Names the op. */
export class GradientError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_GRADIENT", message, options);
  }
}

/** The caller passed an option or a value that is not allowed. */
export class OptionError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_OPTION", message, options);
  }
}

/** Work was stopped by the caller's AbortSignal. */
export class AbortError extends OctavoError {
  constructor(message = "the operation was aborted", options?: OctavoErrorOptions) {
    super("ERR_ABORTED", message, options);
  }
}

// Bundlers shorten the names of classes; these are for people.
const CLASSES = {
  OctavoError,
  ShapeError,
  DTypeError,
  DeviceError,
  KernelError,
  OutOfMemoryError,
  FormatError,
  NotFoundError,
  FileError,
  NetworkError,
  CheckpointError,
  ConfigError,
  UnsupportedModelError,
  GradientError,
  OptionError,
  AbortError,
};
for (const [name, value] of Object.entries(CLASSES)) Object.defineProperty(value, "name", { value: name });
