// Laws of the house: floors hold and the script that checks them can see, and the add-on agrees on what the ops are.

import { execFileSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { openNative } from "../../src/backends/native/index.js";
import { DeviceError } from "../../src/core/errors.js";
import { OPS, signatures } from "../../src/ops/index.js";

const root = join(import.meta.dirname, "..", "..");

function floors(at: string): { code: number; text: string } {
  try {
    const text = execFileSync(process.execPath, [join(at, "scripts", "check-floors.mjs")], {
      encoding: "utf8",
      stdio: "pipe",
    });
    return { code: 0, text };
  } catch (error) {
    const { status, stdout, stderr } = error as { status: number; stdout: string; stderr: string };
    return { code: status, text: stderr + stdout };
  }
}

test("nothing outside quant/ asks which scheme a weight has", () => {
  const files = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" }).filter((file) =>
    file.endsWith(".ts"),
  );
  expect(files.length).toBeGreaterThan(100);
  const asking = files.filter((file) => /instanceof \w+Weight\b/.test(readFileSync(join(root, "src", file), "utf8")));
  expect(asking.filter((file) => !file.startsWith("quant"))).toEqual([]);
});

describe("floors", () => {
  const house = mkdtempSync(join(tmpdir(), "octavo-floors-"));
  cpSync(join(root, "scripts", "check-floors.mjs"), join(house, "scripts", "check-floors.mjs"));
  afterAll(() => rmSync(house, { recursive: true, force: true }));

  test("of this house hold", () => {
    const { code, text } = floors(root);
    expect(text).toMatch(/[1-9]\d\d+ imports checked, 0 breaches/);
    expect(code).toBe(0);
  });

  test.each([
    [
      "an upward import",
      "core/x.ts",
      'import { y } from "../ops/y.js";',
      /core.x\.ts imports upward: \.\.\/ops\/y\.js/,
    ],
    ["an upward type import", "nn/x.ts", 'import type { Y } from "../load/y.js";', /nn.x\.ts imports upward/],
    ["an upward re-export", "ops/x.ts", 'export { y } from "../models/y.js";', /ops.x\.ts imports upward/],
    [
      "an upward dynamic import",
      "quant/x.ts",
      'const y = await import("../generate/y.js");',
      /quant.x\.ts imports upward/,
    ],
    ["a sibling", "models/x.ts", 'import { y } from "./llama.js";', /models.x\.ts imports its sibling/],
    ["a sibling backend", "backends/a/index.ts", 'import { y } from "../b/index.js";', /imports its sibling/],
    [
      "Node in the browser's part",
      "quant/x.ts",
      'import { readFileSync } from "node:fs";',
      /quant.x\.ts imports node:fs/,
    ],
    ["a room that is none", "core/x.ts", 'import { y } from "../cellar/y.js";', /imports upward/],
  ])("%s is seen", (_, file, text, message) => {
    rmSync(join(house, "src"), { recursive: true, force: true });
    const path = join(house, "src", file);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${text}\n`);
    const result = floors(house);
    expect(result.text).toMatch(message);
    expect(result.code).toBe(1);
  });

  test.each([
    ["values", ['import { b } from "./b.js";', 'import { c } from "./c.js";', 'import { a } from "./a.js";']],
    [
      "types",
      ['import type { B } from "./b.js";', 'export type { C } from "./c.js";', 'import type { A } from "./a.js";'],
    ],
  ])("a circle of %s is seen, and named once", (_, texts) => {
    rmSync(join(house, "src"), { recursive: true, force: true });
    mkdirSync(join(house, "src", "core"), { recursive: true });
    for (const [i, text] of texts.entries()) writeFileSync(join(house, "src", "core", `${"abc"[i]}.ts`), text);
    writeFileSync(join(house, "src", "core", "d.ts"), 'import { a } from "./a.js";'); // leads into it, is not part of it
    const { code, text } = floors(house);
    expect(text).toMatch(/in a circle: src.core.a\.ts, src.core.b\.ts, src.core.c\.ts\n/);
    expect(text).toContain("1 breaches");
    expect(code).toBe(1);
  });

  test("what is allowed is allowed", () => {
    rmSync(join(house, "src"), { recursive: true, force: true });
    for (const [file, text] of [
      ["load/x.ts", 'import { y } from "../core/y.js";\nimport { readFile } from "node:fs/promises";'],
      ["models/x.ts", 'import { y } from "./_shared.js";'],
      ["models/index.ts", 'import { y } from "./x.js";'],
      ["index.ts", 'export { y } from "./cli/y.js";'],
    ]) {
      const path = join(house, "src", file!);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, `${text}\n`);
    }
    expect(floors(house)).toMatchObject({ code: 0 });
  });
});

describe("signatures", () => {
  test("the add-on was written for those of the ops", async () => {
    const device = openNative({ signatures: signatures(), threads: 1 });
    const theirs = new Map(device.kernels.map(({ name, signature }) => [name, signature]));
    for (const { name, signature } of OPS) expect(theirs.get(name), name).toBe(signature.text);
    await device.close();
  });

  test("an add-on written for another one is refused, with both", () => {
    const wanted = "add: a[..]:f32 b[..]:f16 -> y[..]:f32";
    let error: unknown;
    try {
      openNative({ signatures: new Map([...signatures(), ["add", wanted]]), threads: 1 });
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(DeviceError);
    const { message, details, hint } = error as DeviceError;
    expect(message).toContain("another signature for add");
    expect(message).toContain(wanted);
    expect(message).toContain(signatures().get("add")!);
    expect(details).toEqual({ op: "add", expected: wanted, got: signatures().get("add") });
    expect(hint).toContain("build:native");
  });

  test("kernels that the library does not know are no harm", async () => {
    await openNative({ signatures: new Map(), threads: 1 }).close();
  });
});
