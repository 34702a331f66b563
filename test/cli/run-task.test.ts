// octavo run, from the outside.

import { cpSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { octavo, READY_TIMEOUT, ready, STORYTELLER } from "../support/cli.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

let folder: string;
beforeAll(async () => {
  await ready();
  folder = temporary("bert");
  cpSync(join(FIXTURES, "models", "bert"), folder, { recursive: true });
  cpSync(join(FIXTURES, "pipelines", "tokenizer"), folder, { recursive: true });
}, READY_TIMEOUT);

test("a task on arguments, on standard input, and as JSON", async () => {
  const story = ["run", "text-generation", STORYTELLER, "-o", "max_new_tokens=6", "-o", "do_sample=false"];
  const several = await octavo([...story, "The old king", "Once"]);
  expect(several).toMatchObject({ code: 0, stderr: "" });
  expect(several.stdout).toBe(
    "==> The old king <==\nThe old king, and the king's son\n\n==> Once <==\nOnce, and the King of the\n\n",
  );
  // The same flags load the same weights: NF4, with the fastest products.
  const four = await octavo([...story, "The giant said", "--load-in-4bit", "-q"]);
  const greedy = ["-p", "The giant said", "--load-in-4bit", "--greedy", "--max-new-tokens", "6", "-q"];
  expect(four.stdout.trimEnd()).toBe((await octavo(["generate", STORYTELLER, ...greedy])).stdout.trimEnd());
  const words = await octavo(["run", "fill-mask", folder, "-o", "top_k=2", "-q"], { input: "the [MASK]\n" });
  expect(words).toMatchObject({ code: 0, stderr: "" });
  expect(words.stdout).toMatch(/^0\.\d{4} {2}t {2}the t\n0\.\d{4} .*\n$/);
  const json = await octavo(["run", "fill-mask", folder, "the [MASK]", "--json", "-q", "--load-in-8bit"]);
  const { task, results } = JSON.parse(json.stdout);
  expect([task, results[0].input, results[0].output.length]).toEqual(["fill-mask", "the [MASK]", 5]);
});

test("what is wrong is told before anything is loaded", async () => {
  for (const [args, message] of [
    [["run", "fill-maks", folder, "x"], /did you mean fill-mask\?/],
    [["run", "fill-mask", folder, "x", "-o", "top_k"], /name=value/],
    [["run", "fill-mask", folder, "x", "-o", "topk=2"], /top_k/],
    [["run", "fill-mask", folder, "x", "-o", "dtype=float32"], /--dtype/],
    [["run", "storyteller", "Once upon a time"], /octavo generate storyteller/],
  ] as const) {
    const { code, stdout, stderr } = await octavo(args);
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(message);
  }
  const text = await octavo(["run", "question-answering", folder, "who?", "-q"]);
  expect([text.code, /is JSON/.test(text.stderr)]).toEqual([2, true]);
  const none = await octavo(["run", "fill-mask", folder, "no mask here", "-q"]);
  expect(none.code).toBe(2);
  expect(none.stderr).toMatch(/no \[MASK\] in "no mask here"/);
});
