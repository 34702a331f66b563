// The built-in tasks, and tasks of a user's own, against lm-evaluation-harness itself (test/fixtures/make_eval.py): prompts, documents and
// targets by their hashes, each answer, metrics and standard errors.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import {
  type EvalResults,
  LM,
  type LoglikelihoodRequest,
  openRequestCache,
  simple_evaluate,
} from "../../src/eval/index.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import type { PreTrainedTokenizer } from "../../src/tokenizer/api.js";
import { DEVICES } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";
import { temporary } from "../support/temporary.js";

interface Expected {
  readonly results: Record<string, Record<string, number | string>>;
  readonly groups: Record<string, Record<string, number | string>>;
  readonly versions: unknown;
  readonly "n-shot": unknown;
  readonly "n-samples": unknown;
  readonly higher_is_better: unknown;
  readonly samples: Record<
    string,
    { filter: string; doc_id: number; resps: (string | number | [number, boolean])[]; hashes: string[] }[]
  >;
}
const EVAL = join(FIXTURES, "eval");
const EXPECTED = JSON.parse(readFileSync(join(EVAL, "expected.json"), "utf8")) as Record<string, Expected>;
const TASKS =
  "hellaswag piqa arc_easy arc_challenge openbookqa boolq lambada_openai lambada_standard winogrande truthfulqa_mc1 " +
  "truthfulqa_mc2 wikitext my_mmlu my_choice my_texts my_writing";
const device = DEVICES.includes("cpu") ? "cpu" : "wasm";

let model: PreTrainedModel;
let tokenizer: PreTrainedTokenizer;
beforeAll(async () => {
  model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { dtype: "float32", device });
  tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
});
afterAll(async () => await model[Symbol.asyncDispose]());

/** Log-likelihoods of two implementations in f32: sums of some 500 terms at most. */
const CLOSE = 1e-4;

function checkSamples(found: EvalResults, wanted: Expected): void {
  for (const [task, samples] of Object.entries(wanted.samples)) {
    const own = found.samples[task]!;
    expect(own.length, task).toBe(samples.length);
    for (const { filter, doc_id, resps, hashes } of samples) {
      const sample = own.find((one) => one.doc_id === doc_id && one.filter === filter)!;
      const place = `${task}, ${filter}, document ${doc_id}`;
      const { doc_hash, prompt_hash, target_hash } = sample;
      expect(
        [doc_hash, prompt_hash, target_hash].map((hash) => hash.slice(0, 16)),
        place,
      ).toEqual(hashes);
      const answers = sample.resps.map(([answer]) => answer!);
      for (const [n, wantedOne] of resps.entries()) {
        const answer = answers[n]!;
        if (typeof wantedOne === "string") expect(answer, place).toBe(wantedOne);
        else if (typeof wantedOne === "number") {
          // A whole text of some thousand tokens.
          expect(Math.abs((answer as number) - wantedOne), place).toBeLessThan(1e-6 * Math.abs(wantedOne));
        } else {
          const [value, is_greedy] = answer as [number, boolean];
          expect(Math.abs(value - wantedOne[0]), place).toBeLessThan(CLOSE);
          expect(is_greedy, place).toBe(wantedOne[1]);
        }
      }
    }
  }
}

function checkResults(found: EvalResults, wanted: Expected): void {
  for (const [task, result] of Object.entries(wanted.results)) {
    for (const [key, value] of Object.entries(result)) {
      if (key === "sample_count") continue;
      const own = found.results[task]![key];
      if (typeof value === "string") expect(own, `${task} ${key}`).toBe(value);
      // 6 digits; the spread of a perplexity magnifies the differences of log-likelihoods.
      else
        expect(Math.abs((own as number) / value - 1) || 0, `${task} ${key}`).toBeLessThan(
          key.startsWith("perp") ? 3e-6 : 1e-6,
        );
    }
  }
  expect(Object.keys(found.groups ?? {})).toEqual(Object.keys(wanted.groups));
  for (const key of ["versions", "n-shot", "n-samples", "higher_is_better"] as const)
    expect(found[key], key).toEqual(wanted[key]);
}

describe("like lm-evaluation-harness", { timeout: 120_000 }, () => {
  const common = { data_dir: join(EVAL, "data"), include_path: join(EVAL, "tasks"), bootstrap_iters: 1000 };

  test("without examples", async () => {
    const found = await simple_evaluate(new LM(model, tokenizer), { tasks: TASKS.split(" "), ...common });
    checkSamples(found, EXPECTED.zero!);
    checkResults(found, EXPECTED.zero!);
  });

  test("with two examples, drawn as Python draws them", async () => {
    const lm = new LM(model, tokenizer, { batch_size: 7 });
    const tasks = "hellaswag piqa arc_easy winogrande my_mmlu gsm8k".split(" ");
    const found = await simple_evaluate(lm, { tasks, num_fewshot: 2, gen_kwargs: { max_gen_toks: 24 }, ...common });
    checkSamples(found, EXPECTED.shots!);
    checkResults(found, EXPECTED.shots!);
  });
});

describe("prompts like lm-evaluation-harness's", { timeout: 120_000 }, () => {
  const tasks = ["hellaswag", "winogrande", "my_choice", "my_open", "my_writing"];
  const folders = { data_dir: join(EVAL, "data"), include_path: join(EVAL, "tasks"), bootstrap_iters: 1000 };
  const common = { tasks, num_fewshot: 1, limit: 3, ...folders };
  const template = readFileSync(join(EVAL, "chat_template.jinja"), "utf8");

  /** The storyteller with a chat template, or several. */
  async function chatting(chat_template: string | Record<string, string>): Promise<LM> {
    const own = await AutoTokenizer.from_pretrained(STORYTELLER);
    own.chat_template = chat_template;
    return new LM(model, own);
  }

  test.each([
    ["system", {}],
    ["chat", { apply_chat_template: true }],
    ["one_turn", { apply_chat_template: "usual", fewshot_as_multiturn: false }],
  ] as const)("%s", async (name, options) => {
    const system = name === "one_turn" ? {} : { system_instruction: "Be kind." };
    const found = await simple_evaluate(await chatting({ usual: template, default: template }), {
      ...common,
      ...system,
      ...options,
    });
    checkSamples(found, EXPECTED[name]!);
    checkResults(found, EXPECTED[name]!);
  });

  test("a template that refuses a system's message gets none", async () => {
    const strict = `{%- if messages[0].role == 'system' %}{{ raise_exception('no system') }}{%- endif %}${template}`;
    const lm = await chatting(strict);
    const said = [
      { role: "system", content: "Be kind." },
      { role: "user", content: "Who?" },
    ];
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    expect(lm.apply_chat_template(said)).toBe("[user]\nWho?\n[end]\n[assistant]\n");
    expect(String(warn.mock.calls)).toContain("refuses a system's message");
    warn.mockRestore();
    expect(() => lm.apply_chat_template(said.slice(0, 1))).toThrow("no system");
    expect(lm.apply_chat_template([...said.slice(1), { role: "assistant", content: "He" }], false)).toBe(
      "[user]\nWho?\n[end]\n[assistant]\nHe",
    );
  });

  test("without a template, or turns without a conversation, is an error", async () => {
    const asked = (lm: LM, options: object) => simple_evaluate(lm, { ...common, ...options });
    await expect(asked(new LM(model, tokenizer), { apply_chat_template: true })).rejects.toThrow("chat_template");
    for (const own of [{ a: template }, template]) {
      await expect(asked(await chatting(own), { apply_chat_template: "b" })).rejects.toThrow('template called "b"');
    }
    await expect(asked(new LM(model, tokenizer), { fewshot_as_multiturn: true })).rejects.toThrow(
      "needs apply_chat_template",
    );
  });
});

describe("requests", () => {
  const requests: LoglikelihoodRequest[] = [
    ["Once upon a time", " there was a king"],
    ["Once upon a time ", "there was a king"],
    ["", "Once upon a time"],
    ["Once upon a time", " the"],
  ];

  test("blanks at a context's end belong to the continuation, and no context is the prefix token", async () => {
    const lm = new LM(model, tokenizer);
    const [apart, inside] = requests.map((pair) => lm.encode_pair(...pair));
    expect(inside).toEqual(apart);
    expect(lm.encode_pair("", "Once")[0]).toEqual([lm.prefix_token_id]);
    expect(lm.encode_pair("", "<|endoftext|>Once")).toEqual(lm.encode_pair("", "Once"));
    const found = await lm.loglikelihood(requests);
    expect(found[1]).toEqual(found[0]);
    const [whole] = await lm.loglikelihood_rolling(["Once upon a time"]);
    expect(found[2]![0]).toBeCloseTo(whole!, 5);
    expect(
      await lm.multiple_choice([
        ["Once upon a time", [" there was a king", " the"]],
        ["", ["Once upon a time"]],
      ]),
    ).toEqual([[found[0], found[3]], [found[2]]]);
  });

  test("a context that is too long is cut at its beginning", async () => {
    const lm = new LM(model, tokenizer, { max_length: 12 });
    const [long] = await lm.loglikelihood([[`${"far away ".repeat(9)}Once upon a time`, " there was a king"]]);
    const ids = tokenizer(`${"far away ".repeat(9)}Once upon a time there was a king`).input_ids.slice(-13);
    const context = tokenizer.decode(ids.slice(0, -4));
    expect(long![0]).toBeCloseTo((await lm.loglikelihood([[context, " there was a king"]]))[0]![0], 5);
    await expect(lm.loglikelihood([["a", " and".repeat(13)]])).rejects.toThrow("a continuation of 13 tokens is longer");
    await expect(lm.generate_until([["a", { max_gen_toks: 12 }]])).rejects.toThrow("leaves no room");
  });

  test("generated texts end before the first text that ends them, alone and in batches", async () => {
    const contexts = ["Once upon a time", "The king said", "There was a key of brass in the door. The King"];
    const asked = contexts.map((context) => [context, { until: [".", " the"], max_gen_toks: 12 }] as const);
    const together = await new LM(model, tokenizer).generate_until(asked);
    for (const text of together) expect(text).not.toMatch(/\.| the/);
    expect(await new LM(model, tokenizer, { batch_size: 1 }).generate_until(asked)).toEqual(together);
    expect(together[0]!.length).toBeGreaterThan(0);
  });

  test("answers of a cache are not computed again; another model's are", async () => {
    const file = temporary("answers.jsonl");
    const ask = async (of: PreTrainedModel) => {
      const lm = new LM(of, tokenizer, { use_cache: await openRequestCache(file) });
      const answers = [await lm.loglikelihood(requests), await lm.generate_until([["Once", { max_gen_toks: 4 }]])];
      return { answers, tokens: lm.computed_tokens };
    };
    const first = await ask(model);
    expect(first.tokens).toBeGreaterThan(0);
    expect(await ask(model)).toEqual({ answers: first.answers, tokens: 0 });
    // A line that was cut off is asked for again.
    const text = readFileSync(file, "utf8");
    writeFileSync(file, text.slice(0, -5));
    const again = await ask(model);
    expect(again.answers).toEqual(first.answers);
    expect(again.tokens).toBeGreaterThan(0);
    expect(await ask(model)).toEqual({ answers: first.answers, tokens: 0 });
    await using eight = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { load_in_8bit: true, device });
    expect((await ask(eight)).tokens).toBe(first.tokens);
    for (const other of ["no answers\n", "no answers", '["key",']) {
      writeFileSync(file, other);
      await expect(openRequestCache(file)).rejects.toThrow("line 1 is no answer");
      expect(readFileSync(file, "utf8")).toBe(other);
    }
  });

  test("what is no language model is refused by name", async () => {
    expect(() => new LM({} as PreTrainedModel, tokenizer)).toThrow("must be a language model of text");
    expect(() => new LM(model, {} as PreTrainedTokenizer)).toThrow("the tokenizer must be the model's");
    expect(() => new LM(model, tokenizer, { batch: 3 } as object)).toThrow("batch_size");
  });
});
