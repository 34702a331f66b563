// The package octavo as it is laid out for publishing (scripts/stage.mjs): what its manifest names is there, and runs. The checkout's own
// package, which newcomer.test.ts installs, has other files.

import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ready, run } from "../support/cli.js";
import { whyNoWasm } from "../support/devices.js";
import { temporary } from "../support/temporary.js";

// @ts-expect-error a script without types
const { stage } = (await import("../../scripts/stage.mjs")) as {
  stage: (folder: string, targets: readonly string[]) => Promise<string[]>;
};

/** A path's module by condition. "./package.json" is a string, whose conditions are undefined too. */
interface Entry {
  readonly browser?: unknown;
  readonly default?: unknown;
}

interface Manifest {
  readonly exports: Readonly<Record<string, Entry>>;
  readonly dependencies?: object;
}

test.skipIf(whyNoWasm)(
  "every public path of the published package is there, and is imported by programs that install nothing else",
  async () => {
    await ready();
    const folders = await stage(temporary("stage"), []);
    const octavo = folders.at(-1)!;
    const manifest = JSON.parse(readFileSync(join(octavo, "package.json"), "utf8")) as Manifest;
    const named = [...JSON.stringify(manifest.exports).matchAll(/"(\.\/(?:dist|build)\/[^"]+)"/g)].map(
      ([, file]) => file!,
    );
    expect(named.length).toBeGreaterThan(15);
    for (const file of named) expect(existsSync(join(octavo, file)), file).toBe(true);
    expect(manifest.dependencies).toBeUndefined();
    for (const [, file] of readFileSync(join(octavo, "README.md"), "utf8").matchAll(/\]\((?!https?:|#)([^)#]+)/g)) {
      expect(existsSync(join(octavo, file!)), file).toBe(true);
    }

    const project = temporary("project");
    mkdirSync(join(project, "node_modules"), { recursive: true });
    symlinkSync(octavo, join(project, "node_modules", "octavo"));
    const paths = Object.entries(manifest.exports).flatMap(([path, { browser, default: node }]) =>
      node && !path.includes("browser") && browser !== node ? [path] : [],
    );
    expect(paths).toEqual([".", "./nn", "./bnb", "./bnb/optim", "./train", "./eval"]);
    const program = join(project, "all.mjs");
    const names = paths.map((path) => path.replace(/^\./, "octavo"));
    writeFileSync(
      program,
      `for (const name of ${JSON.stringify(names)}) console.log(name, Object.keys(await import(name)).length > 5);
const { createRequire } = await import("node:module");
console.log("require", "AutoModelForCausalLM" in createRequire(import.meta.url)("octavo"));\n`,
    );
    const { code, stdout, stderr } = await run([program], { cwd: project });
    expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
    expect(stdout).toBe([...names, "require"].map((name) => `${name} true\n`).join(""));
  },
);
