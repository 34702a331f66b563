// Files of images, sound and examples on a server. What a server says is a claim, and one that falls silent is not waited for.

import { FormatError, NetworkError } from "../core/errors.js";
import { quoteAddress } from "../sources/address.js";

/** How long a server may say nothing, and how much is read of one file. */
const LIMITS = { milliseconds: 30_000, bytes: 2 ** 30 };

/**
 * The bytes at an address.
 * @throws NetworkError for a server that cannot be reached, refuses, breaks off or says nothing for 30 seconds; FormatError for
 * a file of more than a gibibyte
 */
export async function fetched(where: string, limits: typeof LIMITS = LIMITS): Promise<Uint8Array> {
  const shown = quoteAddress(where);
  const silent = new AbortController();
  const wait = (): ReturnType<typeof setTimeout> => setTimeout(() => silent.abort(), limits.milliseconds);
  let timer = wait();
  try {
    const answer = await fetch(where, { signal: silent.signal });
    if (!answer.ok) throw new NetworkError(`${shown}: the server answered ${answer.status}`);
    const pieces: Uint8Array[] = [];
    let length = 0;
    const reader = answer.body?.getReader();
    for (let piece = await reader?.read(); piece?.value; piece = await reader?.read()) {
      length += piece.value.length;
      if (length > limits.bytes) {
        silent.abort();
        throw new FormatError(`${shown}: more than ${limits.bytes} bytes, which is the most that is read`);
      }
      pieces.push(piece.value);
      clearTimeout(timer);
      timer = wait();
    }
    const bytes = new Uint8Array(length);
    let at = 0;
    for (const piece of pieces) {
      bytes.set(piece, at);
      at += piece.length;
    }
    return bytes;
  } catch (cause) {
    if (cause instanceof NetworkError || cause instanceof FormatError) throw cause;
    const why = silent.signal.aborted ? `: the server said nothing for ${limits.milliseconds / 1000} s` : "";
    throw new NetworkError(`${shown} cannot be fetched${why}`, { cause });
  } finally {
    clearTimeout(timer);
  }
}
