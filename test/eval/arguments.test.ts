// Whatever is passed to octavo/eval: it works, or it is refused with a typed error and a short message.

import { expect, test } from "vitest";
import * as evaluation from "../../src/eval/index.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/generate/auto.js";
import { DEVICES } from "../support/devices.js";
import { STORYTELLER } from "../support/models.js";
import { all } from "../support/odd-calls.js";

const {
  LM,
  TaskManager,
  compare_results,
  divergence,
  mcnemar,
  openRequestCache,
  paired_test,
  perplexity,
  simple_evaluate,
} = evaluation;

test("odd arguments", { timeout: 120_000 }, async () => {
  const device = DEVICES.includes("cpu") ? "cpu" : "wasm";
  await using model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device, load_in_8bit: true });
  const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
  const lm = new LM(model, tokenizer);
  // What is right is not computed.
  const stopped = new LM(model, tokenizer, { signal: AbortSignal.abort() });
  await all("new LM(it, tokenizer)", (odd) => new LM(odd as typeof model, tokenizer));
  await all("new LM(model, it)", (odd) => new LM(model, odd as typeof tokenizer));
  await all("new LM({ it })", (odd) => new LM(model, tokenizer, odd as object));
  for (const option of ["batch_size", "max_length", "add_bos_token", "cache_dtype", "use_cache", "signal"]) {
    await all(`new LM({ ${option} })`, (odd) => new LM(model, tokenizer, { [option]: odd }));
  }
  for (const call of ["loglikelihood", "multiple_choice", "loglikelihood_rolling", "generate_until"] as const) {
    await all(`${call}(it)`, (odd) => stopped[call](odd as never));
    await all(`${call}([it])`, (odd) => stopped[call]([odd] as never));
    await all(`${call}([["a", it]])`, (odd) => stopped[call]([["a", odd]] as never));
  }
  for (const name of ["until", "max_gen_toks", "temperature", "do_sample"]) {
    await all(`generate_until({ ${name} })`, (odd) =>
      stopped.generate_until([["a", { max_gen_toks: 2, [name]: odd }]]),
    );
  }
  await all("perplexity(it)", (odd) => perplexity(odd as typeof model, [1, 2, 3]));
  await all("perplexity(model, it)", (odd) => perplexity(model, odd as number[], { signal: AbortSignal.abort() }));
  await all("perplexity({ it })", (odd) => perplexity(model, [1, 2, 3], odd as object));
  for (const option of ["window", "stride", "cache_dtype", "signal", "progress"]) {
    await all(`perplexity({ ${option} })`, (odd) => perplexity(model, [1, 2, 3], { [option]: odd }));
  }
  await all("divergence(it)", (odd) => divergence(odd as typeof model, model, [1, 2, 3]));
  await all("divergence(model, it)", (odd) => divergence(model, odd as typeof model, [1, 2, 3]));
  await all("divergence(model, model, it)", (odd) =>
    divergence(model, model, odd as number[], { signal: AbortSignal.abort() }),
  );
  await all("divergence({ layers })", (odd) => divergence(model, model, [1, 2, 3], { layers: odd as boolean }));
  await all("apply_chat_template(it)", (odd) => lm.apply_chat_template(odd as []));
  await all("apply_chat_template([it])", (odd) => lm.apply_chat_template([odd] as unknown as []));
  await all("encode(it)", (odd) => lm.encode(odd as string));
  await all("encode_pair(it, it)", (odd) => lm.encode_pair(odd as string, odd as string));
  await all("simple_evaluate(it)", (odd) => simple_evaluate(odd as typeof lm, { tasks: ["piqa"] }));
  await all("simple_evaluate(lm, it)", (odd) => simple_evaluate(lm, odd as { tasks: string[] }));
  for (const option of [
    "tasks",
    "num_fewshot",
    "limit",
    "bootstrap_iters",
    "gen_kwargs",
    "include_path",
    "data_dir",
    "progress",
  ]) {
    await all(`simple_evaluate({ ${option} })`, (odd) => simple_evaluate(lm, { tasks: ["piqa"], [option]: odd }));
  }
  await all("new TaskManager(it)", (odd) => new TaskManager(odd as object));
  await all("load(it)", (odd) => new TaskManager().load(odd as string[]));
  await all("load([it])", (odd) => new TaskManager().load([odd] as string[]));
  await all("openRequestCache(it)", (odd) => (typeof odd === "string" ? undefined : openRequestCache(odd as string)));
  await all("compare_results(it, it)", (odd) => compare_results(odd as never, odd as never));
  await all("mcnemar(it, it)", (odd) => mcnemar(odd as number, odd as number));
  await all("paired_test(it, it)", (odd) => paired_test(odd as number[], odd as number[], "mean"));
  await all("paired_test([it], [it], it)", (odd) => paired_test([odd] as number[], [odd] as number[], odd as string));
  expect(Object.keys(evaluation).sort()).toEqual([
    ...[
      "LM",
      "TaskManager",
      "compare_results",
      "divergence",
      "mcnemar",
      "openRequestCache",
      "paired_test",
      "perplexity",
      "simple_evaluate",
    ],
  ]);
});
