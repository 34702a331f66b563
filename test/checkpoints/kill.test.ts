// A save that is killed before any of its calls of the file system leaves the old folder byte for byte, or the new one whole.

import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { READY_TIMEOUT, ROOT, ready } from "../support/cli.js";
import { temporary } from "../support/temporary.js";

const root = temporary("kill");
const shim = join(root, "kill.so");
mkdirSync(root, { recursive: true });
const made =
  process.platform === "linux" &&
  spawnSync("c++", ["-shared", "-fPIC", "-O1", "-o", shim, join(import.meta.dirname, "kill.cpp"), "-ldl"]).status === 0;
if (!made) console.warn("\n*** killed saves are SKIPPED: they need Linux and a C++ compiler ***\n");

const WRITER = `
import { FOLDERS } from ${JSON.stringify(join(ROOT, "dist", "checkpoints", "folder-write.js"))};
const data = new Uint8Array(4000).fill(7);
await FOLDERS.replace(process.argv[2], (name) => name.startsWith("model"), async (out) => {
  await out.tensors("model.safetensors", [{ name: "a", dtype: "F32", shape: [1000], data }], { format: "pt" });
  await out.bytes("tokenizer/vocab.json", new TextEncoder().encode("{}"));
  await out.bytes("config.json", new TextEncoder().encode('{"new":1}'));
});`;

const OLD = {
  "config.json": '{"old":1}',
  "model-00001-of-00002.safetensors": "first",
  "model-00002-of-00002.safetensors": "second",
  "notes/mine.md": "kept",
};
const NEW = ["config.json", "model.safetensors", "notes/mine.md", "tokenizer/vocab.json"];

/** Everything below a folder; undefined if there is none. */
function contentOf(folder: string): Record<string, string> | undefined {
  if (!existsSync(folder)) return undefined;
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" }).sort();
  const files = names.filter((name) => statSync(join(folder, name)).isFile());
  return Object.fromEntries(files.map((name) => [name, readFileSync(join(folder, name), "utf8")]));
}

describe.skipIf(!made)("a killed save", () => {
  beforeAll(ready, READY_TIMEOUT);

  test.each([
    ["over an old model", OLD, NEW],
    ["into a new folder", undefined, NEW.filter((name) => name !== "notes/mine.md")],
  ] as const)("%s", { timeout: 240_000 }, (_, old, names) => {
    const folder = join(root, "below-this", "model");
    const program = join(root, "writer.mjs");
    writeFileSync(program, WRITER);
    const kinds = new Set<string>();
    let before = 0;
    let after = 0;
    // Into a new folder all but the last call is the same: every third one is enough, unless more are asked for.
    for (let at = 1; ; at += old || process.env.OCTAVO_KILLS ? 1 : 3) {
      rmSync(join(root, "below-this"), { recursive: true, force: true });
      mkdirSync(join(root, "below-this"));
      for (const [name, text] of Object.entries(old ?? {})) {
        mkdirSync(join(folder, name, ".."), { recursive: true });
        writeFileSync(join(folder, name), text);
      }
      const { status, stderr } = spawnSync(process.execPath, [program, folder], {
        env: { ...process.env, LD_PRELOAD: shim, KILL_BELOW: "below-this", KILL_AT: String(at), UV_USE_IO_URING: "0" },
        encoding: "utf8",
      });
      const found = contentOf(folder);
      const isNew = found?.["config.json"] === '{"new":1}';
      if (isNew) expect(Object.keys(found!), stderr).toEqual(names);
      else expect(found, stderr).toEqual(old && { ...old });
      if (status === 0) break;
      expect(stderr).toMatch(/killed before call/);
      kinds.add(/: (\w+)/.exec(stderr)![1]!);
      if (isNew) after++;
      else before++;
    }
    // Once the folders have changed places, only the old one's remains are left to remove.
    expect(before).toBeGreaterThan(old ? 12 : 4);
    if (old) {
      expect([...kinds]).toEqual(expect.arrayContaining(["open", "fsync", "mkdir", "renameat2"]));
      expect(after).toBeGreaterThan(0);
    }
    expect(readdirSync(join(root, "below-this"))).toEqual(["model"]);
  });

  test("without the add-on, that lets folders change places, a save moves its files in", () => {
    const folder = join(root, "moved");
    const program = join(root, "writer.mjs");
    writeFileSync(program, WRITER);
    for (const [name, text] of Object.entries(OLD)) {
      mkdirSync(join(folder, name, ".."), { recursive: true });
      writeFileSync(join(folder, name), text);
    }
    const before = statSync(folder).ino;
    const env = { ...process.env, OCTAVO_ADDON: join(root, "no.node") };
    const { status, stderr } = spawnSync(process.execPath, [program, folder], { env, encoding: "utf8" });
    expect(status, stderr).toBe(0);
    expect(Object.keys(contentOf(folder)!)).toEqual(NEW);
    expect(contentOf(folder)!["config.json"]).toBe('{"new":1}');
    expect(statSync(folder).ino).toBe(before);
    expect(readdirSync(root).filter((name) => name.startsWith(".moved"))).toEqual([]);
  });

  test("the next save after a killed one is as good as the first, and removes what that left", () => {
    const folder = join(root, "twice");
    const program = join(root, "writer.mjs");
    const env = { ...process.env, LD_PRELOAD: shim, KILL_BELOW: "twice", UV_USE_IO_URING: "0" };
    spawnSync(process.execPath, [program, folder], { env: { ...env, KILL_AT: "9" } });
    expect(existsSync(folder)).toBe(false);
    const left = (): string[] => readdirSync(root).filter((name) => name.startsWith(".twice."));
    expect(left()).toHaveLength(1);
    // That of a process which is there stays.
    const other = left()[0]!.replace(/-\d+\./, `-${process.pid}.`);
    mkdirSync(join(root, other));
    expect(spawnSync(process.execPath, [program, folder], { env }).status).toBe(0);
    expect(left()).toEqual([other]);
    const copy = join(root, "copy");
    cpSync(folder, copy, { recursive: true });
    expect(Object.keys(contentOf(copy)!)).toEqual(NEW.filter((name) => name !== "notes/mine.md"));
  });
});
