// The version of this package, and the file of its command line.

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

// This code lies two folders below the package: in src/cli/, dist/cli/, or in one of the bundles dist/bin/ and dist/node/.
const ROOT = new URL("../../", import.meta.url);

export function version(): string {
  return (JSON.parse(readFileSync(new URL("package.json", ROOT), "utf8")) as { version: string }).version;
}

/** The program that `octavo` starts, for child processes. */
export const PROGRAM: string = fileURLToPath(new URL("dist/bin/octavo.js", ROOT));
