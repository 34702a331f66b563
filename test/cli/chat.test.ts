// octavo chat through a pipe, from the outside.

import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { editJson } from "../support/checkpoints.js";
import { octavo, READY_TIMEOUT, ROOT, ready, STORYTELLER } from "../support/cli.js";
import { temporary } from "../support/temporary.js";

let folder: string;
beforeAll(async () => {
  await ready();
  folder = temporary("chat");
  cpSync(join(ROOT, STORYTELLER), folder, { recursive: true });
  const chat_template =
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
  editJson(join(folder, "tokenizer_config.json"), { chat_template });
}, READY_TIMEOUT);

const HOW = ["--greedy", "--max-new-tokens", "8", "-q"];

test("each line is a message, and what was read is not read again", async () => {
  const input = 'Tell me of a fish.\n\nAnd of\\\na king.\n"""\ntwo\nlines\n"""\n';
  const { code, stdout, stderr } = await octavo(["chat", folder, ...HOW, "--json"], { input });
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  const answers = stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, number | string>);
  expect(answers.map(({ new_tokens }) => new_tokens)).toEqual([8, 8, 8]);
  expect(answers[0]!.reused_tokens).toBe(0);
  expect(answers[1]!.reused_tokens).toBeGreaterThan(8);
  expect(answers[2]!.reused_tokens).toBeGreaterThan(answers[1]!.reused_tokens as number);
  const text = await octavo(["chat", folder, ...HOW], { input });
  expect(text.stdout).toBe(answers.map(({ content }) => `${content}\n`).join(""));
});

test("every answer is as a flag says", async () => {
  const choices = ["--choices", "a fish,a king"];
  const { code, stdout } = await octavo(["chat", folder, ...HOW, ...choices], { input: "Who?\nAnd who else?\n" });
  expect(code).toBe(0);
  for (const line of stdout.trim().split("\n")) expect(["a fish", "a king"]).toContain(line);
});

test("commands: a conversation is forgotten, saved and loaded", async () => {
  const place = temporary("talk");
  mkdirSync(place);
  const file = join(place, "talk.json");
  const first = await octavo(["chat", folder, ...HOW, "--system", "Be kind."], {
    input: `Hello\n/save ${file}\n/reset\nHello\n/stats\n/help\n/exit\nnever\n`,
  });
  expect(first.code).toBe(0);
  const [one, two, ...rest] = first.stdout.trim().split("\n");
  expect([one, rest]).toEqual([two, []]);
  expect(first.stderr).toMatch(
    /^3 messages in .*\n8 tokens in .* of 512 tokens of context, \d+ reused.*\n {2}\/system/,
  );
  const saved = JSON.parse(readFileSync(file, "utf8")) as object[];
  expect(saved).toEqual([
    { role: "system", content: "Be kind." },
    { role: "user", content: "Hello" },
    { role: "assistant", content: one },
  ]);
  const again = await octavo(["chat", folder, ...HOW], { input: `/load ${file}\n/system\n` });
  expect(again).toMatchObject({ code: 0, stdout: "", stderr: "3 messages from ".concat(file, "\nBe kind.\n") });
  writeFileSync(file, '{"role":"user"}');
  const odd = await octavo(["chat", folder, ...HOW], { input: `/load ${file}\n` });
  expect(odd.code).toBe(1);
  expect(odd.stderr).toMatch(/is not a list of messages/);
});

test("a blank before a slash makes a message of it; a signal ends the conversation", async () => {
  const said = await octavo(["chat", folder, ...HOW], { input: " /exit\n/exit\nnever\n" });
  expect(said.code).toBe(0);
  expect(said.stdout.trim().split("\n")).toHaveLength(1);
  const long = ["chat", folder, "--greedy", "--max-new-tokens", "400", "-q", "--json"];
  const ended = await octavo(long, {
    input: "Tell me of a fish.\n/reset\n".repeat(200),
    watch: (child, stdout) => void (stdout !== "" && child.kill("SIGTERM")),
  });
  expect(ended.code).toBe(130);
  expect(ended.stdout.split("\n").length).toBeLessThan(100);
});

test("what cannot be is told", async () => {
  for (const [args, input, message] of [
    [[STORYTELLER], "x\n", /has no chat template/],
    [[folder], "/sav x\n", /did you mean \/save\?/],
    [[folder], `${"The old king said. ".repeat(300)}\n`, /this model reads 512/],
  ] as const) {
    const { code, stdout, stderr } = await octavo(["chat", ...args, "-q"], { input });
    expect([code, stdout]).toEqual([2, ""]);
    expect(stderr).toMatch(message);
  }
});
