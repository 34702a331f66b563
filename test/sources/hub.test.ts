// From ids to folders: the cache's place and layout, near names, and ids and revisions that must not become paths.

import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import { NotFoundError, OptionError } from "../../src/core/errors.js";
import { cachedModels, cacheFolder, resolveModel } from "../../src/sources/hub.js";
import { isModelId } from "../../src/sources/model-id.js";
import { failure, put, refusal, scratch } from "../support/source-tools.js";

const root = scratch();
const cache_dir = join(root, "hub");
const MAIN = "1".repeat(40);
const OLD = "a".repeat(40);

function cached(id: string, refs: Record<string, string>, commits: string[]): string {
  const model = join(cache_dir, `models--${id.replace("/", "--")}`);
  for (const commit of commits) mkdirSync(join(model, "snapshots", commit), { recursive: true });
  for (const [name, commit] of Object.entries(refs)) {
    const file = join(model, "refs", name);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, commit);
  }
  return model;
}

const LLAMA = cached("org/tiny-llama", { main: MAIN, "refs/pr/1": OLD, gone: "b".repeat(40), bad: "../../../etc" }, [
  MAIN,
  OLD,
]);
const GPT2 = cached("gpt2", { main: `${MAIN}\n` }, [MAIN]);

test("the cache's place, first to last", () => {
  const env: NodeJS.ProcessEnv = {};
  expect(cacheFolder(undefined, env)).toBe(join(homedir(), ".cache/huggingface/hub"));
  env.XDG_CACHE_HOME = "/xdg";
  expect(cacheFolder(undefined, env)).toBe(resolve("/xdg/huggingface/hub"));
  env.HF_HOME = "/home";
  expect(cacheFolder(undefined, env)).toBe(resolve("/home/hub"));
  env.HUGGINGFACE_HUB_CACHE = "/second";
  expect(cacheFolder(undefined, env)).toBe(resolve("/second"));
  env.HF_HUB_CACHE = "~/first";
  expect(cacheFolder(undefined, env)).toBe(join(homedir(), "first"));
  expect(cacheFolder("/option", env)).toBe(resolve("/option"));
  env.HF_HUB_CACHE = "";
  expect(cacheFolder("", env)).toBe(resolve("/second"));
});

test("ids as the hub has them", () => {
  const good = ["gpt2", "org/name", "meta-llama/Llama-3.1-8B", "a/b_c.d", "0/1", "_x/y_"];
  const bad = [
    "",
    "a/b/c",
    "../x",
    "a/..",
    "a..b",
    "a--b",
    "-a",
    "a-",
    ".a",
    "a.",
    "a/.b",
    "a b",
    "a\\b",
    "a:b",
    "ä",
    "a/",
    "/a",
    "x.git",
    "a/b\n",
    "a%2fb",
    "x".repeat(97),
  ];
  expect(good.filter((id) => !isModelId(id))).toEqual([]);
  expect(bad.filter((id) => isModelId(id))).toEqual([]);
});

describe("found", () => {
  test("a folder wins, whatever its name", async () => {
    const folder = join(root, "some folder");
    mkdirSync(folder);
    expect(await resolveModel(folder, { cache_dir })).toEqual({ folder });
  });

  test("a file: address, as text and as an object", async () => {
    const folder = join(root, "ein Ordner für alle");
    mkdirSync(folder, { recursive: true });
    const address = pathToFileURL(folder);
    for (const given of [address, address.href, `${address.href}/`]) {
      const found = await resolveModel(given, { cache_dir });
      expect(resolve(found.folder)).toBe(folder);
    }
    const missing = await failure(() => resolveModel(pathToFileURL(join(root, "none")).href, { cache_dir }));
    expect(missing).toBeInstanceOf(NotFoundError);
    expect(String(missing)).toContain(`${join(root, "none")}: no such folder`);
    for (const wrong of ["file://elsewhere/x", "file:///a%2Fb"]) {
      expect(await failure(() => resolveModel(wrong, { cache_dir }))).toBeInstanceOf(OptionError);
    }
  });
  test.each([
    ["org/tiny-llama", undefined, LLAMA, MAIN],
    ["org/tiny-llama", "main", LLAMA, MAIN],
    ["org/tiny-llama", OLD, LLAMA, OLD],
    ["org/tiny-llama", "refs/pr/1", LLAMA, OLD],
    ["gpt2", undefined, GPT2, MAIN],
  ])("%s at %s", async (id, revision, model, commit) => {
    const found = await resolveModel(id, { cache_dir, revision, local_files_only: true });
    expect(found).toEqual({ folder: join(model, "snapshots", commit), id, revision: commit });
  });
  test("the list of cached models", async () => {
    expect(await cachedModels(cache_dir)).toEqual(["gpt2", "org/tiny-llama"]);
    expect(await cachedModels(join(root, "none"))).toEqual([]);
  });
});

describe("not found", () => {
  test("a model that is not cached: where, how to get it, and a near name", async () => {
    const error = await failure(() => resolveModel("org/tiny-lama", { cache_dir }));
    expect(error).toBeInstanceOf(NotFoundError);
    expect(String(error)).toContain(cache_dir);
    expect(String(error)).toContain('did you mean "org/tiny-llama"?');
    expect(error).toMatchObject({
      hint: 'download it (octavo pull org/tiny-lama), or read it from the hub: { hub: "https://huggingface.co" }',
    });
    expect(String(await failure(() => resolveModel("entirely/different", { cache_dir })))).not.toContain(
      "did you mean",
    );
    expect(await failure(() => resolveModel("a/b", { cache_dir: join(root, "none") }))).toBeInstanceOf(NotFoundError);
  });
  test("an id that is a path with a typo, and one that is nearly the package's own model", async () => {
    const error = await failure(() => resolveModel("models/storytelle", { cache_dir }));
    expect(String(error)).toContain('did you mean "models/storyteller"?');
    expect(error).toMatchObject({ hint: "the folders there are models/storyteller" });
    const other = await failure(() => resolveModel("octavo/storyteler", { cache_dir }));
    expect(String(other)).toContain('did you mean "octavo/storyteller"?');
  });
  test.each(["v9", "gone", "c".repeat(40), "refs", "MAIN2"])("revision %s", async (revision) => {
    const error = await failure(() => resolveModel("org/tiny-llama", { cache_dir, revision }));
    expect(error).toBeInstanceOf(NotFoundError);
    expect(String(error)).toContain(`--revision ${revision}`);
    expect(String(error)).toContain("cached revisions: bad, gone, main");
  });
  test.each(["./nothing", "../nothing", "/nothing/here", "a/b/c", "~/nothing", "C:\\nothing", "..\\x"])(
    "path %s",
    async (path) => {
      const error = await failure(() => resolveModel(path, { cache_dir }));
      expect(error).toBeInstanceOf(NotFoundError);
      expect(String(error)).toContain("no such folder");
    },
  );
});

describe("refused", () => {
  test.each(["", "a..b", "a--b", "a b", "ä", "a\0b", "https:x", "x".repeat(200)])("id %j", async (id) => {
    expect(await failure(() => resolveModel(id, { cache_dir }))).toBeInstanceOf(OptionError);
  });
  test.each([
    "",
    "..",
    "../main",
    "a/../b",
    "/main",
    "main/",
    "a//b",
    "a\\b",
    "a\0b",
    "a:b",
    ".hidden",
    "x".repeat(300),
    "-rf",
  ])("revision %j", async (revision) => {
    expect(await failure(() => resolveModel("gpt2", { cache_dir, revision }))).toBeInstanceOf(OptionError);
  });
  test("a ref that holds no commit", async () => {
    await refusal(() => resolveModel("org/tiny-llama", { cache_dir, revision: "bad" }), join(LLAMA, "refs", "bad"));
  });
  test("a file, and an unknown option", async () => {
    expect(await failure(() => resolveModel(put(root, "model.safetensors", "")))).toBeInstanceOf(OptionError);
    const error = await failure(() => resolveModel("gpt2", { cachedir: root } as object));
    expect(error).toBeInstanceOf(OptionError);
    expect(String(error)).toContain("did you mean `cache_dir`?");
  });

  test.each([
    ["model.gguf", "GGUF\x03\0\0\0", "a GGUF file", "original safetensors checkpoint"],
    ["pytorch_model.bin", "PK\x03\x04", "a zip archive", "from the folder that holds config.json"],
    ["notes.txt", "x", "a file", "pass the folder that holds config.json"],
    ["empty", "", "a file", "pass the folder that holds config.json"],
  ])("the file %s in place of a folder, by its kind", async (name, content, kind, hint) => {
    const error = await failure(() => resolveModel(put(root, name, content)));
    expect(error).toBeInstanceOf(OptionError);
    expect((error as OptionError).message).toContain(`expected a model folder, got ${kind}`);
    expect((error as OptionError).hint).toContain(hint);
  });

  test.skipIf(process.platform === "win32")(
    "a pipe in place of a folder, without waiting for who writes into it",
    async () => {
      const pipe = join(root, "pipe");
      execFileSync("mkfifo", [pipe]);
      expect((await failure(() => resolveModel(pipe))) as OptionError).toBeInstanceOf(OptionError);
    },
  );
});
