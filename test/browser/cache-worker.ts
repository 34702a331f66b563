// The browser's caches in a Worker, driven by cache.test.ts through `globalThis.caching`.

import { openCacheApiCache } from "../../src/browser/cache-api-cache.js";
import { openOpfsCache } from "../../src/browser/opfs-cache.js";
import { WEB } from "../../src/browser/web.js";
import { AutoModelForCausalLM, AutoTokenizer, type ProgressEvent } from "../../src/browser.js";
import { type CachedFile, CHUNK_BYTES, type RangeCache } from "../../src/sources/range-cache.js";

const URL_A = "https://host/a/model.safetensors";
const SIZE = 2 * CHUNK_BYTES + 500;

export interface Caching {
  /** Runs the checks of one kind of cache; gives what was wrong. */
  check(kind: "opfs" | "cache-api"): Promise<string[]>;
  /** Loads a model with the library itself, without the example; gives the text and the last event. */
  story(model: string, tokens: number): Promise<{ text: string; last: ProgressEvent; statuses: string[] }>;
}

const OPEN = { opfs: openOpfsCache, "cache-api": openCacheApiCache };

/** A piece whose bytes tell which it is. */
function piece(number: number): Uint8Array {
  return new Uint8Array(Math.min(CHUNK_BYTES, SIZE - number * CHUNK_BYTES)).fill(number + 1);
}

async function check(kind: "opfs" | "cache-api"): Promise<string[]> {
  const problems: string[] = [];
  const want = (what: string, got: unknown, wanted: unknown): void => {
    if (JSON.stringify(got) !== JSON.stringify(wanted)) problems.push(`${what}: ${JSON.stringify(got)}`);
  };
  const pieces = (file: CachedFile): boolean[] => [0, 1, 2].map((number) => file.has(number));
  const again = async (): Promise<RangeCache> => (await OPEN[kind]())!;

  let cache = await again();
  await cache.clear();
  want("size of nothing", await cache.size(), { bytes: 0, files: 0 });
  want("what is not there", await cache.find(URL_A), undefined);

  // Written out of order, closed, and found by another cache: as after the page was closed in the middle.
  let file = await cache.create(URL_A, { size: SIZE, etag: '"one"' });
  await file.write(2, piece(2));
  await file.write(0, piece(0));
  await file.close();
  cache = await again();
  file = (await cache.find(URL_A))!;
  want("identity", [file.size, file.etag], [SIZE, '"one"']);
  want("pieces that are there", pieces(file), [true, false, true]);
  for (const number of [0, 2]) {
    const bytes = await file.read(number);
    want(`piece ${number}`, [bytes.length, bytes.at(0), bytes.at(-1)], [piece(number).length, number + 1, number + 1]);
  }
  await file.write(1, piece(1));

  // The same file in use twice, as a model and its tokenizer use config.json.
  const twin = (await cache.find(URL_A))!;
  await file.close();
  want("pieces of the twin", pieces(twin), [true, true, true]);
  want("middle", (await twin.read(1)).at(7), 2);
  await twin.close();
  want("files", (await cache.size()).files, 1);
  want("bytes", (await cache.size()).bytes >= SIZE, true);

  // Another etag: another file.
  file = await cache.create(URL_A, { size: 100, etag: '"two"' });
  want("pieces after a change", file.has(0), false);
  await file.close();
  file = (await (await again()).find(URL_A))!;
  want("identity after a change", [file.size, file.etag], [100, '"two"']);
  await file.close();
  const other = await cache.create("https://host/b", { size: 0, etag: "" });
  await other.close();
  want("files, two", (await cache.size()).files, 2);
  await cache.clear();
  want("size after clear", await cache.size(), { bytes: 0, files: 0 });
  want("after clear", await cache.find(URL_A), undefined);
  return problems;
}

async function damaged(): Promise<string[]> {
  // A meta file cut short, as by a crash of the system, is no reason to fail.
  const cache = (await openOpfsCache())!;
  await (await cache.create(URL_A, { size: SIZE, etag: "" })).close();
  const root = (await WEB.navigator!.storage!.getDirectory!()) as unknown as Folder;
  const folder = await root.getDirectoryHandle("octavo");
  for await (const [name, handle] of folder.entries()) {
    if (!name.endsWith(".meta")) continue;
    const access = await handle.createSyncAccessHandle();
    access.truncate(9);
    access.close();
  }
  const found = await cache.find(URL_A);
  const { files } = await cache.size();
  return found === undefined && files === 0 ? [] : [`a damaged file was found (${files} files)`];
}

interface Folder {
  getDirectoryHandle(name: string): Promise<Folder>;
  entries(): AsyncIterable<
    [string, { createSyncAccessHandle(): Promise<{ truncate(n: number): void; close(): void }> }]
  >;
}

export const caching: Caching = {
  check: async (kind) => [...(await check(kind)), ...(kind === "opfs" ? await damaged() : [])],
  async story(model, tokens) {
    const events: ProgressEvent[] = [];
    const options = {
      device: "wasm",
      load_in_8bit: true,
      progress_callback: (e: ProgressEvent) => events.push(e),
    } as const;
    const loaded = await AutoModelForCausalLM.from_pretrained(model, options);
    const tokenizer = await AutoTokenizer.from_pretrained(model);
    const { input_ids } = tokenizer("<|endoftext|>The Fox\n\n");
    const [ids] = await loaded.generate({ input_ids: [input_ids], max_new_tokens: tokens, do_sample: false });
    loaded.dispose();
    return {
      text: tokenizer.decode(ids!),
      last: events.at(-1)!,
      statuses: [...new Set(events.map(({ status }) => status))],
    };
  },
};

Object.assign(globalThis, { caching });
