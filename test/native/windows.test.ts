// The add-on for Windows, run by Node for Windows in wine: it computes what the one of this system computes, and finds its files.
// `npm run release -- --dry-run --only=win32-x64` builds it; scripts/wine.mjs says what else it takes.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { addon, addonFile, nativeAvailable } from "../../src/backends/native/addon.js";
import { MAIN, READY_TIMEOUT, ROOT, ready } from "../support/cli.js";
import { temporary } from "../support/temporary.js";

interface Ran {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}
// @ts-expect-error a script without types
const { whyNoWindowsNode, windowsNode, windowsPath } = (await import("../../scripts/wine.mjs")) as {
  whyNoWindowsNode: () => string | undefined;
  windowsNode: (args: readonly string[], options: { env: Record<string, string> }) => Ran;
  windowsPath: (path: string) => string;
};

const FILE = join(ROOT, "build", "octavo-win32-x64.node");
const why =
  whyNoWindowsNode() ??
  (existsSync(FILE) ? undefined : `there is no ${FILE}`) ??
  (nativeAvailable() ? undefined : "there is no add-on of this system to compare it with");
if (why) console.warn(`\n*** the add-on for Windows is SKIPPED: ${why} ***\n`);

interface Report {
  readonly ok: boolean;
  readonly platform: string;
  readonly self_test: readonly { readonly isa: string }[];
}

/** What a program prints in wine. */
function inWine(script: string, args: readonly string[]): string {
  const env = { OCTAVO_ADDON: windowsPath(FILE), OCTAVO_ISA: "" };
  const { status, stdout, stderr } = windowsNode([windowsPath(script), ...args], { env });
  expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
  return stdout;
}

/** What a program prints here. */
function here(script: string, args: readonly string[]): string {
  const env = { ...process.env, OCTAVO_ADDON: addonFile(), OCTAVO_ISA: "" };
  return execFileSync(process.execPath, [script, ...args], { env, encoding: "utf8" });
}

describe.skipIf(why)(why ? `the add-on for Windows (${why})` : "the add-on for Windows", () => {
  test(
    "has every kernel right, with the errors that the kernels of this system have",
    async () => {
      await ready();
      const args = ["doctor", "--device", "cpu", "--json"];
      const report = JSON.parse(inWine(MAIN, args)) as Report;
      expect(report).toMatchObject({ ok: true, platform: "win32 x64" });
      const own = JSON.parse(here(MAIN, args)) as Report;
      const levels = report.self_test.map(({ isa }) => isa);
      for (const level of own.self_test) {
        expect(levels).toContain(level.isa);
        expect(report.self_test.find(({ isa }) => isa === level.isa)).toEqual(level);
      }
    },
    READY_TIMEOUT,
  );

  test(
    "generates the same tokens on every level, and reads and writes paths that are long and in any letters",
    async () => {
      await ready();
      const { isasCompiled, isasSupported } = addon().machine();
      const levels = isasCompiled.filter((level) => isasSupported.includes(level)).join(",");
      const script = join(import.meta.dirname, "both-systems.mjs");
      const [ours, theirs] = [temporary("here"), temporary("there")];
      for (const folder of [ours, theirs]) mkdirSync(folder, { recursive: true });
      const found: unknown = JSON.parse(inWine(script, [windowsPath(theirs), levels]));
      expect(found).toEqual(JSON.parse(here(script, [ours, levels])));
    },
    READY_TIMEOUT,
  );
});
