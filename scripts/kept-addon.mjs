// A copy of the add-on that outlives an installation. `npm ci` and `npm update` delete node_modules, and with it an add-on that
// took minutes to build; src/backends/_package.ts finds the copy again, by version and platform.

import { copyFileSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join, sep } from "node:path";

/** The user's folder for caches, as src/backends/_package.ts finds it. */
function userCache() {
  const { XDG_CACHE_HOME, LOCALAPPDATA } = process.env;
  if (XDG_CACHE_HOME) return XDG_CACHE_HOME;
  if (process.platform === "darwin") return join(homedir(), "Library", "Caches");
  if (process.platform === "win32") return LOCALAPPDATA || join(homedir(), "AppData", "Local");
  return join(homedir(), ".cache");
}

/** Keeps a copy of the add-on of a package that is installed; returns its path, and for a checkout undefined. */
export function keepAddon(root, file) {
  if (!root.split(sep).includes("node_modules")) return undefined;
  const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const kept = join(userCache(), "octavo", version, `${process.platform}-${process.arch}`, "octavo.node");
  mkdirSync(dirname(kept), { recursive: true, mode: 0o700 });
  // Renamed into its place: a process that has loaded the old one keeps it.
  const partial = `${kept}.${process.pid}.partial`;
  copyFileSync(file, partial);
  renameSync(partial, kept);
  return kept;
}
