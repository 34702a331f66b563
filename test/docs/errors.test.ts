// docs/errors.md has a row for every code that the library throws, with cause and cure, and for no other.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { ERROR_CLASSES } from "../../src/core/errors.js";
import { ROOT } from "../support/cli.js";

/** Codes that errors are made with; those of the add-on become others before anybody sees them, those of Node's are Node's. */
const CODE = /(?:new OctavoError\(|super\(|\bcode:)\s*"(ERR_[A-Z_]+)"/g;

const source = join(ROOT, "src");
const codes = new Set(
  readdirSync(source, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts"))
    .flatMap((file) => [...readFileSync(join(source, file), "utf8").matchAll(CODE)].map(([, code]) => code!)),
);

const page = readFileSync(join(ROOT, "docs", "errors.md"), "utf8");
const rows = [...page.matchAll(/^\| (ERR_[A-Z_]+)(?: \(`(\w+)`\))? \| (.+) \| (.+) \|$/gm)].map(
  ([, code = "", name, cause = "", cure = ""]) => ({ code, name, cause, cure }),
);

test("every code has a row, and every row a code", () => {
  expect(codes.size).toBeGreaterThan(25);
  expect(rows.map(({ code }) => code).sort()).toEqual([...codes].sort());
});

test("a row has a cause and a cure", () => {
  for (const { code, cause, cure } of rows) {
    expect(cause.length, code).toBeGreaterThan(20);
    expect(cure.length, code).toBeGreaterThan(20);
  }
});

test("a row names the class of its code", () => {
  const named = rows.filter(({ name }) => name).map(({ code, name }) => [code, name]);
  const classes = ERROR_CLASSES.map((one) => {
    const { code, name } = new one("");
    return [code, name];
  });
  expect(named.sort()).toEqual(classes.sort());
});
