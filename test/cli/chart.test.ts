// Charts of benchmarks: well-formed SVG whatever the names and numbers are, and bars that fit the terminal.

import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { benchPanels, type VariantReport } from "../../src/cli/bench-report.js";
import { type Panel, short } from "../../src/cli/chart.js";
import { svgChart } from "../../src/cli/chart-svg.js";
import { textChart } from "../../src/cli/chart-text.js";
import { colourful } from "../../src/cli/output.js";
import { octavo, READY_TIMEOUT, ready } from "../support/cli.js";

const panel = (bars: Record<string, number | undefined>, more: Partial<Panel> = {}): Panel => ({
  title: "Prefill",
  unit: "tokens/s",
  better: "more",
  groups: [{ label: "128 tokens", bars: Object.entries(bars).map(([name, value]) => ({ name, value })) }],
  ...more,
});
const ESCAPES = new RegExp(`${String.fromCharCode(27)}\\[\\d+m`, "g");
const TEXT = { title: "bench", notes: ["a machine"] };

/** Tags of a document in order, each closed where it was opened; throws if not. */
function tagsOf(svg: string): string[] {
  const open: string[] = [];
  const seen: string[] = [];
  let end = 0;
  for (const match of svg.matchAll(/<(\/?)([a-z]+)((?: [\w:-]+="[^"<>]*")*)(\/?)>/g)) {
    expect(svg.slice(end, match.index)).not.toMatch(/[<>]|&(?!(?:amp|lt|gt|quot);)/);
    end = match.index + match[0].length;
    const [, closing, name = "", , alone] = match;
    if (closing) expect(open.pop()).toBe(name);
    else {
      seen.push(name);
      if (!alone) open.push(name);
    }
  }
  expect(svg.slice(end)).toBe("\n");
  expect(open).toEqual([]);
  return seen;
}
const widths = (svg: string): number[] =>
  [...svg.matchAll(/<rect x="[\d.]+" y="[\d.]+" width="([\d.]+)"/g)].map((match) => Number(match[1]));

describe("svg", () => {
  it("draws a bar for each number, as long as the number is large", () => {
    const svg = svgChart([panel({ f32: 50, int8: 200, nf4: 100 })], TEXT);
    expect(tagsOf(svg).filter((tag) => tag === "rect")).toHaveLength(4); // and the background
    const [f32 = 0, int8 = 0, nf4 = 0] = widths(svg);
    expect(int8).toBeGreaterThan(100);
    expect(f32 / int8).toBeCloseTo(0.25, 2);
    expect(nf4 / int8).toBeCloseTo(0.5, 2);
    for (const words of ["Prefill, tokens/s", "more is better", "128 tokens", "int8", ">200<", "a machine", "bench"]) {
      expect(svg).toContain(words);
    }
  });

  it("escapes what comes from outside", () => {
    const svg = svgChart([panel({ '<script>"&"</script>': 1 }, { title: "a<b" })], {
      title: 'models/"x" & <y>\u0000\u001b',
      notes: ["<&>"],
    });
    tagsOf(svg);
    expect(svg).not.toContain("<script");
    expect(svg).toContain("models/&quot;x&quot; &amp; &lt;y&gt;");
    expect(svg.replaceAll("\n", "")).not.toMatch(/\p{Cc}/u);
  });

  it("shows what was not measured as a dash, never as NaN", () => {
    const svg = svgChart([panel({ a: Number.NaN, b: Number.POSITIVE_INFINITY, c: undefined, d: -1, e: 0 })], TEXT);
    tagsOf(svg);
    expect(svg).not.toMatch(/NaN|Infinity|undefined|null/);
    expect(svg.match(/>–</g)).toHaveLength(4);
    expect(widths(svg)).toEqual([0, 0, 0, 0, 0]);
  });

  it("holds together without panels, groups, bars or notes", () => {
    for (const panels of [[], [panel({})], [panel({}, { groups: [] })]]) {
      const svg = svgChart(panels, { title: "", notes: [] });
      expect(tagsOf(svg)[0]).toBe("svg");
      expect(svg).not.toMatch(/NaN|Infinity|undefined/);
    }
    expect(svgChart([], TEXT)).toContain("nothing was measured");
  });
});

describe("terminal", () => {
  it("is never wider than the terminal, and longest for the most", () => {
    const bars = { f32: 12.5, "a name that is longer than any other": 51234, int8: 25000, none: undefined };
    for (const width of [24, 40, 80, 200]) {
      const lines = textChart([panel(bars, { title: "P", unit: "t/s" })], { width, colour: false }).split("\n");
      for (const line of lines) expect(line.length, line).toBeLessThanOrEqual(width);
      const blocks = lines.map((line) => (line.match(/[█-▏]+/)?.[0] ?? "").length).filter((n) => n > 0);
      expect(blocks).toHaveLength(3);
      expect(blocks[1]).toBe(Math.max(...blocks));
      expect(lines.some((line) => /none +–$/.test(line))).toBe(true);
    }
  });

  it("colours only where it may", () => {
    const panels = [panel({ f32: 1, int8: 2 })];
    expect(textChart(panels, { width: 80, colour: false })).not.toContain("\x1b");
    const plain = textChart(panels, { width: 80, colour: true }).replaceAll(ESCAPES, "");
    expect(plain).toBe(textChart(panels, { width: 80, colour: false }));
    expect(colourful({ isTTY: true }, {})).toBe(true);
    expect(colourful({ isTTY: true }, { NO_COLOR: "1" })).toBe(false);
    expect(colourful({ isTTY: true }, { TERM: "dumb" })).toBe(false);
    expect(colourful({}, {})).toBe(false);
  });

  it("writes numbers with three digits", () => {
    expect([0, 0.1234, 9.994, 12.34, 99.94, 100, 37438].map(short)).toEqual([
      "0.00",
      "0.12",
      "9.99",
      "12.3",
      "99.9",
      "100",
      "37,438",
    ]);
  });
});

describe("panels", () => {
  const limits = { bandwidth: 1, read: 1, read_least: 1, share: 1, noisy: false };
  const report = (storage: string, contexts: number[]): VariantReport => ({
    storage,
    weight_bytes: 1,
    kv_cache: "bfloat16",
    peak_rss: 1,
    record_ms: 1,
    dispatches: 0,
    replay_ms: 1,
    decode: [
      ...[1, 8].map((batch) => ({ batch, context: 0, ms: 4 * batch, ...limits })),
      ...contexts.map((context) => ({ batch: 1, context, ms: 8, ...limits })),
    ],
    prefill: [
      {
        ...{ tokens: 128, tokens_per_s: 1000, first_token_ms: 1, operations: 1, unit: null, peak: 0, peak_least: 0 },
        ...{ share: 0, noisy: false },
      },
    ],
  });

  it("take each number from its place, and leave holes where one was not measured", () => {
    const [prefill, decode, ...rest] = benchPanels([report("int8", []), report("nf4", [2048])]);
    expect(prefill!.groups).toEqual([
      { label: "128 tokens", bars: ["int8", "nf4"].map((name) => ({ name, value: 1000 })) },
    ]);
    expect(decode!.groups).toEqual([
      { label: "one text", bars: ["int8", "nf4"].map((name) => ({ name, value: 250 })) },
      { label: "8 texts", bars: ["int8", "nf4"].map((name) => ({ name, value: 250 })) },
      {
        label: "one text, context of 2048",
        bars: [
          { name: "int8", value: undefined },
          { name: "nf4", value: 125 },
        ],
      },
    ]);
    expect(rest).toEqual([]); // nothing is drawn twice
    expect(benchPanels([]).every(({ groups }) => groups.length === 0)).toBe(true);
  });
});

describe("octavo bench", () => {
  let folder = "";
  beforeAll(async () => {
    await ready();
    folder = await mkdtemp(join(tmpdir(), "octavo-chart-"));
  }, READY_TIMEOUT);
  afterAll(() => rm(folder, { recursive: true, force: true }));

  it("writes a chart beside the table", async () => {
    const file = join(folder, "speed.svg");
    const args = ["bench", "--shape", "xs", "--quick", "--compare", "int8,int8-kv8", "--chart", "--svg", file, "-q"];
    const { code, stdout, stderr } = await octavo(args, { env: { COLUMNS: "60" } });
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(stdout).toMatch(/Decode, all texts together, tokens\/s \(more is better\)\n one text\n {2}int8 +█/);
    expect(stdout).not.toContain("\x1b");
    const bars = stdout.split("\n").filter((line) => /[█-▏]/.test(line));
    expect(bars).toHaveLength(2 * (2 + 2));
    for (const line of bars) expect(line.length).toBeLessThanOrEqual(60);
    const svg = await readFile(file, "utf8");
    expect(tagsOf(svg).filter((tag) => tag === "rect")).toHaveLength(1 + 2 * (2 + 2));
    expect(svg).toContain("octavo bench, shape XS");
    expect(svg).toMatch(/2 threads|1 thread|\d+ threads/);
  }, 120_000);

  it("refuses a chart that cannot be written before it measures", async () => {
    const args = ["bench", "--shape", "M", "--svg", join(folder, "not", "there.svg")];
    const { code, stderr } = await octavo(args);
    expect(code).toBe(3);
    expect(stderr).toMatch(/cannot write .*there is no folder/);
    expect((await octavo(["bench", "--kernels", "--svg", "x.svg"])).code).toBe(2);
  });
});
