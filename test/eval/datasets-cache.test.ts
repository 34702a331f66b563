// The cache of Python's datasets as a source of tasks' data.

import { cpSync, mkdirSync, utimesSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, expect, test } from "vitest";
import { cachedFiles } from "../../src/eval/harness/datasets-cache.js";
import { TaskManager } from "../../src/eval/index.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const { HF_DATASETS_CACHE } = process.env;
afterEach(() => {
  if (HF_DATASETS_CACHE === undefined) delete process.env.HF_DATASETS_CACHE;
  else process.env.HF_DATASETS_CACHE = HF_DATASETS_CACHE;
});

/** A cache with these paths; the files' bytes are those of a data set, whose times rise from path to path. */
function cache(...paths: string[]): string {
  const folder = temporary("cache");
  for (const [i, path] of paths.entries()) {
    const file = join(folder, path);
    mkdirSync(dirname(file), { recursive: true });
    if (path.endsWith(".json")) writeFileSync(file, "{}");
    else cpSync(join(FIXTURES, "arrow", "splits", "train", "data-00000-of-00001.arrow"), file);
    utimesSync(file, 1000 + i, 1000 + i);
  }
  return folder;
}

test("the newest whole version of a split is found, whatever the cache is called", async () => {
  const at = "org___stories/main/0.0.0";
  const folder = cache(
    `${at}/aaa/stories-test.arrow`,
    `${at}/aaa/dataset_info.json`,
    `${at}/bbb/stories-test-00000-of-00002.arrow`,
    `${at}/bbb/stories-test-00001-of-00002.arrow`,
    `${at}/bbb/cache-0123456789abcdef.arrow`,
    `${at}/bbb/dataset_info.json`,
    // It is being written; one of its shards is missing; it has another split.
    `${at}/ccc/stories-test.arrow`,
    `${at}/ddd/stories-test-00001-of-00002.arrow`,
    `${at}/ddd/dataset_info.json`,
    `${at}/eee/stories-train.arrow`,
    `${at}/eee/dataset_info.json`,
  );
  const task = { task: "mine", dataset_path: "org/stories" };
  const find = (more: object, split = "test", env: NodeJS.ProcessEnv = { HF_DATASETS_CACHE: folder }) =>
    cachedFiles("org/stories", { ...task, ...more }, split, env);
  const shards = [0, 1].map((i) => join(folder, at, "bbb", `stories-test-0000${i}-of-00002.arrow`));
  expect(await find({})).toEqual(shards);
  expect(await find({ dataset_name: "main" })).toEqual(shards);
  expect(await find({ dataset_kwargs: { revision: "aaa" } })).toEqual([join(folder, at, "aaa", "stories-test.arrow")]);
  expect(await find({ dataset_kwargs: { revision: "fff" } })).toEqual([]);
  expect(await find({ dataset_name: "other" })).toEqual([]);
  expect(await find({}, "validation")).toEqual([]);
  expect(await find({}, "test", { HF_DATASETS_CACHE: join(folder, "nowhere") })).toEqual([]);
  const home = cache("datasets/org___stories/default/0.0.0/a/stories-test.arrow", "x.json");
  writeFileSync(join(home, "datasets/org___stories/default/0.0.0/a/dataset_info.json"), "{}");
  expect(await find({}, "test", { HF_HOME: home })).toHaveLength(1);
});

test("a task takes its items from it", async () => {
  const at = "org___stories/default/0.0.0/a";
  process.env.HF_DATASETS_CACHE = cache(`${at}/stories-test.arrow`, `${at}/dataset_info.json`);
  const tasks = temporary("tasks");
  mkdirSync(tasks);
  writeFileSync(
    join(tasks, "mine.yaml"),
    `task: mine
output_type: multiple_choice
dataset_path: org/stories
test_split: test
doc_to_text: "{{text}}"
doc_to_choice: ["no", "yes"]
doc_to_target: label
`,
  );
  const { tasks: found } = await new TaskManager({ include_path: tasks }).load(["mine"]);
  await found[0]!.build({ limit: 2 });
  expect(found[0]!.instances.map((one) => one.arguments)).toEqual(
    ["text 0 \u2603 \u{1f600}", "text 1 \u2603 \u{1f600}"].flatMap((text) => [
      [text, " no"],
      [text, " yes"],
    ]),
  );
});
