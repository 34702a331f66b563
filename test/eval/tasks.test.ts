// Task files and data: what is read, and what is refused, by name.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, test } from "vitest";
import { ConfigError, OctavoError, OptionError } from "../../src/core/errors.js";
import { filterOf } from "../../src/eval/harness/filters.js";
import { docFunction, FunctionName, fieldFunction } from "../../src/eval/harness/functions.js";
import { generationOf } from "../../src/eval/harness/generation-kwargs.js";
import { aggregationNamed, pooledError } from "../../src/eval/harness/metrics.js";
import { choiceValues } from "../../src/eval/harness/multiple-choice.js";
import { literalOf } from "../../src/eval/harness/python-literal.js";
import { PythonRandom } from "../../src/eval/harness/python-random.js";
import { pythonRegex } from "../../src/eval/harness/python-regex.js";
import { rollingWindows } from "../../src/eval/harness/windows.js";
import { mcnemar, paired_test, TaskManager } from "../../src/eval/index.js";
import { renderFields } from "../../src/tokenizer/chat/fields.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

/** A folder with these files. */
function folderOf(files: Readonly<Record<string, string | Uint8Array>>): string {
  const folder = temporary("tasks");
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
  return folder;
}

/** The requests of a task of these files. */
async function requestsOf(files: Readonly<Record<string, string | Uint8Array>>, name = "mine", run = {}) {
  const folder = folderOf(files);
  const { tasks } = await new TaskManager({ include_path: folder, data_dir: join(folder, "data") }).load([name]);
  await tasks[0]!.build(run);
  return tasks[0]!.instances.map((one) => one.arguments);
}

async function refusal(files: Readonly<Record<string, string | Uint8Array>>, name = "mine"): Promise<OctavoError> {
  const error = await requestsOf(files, name).then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(OctavoError);
  return error as OctavoError;
}

const TASK =
  "task: mine\noutput_type: loglikelihood\ntest_split: test\ndoc_to_text: question\ndoc_to_target: ' {{answer}}'\n";
const DATA = {
  "data/mine/test.jsonl": '{"question":"Who?","answer":"He."}\n\n{"question":"Where?","answer":"There."}\n',
};
const ASKED = [
  ["Who?", " He."],
  ["Where?", " There."],
];

test("scores of translations are sacrebleu's", () => {
  type Case = { readonly items: readonly (readonly [string[], string])[]; readonly scores: readonly number[] };
  const cases = JSON.parse(readFileSync(join(FIXTURES, "eval", "translations.json"), "utf8")) as readonly Case[];
  for (const [n, { items, scores }] of cases.entries()) {
    for (const [at, metric] of ["bleu", "chrf", "chrf++", "ter"].entries()) {
      const { keep, of } = aggregationNamed(metric);
      // The same sums of whole numbers; the last digits of logarithms may differ.
      expect(Math.abs(of(items.map(keep)) - scores[at]!), `${metric} of corpus ${n}`).toBeLessThan(1e-10);
    }
  }
});

describe("a task's file", () => {
  test("includes others, whose keys it overrides", async () => {
    const files = {
      "base.yaml": TASK.replace("mine", "base"),
      "sub/mine.yaml": "include: ../base.yaml\ntask: mine\n",
      ...DATA,
    };
    expect(await requestsOf(files)).toEqual(ASKED);
  });

  test("is text in UTF-8, or in UTF-16 with a mark; others are refused, not misread", async () => {
    const wide = TASK.replace("' {{answer}}'", "'Ä {{answer}}'");
    const asked = ASKED.map(([context, answer]) => [context, `Ä${answer}`]);
    for (const bytes of [Buffer.from(wide), Buffer.from(`\ufeff${wide}`), Buffer.from(`\ufeff${wide}`, "utf16le")]) {
      expect(await requestsOf({ "mine.yaml": bytes, ...DATA })).toEqual(asked);
    }
    const error = await refusal({ "mine.yaml": Buffer.from(wide, "latin1"), ...DATA });
    expect(error.message).toMatch(/mine\.yaml: byte \d+ is not UTF-8 text/);
  });

  test("names its own data files", async () => {
    const own = `${TASK}dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: [a.jsonl, b.json]\n`;
    const rows = ['{"question":"Who?","answer":"He."}', '[{"question":"Where?","answer":"There."}]'];
    expect(await requestsOf({ "mine.yaml": own, "a.jsonl": rows[0]!, "b.json": rows[1]! })).toEqual(ASKED);
  });

  test("takes tables: quotes, commas, lines in cells, and numbers", async () => {
    const csv = 'question,answer,n\r\n"Who, ""you""?\nYes","a",1\r\nWhere?,,2\r\n';
    const own = TASK.replace("' {{answer}}'", '"{{answer}}{{n + 1}}"');
    expect(await requestsOf({ "mine.yaml": own, "data/mine/test.csv": csv })).toEqual([
      ['Who, "you"?\nYes', "a2"],
      ["Where?", "3"],
    ]);
    const broken = await refusal({ "mine.yaml": own, "data/mine/test.csv": "question,answer,n\n1,2\n" });
    expect(broken.message).toContain("line 2: 2 fields, and there are 3 columns");
  });

  test("takes Parquet files, as train's load_dataset reads them", async () => {
    const own = TASK.replace("question", "prompt").replace("{{answer}}", "{{messages[1].content}}");
    const data = join(FIXTURES, "training", "rows.parquet");
    const named = `${own}dataset_path: parquet\ndataset_kwargs:\n  data_files:\n    test: ${data}\n`;
    const { tasks } = await new TaskManager({ include_path: folderOf({ "mine.yaml": named }) }).load(["mine"]);
    await tasks[0]!.build({ limit: 1 });
    expect(tasks[0]!.instances.map((one) => one.arguments)).toEqual([["The king said: ", " A fox."]]);
  });

  test("limits, examples and their order", async () => {
    const docs = Array.from({ length: 6 }, (_, n) => `{"question":"q${n}","answer":"a${n}"}\n`).join("");
    const files = {
      "mine.yaml": `${TASK}fewshot_split: test\nfewshot_config:\n  sampler: first_n\ndescription: "Do.\\n"\n`,
      "data/mine/test.jsonl": docs,
    };
    // The document itself is not among its examples.
    expect(await requestsOf(files, "mine", { num_fewshot: 1, limit: 0.3 })).toEqual([
      ["Do.\nq1  a1\n\nq0", " a0"],
      ["Do.\nq0  a0\n\nq1", " a1"],
    ]);
    await expect(requestsOf(files, "mine", { num_fewshot: 6 })).rejects.toThrow("6 examples of the 5");
  });

  test.each<[string, string, RegExp]>([
    ["an unknown key", `${TASK}doc_to_txt: x\n`, /mine.*doc_to_txt.*did you mean.*doc_to_text/s],
    ["a wrong value", TASK.replace("loglikelihood", "likelihood"), /output_type must be/],
    [
      "a function of Python",
      `${TASK}process_docs: !function utils.process_docs\n`,
      /"utils.process_docs", which is not built in/,
    ],
    ["code", `${TASK}custom_dataset: !function utils.load\n`, /"custom_dataset" is not supported/],
    [
      "a metric of another kind of output",
      `${TASK}metric_list:\n  - metric: exact_match\n`,
      /exact_match.*not known for output_type/,
    ],
    [
      "an aggregation of other values",
      `${TASK}metric_list:\n  - metric: acc\n    aggregation: f1\n`,
      /"f1" is of pairs \[right, found\], and "acc" gives numbers.*mean/s,
    ],
    ["an include that is no name", `${TASK}include: 5\n`, /"include" must be a name or a list of names, got 5/],
    ["an aggregation", `${TASK}metric_list:\n  - metric: acc\n    aggregation: mode\n`, /aggregation "mode"/],
    ["a setting", `${TASK}metric_list:\n  - metric: acc\n    ignore_case: true\n`, /no setting "ignore_case"/],
    [
      "a filter",
      `${TASK}filter_list:\n  - name: x\n    filter:\n      - function: take_frst\n`,
      /did you mean "take_first"/,
    ],
    ["a field that no document has", TASK.replace("{{answer}}", "{{anser}}"), /the document has no "anser"/],
    ["a template that cannot be read", TASK.replace("{{answer}}", "{{answer"), /doc_to_target.*cannot be read/],
    ["no YAML", "task: [mine\n", /is no YAML/],
    ["a value in itself", `${TASK}dataset_kwargs: &a\n  x: *a\n`, /contains itself, by an alias/],
  ])("with %s is refused", async (_, file, message) => {
    const error = await refusal({ "mine.yaml": file, ...DATA });
    expect(error.message + (error.hint ?? "")).toMatch(message);
  });

  test("without data, it says where it was looked for", async () => {
    const { message, hint } = await refusal({ "mine.yaml": TASK });
    expect(message).toContain('has no split "test" here');
    expect(hint).toContain("looked for test.jsonl");
    expect((await refusal({ "mine.yaml": TASK, "data/mine/test.parquet": "PAR1" })).code).toBe("ERR_FORMAT");
    expect((await refusal({ "mine.yaml": TASK, "data/mine/test.jsonl": "{}\n[1]\n" })).message).toContain(
      "line 2: expected an object",
    );
    await expect(new TaskManager().load(["hellaswg"])).rejects.toThrow('did you mean "hellaswag"');
  });

  test("groups hold tasks, tags and tasks in place, and not themselves", async () => {
    const fresh = `  - task: fresh\n${TASK.split("\n")
      .slice(1, -1)
      .map((line) => `    ${line}\n`)
      .join("")}`;
    const group = `group: all\ntask:\n  - my_tag\n  - task: mine\n    doc_to_text: answer\n${fresh}`;
    const files = { "mine.yaml": TASK, "b.yaml": `${TASK.replace("mine", "other")}tag: my_tag\n`, "g.yaml": group };
    const { tasks, groups } = await new TaskManager({ include_path: folderOf(files) }).load(["all"]);
    expect(tasks.map(({ name, config }) => [name, config.doc_to_text])).toEqual([
      ["other", "question"],
      ["mine", "answer"],
      ["all::fresh", "question"],
    ]);
    expect(groups[0]!.tasks).toEqual(["other", "mine", "all::fresh"]);
    const round = new TaskManager({ include_path: folderOf({ "g.yaml": "group: g\ntask: [g]\n" }) });
    await expect(round.load(["g"])).rejects.toThrow("contains itself");
    const mmlu = await new TaskManager().load(["mmlu"]);
    expect([mmlu.tasks.length, mmlu.groups.length]).toEqual([57, 5]);
    expect((await new TaskManager().load(["arc_*"])).tasks).toHaveLength(2);
  });
});

test("random numbers are Python's", () => {
  const ten = Array.from({ length: 10 }, (_, n) => n);
  const random = new PythonRandom(1234);
  expect([random.sample(ten, 3), random.sample(ten, 3)]).toEqual([
    [7, 1, 0],
    [1, 0, 9],
  ]);
  const many = Array.from({ length: 1000 }, (_, n) => n);
  expect(new PythonRandom(1234).sample(many, 5)).toEqual([989, 796, 451, 119, 7]);
  expect(new PythonRandom(1234).random()).toBe(0.9664535356921388);
});

test("Python's literals and regular expressions are read", () => {
  expect(literalOf(`['a', "b's", 'c\\'\\n', [1, -2.5], (True, None), {'k': 3}]`)).toEqual([
    ...["a", "b's", "c'\n"],
    [1, -2.5],
    [true, null],
    { k: 3 },
  ]);
  for (const text of ["[1,", "['a' 'b']", "x", "[1] 2", ""]) expect(literalOf(text)).toBeUndefined();
  expect("a\nb #### 3\n".replace(pythonRegex("x", "(?s).*#### "), "")).toBe("3\n");
  expect("3.\n".replace(pythonRegex("x", "\\.$"), "")).toBe("3\n");
  expect([..."ab".matchAll(pythonRegex("x", "(?P<name>[$b])"))][0]!.groups).toEqual({ name: "b" });
  expect(() => pythonRegex("x", "(?(1)a|b)")).toThrow(ConfigError);
});

test("templates are Jinja's, and strict", () => {
  const doc = { a: "x", list: ["p", "q"], n: 3 };
  const text =
    "{% set b = a %}{% for one in list if one != a %}{{loop.index}}{{one}}{{b}} {% endfor %}\n{{c is defined}}\n";
  expect(renderFields("t", text, doc)).toBe("1px 2qx \nFalse\n");
  expect(renderFields("t", "{{list}} {{list.index('q')}} {{n}}", doc)).toBe("['p', 'q'] 1 3");
  expect(() => renderFields("t", "{{a|join(d)}}", doc)).toThrow('the document has no "d"');
  expect(() => renderFields("t", "{{a.b.c}}", doc)).toThrow(OptionError);
});

test("filters take what they should of answers", () => {
  const number = filterOf("x", { function: "regex", group_select: -1, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)" });
  expect(number(["it is 12 or $3,000 or 7", "none"])).toEqual(["7", "[invalid]"]);
  expect(filterOf("x", { function: "majority_vote" })(["a", "b", "b"])).toEqual(["b"]);
  expect(filterOf("x", { function: "take_first" })([[-1, true]])).toEqual([-1, true]);
  expect(filterOf("x", { function: "map", mapping_dict: { a: "1" }, default_value: "0" })(["a", "c"])).toEqual([
    "1",
    "0",
  ]);
  expect(() => filterOf("x", { function: "take_first_k", k: 3 })(["a"])).toThrow("raise repeats");
});

test("what a task wants of generate() leaves prompts and texts as they are", () => {
  const { until, max_gen_toks, options } = generationOf({ until: "a", max_tokens: 3, num_beams: 2, temperature: 0 });
  expect([until, max_gen_toks, options]).toEqual([["a"], 3, { num_beams: 2, do_sample: false }]);
  expect(generationOf({ num_return_sequences: 1, token_healing: false }).options).toEqual({ do_sample: false });
  for (const wrong of [{ num_return_sequences: 2 }, { return_dict_in_generate: true }, { input_ids: [[1]] }]) {
    expect(() => generationOf(wrong)).toThrow(OptionError);
  }
});

test("values that a metric cannot be of are refused, and made of answers as Python prints them", async () => {
  const wrong: readonly (readonly [string, number | readonly [unknown, unknown]])[] = [
    ["mean", [1, 2]],
    ["f1", 1],
    ["brier_score", [0, 0.5]],
    ["weighted_perplexity", ["a", 1]],
    ["bleu", ["a", 3]],
    ["bleu", [[], "a"]],
  ];
  for (const [aggregation, value] of wrong) {
    expect(() => paired_test([value], [value], aggregation)).toThrow(OptionError);
  }
  expect(() => filterOf("x", { function: "lowercase" })([[-1, true]])).toThrow(ConfigError);
  for (const gold of [null, [[]], "z"]) {
    expect(() => choiceValues([[-1, true]], ["a"], gold)).toThrow("is none of the 1 choices");
  }
  const file = `task: mine\noutput_type: generate_until\ntest_split: test\ndoc_to_text: q\ndoc_to_target: a\n`;
  const data = '{"q":"","a":[true,null,1.5,"x"]}\n';
  const folder = folderOf({ "mine.yaml": file, "data/mine/test.jsonl": data });
  const { tasks } = await new TaskManager({ include_path: folder, data_dir: join(folder, "data") }).load(["mine"]);
  await tasks[0]!.build();
  const score = (text: string) => tasks[0]!.values(tasks[0]!.documents[0]!, [text]).exact_match;
  expect(["True", "None", "1.5", "x", "true"].map(score)).toEqual([1, 1, 1, 1, 0]);
});

test("documents of WikiText and HellaSwag are cleaned in one pass, as Python does", () => {
  const page = (text: string) =>
    fieldFunction(
      "wikitext",
      "doc_to_target",
      new FunctionName("preprocess_wikitext.wikitext_detokenizer"),
    )({
      page: text,
    });
  expect(page(" ( a ( b ) \" c \" [ d ] { e } ' f ' ( ")).toBe(" (a ( b) \"c\" [d] {e} 'f' ( ");
  for (const text of [`(${" ".repeat(200_000)}`, "(".repeat(200_000)]) expect(page(text)).toBe(text);
  const docs = docFunction("hellaswag", new FunctionName("utils.process_docs"));
  const doc = { ctx_a: "A [x] b", ctx_b: "c", activity_label: "L", endings: ["d [title] e [y\n]"], label: "1" };
  expect(docs(doc)).toMatchObject({ query: "L: A b C", choices: ["d. e [y\n]"], gold: 1 });
  expect(() => docs({ ...doc, label: "" })).toThrow('"label" must be a whole number');
});

test("choices, windows and errors of groups are those of the published rules", () => {
  const pairs = [-1, -2, -3].map((value): [number, boolean] => [value, false]);
  const alone = [-0.5, -2, -3].map((value): [number, boolean] => [value - 0.5, false]);
  expect(choiceValues([...pairs, ...alone], ["a", "bb", "é"], 1)).toMatchObject({ acc: 0, acc_norm: 0, acc_bytes: 0 });
  expect(choiceValues(pairs, ["a", "bb", "éé"], [1, 0])).toMatchObject({ acc: 1, f1: [1, 0] });
  expect(() => choiceValues(pairs, ["a", "b", "c"], 3)).toThrow("is none of the 3 choices");
  const ids = Array.from({ length: 34 }, (_, n) => n);
  const windows = rollingWindows(ids, -100, 10);
  expect(windows.map(({ ids: own, from }) => [own[0], own.length - 1, own.length - from])).toEqual([
    [-100, 10, 10],
    [9, 10, 10],
    [19, 10, 10],
    [23, 10, 4],
  ]);
  expect(pooledError([0.05, 0.1], [100, 50], true)).toBeCloseTo(0.047101, 6);
  expect(pooledError([0.03, 0.04], [100, 50], false)).toBeCloseTo(0.025, 12);
});

test("paired tests look at what differs", () => {
  expect(mcnemar(0, 0)).toBe(1);
  expect(mcnemar(1, 9)).toBeCloseTo(22 / 1024, 12); // 2 (1 + 10) / 2^10
  expect(mcnemar(5, 5)).toBe(1);
  const right = Array.from({ length: 100 }, (_, n) => Number(n % 2 === 0));
  const worse = right.map((value, n) => (n < 20 ? 0 : value));
  expect(paired_test(right, worse, "mean")).toEqual({ test: "mcnemar", p_value: 2 / 1024, within_noise: false });
  const values = right.map((_, n) => -2 - (n % 7) / 3);
  const noisy = values.map((value, n) => value + ((n % 2) - 0.5) / 10);
  expect(paired_test(values, values, "perplexity")).toMatchObject({
    test: "bootstrap",
    p_value: 1,
    within_noise: true,
  });
  expect(paired_test(values, noisy, "perplexity").within_noise).toBe(true);
  expect(
    paired_test(
      values,
      values.map((value) => value - 0.01),
      "perplexity",
    ).p_value,
  ).toBe(0);
  expect(() => paired_test([1], [1, 0], "mean")).toThrow("the items must be the same");
});

// What re.findall() of Python 3.11 gives, whole matches.
test.each([
  ["\\w+", "abc é的 Ab_9", ["abc", "é的", "Ab_9"]],
  ["[\\W_]+", "abc 123, é的 Ab_9", [" ", ", ", " ", "_"]],
  ["[^\\W\\d]+", "abc12 é的3", ["abc", "é的"]],
  ["\\d+", "3 ٣٤ x²", ["3", "٣٤"]],
  ["\\b\\w", "ÀÉ 的a", ["À", "的"]],
  ["(?a)\\w+", "é的a", ["a"]],
  ["oxed{(\\d+)}", "x oxed{42}", ["oxed{42}"]],
  ["a{,2}b", "aaab", ["aab"]],
  [".+", "a\rb\nc", ["a\rb", "c"]],
  ["[]x]+\\,?\\:?", "]x,:", ["]x,:"]],
  ["(?P<q>['\"]).*?(?P=q)", "'a' \"b'c\"", ["'a'", '"b\'c"']],
] as const)("the pattern %s finds what Python's finds", (pattern, text, want) => {
  const found = text.matchAll(pythonRegex("a filter", pattern));
  expect([...found].map(([whole]) => whole)).toEqual(want);
});
