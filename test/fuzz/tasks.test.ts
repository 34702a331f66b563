// Mutants of the files of tasks and of the cards of data sets. Tasks that are read ask their documents, which are mutants too, and are
// scored.

import { FormatError } from "../../src/core/errors.js";
import { resultsOf } from "../../src/eval/harness/evaluate.js";
import { cardFiles } from "../../src/eval/harness/hub-data.js";
import { Task } from "../../src/eval/harness/task.js";
import { readGroup, readTask } from "../../src/eval/harness/task-config.js";
import type { Doc, Response } from "../../src/eval/harness/types.js";
import { mutateLines } from "./support/bytes.js";
import { fuzz } from "./support/fuzz.js";
import { mutateJson, texts, type Words } from "./support/json.js";

const METRICS = ["acc", "acc_norm", "perplexity", "word_perplexity", "f1", "mcc", "brier_score", "exact_match", "bleu"];
const AGGREGATIONS = ["mean", "median", "weighted_perplexity", "bits_per_byte", "matthews_corrcoef", "ter", "chrf++"];
const TASKS = [
  {
    task: "choices",
    output_type: "multiple_choice",
    test_split: "test",
    doc_to_text: "{{question}}",
    doc_to_target: "label",
    doc_to_choice: "choices",
    num_fewshot: 1,
    fewshot_config: { sampler: "first_n", split: "train" },
    metric_list: [{ metric: "acc", aggregation: "mean", higher_is_better: true }, { metric: "f1" }, { metric: "mcc" }],
  },
  {
    task: "texts",
    output_type: "generate_until",
    test_split: "test",
    doc_to_text: "Q: {{question}}",
    doc_to_target: "answers",
    generation_kwargs: { until: ["\n"], max_gen_toks: 4 },
    filter_list: [{ name: "a", filter: [{ function: "regex", regex_pattern: "(\\w+)" }, { function: "take_first" }] }],
    metric_list: [{ metric: "exact_match", ignore_case: true, regexes_to_ignore: [","] }, { metric: "bleu" }],
  },
  { task: "likely", output_type: "loglikelihood", test_split: "test", doc_to_text: "question", doc_to_target: " a" },
  { task: "whole", output_type: "loglikelihood_rolling", test_split: "test", doc_to_target: "{{question}}" },
  {
    group: "both",
    task: ["choices", { task: "texts", num_fewshot: 0 }],
    aggregate_metric_list: [{ metric: "acc", weight_by_size: true, filter_list: "none" }],
    metadata: { version: 1 },
  },
];
const DOCS = [
  { question: "Who?", choices: ["he", "she"], label: 0, answers: ["he", "He."] },
  { question: "Where?", choices: ["there", "here"], label: 1, answers: [] },
];
const WORDS: Words = {
  values: [
    ...texts(...METRICS, ...AGGREGATIONS, "multiple_choice", "generate_until", "loglikelihood", "test", "label"),
    ...texts("take_first_k", "majority_vote", "map", "first_n", "{{choices[label]}}", "{{answers}}", "{{", "__proto__"),
    ...texts("[1]", "['a']", "3", "(?<a", "toString"),
    '{"metric":"bleu","aggregation":"mean"}',
    '{"function":"take_first_k","k":2}',
    ..."[null] [[]] {} [] null true 0 -1 1.5".split(" "),
  ],
  keys: texts(
    ..."metric aggregation metric_list filter_list filter function k repeats doc_to_text doc_to_target".split(" "),
    ..."doc_to_choice description gen_prefix fewshot_config samples fewshot_indices process_results tag".split(" "),
  ),
};

fuzz<{ file: string; docs: string }>({
  name: "tasks",
  mutants: 1200,
  make(chance) {
    const file = mutateJson(chance, chance.one(TASKS), WORDS).toString("utf8");
    const docs = chance.is(0.5) ? JSON.stringify(DOCS) : mutateJson(chance, DOCS, WORDS).toString("utf8");
    return { file, docs };
  },
  async read({ file, docs }, chance) {
    const [keys, rows] = [file, docs].map((text) => {
      try {
        return JSON.parse(text) as unknown;
      } catch {
        throw new FormatError("no YAML"); // as the file is refused
      }
    });
    const isObject = (value: unknown): value is Doc =>
      typeof value === "object" && value !== null && !Array.isArray(value);
    if (!isObject(keys) || !Array.isArray(rows) || !rows.every(isObject)) throw new FormatError("no keys");
    if ("group" in keys) {
      readGroup("group", keys);
      return undefined;
    }
    const task = new Task(readTask("task", keys), async () => rows);
    await task.build({ limit: 2 });
    for (const { arguments: given, resps } of task.instances) {
      const answer: Response =
        task.output_type === "generate_until"
          ? chance.one(["he", "Where? 3", "", "$1,000"])
          : task.output_type === "loglikelihood_rolling"
            ? -3
            : [-given.length - chance.below(3), chance.is(0.5)];
      for (let n = 0; n < Math.min(task.repeats, 3); n++) resps.push(answer);
    }
    const { results } = resultsOf([task], [], 2);
    const wrong = Object.values(results[task.name]!).find(
      (value) => typeof value !== "number" && typeof value !== "string",
    );
    return wrong === undefined ? undefined : `a result ${String(wrong)}`;
  },
});

const CARD = `---
license: mit
configs:
- config_name: default
  default: true
  data_files:
  - split: test
    path: "data/**/*.csv"
  - split: train
    path: ["a[0-9].csv", "./b.csv"]
- config_name: other
  data_files: "*.csv"
---
# Stories
`;
const NAMES = ["README.md", "a1.csv", "b.csv", "data/x/1.csv", "data/.y/2.csv"];
const ODD = [
  "  -",
  "- null",
  "configs:",
  "  data_files:",
  "  - null",
  "    path: [null, 3]",
  "---",
  "configs: [null]",
  "x: &a [*a]",
];
fuzz<Buffer>({
  name: "cards of data sets",
  mutants: 1500,
  make: (chance) => mutateLines(chance, CARD, ODD),
  async read(card) {
    const found = ["train", "test"].map((split) => cardFiles(card.toString("utf8"), NAMES, undefined, split));
    const strange = found.flat().find((name) => name !== undefined && !NAMES.includes(name));
    if (strange !== undefined) return `the file ${strange}`;
    // What is no card says nothing of files; the fuzzer wants to see both.
    if (found.every((one) => one === undefined)) throw new FormatError("no card");
    return undefined;
  },
});
