// A small hub on loopback: the addresses, headers and redirects of the real one, with models in memory. Large files lie on another host
// (another port), as on the real one. Faults are put in front of either.

import { createHash } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { FileServer, type Misbehave } from "./server.js";

interface FakeFile {
  readonly body: Buffer;
  /** Lies in LFS: named by sha256, and served by the other host. */
  readonly lfs: boolean;
  /** Its names in git, and in the cache. */
  readonly oid: string;
  readonly etag: string;
}

interface Repo {
  readonly commits: Map<string, Map<string, FakeFile>>;
  readonly refs: Map<string, string>;
  gated?: boolean;
}

export const sha256 = (body: Buffer): string => createHash("sha256").update(body).digest("hex");
export const gitSha1 = (body: Buffer): string =>
  createHash("sha1").update(`blob ${body.length}\0`).update(body).digest("hex");

/** Files above this size are in LFS, as a rule. */
const SMALL = 4096;

export class FakeHub {
  readonly repos = new Map<string, Repo>();
  readonly hub = new FileServer();
  readonly cdn = new FileServer();
  /** In front of the hub and of the host of large files; true if it has answered. */
  fault: Misbehave | undefined;
  cdnFault: Misbehave | undefined;
  /** Tokens that the hub knows; requests without one are allowed unless a model is private. */
  readonly tokens = new Set<string>();
  /** Files in a page of a list. */
  page = 1000;

  async start(): Promise<this> {
    await this.hub.start();
    await this.cdn.start();
    this.reset();
    return this;
  }

  async stop(): Promise<void> {
    await this.hub.stop();
    await this.cdn.stop();
  }

  get address(): string {
    return this.hub.address;
  }

  /** Paths that were asked for, on both hosts. */
  get asked(): string[] {
    return [...this.hub.asked, ...this.cdn.asked].map(({ path }) => path);
  }

  reset(): void {
    this.repos.clear();
    this.hub.reset();
    this.cdn.reset();
    this.tokens.clear();
    this.fault = undefined;
    this.cdnFault = undefined;
    this.page = 1000;
    this.hub.misbehave = (request, response, body) =>
      this.fault?.(request, response, body) || this.#answer(request, response);
    this.cdn.misbehave = (request, response, body) => this.cdnFault?.(request, response, body) ?? false;
  }

  /** Adds a commit, and points a branch at it; the id of a data set begins with "datasets/". @returns the commit */
  commit(id: string, files: Readonly<Record<string, Buffer | string>>, ref = "main"): string {
    const repo = this.repos.get(id) ?? { commits: new Map(), refs: new Map() };
    const entries = Object.entries(files).map(([name, content]): [string, FakeFile] => {
      const body = Buffer.from(content);
      const lfs = body.length > SMALL;
      const oid = gitSha1(body);
      return [name, { body, lfs, oid, etag: lfs ? sha256(body) : oid }];
    });
    const key = entries.map(([name, { etag }]) => `${name} ${etag}`).join("\n");
    const commit = createHash("sha1").update(`${id}\n${key}`).digest("hex");
    repo.commits.set(commit, new Map(entries));
    repo.refs.set(ref, commit);
    this.repos.set(id, repo);
    for (const [, file] of entries) if (file.lfs) this.cdn.files.set(`/blobs/${file.etag}`, file.body);
    return commit;
  }

  #answer(request: IncomingMessage, response: ServerResponse): boolean {
    const url = new URL(request.url!, this.address);
    const { authorization } = request.headers;
    const fail = (status: number, code: string, message: string, commit = ""): boolean => {
      const headers: Record<string, string> = { "X-Error-Code": code, "X-Error-Message": message };
      if (commit) headers["X-Repo-Commit"] = commit;
      response.writeHead(status, headers).end();
      return true;
    };
    const token = authorization?.replace(/^Bearer /, "");
    if (token !== undefined && !this.tokens.has(token)) {
      response.writeHead(401, { "X-Error-Message": "Invalid credentials in Authorization header" }).end();
      return true;
    }
    const [, api, fromApi, fromPath] =
      /^\/(?:(api)\/(?:models\/)?((?:datasets\/)?[^/]+\/[^/]+)|((?:datasets\/)?[^/]+\/[^/]+))\//.exec(url.pathname) ??
      [];
    const id = fromApi ?? fromPath ?? "";
    const repo = this.repos.get(id);
    if (!repo) return fail(401, "RepoNotFound", "Repository not found");
    const rest = url.pathname.slice(url.pathname.indexOf(id) + id.length + 1);
    const [kind = "", revision = "", ...path] = rest.split("/").map(decodeURIComponent);
    const commit = repo.refs.get(revision) ?? revision;
    const files = repo.commits.get(commit);
    if (!files) return fail(404, "RevisionNotFound", `Invalid rev id: ${revision}`);
    if (api && kind === "revision") return json(response, { id, sha: commit });
    if (api && kind === "tree") return this.#tree(response, url, files);
    if (repo.gated && token === undefined) return fail(401, "GatedRepo", "Access to model is restricted");
    if (repo.gated) return fail(403, "GatedRepo", "Access to model is restricted");
    const name = path.join("/");
    const file = files.get(name);
    if (!file) return fail(404, "EntryNotFound", "Entry not found", commit);
    return this.#resolve(request, response, file, commit);
  }

  #tree(response: ServerResponse, url: URL, files: ReadonlyMap<string, FakeFile>): boolean {
    const from = Number(url.searchParams.get("cursor") ?? 0);
    const list = [...files].map(([path, file]) => ({
      type: "file",
      path,
      size: file.body.length,
      oid: file.oid,
      ...(file.lfs ? { lfs: { oid: file.etag, size: file.body.length, pointerSize: 134 } } : {}),
    }));
    const folders = [...new Set(list.flatMap(({ path }) => (path.includes("/") ? [path.split("/")[0]!] : [])))];
    const all = [...folders.map((path) => ({ type: "directory", path, size: 0, oid: "0".repeat(40) })), ...list];
    const next = from + this.page;
    // The host of the next page is a lie, as behind a mirror.
    const link = `<http://elsewhere.invalid${url.pathname}?recursive=true&cursor=${next}>; rel="next"`;
    return json(response, all.slice(from, next), next < all.length ? { Link: link } : {});
  }

  #resolve(request: IncomingMessage, response: ServerResponse, file: FakeFile, commit: string): boolean {
    const etag = `"${file.etag}"`;
    if (file.lfs) {
      response.writeHead(302, {
        // By another name: Python's library compares names of hosts, without their ports.
        Location: `${this.cdn.address.replace("127.0.0.1", "localhost")}/blobs/${file.etag}`,
        "X-Repo-Commit": commit,
        "X-Linked-Etag": etag,
        "X-Linked-Size": file.body.length,
      });
      response.end();
      return true;
    }
    const { body } = file;
    const headers = { "X-Repo-Commit": commit, ETag: etag };
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "") ?? [];
    if (first === undefined) {
      response.writeHead(200, { ...headers, "Content-Length": body.length });
      response.end(request.method === "HEAD" ? undefined : body);
      return true;
    }
    const part = body.subarray(Number(first), Number(last) + 1);
    const range = `bytes ${first}-${Number(first) + part.length - 1}/${body.length}`;
    response.writeHead(206, { ...headers, "Content-Length": part.length, "Content-Range": range }).end(part);
    return true;
  }
}

function json(response: ServerResponse, value: unknown, headers: Record<string, string> = {}): boolean {
  response.writeHead(200, { "Content-Type": "application/json", ...headers }).end(JSON.stringify(value));
  return true;
}
