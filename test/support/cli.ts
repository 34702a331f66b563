// Runs the built command line as users do. `ready` brings build and dist up to date first, once for all test files.

import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { vi } from "vitest";

export const ROOT = join(import.meta.dirname, "..", "..");
/** What `octavo` starts. */
export const MAIN = join(ROOT, "dist", "bin", "octavo.js");
export const STORYTELLER = "models/storyteller";

export interface Outcome {
  /** Exit code, or null if a signal ended it. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  /** Contents of standard input; empty by default. */
  readonly input?: string;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  /** Called when the process has started and at each chunk of its output. */
  readonly watch?: (child: ChildProcess, stdout: string, stderr: string) => void;
}

/** Runs Node with a script of this repository and its arguments. */
export function run(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, {
      cwd: options.cwd ?? ROOT,
      env: { ...process.env, CI: "", OCTAVO_DEBUG: "", ...options.env },
      stdio: ["pipe", "pipe", "pipe"],
    });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (part: Buffer) => {
      stdout += part.toString();
      options.watch?.(child, stdout, stderr);
    });
    child.stderr.on("data", (part: Buffer) => {
      stderr += part.toString();
      options.watch?.(child, stdout, stderr);
    });
    child.stdin.on("error", () => {}); // it may end without reading
    child.stdin.end(options.input ?? "");
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
}

export function octavo(args: readonly string[], options?: RunOptions): Promise<Outcome> {
  return run([MAIN, ...args], options);
}

/**
 * Runs a command in this process, from its sources: for what ends before any work is done. Only a process of its own (`octavo`) shows
 * what the bundle, signals, closed pipes, terminals and --json come to.
 */
export async function octavoHere(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  const { runCommand } = await import("../../src/cli/program.js");
  const written = { stdout: "", stderr: "" };
  const exitCode = process.exitCode;
  const spies = (["stdout", "stderr"] as const).map((name) =>
    vi.spyOn(process[name], "write").mockImplementation((part) => {
      written[name] += String(part);
      return true;
    }),
  );
  for (const [name, value] of Object.entries({ CI: "", OCTAVO_DEBUG: "", ...env })) vi.stubEnv(name, value);
  process.exitCode = undefined;
  try {
    const code = await runCommand(args);
    return { code, ...written };
  } finally {
    process.exitCode = exitCode;
    vi.unstubAllEnvs();
    for (const spy of spies) spy.mockRestore();
  }
}

export async function ready(): Promise<void> {
  const { code, stderr } = await run([join(ROOT, "scripts", "setup.mjs")]);
  if (code !== 0) throw new Error(`setup failed:\n${stderr}`);
}

/** A full build is slow. */
export const READY_TIMEOUT = 600_000;
