// A model's folder behind a server: any file server, or the hub. Each file is opened once and stays open until the source
// is closed. The only platform interface it uses is `fetch`.

import { NotFoundError, OptionError } from "../core/errors.js";
import { quote } from "./files.js";
import { HttpClient, type HttpOptions, isWebPage } from "./http-client.js";
import { checkRevision, isModelId } from "./model-id.js";
import type { RangeCache } from "./range-cache.js";
import { type RemoteContext, RemoteFile } from "./remote-file.js";
import type { Source, SourceFile } from "./source.js";

export const HUB = "https://huggingface.co";

export interface HttpSourceOptions extends HttpOptions {
  readonly cache?: RangeCache;
  /** Called with problems that do not end the load. */
  readonly warn?: (message: string) => void;
}

/**
 * The address of a model's folder: `model` itself if it is an address, else the folder of that id on the hub.
 * @param hub address of a hub; by default the one of Hugging Face
 * @throws OptionError for what is neither an http address nor an id, or a bad revision
 */
export function modelAddress(model: string, hub: string = HUB, revision?: string): string {
  if (/^https?:\/\//i.test(model)) {
    if (revision !== undefined) {
      throw new OptionError("revision belongs to the id of a model on a hub; an address has its own");
    }
    return folderAddress(model, "the model");
  }
  if (typeof model !== "string" || !isModelId(model)) {
    const got = String(model);
    throw new OptionError(`expected a model id such as "org/name" or an http address, got ${quote(got)}`, {
      details: { got },
    });
  }
  checkRevision(revision ?? "main");
  return `${folderAddress(hub, "hub")}/${model}/resolve/${encodeURIComponent(revision ?? "main")}`;
}

/** An address without its last slash. @throws OptionError */
function folderAddress(text: string, what: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url || !/^https?:$/.test(url.protocol)) {
    throw new OptionError(`${what} must be an http address, got ${quote(text)}`);
  }
  if (url.search || url.hash) {
    throw new OptionError(`${what} must be the address of a folder, without "?" or "#", got ${quote(text)}`);
  }
  return url.href.replace(/\/+$/, "");
}

export class HttpSource implements Source {
  readonly location: string;
  readonly local = false;
  readonly #client: HttpClient;
  readonly #context: RemoteContext;
  readonly #files = new Map<string, Promise<RemoteFile>>();

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

  /** A server cannot list a folder, so each name is requested. An HTML page in place of a file counts as absent. */
  async names(wanted: readonly string[]): Promise<ReadonlySet<string>> {
    const there = await Promise.all(
      wanted.map(async (name) => {
        try {
          await this.open(this.path(name), "file");
          return true;
        } catch (error) {
          if (error instanceof NotFoundError || isWebPage(error)) return false;
          throw error;
        }
      }),
    );
    return new Set(wanted.filter((_, i) => there[i]));
  }

  open(path: string, what: string): Promise<SourceFile> {
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
