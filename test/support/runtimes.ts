// Deno and Bun for tests: from OCTAVO_DENO and OCTAVO_BUN, the path, or where `node scripts/runtimes.mjs --install` puts
// them. Where one is missing its suites are skipped, with the reason.

import { execFile } from "node:child_process";
import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { describe, test } from "vitest";
// @ts-expect-error a script without types
import { installed as installedOf } from "../../scripts/runtimes.mjs";

const installed = installedOf as (name: string) => string | undefined;

/** The program of that name on the path. */
export function inPath(name: string): string | undefined {
  const files = (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, name));
  return files.find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

export interface Runtime {
  readonly name: "node" | "deno" | "bun";
  /**
   * Runs a script; returns its output. Rejects, with its error output in the message, if it fails or takes too long. Deno
   * gets all permissions unless `allowed` lists some.
   */
  run(args: readonly string[], options?: RunOptions): Promise<string>;
}

interface RunOptions {
  readonly cwd?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly allowed?: readonly string[];
}

const LIMIT_MS = 60_000;

function runtimeOf(name: Runtime["name"], file: string): Runtime {
  return {
    name,
    async run(args, { cwd, env, allowed = ["--allow-all"] } = {}) {
      const before = name === "deno" ? ["run", "--no-prompt", ...allowed] : [];
      const { stdout } = await promisify(execFile)(file, [...before, ...args], {
        cwd,
        env: { ...process.env, NO_COLOR: "1", ...env },
        timeout: LIMIT_MS,
        killSignal: "SIGKILL",
      });
      return stdout;
    },
  };
}

export const NODE: Runtime = runtimeOf("node", process.execPath);

function find(name: Runtime["name"]): { file: string } | { missing: string } {
  const variable = `OCTAVO_${name.toUpperCase()}`;
  const named = process.env[variable];
  if (named) return existsSync(named) ? { file: named } : { missing: `${variable}=${named} is not there` };
  const file = inPath(name) ?? installed(name);
  return file ? { file } : { missing: `no ${name} (node scripts/runtimes.mjs --install, or ${variable}=path)` };
}

/** `describe` for suites that need a runtime. */
export function describeRuntime(name: "deno" | "bun", body: (runtime: Runtime) => void): void {
  const found = find(name);
  if ("missing" in found) {
    console.warn(`\n*** ${name} suites are SKIPPED: ${found.missing} ***\n`);
    test.skip(`${name}: ${found.missing}`);
  } else describe(name, { timeout: 120_000 }, () => body(runtimeOf(name, found.file)));
}
