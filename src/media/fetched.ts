// Files of images, sound and examples on a server, whole. Requests, patience and limits are those of model files (sources/http-client.ts),
// whose hints are about models, and whose callers give no addresses with secrets.

import { FormatError, NetworkError, NotFoundError, OctavoError } from "../core/errors.js";
import { quoteAddress, scrub } from "../sources/address.js";
import { HttpClient } from "../sources/http-client.js";
import { wholeAnswer } from "../sources/whole.js";

/** Most bytes of a file. */
const MOST = 2 ** 30;

export interface FetchedOptions {
  /** Seconds for which the server may send nothing, or next to nothing. */
  readonly timeout?: number;
  /** Most bytes. */
  readonly most?: number;
  /** True in a browser. */
  readonly page?: boolean;
}

/**
 * The bytes at an address.
 * @throws NotFoundError; NetworkError for a server that cannot be reached, refuses, breaks off or stands still; FormatError for a page in
 * place of a file, and for a file of more than a gibibyte
 */
export async function fetched(where: string, options: FetchedOptions = {}): Promise<Uint8Array> {
  const { timeout, most = MOST, page } = options;
  const client = new HttpClient({ timeout, page });
  try {
    return (await wholeAnswer(client, where, "file", most)).bytes;
  } catch (error) {
    throw error instanceof OctavoError ? told(error, where) : error;
  } finally {
    client.close();
  }
}

/** The error without the address' secrets. */
function told(error: OctavoError, where: string): OctavoError {
  const Class = [NotFoundError, FormatError].find((one) => error instanceof one) ?? NetworkError;
  const { status, timeout } = error.details;
  // An address that does not end in the message may be any part of it.
  const [before, after] = error.message.split(where, 2);
  const message =
    after === undefined ? `${quoteAddress(where)} cannot be fetched` : before + quoteAddress(where) + after;
  return new Class(scrub(message), { details: { status, timeout } });
}
