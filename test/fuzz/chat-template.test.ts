// Mutants of chat templates: each gives a text, or is refused with a typed error, in a bounded number of steps.

import { readFileSync } from "node:fs";
import { renderChat } from "../../src/tokenizer/chat/template.js";
import { mutateBytes } from "./support/bytes.js";
import type { Chance } from "./support/chance.js";
import { fuzz } from "./support/fuzz.js";

const [shared, ...cases] = readFileSync(new URL("../fixtures/chat/cases.jsonl", import.meta.url), "utf8")
  .trimEnd()
  .split("\n")
  .map((line) => JSON.parse(line)) as [{ templates: Record<string, string> }, ...{ snippet?: string }[]];
const BASES = [
  ...Object.values(shared.templates).filter((template) => template.length < 2000),
  ...cases.flatMap(({ snippet }) => (snippet === undefined ? [] : [snippet])),
];
const PARTS = [
  ..."{% | %} | {{ | }} | {# | #} | {%- | -%} | {%+ | endfor | endif | {% if x %} | {% else %} | {% endif %} | {% for m in messages %}".split(
    " | ",
  ),
  ..."{% endfor %} | {% set x = 1 %} | {% macro f(a) %} | {% endmacro %} | {{ f(1) }} | {% generation %} | {% endgeneration %}".split(
    " | ",
  ),
  ..."messages | messages[0] | .content | ['role'] | [::-1] | [1:] | loop.index | loop.cycle(1, 2) | range(9) | namespace(x=1)".split(
    " | ",
  ),
  ..."none | true | 1.5 | -1 | 'a' | ~ | + | * | // | % | ** | == | < | in | not in | is defined | is string | and | or | not".split(
    " | ",
  ),
  ..."|tojson | |length | |list | |join(',') | |trim | |sort | |map(attribute='role') | |selectattr('role') | |default('d') | |indent(3)".split(
    " | ",
  ),
  ...".split('a') | .strip('x') | .items() | .replace('a', 'b') | .format(1) | |int | |string | |first | |e | \\ | \" | ' | ( | ) | [ | ]".split(
    " | ",
  ),
];
const CHAT = [
  { role: "user", content: "Hello <b> wörld" },
  {
    role: "assistant",
    content: [{ type: "text", text: "Hi" }],
    tool_calls: [{ function: { name: "f", arguments: { a: 1.5 } } }],
  },
];

function mutate(chance: Chance): string {
  let text = chance.one(BASES);
  if (chance.is(0.1)) return mutateBytes(chance, Buffer.from(text)).toString("utf8");
  for (let left = chance.few(); left > 0; left--) {
    const at = chance.below(text.length + 1);
    const end = chance.is(0.5) ? at : Math.min(text.length, at + chance.below(12));
    text = text.slice(0, at) + (chance.is(0.8) ? chance.one(PARTS) : "") + text.slice(end);
  }
  return text;
}

fuzz<string>({
  name: "chat template",
  make: mutate,
  async read(template, chance) {
    const { text, spans } = renderChat(template, CHAT, {
      place: "apply_chat_template",
      tools: undefined,
      documents: undefined,
      add_generation_prompt: true,
      continued: chance.is(0.2) ? "content" : undefined,
      variables: { bos_token: "<s>", eos_token: "</s>" },
      spans: chance.is(0.5),
    });
    if (typeof text !== "string") return "no text";
    if (/\[object|function |=>|\uFDD0/.test(text)) return `JavaScript's text: ${text.slice(0, 100)}`;
    const bad = spans.find(([start, end]) => !(start >= 0 && start <= end && end <= text.length));
    return bad === undefined ? undefined : `a span ${bad.join()} of ${text.length}`;
  },
});
