// The errors of servers: what was asked for, what came, and the next thing to try. Addresses in them hold no secrets: the
// client gets none (address.ts), and texts of the platform are scrubbed.

import { FormatError, NetworkError, NotFoundError, type OctavoError } from "../core/errors.js";
import { printable, show } from "../core/show.js";
import { scrub } from "./address.js";
import { quote } from "./files.js";

/** Statuses of a server in trouble that may have passed a moment later. */
export const RETRY_STATUS: ReadonlySet<number> = new Set([408, 425, 429, 500, 502, 503, 504]);

const TLS_HINT = "is it a server for http: instead of https:?";
const TRUST_HINT = "Node trusts further authorities if NODE_EXTRA_CA_CERTS names a file with their certificates";

/** Causes that say that the server ended the connection before it had answered. */
const RESET = /^(ECONNRESET|ECONNABORTED|EPIPE|UND_ERR_SOCKET|ConnectionClosed)$|reset/i;
/** Causes that may pass, of a server that has answered before. */
const PASSING = /refused|^EAI_|ETIMEDOUT|CONNECT_TIMEOUT|UNREACH|ENETDOWN/i;

/** Causes of failed requests, by their code or, where a platform gives none, by their text. */
const CAUSES: readonly { readonly cause: RegExp; readonly words: string; readonly hint?: string }[] = [
  { cause: /refused/i, words: "the connection was refused, nothing listens there" },
  { cause: /^ENOTFOUND$|lookup address/i, words: "there is no such host" },
  { cause: /^EAI_/, words: "the name of the host cannot be resolved" },
  { cause: RESET, words: "the connection was reset" },
  { cause: /TIMEDOUT|TIMEOUT/i, words: "no connection came about in time" },
  { cause: /UNREACH|ENETDOWN/, words: "there is no way to it in the network" },
  { cause: /CERT|^UNABLE_TO_|UnknownIssuer/i, words: "its certificate is not trusted", hint: TRUST_HINT },
  { cause: /^EPROTO$|SSL|TLS/i, words: "it does not speak TLS as it should", hint: TLS_HINT },
  { cause: /^HPE_|HEADERS_OVERFLOW/, words: "what it sends is not HTTP as it should be" },
  { cause: /redirect/i, words: "it redirects in a circle, or too often" },
  { cause: /bad port/i, words: "requests to this port are refused", hint: "let the server listen on another port" },
];

interface Cause {
  /** The system's or the platform's code, such as "ECONNREFUSED". */
  readonly code: string | undefined;
  readonly text: string;
}

/** The innermost cause of a failed `fetch`. */
function causeOf(error: unknown): Cause {
  let code: string | undefined;
  let text = "";
  let at = error;
  for (let depth = 0; depth < 6 && typeof at === "object" && at !== null; depth++) {
    const one = at as { code?: unknown; message?: unknown; cause?: unknown; errors?: unknown };
    if (typeof one.code === "string") code = one.code;
    if (typeof one.message === "string" && one.message !== "") text = one.message;
    at = Array.isArray(one.errors) ? one.errors[0] : one.cause;
  }
  return { code, text };
}

/**
 * Whether a failed request may be sent again.
 * @param known the server has answered before
 * @param failures requests that failed, this one included
 */
export function mayRepeat(error: unknown, known: boolean, page: boolean, failures: number): boolean {
  const { code, text } = causeOf(error);
  const key = code ?? text;
  if (RESET.test(key)) return true;
  // A page is told nothing of the cause.
  if (page && code === undefined) return known || failures === 1;
  return known && PASSING.test(key);
}

/** @param page true in a browser, where a server may also forbid other origins to read */
export function unreachable(url: string, cause: unknown, page: boolean): NetworkError {
  const { code, text } = causeOf(cause);
  if (page && code === undefined) {
    return new NetworkError(`${url}: the server cannot be reached, or it does not allow this page to read from it`, {
      details: { url },
      hint: "check the address and the connection; a server on another origin must send Access-Control-Allow-Origin",
      cause,
    });
  }
  const known = CAUSES.find((one) => one.cause.test(code ?? text));
  const more = code ?? (text && cut(scrub(text)));
  const words = known?.words ?? (code && text ? cut(scrub(text)) : "the request failed");
  return new NetworkError(`${url}: the server cannot be reached: ${words}${more && ` (${more})`}`, {
    details: { url, got: code },
    hint: known?.hint ?? "check the address and the connection",
    cause,
  });
}

/**
 * @param wait seconds that the server asks for before the next request
 * @param headers of the answer: a hub says in two of them what is wrong
 */
export function refused(url: string, what: string, status: number, wait?: number, headers?: Headers): OctavoError {
  const said = { error_code: wordOf(headers, "x-error-code"), error_message: wordOf(headers, "x-error-message") };
  const details = { url, file: url, status, expected: what, retry_after: wait, ...said };
  if (status === 404 || status === 410) {
    return new NotFoundError(`${url}: no such ${what} (${status})`, {
      details,
      hint: "the address must be that of the folder that holds config.json, or the id of a model on the hub",
    });
  }
  if (status === 401 || status === 403) {
    return new NetworkError(`${url}: the server does not let you read the ${what} (${status})`, {
      details,
      hint: "there is no such model, or it is private or gated: accept its terms on its page and pass `token`",
    });
  }
  const later = wait === undefined ? "later" : `after ${wait} s, as the server asks`;
  return new NetworkError(`${url}: the server answered ${status} for the ${what}`, {
    details,
    hint: RETRY_STATUS.has(status) ? `the server is busy or in trouble; try again ${later}` : undefined,
  });
}

function wordOf(headers: Headers | undefined, name: string): string | undefined {
  const text = headers?.get(name);
  return text ? printable(text.slice(0, 200)) : undefined;
}

/** True for the error of a file that the server does not give to this reader. */
export function isForbidden(error: unknown): error is OctavoError {
  return error instanceof NetworkError && (error.details.status === 401 || error.details.status === 403);
}

const PAGE = "an HTML page";

/** True for the error of an HTML page in place of a file. */
export function isWebPage(error: unknown): boolean {
  return error instanceof FormatError && error.details.got === PAGE;
}

export function webPage(url: string, what: string): FormatError {
  return new FormatError(`${url}: expected a ${what}, got ${PAGE}`, {
    details: { file: url, offset: 0, expected: what, got: PAGE },
    hint: "the server answers unknown addresses with a page; check the address of the folder",
  });
}

/** The error of a file that changed while it was read. */
export function changed(url: string, expected: string, got: string): FormatError {
  return new FormatError(
    `${url}: the file changed on the server while it was read: expected ${cut(expected)}, got ${cut(got)}`,
    {
      details: { file: url, expected, got },
      hint: "load it again; on the hub, pass the full commit as `revision`",
    },
  );
}

/** The error of a size that no such file has. @param size as the server wrote it */
export function tooLarge(url: string, what: string, size: string, most: number): FormatError {
  return new FormatError(
    `${url}: the server says that the ${what} has ${cut(size)} bytes, and no file has more than ${most}`,
    {
      details: { file: url, expected: `at most ${most} bytes`, got: cut(size) },
      hint: "the server is wrong about the file; load it from its original source",
    },
  );
}

/** The error of headers that contradict the request, or each other. */
export function misleading(url: string, expected: string, got: string): NetworkError {
  return new NetworkError(`${url}: asked for ${expected}, got ${show(got)}`, {
    details: { url, expected, got: cut(got) },
    hint: "the server, or a proxy before it, answers requests for ranges in a wrong way",
  });
}

/** @param page true in a browser, where a server on another origin may hide it */
export function noSize(url: string, what: string, status: number, page: boolean): NetworkError {
  return new NetworkError(`${url}: the server does not say how large the ${what} is`, {
    details: { url, status },
    hint: page
      ? "let it send Access-Control-Expose-Headers: Content-Range, ETag"
      : "use a server that sends Content-Range with a range, or Content-Length",
  });
}

export function brokenOff(url: string, cause: unknown): NetworkError {
  const { code } = causeOf(cause);
  return new NetworkError(`${url}: the connection broke off${code === undefined ? "" : ` (${code})`}`, {
    details: { url, got: code },
    cause,
  });
}

/**
 * The error of a server that sends nothing, or next to nothing.
 * @param bytes that came within the time limit
 * @param streaming large files come from it without ranges
 */
export function standstill(url: string, seconds: number, bytes: number, streaming: boolean): NetworkError {
  const ranges = "the server gives no ranges, so each large file that is being read holds a connection";
  const got = bytes === 0 ? "nothing" : `only ${bytes} bytes`;
  return new NetworkError(`${url}: the server sent ${got} for ${seconds} s${streaming ? `; ${ranges}` : ""}`, {
    details: { url, timeout: seconds, got: bytes },
    hint: streaming ? "use a static server that answers Range requests" : "try again later, or pass a longer `timeout`",
  });
}

/** The error of a body that ended early. */
export function endedEarly(url: string, got: number, expected: number): NetworkError {
  return new NetworkError(`${url}: the server ended after ${got} of ${expected} bytes`, {
    details: { url, expected, got },
    hint: "the file on the server is cut short, or the connection broke off",
  });
}

function cut(text: string): string {
  return text.length > 120 ? quote(text) : text;
}
