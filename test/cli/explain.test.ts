// octavo explain, from the outside: the table, one JSON object, and a page that stands alone.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { octavo, READY_TIMEOUT, ready, STORYTELLER } from "../support/cli.js";
import { temporary } from "../support/temporary.js";

describe("octavo explain", () => {
  beforeAll(ready, READY_TIMEOUT);

  it("compares ways to quantize, as a table and as a page without scripts", async () => {
    const folder = temporary("page");
    const page = `${folder}.html`;
    const { code, stdout, stderr } = await octavo(["explain", STORYTELLER, "--max-tokens", "24", "--html", page]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: `report: ${page}\n` });
    expect(stdout).toMatch(/24 tokens of the storyteller's evaluation text/);
    expect(stdout).toMatch(/ {2}LLM\.int8\(\) +6\.60 MB +0\.\d+ % /);
    expect(stdout).toMatch(/ {2}model\.layers\.5\.mlp\.down_proj +\d+\.\d +\d+ of 704 /);

    const html = readFileSync(page, "utf8");
    expect(html).toMatch(/^<!doctype html>\n<html lang="en">/);
    expect(html).not.toMatch(/<script|javascript:|https?:|<link|<img|@import|url\(/);
    expect(html).toContain("prefers-color-scheme:dark");
    const pictures = html.match(/<svg [^>]*role="img"[^>]*>/g) ?? [];
    expect(pictures).toHaveLength(3);
    // Each picture has a name and words, and every table a caption and headers; long tables are reached by keyboard.
    for (const picture of pictures) {
      for (const id of /aria-labelledby="([^"]+)"/.exec(picture)![1]!.split(" ")) expect(html).toContain(`id="${id}"`);
    }
    expect(html.match(/<caption/g)).toHaveLength(2);
    expect(html.match(/role="region"[^>]*tabindex="0"/g)).toHaveLength(2);
    expect(html.match(/<th scope="row">model\.layers\./g)).toHaveLength(42);
    expect(html).toContain('<a class="skip" href="#linears">');
    expect(html.match(/<(?:div|table|figure|svg|ul|main)\b/g)?.length).toBe(
      html.match(/<\/(?:div|table|figure|svg|ul|main)>/g)?.length,
    );
  });

  it("gives one JSON object for a text of one's own", async () => {
    const text = join(import.meta.dirname, "..", "..", "LICENSE");
    const { stdout, stderr } = await octavo([
      "explain",
      STORYTELLER,
      text,
      "--max-tokens",
      "12",
      "--window",
      "8",
      "--json",
    ]);
    expect(stderr).toBe("");
    const found = JSON.parse(stdout);
    expect(found).toMatchObject({ model: STORYTELLER, text, tokens: 12, threshold: 6, dtype: "bfloat16" });
    expect(found.methods.map(({ name }: { name: string }) => name)).toEqual([
      ...["absmax_tensor", "absmax_row", "llm_int8", "nf4", "fp4", "o4"],
    ]);
    expect(found.linears).toHaveLength(42);
  });
});
