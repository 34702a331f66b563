// What the documentation shows: its programs compile under strict settings, all in one run of the compiler, and those with the
// mark `run` run, all in one process. Its commands exist, with the flags that they have there.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { READY_TIMEOUT, ROOT, ready, run } from "../support/cli.js";
import { temporary } from "../support/temporary.js";
import { commandsOf, FILES, programsOf } from "./blocks.js";

const programs = FILES.flatMap(programsOf).map((program) => ({
  ...program,
  name: program.place.replace(/\W+/g, "_"),
}));

beforeAll(ready, READY_TIMEOUT);

// A busy machine takes some three times as long as an idle one.
describe("the programs", { timeout: 180_000 }, () => {
  // Within this package `octavo` is this package.
  mkdirSync(join(ROOT, "build"), { recursive: true });
  const folder = mkdtempSync(join(ROOT, "build", "snippets-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  test("compile", async () => {
    for (const { name, text } of programs) writeFileSync(join(folder, `${name}.ts`), `${text}\nexport {};\n`);
    const compilerOptions = {
      ...{ strict: true, exactOptionalPropertyTypes: true, noUncheckedIndexedAccess: true, skipLibCheck: true },
      ...{ target: "es2022", lib: ["ES2023", "ESNext.Disposable", "DOM", "DOM.Iterable"], module: "nodenext" },
      ...{ types: ["node"], typeRoots: [join(ROOT, "node_modules", "@types")], rootDir: folder, outDir: folder },
    };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["*.ts"], exclude: [] }));
    const tsc = join(ROOT, "node_modules", "typescript", "bin", "tsc");
    const compiled = await run([tsc, "-p", folder, "--pretty", "false"], { cwd: folder });
    const said = programs.reduce((text, { name, place }) => text.replaceAll(`${name}.ts`, place), compiled.stdout);
    expect(said).toBe("");
    expect(compiled.code).toBe(0);
  });

  test("run", async () => {
    const running = programs.filter(({ runs }) => runs);
    expect(running.length).toBeGreaterThan(8);
    const lines = running.map(
      ({ name, place }) =>
        `await import(${JSON.stringify(join(folder, `${name}.js`))}).catch((e) => failed.push([${JSON.stringify(place)}, String(e)]));`,
    );
    writeFileSync(
      join(folder, "all.js"),
      `import { writeFileSync } from "node:fs";\nconst failed = [];\n${lines.join("\n")}\nwriteFileSync("failed.json", JSON.stringify(failed));\n`,
    );
    // What they write lies in a folder of its own.
    const there = temporary("snippets");
    mkdirSync(there);
    const { code, stderr } = await run([join(folder, "all.js")], { cwd: there });
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.not.stringMatching(/^\s+at /m) });
    expect(JSON.parse(readFileSync(join(there, "failed.json"), "utf8"))).toEqual([]);
  });
});

describe("the commands", () => {
  /** The flags of each command. */
  let known: Readonly<Record<string, readonly string[]>>;

  beforeAll(async () => {
    const script = `import { COMMANDS } from "./dist/cli/commands.js";
      const flags = async ({ load }) => (await load()).options.flatMap(({ long, short }) => [long, short]);
      const all = Object.entries(COMMANDS).map(async ([name, entry]) => [name, await flags(entry)]);
      console.log(JSON.stringify(Object.fromEntries(await Promise.all(all))));`;
    known = JSON.parse((await run(["--input-type=module", "-e", script])).stdout);
  });

  test.each(FILES.map((file) => [file, commandsOf(file)] as const).filter(([, commands]) => commands.length > 0))(
    "of %s exist",
    (_, commands) => {
      for (const [name = "", ...rest] of commands) {
        const flags = known[name];
        // `octavo "a text"` is a command, too.
        if (!flags) expect(name).toMatch(/ |^--(version|help)$/);
        else for (const flag of rest.filter((word) => /^--?[a-z]/.test(word))) expect(flags, name).toContain(flag);
      }
    },
  );
});
