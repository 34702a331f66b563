// The first hour of somebody who installs Octavo: imports, a first token without and with a compiler, the README's sample,
// the first mistakes, and `npm ci` on the next machine. In order: each step finds what those before it left.

import { cpSync, existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { ROOT } from "../support/cli.js";
import { inPath } from "../support/runtimes.js";
import { Project } from "./project.js";

const BUILD = "node_modules/octavo/scripts/build-native.mjs";
/** Enough for a compiler on a busy machine. */
const PATIENCE_MS = 600_000;
/** The first bytes of a GGUF file: magic and version. */
const GGUF = Buffer.concat([Buffer.from("GGUF\x03\0\0\0"), Buffer.alloc(120)]);
/** The first lines of a user's own program. */
const FIRST_TOKEN = `
import { AutoModelForCausalLM, AutoTokenizer } from "octavo";
const tokenizer = await AutoTokenizer.from_pretrained("octavo/storyteller");
const model = await AutoModelForCausalLM.from_pretrained("octavo/storyteller", { load_in_8bit: true });
const [ids] = await model.generate({ ...tokenizer("Once upon a time"), max_new_tokens: 1 });
console.log(JSON.stringify({ device: model.device.name, text: tokenizer.decode(ids) }));
`;

const made = await Project.make();
if (typeof made === "string") {
  console.warn(`\n*** the newcomer's path is SKIPPED: ${made} ***\n`);
  test.skip(`the newcomer's path: ${made}`);
} else walk(made);

function walk(project: Project): void {
  afterAll(() => project.remove());

  /** Whatever a text tells the reader to run or to open exists in the project; nothing of this checkout is named. */
  const expectUsable = (text: string): void => {
    expect(text).not.toContain(ROOT);
    expect(text).not.toMatch(/npm run|npm start/);
    for (const [, script = ""] of text.matchAll(/\bnode (\S+\.mjs)/g))
      expect(existsSync(project.path(script)), script).toBe(true);
  };

  const firstToken = async (): Promise<{ device: string; text: string; stderr: string }> => {
    project.write("first.mjs", FIRST_TOKEN);
    const { code, stdout, stderr } = await project.node("first.mjs");
    expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
    expectUsable(stderr);
    return { ...(JSON.parse(stdout) as { device: string; text: string }), stderr };
  };

  describe("in an empty project", { timeout: PATIENCE_MS }, () => {
    test("import and require give the same names", async () => {
      project.write("names.mjs", `import * as all from "octavo"; console.log(Object.keys(all).sort().join());`);
      project.write(
        "names.cjs",
        `console.log(Object.keys(require("octavo")).filter((name) => name !== "__esModule").sort().join());`,
      );
      const [esm, cjs] = [await project.node("names.mjs"), await project.node("names.cjs")];
      expect(esm).toEqual({ code: 0, stdout: expect.stringContaining("AutoModelForCausalLM"), stderr: "" });
      // Older versions of Node warn that require() of a module is new.
      expect({ code: cjs.code, stdout: cjs.stdout }).toEqual({ code: 0, stdout: esm.stdout });
      expect(cjs.stdout.trim().split(",").length).toBeGreaterThan(20);
    });

    test("the first token comes from WebAssembly, and one line says how to get the faster add-on", async () => {
      const { device, text, stderr } = await firstToken();
      expect(device).toBe("wasm");
      expect(text).toMatch(/^Once upon a time\S* ?\S/);
      expect(stderr).toMatch(/^octavo: runs as WebAssembly.*\n$/);
      expect(stderr).toContain(`node ${BUILD}`);
    });

    test("npx octavo generate -p writes text", async () => {
      const { code, stdout, stderr } = await project.octavo(
        "generate",
        "-p",
        "Once upon a time",
        "--max-new-tokens",
        "4",
      );
      expect(code).toBe(0);
      expect(stdout).toMatch(/^Once upon a time\S* ?\S/);
      expect(stderr).toMatch(/device +wasm/);
      expectUsable(stderr);
    });

    test("the README's sample compiles under strict settings and runs", async () => {
      const [, sample] = /```ts\n([\s\S]*?from "octavo"[\s\S]*?)```/.exec(
        readFileSync(join(ROOT, "README.md"), "utf8"),
      )!;
      project.write("sample.ts", sample!);
      const compilerOptions = {
        ...{ strict: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, skipLibCheck: false },
        ...{ target: "es2022", module: "nodenext", types: ["node"], typeRoots: [join(ROOT, "node_modules", "@types")] },
      };
      project.write("tsconfig.json", JSON.stringify({ compilerOptions, files: ["sample.ts"] }));
      const compiled = await project.node(
        join(ROOT, "node_modules", "typescript", "bin", "tsc"),
        "-p",
        "tsconfig.json",
      );
      expect(compiled).toEqual({ code: 0, stdout: "", stderr: "" });
      const { code, stdout, stderr } = await project.node("sample.js");
      expect({ code, stderr: code === 0 ? "" : stderr }).toEqual({ code: 0, stderr: "" });
      expect(stdout.trim().length).toBeGreaterThan(40);
    });
  });

  describe("the first mistakes", { timeout: PATIENCE_MS }, () => {
    const storyteller = (file: string): string => project.path("node_modules", "octavo", "models", "storyteller", file);

    test.each([
      [
        "a misspelt flag",
        ["octavo/storyteller", "-p", "x", "--max-new-tokes", "3"],
        2,
        /Did you mean --max-new-tokens/,
      ],
      ["a model that is not there", ["no/such-model", "-p", "x"], 3, /no\/such-model/],
      ["a folder that is not there", ["./nowhere", "-p", "x"], 3, /no such folder[\s\S]*hint: /],
      ["a misspelt name of the small model", ["octavo/storytellr", "-p", "x"], 3, /did you mean "octavo\/storyteller"/],
      [
        "a GGUF file",
        ["model.gguf", "-p", "x"],
        2,
        /got a GGUF file\n {2}hint: use the original safetensors checkpoint/,
      ],
      ["a folder of GGUF weights", ["gguf", "-p", "x"], 3, /no weights found[\s\S]*model\.gguf/],
      ["GGUF weights under another name", ["renamed", "-p", "x"], 1, /got a GGUF file\n {2}hint: use the original/],
    ])("%s", async (_, args, code, words) => {
      project.write("model.gguf", GGUF);
      for (const [folder, file] of [
        ["gguf", "model.gguf"],
        ["renamed", "model.safetensors"],
      ] as const) {
        project.write(join(folder, file), GGUF);
        for (const name of ["config.json", "tokenizer.json"]) cpSync(storyteller(name), project.path(folder, name));
      }
      const { stdout, stderr, ...rest } = await project.octavo("generate", ...args);
      expect({ ...rest, stdout }).toEqual({ code, stdout: "" });
      expect(stderr).toMatch(words);
      // One sentence and a hint, after the line about WebAssembly.
      expect(stderr.split("\n").filter((line) => line.startsWith("error: "))).toHaveLength(1);
      expect(stderr).not.toMatch(/^\s+at /m);
      expectUsable(stderr);
    });

    test("a misspelt option of the library", async () => {
      project.write("typo.mjs", FIRST_TOKEN.replace("load_in_8bit", "load_in_8bits"));
      const { code, stderr } = await project.node("typo.mjs");
      expect(code).toBe(1);
      expect(stderr).toContain(
        "OptionError: from_pretrained: unknown option `load_in_8bits`; did you mean `load_in_8bit`?",
      );
    });
  });

  const compiler = process.env.CXX ?? ["c++", "g++", "clang++"].find((name) => inPath(name) !== undefined);

  describe("with a compiler", { timeout: PATIENCE_MS }, () => {
    test.skipIf(compiler === undefined)(
      "the command of the hint builds the add-on, which then gives the first token",
      async () => {
        const built = await project.buildNative(BUILD);
        expect({ code: built.code, stderr: built.code === 0 ? "" : built.stderr }).toEqual({ code: 0, stderr: "" });
        expect(built.stderr).toContain("this CPU's level");
        const { device, text, stderr } = await firstToken();
        expect(device).toBe("cpu");
        expect(text).toMatch(/^Once upon a time\S* ?\S/);
        expect(stderr).toBe("");
      },
    );
  });

  test("npm ci gives the package back as it was published, and an add-on that was built is found again", {
    timeout: PATIENCE_MS,
  }, async () => {
    const { code, stderr } = await project.reinstall();
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(existsSync(project.path("node_modules", "octavo", "build", "octavo.node"))).toBe(false);
    expect((await firstToken()).device).toBe(compiler === undefined ? "wasm" : "cpu");
  });
}
