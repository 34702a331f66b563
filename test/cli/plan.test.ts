// octavo plan and octavo estimate-memory: what they say of a model before it is loaded.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { type Stack, svgStack, textStack } from "../../src/cli/chart-stack.js";
import { octavo, READY_TIMEOUT, ready, STORYTELLER } from "../support/cli.js";
import { temporary } from "../support/temporary.js";

beforeAll(ready, READY_TIMEOUT);

describe("octavo plan", () => {
  it("shows a table, bars and reasons", async () => {
    const { code, stdout } = await octavo([
      "plan",
      STORYTELLER,
      ...["--load-in-8bit", "--max-memory", "cpu:0=5MB,cpu=2MB,disk", "--context", "100"],
    ]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/in llm_int8: 5.48 million parameters, 6.60 MB/);
    expect(stdout).toMatch(/^cpu:0 +all but the blocks +2.10 MB/m);
    expect(stdout).toMatch(/^cpu +1 block: model.layers.0 +750 kB/m);
    expect(stdout).toMatch(/^disk +5 blocks: model.layers.1 to 5 +3.75 MB/m);
    expect(stdout).toMatch(/device cpu:0 is full for model.layers.0/);
    expect(stdout).toMatch(/offload_folder/);
    expect(stdout).toMatch(/█+▓+▒+░+/);
  });

  it("gives JSON, and a picture", async () => {
    const picture = join(temporary("plan"), "..", "plan.svg");
    const { code, stdout } = await octavo([
      "plan",
      STORYTELLER,
      ...["--max-memory", "cpu:0=8MB,cpu:1=9MB", "--device-map", "sequential", "--batch", "2", "--context", "50"],
      ...["--json", "--svg", picture],
    ]);
    expect(code).toBe(0);
    const { places, device_map, main, context, batch } = JSON.parse(stdout) as {
      places: { place: string; total: number; limit: number; blocks: string[] }[];
      device_map: Record<string, string>;
      main: string;
      context: number;
      batch: number;
    };
    expect({ main, context, batch }).toEqual({ main: "cpu:0", context: 50, batch: 2 });
    expect(places.map(({ place, blocks }) => [place, blocks.length])).toEqual([
      ["cpu:0", 2],
      ["cpu:1", 4],
    ]);
    for (const { total, limit } of places) expect(total).toBeLessThanOrEqual(limit);
    expect(device_map).toMatchObject({ "model.embed_tokens": "cpu:0", "model.layers.5": "cpu:1", lm_head: "cpu:0" });
    expect(readFileSync(picture, "utf8")).toMatch(/^<svg [^>]+>[\s\S]+<\/svg>\n$/);
  });

  it("refuses what cannot run", async () => {
    const { code, stderr } = await octavo(["plan", STORYTELLER, "--max-memory", "cpu:0=1MB"]);
    expect(stderr).toMatch(/device cpu:0 may take 1.00 MB: everything but the blocks has to be on one/);
    expect(code).toBe(2);
  });
});

it("octavo estimate-memory", async () => {
  const { code, stdout } = await octavo(["estimate-memory", STORYTELLER, "--json"]);
  expect(code).toBe(0);
  const { parameters, estimates } = JSON.parse(stdout) as {
    parameters: number;
    estimates: { dtype: string; total: number; training_peak: number | null; loaded: number }[];
  };
  const { total } = estimates[0]!;
  expect(total - 4 * parameters).toBe(64); // the frequencies of the rotation
  expect(estimates.map(({ dtype, total: bytes, training_peak }) => [dtype, bytes, training_peak])).toEqual([
    ["float32", total, 4 * total],
    ["float16", total / 2, 2 * total],
    ["int8", total / 4, null],
    ["int4", total / 8, null],
  ]);
  expect(estimates[0]!.loaded).toBe(4 * parameters);
});

describe("bars", () => {
  const stacks: Stack[] = [
    { name: "0 <b>", most: 100, parts: [["weights", 50] as const, ["cache", 1] as const], text: "51 of 100" },
    { name: "disk", most: undefined, parts: [["weights", 100] as const, ["cache", 0] as const], text: "100" },
    { name: "empty", most: undefined, parts: [["weights", 0] as const, ["cache", 0] as const], text: "0" },
  ];

  it("have one scale, and lines of the terminal's width", () => {
    const lines = textStack(stacks, { width: 60, colour: false }).split("\n");
    expect(lines.every((line) => line.length <= 60)).toBe(true);
    const count = (line: string, letter: string): number => line.split(letter).length - 1;
    const full = count(lines[1]!, "█");
    expect(count(lines[0]!, "█")).toBe(full / 2);
    expect(count(lines[0]!, "▓")).toBe(1);
    expect(count(lines[0]!, "·")).toBe(full / 2 - 1);
    expect(lines[3]).toBe(" █ weights  ▓ cache  · free");
  });

  it("are escaped in SVG", () => {
    const svg = svgStack(stacks, { title: "a & b", notes: ["why"] });
    expect(svg).toContain("0 &lt;b&gt;");
    expect(svg).toContain("a &amp; b");
  });
});
