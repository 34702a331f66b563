// A fake hub for a suite, whose environment names it: no test asks the real one, and none finds a token of this machine.

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach } from "vitest";
import { FakeHub } from "./fake-hub.js";
import { FIXTURES } from "./fixtures.js";
import { bytes } from "./random.js";
import { temporary } from "./temporary.js";

const VARIABLES = [
  ...["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"],
  ...["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_DISABLE_SYMLINKS", "XDG_CACHE_HOME"],
];

export const hub: FakeHub = new FakeHub();

/** The cache of the test that runs: an empty folder of its own. */
export const place = { cache: "", home: "" };

/** Starts the hub before the tests of a file, and gives each an empty cache. */
export function useHub(): void {
  const before = new Map(VARIABLES.map((name) => [name, process.env[name]]));
  const restore = (): void => {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  };
  beforeAll(() => hub.start());
  afterAll(() => hub.stop());
  beforeEach(() => {
    hub.reset();
    for (const name of VARIABLES) delete process.env[name];
    place.home = temporary("hf-home");
    place.cache = join(place.home, "hub");
    process.env.HF_HOME = place.home;
    process.env.HF_ENDPOINT = hub.address;
  });
  afterEach(restore);
}

/** The files of a small model of the fixtures, by name. */
export function modelFiles(name = "llama"): Record<string, Buffer> {
  const folder = join(FIXTURES, "models", name);
  const names = readdirSync(folder).filter((file) => statSync(join(folder, file)).isFile());
  return Object.fromEntries(names.map((file) => [file, readFileSync(join(folder, file))]));
}

/** A file of weights with one tensor of so many bytes, the same each time. */
export function weights(size: number, seed = 1, tensor = "w"): Buffer {
  const header = Buffer.from(`{"${tensor}":{"dtype":"U8","shape":[${size}],"data_offsets":[0,${size}]}}`);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, Buffer.from(bytes(seed, size))]);
}

/** Paths of all files below a folder, sorted, with "/" between the parts. */
export function tree(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)).replaceAll("\\", "/"))
    .sort();
}
