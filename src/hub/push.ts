// Uploads a folder to the hub, through the optional package @huggingface/hub: large files need its protocols (LFS, Xet).

import { mkdtemp, readdir, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { AbortError, NetworkError, NotFoundError, OctavoError, OptionError, throwIfAborted } from "../core/errors.js";
import { readOptions } from "../core/options.js";
import { show } from "../core/show.js";
import { scrub } from "../sources/address.js";
import { systemCode, writing } from "../sources/file-errors.js";
import { quote } from "../sources/files.js";
import { checkRevision, isModelId } from "../sources/model-id.js";
import { hubEndpoint, hubToken, offlineBy } from "./environment.js";
import { PUSH, type Pushed, type PushedFile, type PushOptions, type PushWritten } from "./push-options.js";

export type { Pushed, PushedFile, PushOptions } from "./push-options.js";

/** What is used of @huggingface/hub. */
export interface HubLibrary {
  createRepo(given: { repo: string; accessToken: string; hubUrl: string; private?: boolean }): Promise<unknown>;
  uploadFiles(given: {
    repo: string;
    accessToken: string;
    hubUrl: string;
    branch: string;
    commitTitle: string;
    files: { path: string; content: URL }[];
    abortSignal: AbortSignal | undefined;
  }): Promise<{ commit: { oid: string } } | undefined>;
}

/** Folders and files that editors, git and systems put beside a model's own. */
const FOREIGN = /^(\.git|\.cache|\.DS_Store|Thumbs\.db|desktop\.ini|__pycache__|node_modules)$|\.incomplete$/;

/**
 * Uploads the files of a folder as one commit. The model is made if it does not exist.
 * @param id "org/name"
 * @throws OptionError, NotFoundError (no such folder, or @huggingface/hub is not installed), NetworkError, AbortError
 */
export async function pushFolder(folder: string, id: string, given: PushOptions = {}): Promise<Pushed> {
  return pushThrough(library, folder, id, given);
}

const ROOM = "the model is written to the folder for temporary files first: TMPDIR names another one";

/**
 * Uploads what `write` puts into a new folder for temporary files, which is removed afterwards; a dry run writes it too, because
 * that tells what would be uploaded. What can be refused is refused before it is written.
 * @throws as `pushFolder`, and what `write` throws; FileError where there is no room
 */
export const pushWritten: PushWritten = async (write, id, given) => {
  const options = await checked("push_to_hub", id, given);
  if (!options.dry_run) await library(); // it may not be installed
  const folder = await writing(tmpdir(), { full: ROOM, otherwise: ROOM }, () =>
    mkdtemp(join(tmpdir(), "octavo-push-")),
  );
  try {
    await write(folder);
    return await pushThrough(library, folder, id, options);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

/** The options of an upload that may begin. @throws OptionError */
async function checked(place: string, id: unknown, given: PushOptions): Promise<PushOptions> {
  const options = readOptions(place, PUSH, given);
  if (typeof id !== "string" || !isModelId(id) || !id.includes("/")) {
    throw new OptionError(`expected the id of a model with its owner, such as "org/name", got ${show(id)}`);
  }
  checkRevision(options.revision ?? "main");
  if (options.dry_run) return options;
  const forbidden = offlineBy();
  if (forbidden) throw new OptionError(`${forbidden} is set: nothing is uploaded`, { hint: "unset it" });
  const { token } = await hubToken(options.token);
  if (token) return { ...options, token };
  throw new OptionError("an upload needs a token with the right to write", {
    hint: "set HF_TOKEN, run hf auth login, or pass `token`",
  });
}

/** The same with another way to the library; for tests. */
export async function pushThrough(
  load: () => Promise<HubLibrary>,
  folder: string,
  id: string,
  given: PushOptions,
): Promise<Pushed> {
  if (typeof folder !== "string" || folder === "" || folder.includes("\0")) {
    throw new OptionError(`expected a folder, got ${show(folder)}`);
  }
  const options = await checked("pushFolder", id, given);
  const { revision = "main", signal, dry_run, token } = options;
  const files = await filesIn(folder);
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0);
  const endpoint = hubEndpoint();
  const result = { id, url: `${endpoint}/${id}`, files, bytes };
  if (dry_run) return { ...result, commit: undefined };
  throwIfAborted(signal, "the upload");
  const { createRepo, uploadFiles } = await load();
  const place = { repo: id, accessToken: token!, hubUrl: endpoint };
  try {
    await createRepo({ ...place, ...(options.private === undefined ? {} : { private: options.private }) }).catch(
      (error: unknown) => {
        if (statusOf(error) !== 409) throw error; // it exists
      },
    );
    throwIfAborted(signal, "the upload");
    const done = await uploadFiles({
      ...place,
      branch: revision,
      commitTitle: options.commit_message ?? "Upload model",
      files: files.map(({ name }) => ({ path: name, content: pathToFileURL(join(folder, name)) })),
      abortSignal: signal,
    });
    return { ...result, commit: done?.commit.oid };
  } catch (error) {
    throw uploadError(error, id, endpoint, signal);
  }
}

/** The files of a folder, without hidden tools' own. @throws NotFoundError, OptionError */
async function filesIn(folder: string): Promise<PushedFile[]> {
  const info = await stat(folder).catch(() => undefined);
  if (!info?.isDirectory()) throw new NotFoundError(`${folder}: no such folder`, { details: { file: folder } });
  const files: PushedFile[] = [];
  const walk = async (below: string): Promise<void> => {
    for (const entry of await readdir(join(folder, below))) {
      if (FOREIGN.test(entry)) continue;
      const name = below === "" ? entry : `${below}/${entry}`;
      const found = await stat(join(folder, name)); // follows links: a snapshot of a cache consists of them
      if (found.isDirectory()) await walk(name);
      else if (found.isFile()) files.push({ name, bytes: found.size });
    }
  };
  try {
    await walk("");
  } catch (cause) {
    throw new NotFoundError(`${folder}: not readable (${systemCode(cause)})`, {
      details: { file: folder },
      cause,
    });
  }
  if (files.length === 0) throw new OptionError(`${folder}: there is no file to upload`, { details: { file: folder } });
  return files.sort((a, b) => (a.name < b.name ? -1 : 1));
}

async function library(): Promise<HubLibrary> {
  const name = "@huggingface/hub"; // an optional peer: the name must not be followed by bundlers or types
  try {
    return (await import(name)) as HubLibrary;
  } catch (cause) {
    throw new NotFoundError(`uploads need the package ${name}, which is not installed`, {
      details: { package: name },
      hint: `npm install ${name}`,
      cause,
    });
  }
}

function statusOf(error: unknown): number | undefined {
  const status = (error as { statusCode?: unknown } | undefined)?.statusCode;
  return typeof status === "number" ? status : undefined;
}

function uploadError(error: unknown, id: string, endpoint: string, signal: AbortSignal | undefined): OctavoError {
  if (error instanceof OctavoError) return error;
  if (signal?.aborted) return new AbortError("the upload was aborted", { cause: error });
  const status = statusOf(error);
  const said = scrub(error instanceof Error ? error.message : String(error));
  const refused = status === 401 || status === 403;
  return new NetworkError(`${quote(id)} could not be uploaded to ${endpoint}${status ? ` (${status})` : ""}: ${said}`, {
    details: { id, status, url: endpoint },
    hint: refused ? "the token needs the right to write to this model or its organization" : undefined,
    cause: error,
  });
}
