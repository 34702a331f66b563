// The temporary folder of a whole run: every process that the tests start makes its files below it, and it is removed at the end,
// with what files and killed processes left behind. Vitest calls this once for each project.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const OWNER = "OCTAVO_TEST_FOLDER";

export default function setup(): (() => void) | undefined {
  if (process.env[OWNER]) return undefined;
  const folder = mkdtempSync(join(tmpdir(), "octavo-run-"));
  const before = { TMPDIR: process.env.TMPDIR, TEMP: process.env.TEMP, TMP: process.env.TMP };
  for (const name of [OWNER, ...Object.keys(before)]) process.env[name] = folder;
  return () => {
    delete process.env[OWNER];
    for (const [name, value] of Object.entries(before)) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
    rmSync(folder, { recursive: true, force: true, maxRetries: 3 });
  };
}
