// A folder of files in memory: what pages write, and read again.

import { isOf } from "../core/checks.js";
import { NotFoundError } from "../core/errors.js";
import { inMemory } from "../sources/in-memory.js";
import type { Source } from "../sources/source.js";
import type { FolderWriter } from "./folder.js";
import { safetensorsLayout } from "./safetensors-layout.js";

/** Files by their names; those in folders below by their paths. */
export type Files = Readonly<Record<string, Uint8Array>>;

/** What a caller gives as files; undefined for anything else. */
export function filesOf(given: unknown): Files | undefined {
  try {
    if (typeof given !== "object" || given === null) return undefined;
    const entries = Object.entries(given);
    return entries.length > 0 && entries.every(([, bytes]) => isOf(bytes, Uint8Array) && bytes.length >= 0)
      ? Object.fromEntries(entries)
      : undefined;
  } catch {
    return undefined; // a proxy, or members that cannot be read
  }
}

/** Runs what writes a folder, and gives its files. @throws what `write` throws */
export async function writtenInMemory(write: (folders: FolderWriter) => Promise<unknown>): Promise<Files> {
  const files: Record<string, Uint8Array> = Object.create(null);
  await write({
    replace: (_folder, _replaces, fill) =>
      fill({
        async tensors(name, tensors, metadata) {
          const { head, size, data } = safetensorsLayout(name, tensors, metadata);
          const bytes = new Uint8Array(size);
          bytes.set(head);
          let at = head.length;
          for await (const part of data()) {
            bytes.set(part, at);
            at += part.length;
          }
          files[name] = bytes;
        },
        async bytes(name, content) {
          files[name] = content;
        },
      }),
  });
  return { ...files };
}

/** These files as a folder that is read. */
export function sourceInMemory(files: Files): Source {
  const found = (name: string): Uint8Array | undefined => (Object.hasOwn(files, name) ? files[name] : undefined);
  return {
    location: "memory",
    local: false,
    path: (name) => name,
    name: (path) => path,
    names: async () => new Set(Object.keys(files).filter((name) => !name.includes("/"))),
    absent: async (names) => names.filter((name) => found(name) === undefined),
    async open(path, what) {
      const bytes = found(path);
      if (bytes) return inMemory(path, bytes);
      throw new NotFoundError(`${what} ${path} is not among the files`, { details: { file: path } });
    },
    close: async () => {},
  };
}
