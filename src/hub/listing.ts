// What the hub says of a model or a data set: the commit of a revision, and the files of a commit with their sizes and hashes. Two requests; all
// answers are claims, checked here as text and later against the bytes.

import { FormatError } from "../core/errors.js";
import { show } from "../core/show.js";
import { COMMIT, type RepoKind } from "../sources/cache-paths.js";
import type { HttpClient } from "../sources/http-client.js";
import { isJsonObject, type JsonValue, parseJsonList, parseJsonObject } from "../sources/json.js";
import { wholeAnswer } from "../sources/whole.js";

/** One file of a commit. */
export interface HubFile {
  readonly name: string;
  readonly size: number;
  /** The name of its blob: sha256 (64 hex digits), or git's sha1 of a file that lies in git itself (40). */
  readonly etag: string;
}

export type Listing = ReadonlyMap<string, HubFile>;

const MOST_INFO = 16 << 20;
const MOST_PAGE = 64 << 20;
/** A page has 1,000 files. */
const MOST_PAGES = 200;
/** As in HttpClient: no file is larger. */
const MOST_BYTES = 2 ** 40;

function wrong(url: string, expected: string, got: unknown): FormatError {
  return new FormatError(`${url}: expected ${expected}, got ${show(got)}`, {
    details: { file: url, expected },
    hint: "is HF_ENDPOINT the address of a hub? A proxy may have answered in its place",
  });
}

/** A model or a data set on a hub. */
export interface Repo {
  readonly endpoint: string;
  readonly kind: RepoKind;
  readonly id: string;
}

/** The address of its page, below which its files are. */
export function pageOf({ endpoint, kind, id }: Repo): string {
  return kind === "model" ? `${endpoint}/${id}` : `${endpoint}/${kind}s/${id}`;
}

/** The address by which programs ask about it. */
function apiOf({ endpoint, kind, id }: Repo): string {
  return `${endpoint}/api/${kind}s/${id}`;
}

/** The commit of a revision. @throws NotFoundError, NetworkError, FormatError, AbortError */
export async function commitOf(client: HttpClient, repo: Repo, revision: string): Promise<string> {
  const url = `${apiOf(repo)}/revision/${encodeURIComponent(revision)}`;
  const { bytes } = await wholeAnswer(client, `${url}?expand=sha`, `description of a ${repo.kind}`, MOST_INFO);
  const { sha } = parseJsonObject(bytes, url, `description of a ${repo.kind}`);
  if (typeof sha === "string" && COMMIT.test(sha)) return sha;
  throw wrong(url, "the commit as `sha`", sha);
}

/** The files of a commit. @throws NotFoundError, NetworkError, FormatError, AbortError */
export async function filesOf(client: HttpClient, repo: Repo, commit: string): Promise<Listing> {
  const url = `${apiOf(repo)}/tree/${commit}`;
  const files = new Map<string, HubFile>();
  let cursor: string | undefined;
  for (let page = 0; page < MOST_PAGES; page++) {
    const more = cursor === undefined ? "" : `&cursor=${encodeURIComponent(cursor)}`;
    const { bytes, headers } = await wholeAnswer(client, `${url}?recursive=true${more}`, "list of files", MOST_PAGE);
    for (const entry of parseJsonList(bytes, url, "list of files")) {
      const file = fileOf(entry, url, repo.kind);
      if (file) files.set(file.name, file);
    }
    cursor = cursorOf(headers.get("link"), url);
    if (cursor === undefined) return files;
  }
  throw wrong(url, `at most ${MOST_PAGES} pages of files`, "more");
}

/** Only the cursor of the next page is taken: its address could name another host. */
function cursorOf(link: string | null, url: string): string | undefined {
  const next = /<([^>]*)>\s*;[^,]*\brel="?next"?/.exec(link ?? "")?.[1];
  if (next === undefined || !URL.canParse(next, url)) return undefined;
  return new URL(next, url).searchParams.get("cursor") ?? undefined;
}

/** A file of the list; undefined for a folder. */
function fileOf(entry: JsonValue, url: string, kind: RepoKind): HubFile | undefined {
  if (!isJsonObject(entry)) throw wrong(url, "a file", entry);
  if (entry.type === "directory") return undefined;
  const { path: name, lfs } = entry;
  const [hash, size, digits] = isJsonObject(lfs) ? [lfs.oid, lfs.size, 64] : [entry.oid, entry.size, 40];
  if (typeof name !== "string" || badName(name)) throw wrong(url, `the name of a file inside the ${kind}`, name);
  const etag = typeof hash === "string" ? hash.replace(/^sha256:/, "") : "";
  if (etag.length !== digits || !/^[0-9a-f]+$/.test(etag)) throw wrong(url, `${digits} hex digits for ${name}`, hash);
  if (typeof size !== "number" || !Number.isInteger(size) || size < 0 || size > MOST_BYTES) {
    throw wrong(url, `the size of ${name}`, size);
  }
  return { name, size, etag };
}

/** True for a name that is no path below a folder, on any system. */
function badName(name: string): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  if (name.length > 1024 || /[\u0000-\u001f\u007f\\]/.test(name)) return true;
  if (process.platform === "win32" && /[:*?"<>|]/.test(name)) return true;
  return name.split("/").some((part) => part === "" || part === "." || part === "..");
}
