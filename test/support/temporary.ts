// Temporary folders. Vitest runs this before each file (vitest.config.ts), so that each file removes its own at its end, even
// if it shares this module with files before it.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";
import { processWide } from "./process.js";

const current = processWide("temporary", (): { root?: string; paths: number } => ({ paths: 0 }));

/** A new empty path below the test file's own temporary folder. */
export function temporary(name: string): string {
  current.root ??= mkdtempSync(join(tmpdir(), "octavo-test-"));
  return join(current.root, `${name.replaceAll("/", "-")}-${current.paths++}`);
}

afterAll(() => {
  if (current.root) rmSync(current.root, { recursive: true, force: true });
  current.root = undefined;
});
