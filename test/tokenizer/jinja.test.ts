// Random templates give what Jinja gives in transformers' sandbox (fixtures/chat/jinja.jsonl, by make_jinja.py).

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { OctavoError } from "../../src/core/errors.js";
import { Disk } from "../../src/sources/disk.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { FIXTURES } from "../support/fixtures.js";
import { STORYTELLER } from "./golden.js";

interface Case {
  readonly template: string;
  readonly text?: string;
  readonly error?: true;
}
const [first, ...lines] = readFileSync(join(FIXTURES, "chat", "jinja.jsonl"), "utf8")
  .trim()
  .split("\n");
const { variables } = JSON.parse(first!) as { variables: Record<string, unknown> };
const cases = lines.map((line) => JSON.parse(line) as Case);
const tokenizer = await loadTokenizer(new Disk(STORYTELLER));

function rendered(template: string): unknown {
  const named = Object.entries(variables).filter(([name]) => new RegExp(`\\b${name}\\b`).test(template));
  const options = { ...Object.fromEntries(named), chat_template: template, tokenize: false } as const;
  try {
    return tokenizer.apply_chat_template([{ role: "user", content: "hi" }], options);
  } catch (error) {
    return (error as Error).constructor;
  }
}

it("random templates give Jinja's text, or an error where it gives one", () => {
  expect(cases.filter(({ text }) => text !== undefined).length).toBeGreaterThan(500);
  for (const { template, text } of cases) {
    const got = rendered(template);
    if (text !== undefined) expect([template, got]).toEqual([template, text]);
    else expect([template, (got as typeof OctavoError).prototype]).toEqual([template, expect.any(OctavoError)]);
  }
});
