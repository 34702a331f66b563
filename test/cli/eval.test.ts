// octavo eval --tasks: storages compared on the same items, reports, samples, and answers that are kept.

import { existsSync, readFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { htmlReport } from "../../src/cli/eval-html.js";
import { type Evaluated, resultRows } from "../../src/cli/eval-rows.js";
import { octavo, octavoHere, READY_TIMEOUT, ready } from "../support/cli.js";
import { temporary } from "../support/temporary.js";

beforeAll(ready, READY_TIMEOUT);

const DATA = ["--data-dir", "test/fixtures/eval/data", "--include-path", "test/fixtures/eval/tasks"];

describe("octavo eval --tasks", { timeout: 120_000 }, () => {
  test("tells values, differences and whether they are noise", async () => {
    const [html, samples, cache] = ["report.html", "samples.jsonl", "answers.jsonl"].map(temporary) as [
      string,
      string,
      string,
    ];
    const files = ["--html", html, "--log-samples", samples, "--use-cache", cache];
    const args = [
      "eval",
      "--tasks",
      "piqa,lambada_openai",
      ...DATA,
      "--compare",
      "f32,int8",
      "--limit",
      "6",
      "--bootstrap-iters",
      "50",
    ];
    const { code, stdout, stderr } = await octavo([...args, ...files]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(stdout).toMatch(/^task +metric +storage +n-shot +value +stderr +difference +p$/m);
    expect(stdout).toMatch(/^piqa +acc ↑ +f32 +0 +0\.\d{4} +± 0\.\d{4}$/m);
    expect(stdout).toMatch(/^ +int8 +[\d.]+ +± [\d.]+ +[+-][\d.]+ +\d\.\d{3} +(within noise|differs)$/m);
    expect(stdout).toMatch(/^int8 +6\.60 MB +[\d.]+ ms\/token +[\d,]+ tokens\/s$/m);
    const lines = readFileSync(samples, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(lines).toHaveLength(2 * 2 * 6);
    expect(lines[0]).toMatchObject({
      task: "piqa",
      storage: "f32",
      doc_id: 0,
      filter: "none",
      metrics: ["acc", "acc_norm"],
      arguments: { gen_args_0: { arg_0: expect.stringContaining("Question: "), arg_1: expect.any(String) } },
      resps: [[[expect.stringMatching(/^-\d+\.\d+$/), expect.stringMatching(/^(True|False)$/)]], expect.anything()],
      target: expect.stringMatching(/^[01]$/),
    });
    const page = readFileSync(html, "utf8");
    expect(page).toMatch(/^<!doctype html>[\s\S]*<svg[\s\S]*prefers-color-scheme:dark[\s\S]*<\/html>\n$/);
    expect(page).not.toMatch(/<script|src=|https?:(?!\/\/www\.w3\.org)/);
    expect(existsSync(cache)).toBe(true);
    // Nothing is computed twice.
    const again = await octavo([...args, ...files, "--json"]);
    const { storages, comparisons } = JSON.parse(again.stdout) as {
      storages: Record<string, Record<string, Record<string, unknown>>>;
      comparisons: object[];
    };
    expect(storages.int8).toMatchObject({
      tokens: 0,
      "n-shot": { piqa: 0, lambada_openai: 0 },
      "n-samples": { piqa: { original: 12, effective: 6 } },
      versions: { piqa: 1 },
      config: { limit: 6, model_dtype: "bf16", bootstrap_iters: 50 },
      task_hashes: { piqa: expect.stringMatching(/^[0-9a-f]{64}$/) },
      chat_template: null,
      fewshot_as_multiturn: false,
      results: { piqa: { alias: "piqa", sample_len: 6, "acc,none": expect.any(Number) } },
    });
    expect(comparisons).toHaveLength(4);
    expect(comparisons[0]).toMatchObject({ storage: "int8", task: "piqa", metric: "acc", test: "mcnemar" });
  });

  test("tells divergence from f32, and the error after each block", async () => {
    const args = ["eval", "--kl", "--compare", "int8", "--max-tokens", "40", "--window", "32", "--stride", "16"];
    const { code, stdout, stderr } = await octavo([...args, "--layers", "-q"]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
    expect(stdout).toMatch(/^storage +KL +median +99 % +largest +same token +perplexity +weights +time$/m);
    expect(stdout).toMatch(/^int8 +0\.000\d+ +± [\d.e-]+ .* [\d.]+ % +± [\d.]+ +[+-][\d.]+ % +6\.60 MB +[\d.]+ s$/m);
    expect(stdout).toMatch(/^error after +int8$/m);
    expect(stdout).toMatch(/^model\.layers\.5 +0\.0\d+$/m);
  });

  test.each<[string[], number, RegExp]>([
    [["--kl", "--compare", "f32"], 2, /--kl compares other storages with f32/],
    [["--tasks", "piqqa"], 3, /no task is called "piqqa"; did you mean "piqa"/],
    [["--tasks", "piqa"], 3, /has no split "validation" here[\s\S]*--data-dir/],
    [["--limit", "3"], 2, /--limit is for --tasks/],
  ])("%j is refused", async (args, code, message) => {
    const failed = await octavoHere(["eval", ...args]);
    expect(failed.stderr).toMatch(message);
    expect(failed.code).toBe(code);
  });
});

test("names from outside are escaped in the report", () => {
  const strange = '<b>"x"';
  const done: Evaluated = {
    storage: "f32",
    results: {
      results: { [strange]: { "acc,none": 0.5, "acc_stderr,none": "N/A", sample_len: 2 } },
      group_subtasks: {},
      configs: {},
      versions: {},
      "n-shot": {},
      higher_is_better: {},
      "n-samples": { [strange]: { original: 2, effective: 2 } },
      samples: {},
    },
    weight_bytes: 1,
    tokens: 0,
    ms_per_token: 1.5,
    tokens_per_second: undefined,
    about: {},
    comparisons: [],
  };
  expect(resultRows([done])[1]).toEqual([strange, "acc", "f32", "", "0.5000", "", "", "", ""]);
  expect(htmlReport(strange, [done])).not.toContain("<b>");
});
