// Where this package lies on disk, for the files that Node's backends load: build/octavo.node (or the copy of it that outlives
// an installation) and the WASM modules. A bundler moves this code out of the package, or knows no `import.meta.url` at all;
// then the package is looked for where the program lies, as `import "octavo"` would.

import { existsSync, readFileSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir } from "node:os";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";

const NAME = "octavo";

export interface Place {
  /** Folder of this package; undefined if it cannot be found. */
  readonly root: string | undefined;
  /** This code runs from a bundle, outside of its package. */
  readonly bundled: boolean;
}

/** The folder of this file; undefined in a bundle of CommonJS. */
function own(): string | undefined {
  const url: string | undefined = import.meta.url;
  return url?.startsWith("file:") ? dirname(fileURLToPath(url)) : undefined;
}

function isPackage(folder: string): boolean {
  try {
    return JSON.parse(readFileSync(join(folder, "package.json"), "utf8")).name === NAME;
  } catch {
    return false;
  }
}

function look(): Place {
  const folder = own();
  if (folder !== undefined) {
    // This file is <package>/dist/backends/_package.js, or the same in src.
    const root = dirname(dirname(folder));
    if (isPackage(root)) return { root, bundled: false };
  }
  const starts = [folder, process.argv[1] && dirname(process.argv[1]), process.cwd()];
  for (const start of starts) {
    if (!start) continue;
    try {
      const root = dirname(createRequire(join(start, "_")).resolve(`${NAME}/package.json`));
      if (isPackage(root)) return { root, bundled: true };
    } catch {
      // not to be found from there
    }
  }
  return { root: undefined, bundled: true };
}

let place: Place | undefined;

export function packagePlace(): Place {
  place ??= look();
  return place;
}

/** What package.json says, as far as backends ask. */
export interface Manifest {
  readonly version?: string;
  /** The packages of platforms, where this package was made for publishing. */
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

let manifest: Manifest | undefined;

/** The package.json of this package; empty in a bundle without it. */
export function packageManifest(): Manifest {
  if (manifest) return manifest;
  const { root } = packagePlace();
  try {
    manifest = root ? (JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as Manifest) : {};
  } catch {
    manifest = {};
  }
  return manifest;
}

/** The user's folder for caches: XDG_CACHE_HOME, or the platform's own. */
export function userCache(env: NodeJS.ProcessEnv = process.env, platform: string = process.platform): string {
  if (env.XDG_CACHE_HOME) return env.XDG_CACHE_HOME;
  if (platform === "darwin") return join(homedir(), "Library", "Caches");
  if (platform === "win32") return env.LOCALAPPDATA || join(homedir(), "AppData", "Local");
  return join(homedir(), ".cache");
}

/**
 * The copy that scripts/build-native.mjs keeps of an add-on it built below node_modules, which `npm ci` deletes: of this
 * version, this platform, and written by this user (or root). Whoever loads it checks that its kernels fit.
 */
export function keptFile(name: string): string | undefined {
  const { root } = packagePlace();
  if (!root?.split(sep).includes("node_modules")) return undefined; // a checkout builds its own
  try {
    const file = join(userCache(), NAME, packageManifest().version!, `${process.platform}-${process.arch}`, name);
    const owner = statSync(file).uid;
    const user = process.getuid?.() ?? owner;
    return owner === user || owner === 0 ? file : undefined;
  } catch {
    return undefined; // not there, or not to be read
  }
}

/** The path of a file of `build/`, if it is there. */
export function builtFile(name: string): string | undefined {
  const { root } = packagePlace();
  const file = root && join(root, "build", name);
  return file && existsSync(file) ? file : undefined;
}

/**
 * What to do where a file of `build/` is missing.
 * @param script in scripts/, which builds it
 * @param variable of the environment that names the file
 */
export function missingHint(script: string, variable: string): string {
  const { root, bundled } = packagePlace();
  if (bundled) {
    return `a bundle cannot hold this file: mark "${NAME}" external in your bundler and install it beside the bundle, or set ${variable} to the file`;
  }
  const file = join(root!, "scripts", script);
  if (!file.includes("node_modules")) return `npm run ${script.replace("-", ":").replace(".mjs", "")}`;
  const runtime = process.versions.deno ? "deno run -A" : process.versions.bun ? "bun" : "node";
  return `${runtime} ${relative(process.cwd(), file)}`;
}
