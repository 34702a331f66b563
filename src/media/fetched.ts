// Files of images and sound on a server.

import { NetworkError } from "../core/errors.js";
import { show } from "../core/show.js";

/** The bytes at an address. @throws NetworkError */
export async function fetched(where: string): Promise<Uint8Array> {
  try {
    const answer = await fetch(where);
    if (answer.ok) return new Uint8Array(await answer.arrayBuffer());
    throw new NetworkError(`${show(where)}: the server answered ${answer.status}`);
  } catch (cause) {
    if (cause instanceof NetworkError) throw cause;
    throw new NetworkError(`${show(where)} cannot be fetched`, { cause });
  }
}
