#!/usr/bin/env node
// What `octavo` starts. The version is printed before anything is loaded; all else is in program.ts.

import * as module from "node:module";
import { version } from "./version.js";

const args = process.argv.slice(2);
// -V was the flag's older name.
if (args.length === 1 && ["--version", "-v", "-V"].includes(args[0]!)) {
  process.stdout.write(`${version()}\n`);
} else {
  // Newer versions of Node keep what they have compiled for the next start; the types are those of the oldest.
  (module as { enableCompileCache?: () => unknown }).enableCompileCache?.();
  // Before the other files are loaded, or their maps are not read.
  if (process.env.OCTAVO_DEBUG === "1") process.setSourceMapsEnabled(true);
  const { main } = await import("./program.js");
  process.exitCode = await main(args);
}
