// A whole small answer of a server, such as that of an API.

import { FormatError, NetworkError } from "../core/errors.js";
import { costOf } from "./first-answer.js";
import type { HttpClient } from "./http-client.js";

export interface Whole {
  readonly bytes: Uint8Array;
  readonly headers: Headers;
}

/**
 * All bytes of an answer. One that breaks off is asked for again.
 * @param most bytes; nothing is allocated for what the server claims
 * @throws FormatError if there are more bytes, or a page comes instead; NotFoundError, NetworkError, AbortError
 */
export async function wholeAnswer(client: HttpClient, url: string, what: string, most: number): Promise<Whole> {
  for (let failures = 0; ; ) {
    const { body, headers } = await client.get(url, what);
    try {
      return { bytes: await joined(body, url, what, most), headers };
    } catch (error) {
      if (!(error instanceof NetworkError)) throw error;
      failures += costOf(error);
      await client.pause(failures, error);
    }
  }
}

async function joined(body: AsyncIterable<Uint8Array>, url: string, what: string, most: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let total = 0;
  for await (const part of body) {
    total += part.length;
    if (total > most) {
      throw new FormatError(`${url}: expected a ${what} of at most ${most} bytes, got more`, {
        details: { file: url, expected: `at most ${most} bytes` },
      });
    }
    parts.push(part);
  }
  const bytes = new Uint8Array(total);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
