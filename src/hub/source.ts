// A model or a data set on the hub whose files come into the Hugging Face cache when they are needed: a snapshot on disk, as Python leaves it, in
// which readers find what they ask for. A file that is there costs no request.

import { dirname, relative, sep } from "node:path";
import { AbortError, NetworkError, NotFoundError } from "../core/errors.js";
import { blobOf, blobsOf, snapshotOf } from "../sources/cache-paths.js";
import { Disk } from "../sources/disk.js";
import { quote } from "../sources/files.js";
import { HttpSource } from "../sources/http.js";
import type { HttpClient } from "../sources/http-client.js";
import type { RemoteContext } from "../sources/kept.js";
import type { Source, SourceFile } from "../sources/source.js";
import { fetchBlob } from "./blob.js";
import { type Asked, explained } from "./errors.js";
import { isKnownAbsent, noteAbsent, putIntoSnapshot, sizeOf, sweep, tagCache, writeRef } from "./layout.js";
import { filesOf, type HubFile, type Listing, pageOf } from "./listing.js";
import { bytesThere } from "./partials.js";
import type { DownloadProgress } from "./progress.js";
import { checkRoom } from "./storage-errors.js";

/** Files that are fetched at once; each large one takes three or four connections. */
const AT_ONCE = 3;
/** Bytes from which a file is only looked into, if the caller wants no copies of the weights. */
const LARGE = 4 << 20;

export interface HubSourceOptions {
  readonly asked: Asked;
  /** Its folder in the cache. */
  readonly folder: string;
  readonly commit: string;
  readonly client: HttpClient;
  readonly progress: DownloadProgress;
  /** The parts of the folder inside the model. */
  readonly subfolder: readonly string[];
  /** Download what is there as well, once. */
  readonly force: boolean;
  /** Read parts of large files from the hub, and keep nothing of them. */
  readonly peek: boolean;
  /** Called with problems that do not end the load. */
  readonly warn: (message: string) => void;
}

export class HubSource implements Source {
  readonly location: string;
  readonly local = true;
  readonly commit: string;
  readonly #options: HubSourceOptions;
  readonly #disk: Disk;
  readonly #context: RemoteContext;
  readonly #fetching = new Map<string, Promise<void>>();
  readonly #blobs = new Map<string, Promise<void>>();
  #listed: Promise<Listing | undefined> | undefined;
  #listing: Listing | undefined;
  #remote: HttpSource | undefined;
  /** Of a download, which ends all others. */
  #failure: { readonly error: unknown } | undefined;
  /** Bytes of files that are on their way. */
  #coming = 0;

  constructor(options: HubSourceOptions) {
    const { folder, commit, subfolder, client, warn } = options;
    this.#disk = new Disk([snapshotOf(folder, commit), ...subfolder].join(sep));
    this.location = this.#disk.location;
    this.commit = commit;
    this.#options = options;
    this.#context = { client, cache: undefined, received: 0, warn };
  }

  get network(): number | undefined {
    return this.#context.received || undefined;
  }

  path(name: string): string {
    return this.#disk.path(name);
  }

  name(path: string): string {
    return this.#disk.name(path);
  }

  /** The files of the folder in the commit; if all of `wanted` are known, perhaps only those. */
  async names(wanted: readonly string[]): Promise<ReadonlySet<string>> {
    const there = new Set<string>();
    for (const name of wanted) if (await this.#isThere(name)) there.add(name);
    const listing = this.#listing;
    const names = listing ? this.#below(listing, "").filter((name) => !name.includes("/")) : await this.#onDisk();
    return new Set([...there, ...names]);
  }

  async all(): Promise<readonly string[]> {
    const listing = await this.#list();
    return listing ? this.#below(listing, "") : this.#onDisk();
  }

  async list(folder: string): Promise<readonly string[]> {
    const listing = this.#listing;
    if (!listing) return this.#disk.list(folder);
    return this.#below(listing, `${folder}/`)
      .filter((name) => !name.includes("/"))
      .sort();
  }

  async absent(names: readonly string[]): Promise<string[]> {
    const gone: string[] = [];
    for (const name of names) if (!(await this.#isThere(name))) gone.push(name);
    return gone;
  }

  async open(path: string, what: string): Promise<SourceFile> {
    const name = relative(this.location, path).split(sep).join("/");
    if (!(await this.#isHere(name))) {
      const file = (await this.#list())?.get(this.#inModel(name));
      if (file && this.#options.peek && file.size > LARGE) {
        const remote = this.#server();
        return remote.open(remote.path(file.name), what);
      }
      await this.bring([name]);
    }
    return this.#disk.open(path, what);
  }

  /** Brings files into the cache, a few at a time. @throws NotFoundError, FormatError, FileError, NetworkError, AbortError */
  async bring(names: readonly string[]): Promise<void> {
    const { peek, asked } = this.#options;
    const files: HubFile[] = [];
    for (const name of names) {
      if (await this.#isHere(name)) continue;
      const listing = await this.#list();
      if (!listing) continue; // the hub cannot be asked, and the disk says what is missing
      const file = listing.get(this.#inModel(name));
      if (file && !(peek && file.size > LARGE)) files.push(file);
      if (file) continue;
      throw new NotFoundError(`${asked.kind} ${quote(asked.id)} has no file ${quote(this.#inModel(name))}`, {
        details: { id: asked.id, revision: asked.revision, file: this.path(name) },
        hint: `${pageOf(asked)}/tree/${this.#options.commit} shows its files`,
      });
    }
    const fresh = files.filter(({ name }) => !this.#fetching.has(name));
    const bytes = fresh.reduce((sum, { size }) => sum + size, 0);
    if (fresh.length > 0) await this.#prepare(fresh);
    this.#options.progress.expect(bytes);
    this.#coming += bytes;
    let next = 0;
    const worker = async (): Promise<void> => {
      try {
        while (next < files.length && !this.#failure) await this.#fetch(files[next++]!);
      } catch (error) {
        this.#failure ??= { error: explained(error, asked, true) };
        this.#context.client.close(); // the other downloads end too; what they have is kept
      }
    };
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, files.length) }, worker));
    if (this.#failure) throw this.#failure.error;
  }

  /** @throws FileError if there is no room for what is to come of these files, and of those that are on their way */
  async #prepare(files: readonly HubFile[]): Promise<void> {
    const { folder, force } = this.#options;
    await sweep(folder);
    const etags = files.map(({ etag }) => etag);
    const there = force ? new Map<string, number>() : await bytesThere(blobsOf(folder), etags);
    const needed = files.reduce((sum, { etag, size }) => sum + Math.max(0, size - (there.get(etag) ?? 0)), 0);
    await checkRoom(folder, this.#coming + needed);
  }

  async close(): Promise<void> {
    const { client, progress, folder, asked, commit } = this.#options;
    client.close();
    progress.stop();
    await this.#remote?.close();
    await Promise.allSettled(this.#fetching.values());
    // A revision means this commit from now on; one whose files did not come stays what it was.
    if (!this.#failure && (await this.#onDisk()).length > 0) {
      await writeRef(folder, asked.revision, commit).catch((error: Error) => this.#options.warn(error.message));
    }
  }

  #inModel(name: string): string {
    return [...this.#options.subfolder, name].join("/");
  }

  /** Paths of the listed files below a folder, from there on. */
  #below(listing: Listing, folder: string): string[] {
    const prefix = this.#inModel(folder);
    const names = [...listing.keys()].filter((name) => name.startsWith(prefix) && name.length > prefix.length);
    return names.map((name) => name.slice(prefix.length));
  }

  /** Names in the folder on disk, none if there is no folder. */
  async #onDisk(): Promise<string[]> {
    return this.#disk.names().then(
      (names) => [...names],
      () => [],
    );
  }

  /** True if the file is on disk, whole as far as it is known. */
  async #isHere(name: string): Promise<boolean> {
    const full = this.#inModel(name);
    if (this.#options.force && !this.#fetching.has(full)) return false;
    const size = await sizeOf(this.path(name));
    if (size === undefined) return false;
    const file = this.#listing?.get(full);
    return file === undefined || file.size === size;
  }

  async #isThere(name: string): Promise<boolean> {
    const { folder, commit, force } = this.#options;
    const full = this.#inModel(name);
    if (await this.#isHere(name)) return true;
    if (!this.#listing && !force && (await isKnownAbsent(folder, commit, full))) return false;
    const listing = await this.#list();
    if (listing?.has(full)) return true;
    if (listing) await noteAbsent(folder, commit, full);
    return false;
  }

  /** The commit's files; undefined, with a warning, if the hub cannot be asked and a part of them is on disk. */
  #list(): Promise<Listing | undefined> {
    this.#listed ??= this.#ask().catch((error) => {
      this.#listed = undefined;
      throw error;
    });
    return this.#listed;
  }

  async #ask(): Promise<Listing | undefined> {
    const { client, asked, commit, force, warn } = this.#options;
    try {
      this.#listing = await filesOf(client, asked, commit);
    } catch (error) {
      const told = explained(error, asked);
      const lost = told instanceof NetworkError && !(error instanceof AbortError);
      if (force || !lost || (await this.#onDisk()).length === 0) throw told;
      warn(`${told.message.split("\n")[0]}; using what is cached of ${asked.id}`);
    }
    return this.#listing;
  }

  #fetch(file: HubFile): Promise<void> {
    const known = this.#fetching.get(file.name);
    if (known) return known;
    // Files with the same bytes have one blob, which the first of them brings.
    const before = this.#blobs.get(file.etag) ?? Promise.resolve();
    const work = before.then(() => this.#download(file));
    this.#fetching.set(file.name, work);
    this.#blobs.set(
      file.etag,
      work.catch(() => {
        this.#fetching.delete(file.name);
      }),
    );
    return work;
  }

  async #download(file: HubFile): Promise<void> {
    const { folder, commit, progress, force } = this.#options;
    const url = this.#server().path(file.name);
    const { client } = this.#context;
    client.checkAborted();
    const advance = (bytes: number, received: boolean): void => progress.advance(file.name, bytes, received);
    for (let done = false; !done; ) {
      const here = !force && (await sizeOf(blobOf(folder, file.etag))) === file.size;
      if (here) advance(file.size, false);
      const fresh = here ? false : await fetchBlob({ context: this.#context, url, file, folder, advance }, force);
      done = await putIntoSnapshot(folder, file.etag, commit, file.name, fresh);
      if (!done) advance(-file.size, false);
    }
    this.#coming -= file.size;
    await tagCache(dirname(folder));
  }

  /** The commit on the hub, for addresses and for files of which nothing is kept. */
  #server(): HttpSource {
    const { asked, commit } = this.#options;
    this.#remote ??= new HttpSource(`${pageOf(asked)}/resolve/${commit}`, {
      token: asked.token.token,
      warn: this.#options.warn,
    });
    return this.#remote;
  }
}
