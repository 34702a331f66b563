// The cache of this page or Worker: the private file system in Workers, else the Cache API, else none.

import type { RangeCache } from "../sources/range-cache.js";
import { openCacheApiCache } from "./cache-api-cache.js";
import { openOpfsCache } from "./opfs-cache.js";

let opening: Promise<RangeCache | undefined> | undefined;

/** The cache for new downloads; opened once. */
export function openCache(): Promise<RangeCache | undefined> {
  opening ??= openOpfsCache().then((cache) => cache ?? openCacheApiCache());
  return opening;
}

/** Bytes and files of models that this origin's cache holds. Call it in the thread that loads models. */
export async function cacheSize(): Promise<{ bytes: number; files: number }> {
  return (await (await openCache())?.size()) ?? { bytes: 0, files: 0 };
}

/** Deletes all downloaded models, except files that are being read or written. */
export async function clearCache(): Promise<void> {
  await (await openCache())?.clear();
}
