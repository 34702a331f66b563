// Data sets of the hub: which files are a split, where they come from, and what is said where there are none.

import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { AbortError, FormatError } from "../../src/core/errors.js";
import { matching } from "../../src/eval/harness/glob.js";
import { cardFiles, convertedFiles, namedFiles } from "../../src/eval/harness/hub-data.js";
import { TaskManager } from "../../src/eval/index.js";
import { FIXTURES } from "../support/fixtures.js";
import { place as home, hub, tree, useHub } from "../support/hub-suite.js";
import { temporary } from "../support/temporary.js";

useHub();

const TASK = `task: mine
output_type: loglikelihood
dataset_path: org/stories
test_split: test
doc_to_text: "{{prompt}}"
doc_to_target: " {{messages[1].content}}"
`;
const row = (prompt: string, content: string) => `${JSON.stringify({ prompt, messages: [{}, { content }] })}\n`;
const ROWS = row("Who?", "He.") + row("Where?", "There.");
const ASKED = [
  ["Who?", " He."],
  ["Where?", " There."],
];

async function requestsOf(more = "", data_dir?: string, limit = 2) {
  const folder = temporary("tasks");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "mine.yaml"), TASK + more);
  const { tasks } = await new TaskManager({ include_path: folder, ...(data_dir && { data_dir }) }).load(["mine"]);
  await tasks[0]!.build({ limit });
  return tasks[0]!.instances.map((one) => one.arguments);
}

test("the hub's conversion to Parquet is read, once, and then from the cache", async () => {
  const parquet = readFileSync(join(FIXTURES, "training", "rows.parquet"));
  hub.commit("datasets/org/stories", { "default/test/0000.parquet": parquet }, "refs/convert/parquet");
  hub.commit("datasets/org/stories", { "test.jsonl": ROWS });
  const first = await requestsOf("", undefined, 1);
  expect(first[0]).toEqual(["The king said: ", " A fox."]);
  expect(tree(home.cache).some((path) => /^datasets--org--stories\/snapshots\/.*0000\.parquet$/.test(path))).toBe(true);
  process.env.HF_HUB_OFFLINE = "1";
  const before = hub.asked.length;
  expect(await requestsOf("", undefined, 1)).toEqual(first);
  expect(hub.asked.length).toBe(before);
});

test("without a conversion, its own files are read: those that its card names, or whose names say the split", async () => {
  hub.commit("datasets/org/stories", {
    "train.jsonl": "{}\n",
    "data/test-00000-of-00001.jsonl": ROWS,
    "test.txt": "x",
  });
  expect(await requestsOf()).toEqual(ASKED);
  const card =
    "---\nconfigs:\n- config_name: short\n  data_files:\n  - split: test\n    path: parts/*.jsonl\n---\n# Stories\n";
  hub.commit("datasets/org/stories", { "README.md": card, "parts/a.jsonl": ROWS, "parts/more/b.jsonl": "{}\n" });
  expect(await requestsOf("dataset_name: short\n")).toEqual(ASKED);
});

test("a revision is taken as it is, and a folder of data comes first", async () => {
  hub.commit("datasets/org/stories", { "test.jsonl": "{}\n" });
  hub.commit("datasets/org/stories", { "test.jsonl": ROWS }, "v2");
  expect(await requestsOf("dataset_kwargs:\n  revision: v2\n")).toEqual(ASKED);
  const folder = temporary("data");
  mkdirSync(join(folder, "stories"), { recursive: true });
  writeFileSync(join(folder, "stories", "test.jsonl"), ROWS.replace("Who?", "What?"));
  expect((await requestsOf("", folder))[0]).toEqual(["What?", " He."]);
});

test("what is not there is said, with what the hub said", async () => {
  const message = /has no split "test" here\n {2}and the hub did not give it: there is no dataset "org\/stories" on/;
  await expect(requestsOf()).rejects.toThrow(message);
  hub.commit("datasets/org/stories", { "train.jsonl": ROWS });
  await expect(requestsOf()).rejects.toThrow('dataset "org/stories" has no files of the split "test"');
  process.env.HF_HUB_OFFLINE = "1";
  await expect(requestsOf()).rejects.toThrow("is not in the cache");
});

test("hub, cache, token and signal are the caller's; what was read is read once", async () => {
  hub.commit("datasets/org/stories", { "test.jsonl": ROWS });
  process.env.HF_ENDPOINT = "http://127.0.0.1:9";
  process.env.HF_TOKEN = "hf_of_this_machine"; // the fake hub refuses tokens that it does not know
  const folder = temporary("tasks");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "mine.yaml"), TASK);
  const cache_dir = temporary("cache");
  const place = { include_path: folder, hub: hub.address, cache_dir };
  const manager = new TaskManager(place);
  const built = async (from = manager) => {
    const { tasks } = await from.load(["mine"]);
    await tasks[0]!.build();
    return tasks[0]!;
  };
  const first = await built();
  expect(first.instances.map((one) => one.arguments)).toEqual(ASKED);
  expect(tree(cache_dir).some((path) => path.endsWith("test.jsonl"))).toBe(true);
  expect(existsSync(home.cache)).toBe(false);
  expect((await built()).documents).toBe(first.documents);
  await expect(built(new TaskManager({ ...place, token: "hf_other" }))).rejects.toThrow("does not accept the token");
  expect((await built(new TaskManager({ ...place, local_files_only: true }))).documents).toEqual(first.documents);
  const signal = AbortSignal.abort();
  await expect(built(new TaskManager({ ...place, signal }))).rejects.toThrow(AbortError);
});

test("files of splits", () => {
  const converted = [
    "a/test/0000.parquet",
    "a/test/0001.parquet",
    "a/train/0000.parquet",
    "b/x-test.parquet",
    "b/x-train-00000-of-00002.parquet",
  ];
  expect(convertedFiles(converted, "a", "test")).toEqual(converted.slice(0, 2));
  expect(convertedFiles(converted, "b", "test")).toEqual(["b/x-test.parquet"]);
  expect(convertedFiles(converted, "b", "train")).toEqual(["b/x-train-00000-of-00002.parquet"]);
  expect(convertedFiles(converted, undefined, "test")).toEqual([]);
  expect(convertedFiles(["only/test/0000.parquet"], undefined, "test")).toEqual(["only/test/0000.parquet"]);
  const named = ["x/dev.jsonl", "x/latest.jsonl", "y/validation/1.csv", "README.md"];
  expect(namedFiles(named, undefined, "validation")).toEqual(["x/dev.jsonl", "y/validation/1.csv"]);
  expect(namedFiles(named, "y", "validation")).toEqual(["y/validation/1.csv"]);
  expect(namedFiles(named, undefined, "test")).toEqual([]);
  const card =
    '---\nconfigs:\n- config_name: default\n  data_files: "*.csv"\n- config_name: b\n  data_files:\n  - split: test\n    path: ["b/**/t[12].csv", "./c.csv"]\n---\n';
  const files = ["a.csv", "b/t1.csv", "b/x/t2.csv", "b/t3.csv", "c.csv"];
  expect(cardFiles(card, files, undefined, "train")).toEqual(["a.csv", "c.csv"]);
  expect(cardFiles(card, files, "b", "test")).toEqual(["b/t1.csv", "b/x/t2.csv", "c.csv"]);
  for (const none of ["", "---\n[\n---\n", "---\nlicense: mit\n---\n", "---\nconfigs: [null, 3, b]\n---\n"])
    expect(cardFiles(none, files, "b", "test")).toBeUndefined();
  const odd =
    "---\nconfigs: [null, {config_name: b, data_files: [null, 3, {split: test, path: [c.csv, null]}]}]\n---\n";
  expect(cardFiles(odd, files, "b", "test")).toEqual(["c.csv"]);
});

test("patterns of names are fsspec's, and none takes long", () => {
  const names = ["a.csv", "{a}.csv", "b/1.csv", "b/c/2.csv", "b/c/-.csv", ".b/3.csv", "b/__x/4.csv"];
  const found = (pattern: string) => matching("card", [pattern], names);
  expect(found("*.csv")).toEqual(["a.csv", "{a}.csv"]);
  expect(found("{a}*")).toEqual(["{a}.csv"]);
  expect(found("b/**")).toEqual(["b/1.csv", "b/c/2.csv", "b/c/-.csv"]);
  expect(found("**/[0-9].csv")).toEqual(["b/1.csv", "b/c/2.csv"]);
  expect(found("b/**/[!0-9].csv")).toEqual(["b/c/-.csv"]);
  expect(found("*/*/[]-]?csv")).toEqual(["b/c/-.csv"]);
  expect(found(".*/*.csv")).toEqual([".b/3.csv"]);
  expect(found("b/__*/[4].csv")).toEqual(["b/__x/4.csv"]);
  expect(found("a[.csv")).toEqual([]);
  const long = ["a".repeat(1000)];
  expect(matching("card", [`${"*a".repeat(30)}b`, `${"**a".repeat(30)}b`], long)).toEqual([]);
  expect(() => matching("card", [`${"*a".repeat(500)}b`], long, 100_000)).toThrow(FormatError);
});
