// The first answer for a file behind a server: a part of it, the beginning of a stream, or, if the server ignores ranges and the
// file is not large, all of it.

import { FormatError, NetworkError } from "../core/errors.js";
import type { Answer } from "./http-client.js";
import { endedEarly } from "./http-errors.js";
import type { RemoteContext } from "./kept.js";
import { CHUNK_BYTES } from "./range-cache.js";

/** A file without ranges is held in memory up to this size. Larger files are streamed and need a Content-Length. */
const HELD_BYTES = 64 << 20;

/** How much of the patience with a server an error costs: a standstill has already taken long. */
export function costOf(error: NetworkError): number {
  return error.details.timeout === undefined ? 1 : 2;
}

/** The first answer for a file; if the server ignores ranges and the file is not large, with its whole body. */
export async function firstAnswer(
  path: string,
  what: string,
  context: RemoteContext,
): Promise<{ answer: Answer; held?: Uint8Array }> {
  const { client } = context;
  for (let failures = 0; ; ) {
    const answer = await client.get(path, what, 0, CHUNK_BYTES);
    if (answer.ranged || (answer.size ?? 0) > HELD_BYTES) return { answer };
    try {
      return { answer, held: await hold(path, answer, context) };
    } catch (error) {
      if (!(error instanceof NetworkError)) throw error;
      failures += costOf(error);
      await client.pause(failures, error);
    }
  }
}

/** The whole body of a server without ranges. @throws FormatError if it is too large to be held; NetworkError */
async function hold(path: string, { body, size }: Answer, context: RemoteContext): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let total = 0;
  for await (const part of body) {
    parts.push(part);
    total += part.length;
    context.received += part.length;
    if (total > HELD_BYTES) {
      throw new FormatError(
        `${path}: the server sends neither ranges nor the size of a file above ${HELD_BYTES} bytes`,
        {
          details: { file: path, expected: "Accept-Ranges or Content-Length", got: "neither" },
          hint: "use a static server that answers Range requests",
        },
      );
    }
  }
  if (size !== undefined && total < size) throw endedEarly(path, total, size);
  const bytes = new Uint8Array(total);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}
