// The add-on of an installed package: built once, found again after `npm ci` has deleted node_modules, and never where it does
// not fit.

import { spawnSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
// @ts-expect-error a script without types
import { elfBreaches } from "../../scripts/elf-gate.mjs";
// @ts-expect-error a script without types
import { describePlatform, PLATFORMS } from "../../scripts/stage.mjs";
import { userCache } from "../../src/backends/_package.js";
import { platformPackage } from "../../src/backends/native/platform-package.js";
import { type Outcome, READY_TIMEOUT, ROOT, ready, run } from "../support/cli.js";

const breaches = elfBreaches as (file: string, target?: string) => string[];

describe("the folder for caches", () => {
  it("is XDG's, or the platform's own", () => {
    expect(userCache({ XDG_CACHE_HOME: "/x" }, "darwin")).toBe("/x");
    expect(userCache({}, "linux")).toMatch(/\.cache$/);
    expect(userCache({}, "darwin")).toMatch(/Library.Caches$/);
    expect(userCache({ LOCALAPPDATA: "C:\\Local" }, "win32")).toBe("C:\\Local");
    expect(userCache({}, "win32")).toMatch(/AppData.Local$/);
  });
});

it("what a system says of a file that it cannot load is one line", async () => {
  // Windows' own words.
  const message = "The specified module could not be found.\r\nC:\\octavo.node";
  const load = vi.spyOn(process, "dlopen").mockImplementation(() => {
    throw Object.assign(new Error(message), { code: "ERR_DLOPEN_FAILED" });
  });
  vi.stubEnv("OCTAVO_ADDON", "C:\\octavo.node");
  vi.resetModules();
  const { addon } = await import("../../src/backends/native/addon.js");
  expect(() => addon()).toThrow(/cannot be loaded: The specified module could not be found\. C:\\octavo\.node\n/);
  load.mockRestore();
  vi.unstubAllEnvs();
});

it("every package of a platform stands as a literal where packers of programs look for it", () => {
  const loader = readFileSync(join(ROOT, "src/backends/native/platform-package.ts"), "utf8");
  const named = [
    ...loader.matchAll(/case "@octavo\/([^"]+)":\n\s+return [^\n]*resolve\("@octavo\/([^"]+)\/octavo\.node"\)/g),
  ];
  expect(named.map(([, target]) => target)).toEqual(Object.keys(PLATFORMS as object));
  for (const [, target, resolved] of named) expect(resolved).toBe(target);
});

it("a platform's package is for that platform alone, and says where it was not run", () => {
  const describe = describePlatform as (target: string) => { readme: string; manifest: Record<string, unknown> };
  expect(describe("linux-arm64-musl").manifest).toMatchObject({ os: ["linux"], cpu: ["arm64"], libc: ["musl"] });
  const { manifest } = describe("win32-x64");
  expect(manifest).toMatchObject({ name: "@octavo/win32-x64", os: ["win32"], cpu: ["x64"], files: ["octavo.node"] });
  expect(manifest).not.toHaveProperty("libc"); // npm would install it nowhere
  for (const target of Object.keys(PLATFORMS as object)) {
    const { readme } = describe(target);
    expect(readme.includes("not run there"), target).toBe(target.startsWith("darwin"));
  }
});

describe("an installed package", () => {
  const project = realpathSync(mkdtempSync(join(tmpdir(), "octavo-installed-")));
  const installed = join(project, "node_modules", "octavo");
  const cache = join(project, "cache");
  const env = { XDG_CACHE_HOME: cache, OCTAVO_ADDON: "" };
  let kept = "";

  beforeAll(async () => {
    await ready();
    const modules = realpathSync(join(ROOT, "node_modules"));
    mkdirSync(installed, { recursive: true });
    for (const name of readdirSync(modules)) {
      if (name !== "octavo") symlinkSync(join(modules, name), join(project, "node_modules", name));
    }
    const part = (name: string): void => cpSync(join(ROOT, name), join(installed, name), { recursive: true });
    for (const name of ["dist", "native", "scripts", "package.json", "build/octavo.node"]) part(name);
    part("build/obj/stamp.json"); // it is up to date
    const { version } = JSON.parse(await readFile(join(installed, "package.json"), "utf8")) as { version: string };
    kept = join(cache, "octavo", version, `${process.platform}-${process.arch}`, "octavo.node");
  }, READY_TIMEOUT);
  afterAll(() => rmSync(project, { recursive: true }));

  const found = (): Promise<Outcome> => {
    const module = JSON.stringify(`file://${join(installed, "dist/backends/native/addon.js")}`);
    const code = `const { addonFile } = await import(${module}); console.log(addonFile());`;
    return run(["--input-type=module", "-e", code], { env, cwd: project });
  };
  const changed = async (file: string, from: string, to: string): Promise<() => void> => {
    const path = join(installed, file);
    const before = await readFile(path, "utf8");
    expect(before).toContain(from);
    writeFileSync(path, before.replaceAll(from, to));
    return () => writeFileSync(path, before);
  };

  it("keeps a copy of what it builds, and uses its own while it has one", async () => {
    const { code, stderr } = await run([join(installed, "scripts/build-native.mjs")], { env });
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringContaining(`later installations is ${kept}\n`) });
    const built = await readFile(join(installed, "build/octavo.node"));
    expect(built.equals(await readFile(kept))).toBe(true);
    expect(await found()).toMatchObject({ code: 0, stdout: `${join(installed, "build/octavo.node")}\n` });
  });

  it("finds the copy when its own is gone", async () => {
    rmSync(join(installed, "build"), { recursive: true });
    expect(await found()).toMatchObject({ code: 0, stdout: `${kept}\n`, stderr: "" });
  });

  it("takes a copy of another version, of other kernels or of another kind of file for none", async () => {
    const none = {
      code: 1,
      stdout: "",
      stderr: expect.stringMatching(/is not built: there is no .*build.octavo\.node/),
    };
    let undo = await changed("package.json", '"version": "', '"version": "9.');
    expect(await found()).toMatchObject(none);
    undo();
    undo = await changed("dist/ops/argmax.js", "argmax: ", "argmax: other[1]:f32 ");
    expect(await found()).toMatchObject(none);
    undo();
    expect(await found()).toMatchObject({ code: 0 });
    writeFileSync(kept, "no add-on");
    expect(await found()).toMatchObject(none);
  });

  describe("the package of the platform", () => {
    const name = platformPackage();
    const folder = join(project, "node_modules", ...name.split("/"));
    const manifest = (file: string): { version: string } =>
      JSON.parse(readFileSync(join(file, "package.json"), "utf8"));
    const place = (version: string): void => {
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, "package.json"), JSON.stringify({ name, version }));
      cpSync(join(ROOT, "build/octavo.node"), join(folder, "octavo.node"));
    };

    /** The add-on as a build of another version would be: with another text in it, of the same length. */
    const otherAddon = (file: string, version: string): void => {
      const bytes = readFileSync(join(ROOT, "build/octavo.node"), "latin1");
      const other = bytes.replaceAll(`\0${version}\0`, `\0${version.replaceAll(/\d/g, "9")}\0`);
      expect(other).not.toBe(bytes);
      rmSync(file); // one that is loaded is not written over
      writeFileSync(file, other, "latin1");
    };

    beforeAll(() => {
      rmSync(cache, { recursive: true });
      const { version, ...rest } = manifest(installed);
      const published = { ...rest, version, optionalDependencies: { [name]: version } };
      writeFileSync(join(installed, "package.json"), JSON.stringify(published));
    });

    it("is named, with the command that installs it, where it is missing", async () => {
      const { code, stderr } = await found();
      expect(code).toBe(1);
      expect(stderr).toContain(`the native add-on is missing: the package ${name} is not installed`);
      expect(stderr).toContain(`hint: npm i ${name}@${manifest(installed).version}`);
    });

    it("is used if its version is octavo's, and refused with both named if it is not", async () => {
      const { version } = manifest(installed);
      place(version);
      expect(await found()).toMatchObject({ code: 0, stdout: `${join(folder, "octavo.node")}\n`, stderr: "" });
      place("9.9.9");
      const { code, stderr } = await found();
      expect(code).toBe(1);
      expect(stderr).toContain(`the package ${name} is of version 9.9.9, and octavo of ${version}: they must match`);
      // What counts is the add-on's own.
      place(version);
      otherAddon(join(folder, "octavo.node"), version);
      expect(await found()).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/is of version 9\.9\.9, and octavo/),
      });
    });

    it("comes after what is built here, unless that is of another version", async () => {
      const { version } = manifest(installed);
      place(version);
      const built = join(installed, "build", "octavo.node");
      mkdirSync(dirname(built), { recursive: true });
      cpSync(join(ROOT, "build/octavo.node"), built);
      expect(await found()).toMatchObject({ code: 0, stdout: `${built}\n` });
      otherAddon(built, version);
      expect(await found()).toMatchObject({ code: 0, stdout: `${join(folder, "octavo.node")}\n` });
    });
  });

  it("keeps nothing for a checkout", async () => {
    rmSync(cache, { recursive: true, force: true });
    const { code, stderr } = await run(["scripts/build-native.mjs"], { env });
    expect(code).toBe(0);
    expect(stderr).not.toContain("later installations");
    expect(() => readdirSync(cache)).toThrow(/ENOENT/);
  });
});

it.skipIf(process.platform !== "linux" || spawnSync("readelf", ["--version"]).status !== 0)(
  "the add-on links no C++ library, and shows only what Node asks for",
  () => {
    const file = join(ROOT, "build", "octavo.node");
    expect(breaches(file)).toEqual([]);
    // The gate sees: this one is for glibc.
    const other = process.arch === "arm64" ? "x64" : "arm64";
    const wrong = breaches(file, `linux-${other}-musl`).join("\n");
    expect(wrong).toMatch(/^links libc\.so\.6$/m);
    expect(wrong).toMatch(/^asks for \w+@GLIBC_[\d.]+: it is built for glibc$/m);
    expect(wrong).toMatch(new RegExp(`^is not for ${other}$`, "m"));
  },
);
