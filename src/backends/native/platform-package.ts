// The package that holds the add-on of this platform, as npm installs it beside octavo: @octavo/<os>-<cpu>[-<libc>].

import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { DeviceError } from "../../core/errors.js";

/**
 * Where a package has its add-on, seen from this file. The names stand here as literals of `import.meta.resolve`: tools that copy
 * what a program needs (Next's standalone output, packers of cloud functions) find the files by them.
 * @throws if the package is not installed
 */
function besideOctavo(name: string): string | undefined {
  switch (name) {
    case "@octavo/linux-x64-gnu":
      return fileURLToPath(import.meta.resolve("@octavo/linux-x64-gnu/octavo.node"));
    case "@octavo/linux-x64-musl":
      return fileURLToPath(import.meta.resolve("@octavo/linux-x64-musl/octavo.node"));
    case "@octavo/linux-arm64-gnu":
      return fileURLToPath(import.meta.resolve("@octavo/linux-arm64-gnu/octavo.node"));
    case "@octavo/linux-arm64-musl":
      return fileURLToPath(import.meta.resolve("@octavo/linux-arm64-musl/octavo.node"));
    case "@octavo/win32-x64":
      return fileURLToPath(import.meta.resolve("@octavo/win32-x64/octavo.node"));
    case "@octavo/darwin-arm64":
      return fileURLToPath(import.meta.resolve("@octavo/darwin-arm64/octavo.node"));
    case "@octavo/darwin-x64":
      return fileURLToPath(import.meta.resolve("@octavo/darwin-x64/octavo.node"));
  }
  return undefined;
}

/** musl's loader tells; else it is glibc. */
function libc(): "gnu" | "musl" {
  const report = process.report as (NodeJS.ProcessReport & { excludeNetwork?: boolean }) | undefined;
  if (typeof report?.getReport === "function") {
    const before = report.excludeNetwork;
    report.excludeNetwork = true; // else it asks for the names of all hosts that are connected
    const { header } = report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
    report.excludeNetwork = before ?? false;
    return header.glibcVersionRuntime ? "gnu" : "musl";
  }
  const musl = `/lib/ld-musl-${process.arch === "arm64" ? "aarch64" : "x86_64"}.so.1`;
  return existsSync(musl) ? "musl" : "gnu";
}

let name: string | undefined;

/** The name of this platform's package: of one that may not exist, if nobody has built Octavo for it. */
export function platformPackage(): string {
  const { platform, arch } = process;
  name ??= `@octavo/${platform}-${arch}${platform === "linux" ? `-${libc()}` : ""}`;
  return name;
}

/**
 * The add-on of a package, seen from octavo or from the program.
 * @throws DeviceError for a package without its version
 */
export function fromPackage(name: string): { readonly file: string; readonly version: string } | undefined {
  const file = fileIn(name);
  if (file === undefined) return undefined;
  try {
    const { version } = JSON.parse(readFileSync(join(dirname(file), "package.json"), "utf8")) as { version: string };
    return { file, version };
  } catch (cause) {
    throw new DeviceError(`${file}: the package.json beside it cannot be read`, { hint: `npm i ${name}`, cause });
  }
}

function fileIn(name: string): string | undefined {
  const from = (start: string) => createRequire(join(start, "_")).resolve(`${name}/octavo.node`);
  const program = process.argv[1];
  for (const look of [
    () => besideOctavo(name),
    () => program && from(dirname(program)), // pnpm shows a package to the project, and not to its neighbours
    () => from(process.cwd()),
  ]) {
    try {
      const file = look();
      if (file) return file;
    } catch {
      // not to be found from there
    }
  }
  return undefined;
}
