// Groups of tasks, against lm-evaluation-harness (test/fixtures/make_eval_groups.py): which tasks are in them and with which keys, and their
// metrics, with a model whose log-likelihoods are checksums.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import { afterAll, beforeAll, expect, test } from "vitest";
import { LM, type LoglikelihoodRequest, simple_evaluate, TaskManager } from "../../src/eval/index.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/generate/auto.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

interface Case {
  readonly files: Record<string, object>;
  readonly data: Record<string, object[]>;
  readonly group: string;
  readonly results: Record<string, Record<string, number | string>>;
  readonly group_subtasks: Record<string, string[]>;
  readonly versions: Record<string, unknown>;
  readonly "n-shot": Record<string, number>;
}
const cases = readJson<Case[]>("eval", "groups.json");

class Checksums extends LM {
  override async loglikelihood(requests: readonly LoglikelihoodRequest[]): Promise<[number, boolean][]> {
    return requests.map((one) => [-(crc32(one.join("\0")) % 100003) / 1000, false]);
  }
}

let lm: LM;
beforeAll(async () => {
  const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"));
  lm = new Checksums(model, await AutoTokenizer.from_pretrained(join(FIXTURES, "dpo")));
});
afterAll(async () => await lm.model[Symbol.asyncDispose]());

/** The folder of task files. */
function written({ files, data }: Pick<Case, "files" | "data">): string {
  const folder = temporary("groups");
  mkdirSync(join(folder, "tasks"), { recursive: true });
  for (const [name, docs] of Object.entries(data)) {
    writeFileSync(join(folder, `${name}.jsonl`), docs.map((doc) => `${JSON.stringify(doc)}\n`).join(""));
  }
  for (const [name, file] of Object.entries(files)) {
    writeFileSync(join(folder, "tasks", `${name}.yaml`), JSON.stringify(file).replaceAll("DATA", folder));
  }
  return join(folder, "tasks");
}

test.each(cases.map((one, i) => [i, one] as const))("random groups %i", async (_, one) => {
  const found = await simple_evaluate(lm, { tasks: [one.group], include_path: written(one), bootstrap_iters: 0 });
  expect(Object.keys(found.results).sort()).toEqual(Object.keys(one.results).sort());
  for (const [name, result] of Object.entries(one.results)) {
    const own = found.results[name]!;
    for (const [key, value] of Object.entries(result)) {
      if (typeof value === "string") expect(own[key], `${name} ${key}`).toBe(value);
      else expect(Math.abs((own[key] as number) - value), `${name} ${key}`).toBeLessThan(1e-9);
    }
    expect(Object.keys(own).sort(), name).toEqual(Object.keys(result).sort());
  }
  expect(found.group_subtasks).toEqual(one.group_subtasks);
  expect(found.versions).toEqual(one.versions);
  // A group of groups has its own number there only where tasks beside them say one.
  const plain = Object.keys(one["n-shot"]).filter(
    (name) => !one.group_subtasks[name]?.some((child) => one.group_subtasks[child]),
  );
  for (const name of plain) expect(found["n-shot"][name], name).toBe(one["n-shot"][name]);
});

test.each([
  [{ group: "g", task: ["g"] }, /the group "g" contains itself/],
  [{ group: "g", task: [{ group: 5, task: [] }] }, /5 is no name of a group/],
  [{ group: "g", task: [{ task: ["leaf"] }] }, /is no task of a group/],
  [{ group: "g", task: [7] }, /7 is no task of a group/],
  [{ group: "g", task: ["nothing"] }, /no task is called "nothing"/],
  [{ group: "g", task: ["leaf"], strange: 1 }, /unknown option `strange`/],
] as const)("refused: %j", async (group, message) => {
  const { files, data } = cases[0]!;
  const include_path = written({ data, files: { leaf: { ...files.leaf_0, task: "leaf" }, g: group } });
  await expect(new TaskManager({ include_path }).load(["g"])).rejects.toThrow(message);
});
