// Links between the Markdown files lead to files and headings that exist, and the site has each page of docs/.

import { join } from "node:path";
import { expect, test } from "vitest";
import { ROOT, run } from "../support/cli.js";
import { FILES } from "./blocks.js";

test("every link leads somewhere", async () => {
  const { code, stdout, stderr } = await run([join(ROOT, "scripts", "check-links.mjs")]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  expect(stdout).toMatch(/[1-9]\d+ links checked, 0 breaches/);
});

test("every page of docs/ is in the site", async () => {
  const script = `import { CONTENTS } from "./site/contents.mjs"; console.log(CONTENTS.flatMap((part) => part.pages.map((page) => page.file)).join("\\n"));`;
  const { stdout } = await run(["--input-type=module", "-e", script]);
  expect([...new Set(stdout.trim().split("\n"))].sort()).toEqual([...FILES].sort());
});
