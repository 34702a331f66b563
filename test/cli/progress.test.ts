// Lines of progress: they fit the terminal, and what a reader waits for stays longest.

import { afterEach, describe, expect, it, vi } from "vitest";
import { loadingLine, promptLine } from "../../src/cli/progress.js";
import { isInteractive } from "../../src/hub/progress.js";

const load = { loaded: 1.65e9, total: 1.78e9, bytes_per_second: 54.3e6 };

describe("loading", () => {
  it("shows a bar, what is left, the bytes and the rate where there is room", () => {
    expect(loadingLine(load, 100)).toMatch(
      /^loading \[={28}-{2}\] {2}92 % {2}3 s left {2}1\.65\/1\.78 GB {2}54\.3 MB\/s$/,
    );
  });

  it("keeps the amounts readable at 40 columns", () => {
    expect(loadingLine(load, 40)).toBe("loading  92 %  3 s left  1.65/1.78 GB");
  });

  it("is never wider than the terminal, down to nothing", () => {
    const slow = { loaded: 1, total: 70e9, bytes_per_second: 1000 };
    const first = { loaded: 0, total: 0, bytes_per_second: 0 };
    for (const event of [load, slow, first]) {
      for (let columns = 1; columns < 130; columns++) {
        const line = loadingLine(event, columns);
        expect(line.length, line).toBeLessThan(columns);
        expect(line).not.toMatch(/NaN|Infinity|undefined/);
      }
    }
  });

  it("promises nothing before the first bytes", () => {
    expect(loadingLine({ loaded: 0, total: 11e6, bytes_per_second: 0 }, 80)).toMatch(/ {2}0 % {2}0 B\/11\.0 MB$/);
  });
});

it("a prompt's line counts its tokens, with a bar where there is room", () => {
  const event = { loaded: 12288, total: 27783 };
  expect(promptLine(event, 40)).toBe("reading the prompt  12,288 of 27,783");
  expect(promptLine(event, 80)).toMatch(/^reading the prompt {2}12,288 of 27,783 \[={13}-{17}\]$/);
});

describe("bars", () => {
  const { isTTY } = process.stderr;
  afterEach(() => {
    vi.unstubAllEnvs();
    process.stderr.isTTY = isTTY;
  });

  it.each([
    ["1", false],
    ["on", false],
    ["YES", false],
    ["True", false],
    ["0", true],
    ["", true],
  ])("HF_HUB_DISABLE_PROGRESS_BARS=%s is read as Python reads it", (value, drawn) => {
    process.stderr.isTTY = true;
    vi.stubEnv("CI", "");
    vi.stubEnv("TERM", "xterm");
    vi.stubEnv("HF_HUB_DISABLE_PROGRESS_BARS", value);
    expect(isInteractive()).toBe(drawn);
  });
});
