// Uploads of folders, with a stand-in for @huggingface/hub: what it is given, and what its failures become.

import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { AbortError, NetworkError, NotFoundError, OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { type HubLibrary, pushFolder, pushThrough } from "../../src/hub/push.js";
import { hub, useHub } from "../support/hub-suite.js";
import { STORYTELLER } from "../support/models.js";
import { failure } from "../support/source-tools.js";
import { temporary } from "../support/temporary.js";

useHub();

const SECRET = "hf_hunter2";

function folder(): string {
  const path = temporary("model");
  for (const name of ["", "sub", ".git", ".cache"]) mkdirSync(join(path, name), { recursive: true });
  for (const name of ["config.json", "sub/b.txt", ".git/HEAD", ".cache/x"]) writeFileSync(join(path, name), "1234");
  if (process.platform !== "win32") symlinkSync(join(path, "config.json"), join(path, "linked.json"));
  return path;
}

const answer = (status?: number): Promise<never> =>
  Promise.reject(
    Object.assign(new Error("https://u:hunter2@hub said no"), status === undefined ? {} : { statusCode: status }),
  );

test("a loaded model is saved and uploaded; a dry run says what would be", async () => {
  await using model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { load_in_8bit: true, device: "cpu" });
  const { files, bytes, commit, id } = await model.push_to_hub("org/new", { dry_run: true, max_shard_size: "2MB" });
  expect([id, commit]).toEqual(["org/new", undefined]);
  expect(files.map(({ name }) => name)).toEqual(
    expect.arrayContaining(["config.json", "tokenizer.json", "model.safetensors.index.json"]),
  );
  expect(bytes).toBeGreaterThan(model.get_memory_footprint());
  for (const odd of [null, 5, "x"]) await expect(model.push_to_hub("a/b", odd as never)).rejects.toThrow(OptionError);
  await expect(model.push_to_hub("new", { dry_run: true })).rejects.toThrow(/with its owner/);
  await expect(model.push_to_hub("org/new", { shard: 3, dry_run: true } as never)).rejects.toThrow(/shard/);
  await expect(model.push_to_hub("org/new", { max_shard_size: "many", dry_run: true })).rejects.toThrow(OptionError);
  await expect(model.push_to_hub("org/new")).rejects.toThrow(/needs a token/);
  process.env.HF_TOKEN = SECRET;
  await expect(model.push_to_hub("org/new")).rejects.toThrow(/@huggingface\/hub/);
  delete process.env.HF_TOKEN;
});

test("one commit of the folder's own files, links followed, into a model that may exist", async () => {
  const calls: unknown[] = [];
  const library: HubLibrary = {
    createRepo: (given) => {
      calls.push(given);
      return answer(409);
    },
    uploadFiles: (given) => {
      calls.push(given);
      return Promise.resolve({ commit: { oid: "c0ffee" } });
    },
  };
  const path = folder();
  process.env.HF_TOKEN = SECRET;
  const pushed = await pushThrough(async () => library, path, "org/new", { private: true, commit_message: "First" });
  const names = ["config.json", ...(process.platform === "win32" ? [] : ["linked.json"]), "sub/b.txt"];
  expect(pushed).toEqual({
    id: "org/new",
    url: `${hub.address}/org/new`,
    files: names.map((name) => ({ name, bytes: 4 })),
    bytes: 4 * names.length,
    commit: "c0ffee",
  });
  const where = { repo: "org/new", accessToken: SECRET, hubUrl: hub.address };
  expect(calls).toEqual([
    { ...where, private: true },
    {
      ...where,
      branch: "main",
      commitTitle: "First",
      files: names.map((name) => ({ path: name, content: pathToFileURL(join(path, name)) })),
      abortSignal: undefined,
    },
  ]);
});

test("what is refused before anything is sent", async () => {
  const path = folder();
  const push = (...args: Parameters<typeof pushFolder>): Promise<unknown> => failure(() => pushFolder(...args));
  expect(await push(path, "org/new")).toMatchObject({ code: "ERR_OPTION", hint: expect.stringContaining("HF_TOKEN") });
  expect(await push(path, "new", { dry_run: true })).toBeInstanceOf(OptionError);
  expect(await push(join(path, "none"), "org/new", { dry_run: true })).toBeInstanceOf(NotFoundError);
  expect(await push(join(path, ".git", ".."), "org/new", { revision: "../x", dry_run: true })).toBeInstanceOf(
    OptionError,
  );
  const empty = temporary("empty");
  mkdirSync(empty);
  expect(await push(empty, "org/new", { dry_run: true })).toBeInstanceOf(OptionError);
  expect(await push(path, "org/new", { token: SECRET })).toMatchObject({ hint: "npm install @huggingface/hub" });
  process.env.HF_HUB_OFFLINE = "1";
  expect(await push(path, "org/new", { token: SECRET })).toBeInstanceOf(OptionError);
  expect(await pushFolder(path, "org/new", { dry_run: true })).toMatchObject({ commit: undefined });
});

test("failures of the library are typed, and tell no secret", async () => {
  const path = folder();
  const stop = new AbortController();
  const library = (status?: number): (() => Promise<HubLibrary>) => {
    return async () => ({ createRepo: async () => undefined, uploadFiles: () => answer(status) });
  };
  const error = await failure(() => pushThrough(library(403), path, "org/new", { token: SECRET }));
  expect(error).toBeInstanceOf(NetworkError);
  expect(String(error)).toMatch(
    /"org\/new" could not be uploaded to .* \(403\): .*said no\n {2}hint: the token needs the right/,
  );
  expect(String(error)).not.toContain("hunter2");
  expect(await failure(() => pushThrough(library(), path, "org/new", { token: SECRET }))).toBeInstanceOf(NetworkError);
  const aborted = library();
  const loading = async (): Promise<HubLibrary> => {
    stop.abort();
    return aborted();
  };
  const { signal } = stop;
  expect(await failure(() => pushThrough(loading, path, "org/new", { token: SECRET, signal }))).toBeInstanceOf(
    AbortError,
  );
});
