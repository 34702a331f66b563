// Typed errors. Every refusal of Octavo is an OctavoError with a stable `code`, one sentence that says what was
// wanted and what came, and at most one hint. Nothing else is thrown at users on purpose.

import { closest, distance } from "fastest-levenshtein";

/** Facts an error carries for machines: file, byte offset, key, expected, got, and so on. */
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

  constructor(code: string, message: string, options: OctavoErrorOptions = {}) {
    super(options.hint ? `${message}\n  hint: ${options.hint}` : message, { cause: options.cause });
    this.name = new.target.name;
    this.code = code;
    this.hint = options.hint;
    this.details = options.details ?? {};
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

/** A kernel failed while it ran; rejects every `read` of what it should have written, or of what was made from that. */
export class KernelError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_KERNEL", message, options);
  }
}

/** Memory that was asked for does not fit; names the largest owners. */
export class OutOfMemoryError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_OUT_OF_MEMORY", message, options);
  }
}

/** A file is not what its format demands. `details.file` and `details.offset` or `details.key` say where. */
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

/** A server could not be reached, refused, or broke off. `details.url` and, where it answered, `details.status`. */
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

/** config.json (or generation_config.json) holds a value that the model cannot take. */
export class ConfigError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_CONFIG", message, options);
  }
}

/** What to try when a config.json makes no sense. */
export const CONFIG_HINT = "compare it with the config.json that the model was published with";

/** The architecture (`model_type`) is not one that Octavo knows. */
export class UnsupportedModelError extends OctavoError {
  constructor(message: string, options?: OctavoErrorOptions) {
    super("ERR_UNSUPPORTED_MODEL", message, options);
  }
}

/** A gradient was asked for that cannot be had: an op without a rule, or values that were overwritten. Names the op. */
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

/** @throws AbortError if the signal has fired; `what` names the work, such as "generation" */
export function throwIfAborted(signal: AbortSignal | undefined, what: string): void {
  if (signal?.aborted) throw new AbortError(`${what} was aborted`, { cause: signal.reason });
}

/** The nearest of `known` to `word`, if it is near enough to be what was meant. */
export function suggestion(word: string, known: readonly string[]): string | undefined {
  if (known.length === 0) return undefined;
  const best = closest(word, known as string[]);
  return distance(word, best) <= Math.max(2, Math.ceil(word.length / 3)) ? best : undefined;
}

/**
 * Refuses keys of `options` that are not in `known`.
 * @throws OptionError naming the key and the nearest known one.
 */
export function checkOptions(place: string, options: object | undefined, known: readonly string[]): void {
  if (options === undefined) return;
  if (typeof options !== "object" || options === null) {
    throw new OptionError(`${place}: options must be an object, got ${options === null ? "null" : typeof options}`);
  }
  for (const key of Object.keys(options)) {
    if (known.includes(key)) continue;
    const near = suggestion(key, known);
    throw new OptionError(`${place}: unknown option \`${key}\`` + (near ? `; did you mean \`${near}\`?` : ""), {
      details: { option: key, suggestion: near },
      hint: near ? undefined : `known options: ${known.join(", ")}`,
    });
  }
}
