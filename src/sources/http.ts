// A model's folder behind a server: any file server, or the hub. Each file is opened once and stays open until the source
// is closed. The only platform interface it uses is `fetch`.

import { NotFoundError, type OctavoError } from "../core/errors.js";
import { HEAD_BYTES, isPage } from "./files.js";
import { HttpClient, type HttpOptions } from "./http-client.js";
import { isForbidden, isWebPage } from "./http-errors.js";
import type { RemoteContext } from "./kept.js";
import { CHUNK_BYTES, type RangeCache } from "./range-cache.js";
import { RemoteFile } from "./remote-file.js";
import type { Source, SourceFile } from "./source.js";

export interface HttpSourceOptions extends HttpOptions {
  readonly cache?: RangeCache;
  /** Called with problems that do not end the load. */
  readonly warn?: (message: string) => void;
}

export class HttpSource implements Source {
  readonly location: string;
  readonly local = false;
  readonly #client: HttpClient;
  readonly #context: RemoteContext;
  readonly #files = new Map<string, Promise<RemoteFile>>();
  /** What the server said of files that it does not let this reader have. */
  readonly #forbidden = new Map<string, OctavoError>();

  /** @param address of the folder, see `modelAddress` */
  constructor(address: string, options: HttpSourceOptions = {}) {
    this.location = address;
    this.#client = new HttpClient(options);
    this.#context = { client: this.#client, cache: options.cache, received: 0, warn: options.warn ?? (() => {}) };
  }

  get network(): number {
    return this.#context.received;
  }

  path(name: string): string {
    return `${this.location}/${name.split("/").map(encodeURIComponent).join("/")}`;
  }

  name(path: string): string {
    return decodeURIComponent(path.slice(this.location.length + 1));
  }

  /**
   * A server cannot list a folder, so each name is requested. A page in place of a file counts as absent, and so does a file
   * that may not be read: servers that do not let everybody list a folder say so of any file that is not there.
   */
  async names(wanted: readonly string[]): Promise<ReadonlySet<string>> {
    const there = await Promise.all(wanted.map((name) => this.#isThere(name)));
    return new Set(wanted.filter((_, i) => there[i]));
  }

  forbidden(names: readonly string[]): OctavoError | undefined {
    for (const name of names) {
      const error = this.#forbidden.get(name);
      if (error) return error;
    }
    return undefined;
  }

  async open(path: string, what: string): Promise<SourceFile> {
    return (await this.#opened(path, what)).enter();
  }

  async #isThere(name: string): Promise<boolean> {
    try {
      const file = await this.#opened(this.path(name), "file");
      // No page is that large, and of a file that is, nothing need be waited for.
      if (file.size > CHUNK_BYTES) return true;
      const head = await file.read(0, Math.min(HEAD_BYTES, file.size));
      // What JSON files hold never begins with a tag, but vocabularies and templates may.
      return !isPage(head) && !(name.endsWith(".json") && head[0] === 0x3c);
    } catch (error) {
      if (isForbidden(error)) this.#forbidden.set(name, error);
      else if (!(error instanceof NotFoundError || isWebPage(error))) throw error;
      return false;
    }
  }

  #opened(path: string, what: string): Promise<RemoteFile> {
    const known = this.#files.get(path);
    if (known) return known;
    const opening = RemoteFile.open(path, what, this.#context);
    this.#files.set(path, opening);
    opening.catch(() => this.#files.delete(path));
    return opening;
  }

  async close(): Promise<void> {
    this.#client.close();
    for (const opening of this.#files.values()) await opening.then((file) => file.end()).catch(() => {});
  }
}
