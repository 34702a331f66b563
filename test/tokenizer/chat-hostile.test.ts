// Chat templates of hostile files: none runs for long, makes much, or reaches anything but what it was given.

import { beforeAll, describe, expect, it } from "vitest";
import { FormatError, OctavoError } from "../../src/core/errors.js";
import { Disk } from "../../src/sources/disk.js";
import type { PreTrainedTokenizer } from "../../src/tokenizer/api.js";
import { APPLY } from "../../src/tokenizer/apply-chat-template.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { all } from "../support/odd-calls.js";
import { STORYTELLER } from "./golden.js";

let tokenizer: PreTrainedTokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(new Disk(STORYTELLER));
});
const CHAT = [{ role: "user", content: "x".repeat(2000) }];
const render = (chat_template: string) => tokenizer.apply_chat_template(CHAT, { chat_template, tokenize: false });

/** A doubling of `start`, 60 times. */
const doubled = (start: string, step: string) =>
  `{% set ns = namespace(x=${start}) %}{% for i in range(60) %}{% set ns.x = ${step} %}{% endfor %}{{ ns.x | length }}`;

/** A step again and again. */
const over = (step: string) => `{% for a in range(99999) %}{% set q = ${step} %}{% endfor %}`;
/** The same with long texts: x is a fifth of y. */
const long = (step: string) =>
  `{% set x = 'x' * 200000 %}{% set y = 'x' * 1000000 %}{% for a in range(99999) %}{% set q = ${step} %}{% endfor %}`;

const BOMBS: readonly string[] = [
  "{{ range(1000000) | length }}",
  "{{ range(1000000000) }}",
  "{{ range(-9007199254740991, 9007199254740991) }}",
  "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}",
  "{% for a in range(90000) %}{{ messages[0].content }}{% endfor %}",
  "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
  "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
  "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
  "{% macro a() %}{% call a() %}{% endcall %}{% endmacro %}{{ a() }}",
  doubled("'a'", "ns.x ~ ns.x"),
  doubled("'a'", "ns.x + ns.x"),
  doubled("'a'", "ns.x * 2"),
  doubled("['a']", "ns.x + ns.x"),
  doubled("['a']", "ns.x * 2"),
  doubled("'a'", "ns.x | replace('a', 'aa')"),
  doubled("'a'", "ns.x.replace('', 'a')"),
  `${doubled("['a']", "[ns.x, ns.x]")}{{ ns.x | tojson }}`,
  `${doubled("['a']", "[ns.x, ns.x]")}{{ ns.x == [ns.x, ns.x] or ns.x | string }}`,
  doubled("'a'", "[ns.x, ns.x] | join"),
  doubled("'a'", "ns.x.join(['', '', ''])  ~ ns.x"),
  doubled("'a'", "'%s%s' % (ns.x, ns.x)"),
  doubled("'a'", "'{0}{0}'.format(ns.x)"),
  doubled("'\"'", "ns.x | tojson"),
  "{{ 'a' * 1000000000 }}",
  "{{ ['a'] * 1000000000 }}",
  "{{ [] * 1000000000 }}",
  "{{ 1000000000 * [] }}",
  "{% set x = messages[0].content * 4000 %}{{ ('{0}' * 1000).format(x) }}",
  "{% set x = messages[0].content * 4000 %}{{ ('%s' * 3) % (x, x, x) }}",
  "{{ 'a'.ljust(1000000000) }}",
  "{{ 'a'.zfill(1000000000) }}",
  "{{ 'a' | center(1000000000) }}",
  "{{ 'a\\nb' | indent(1000000000) }}",
  "{{ [[[1]]] | tojson(indent=100000000) }}",
  "{{ 10 ** 4000 * 10 ** 4000 }}",
  "{{ 2 ** 100000 }}",
  `{{ ${"(".repeat(20_000)}1${")".repeat(20_000)} }}`,
  `{{ ${"[".repeat(20_000)}${"]".repeat(20_000)} }}`,
  `{{ ${"not ".repeat(20_000)}1 }}`,
  `{{ 1${" + 1".repeat(20_000)} }}`,
  `{{ messages${"[0]".repeat(20_000)} }}`,
  "{% if 1 %}".repeat(20_000),
  "{% for x in messages %}".repeat(20_000),
  "{% macro m() %}".repeat(20_000),
  `${" ".repeat(500_000)}{{ 1${" ".repeat(500_000)}`,
  `{% generation${" ".repeat(500_000)}`,
  "{%".repeat(100_000),
  "{{".repeat(100_000),
  "{#".repeat(100_000),
  `{{ "${"\\".repeat(100_001)}`,
  "{{ '",
  "{% set x = ",
  "a".repeat(1_100_000),
  "{% for a in range(99999) %}{% set ns = range(99999) | list | sort(reverse=true) %}{% endfor %}",
  "{% for a in range(99999) %}{{ messages[0].content in messages[0].content ~ a }}{% endfor %}",
  "{% for a in range(99999) %}{% set q = messages[0].content.split('') %}{% endfor %}",
  "{% for a in range(99999) %}{% set q = messages[0].content | list | unique | list %}{% endfor %}",
  "{% for a in range(99999) %}{% set q = (messages | tojson) %}{% endfor %}",
  // What an engine looks for in time that grows with both lengths multiplied.
  ...["'y' in x", "(x ~ 'y' ~ x) in y", "y.count(x ~ 'y' ~ x)", "y.find(x ~ 'y' ~ x)", "y.rfind('y' ~ x ~ x)"].map(
    long,
  ),
  ...["y.split(x ~ 'y' ~ x)", "y.replace(x ~ 'y' ~ x, '')", "y.partition('y' ~ x)", "y | replace('y' ~ x, '')"].map(
    long,
  ),
  // What is cheap for each step that was counted, and not for each character or item.
  ...["l[1:]", "l[::-1]", "l | sort", "l | sort(reverse=true)", "l | unique | list", "l * 1", "l | tojson"].map(
    (step) => `{% set l = range(99999) | list %}${over(step)}`,
  ),
  ...["x[::-1]", "x[5]", "x[1:]", "x | title", "x | int", "x.rstrip('xy')", "x < x ~ 'a'", "'%.99f' % 1e300"].map(
    (step) => `{% set x = messages[0].content * 40 %}${over(step)}`,
  ),
  ...["[x] | string", "x | tojson", "x | tojson(ensure_ascii=true)", "x | escape", "x | wordcount"].map(
    (step) => `{% set x = '\\x01' * 8000000 %}${over(step)}`,
  ),
  "{% set ns = namespace() %}{% for a in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
  "{% set ns = namespace() %}{% for a in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x == [1] or ns.x | tojson }}",
];

describe("bombs", () => {
  it.each(BOMBS.map((bomb, i) => [i, bomb.slice(0, 60), bomb] as const))("%i: %s", (_i, _start, bomb) => {
    const begun = process.cpuUsage();
    expect(() => render(bomb)).toThrow(FormatError);
    const { user, system } = process.cpuUsage(begun);
    // A guard against hangs. It takes less than 200 ms; the process's other threads count too.
    expect((user + system) / 1000, "milliseconds of processor time").toBeLessThan(1_000);
  });
});

const REACHES = [
  "constructor",
  "__proto__",
  "prototype",
  "__class__",
  "toString",
  "valueOf",
  "call",
  "apply",
  "bind",
  "value",
  "entries",
  "items.constructor",
];
const STARTS = [
  "''",
  "1",
  "1.5",
  "[]",
  "{}",
  "(1, 2)",
  "messages",
  "messages[0]",
  "range",
  "namespace()",
  "cycler(1)",
  "raise_exception",
  "loop",
  "none",
  "true",
];
const NAMES =
  "process require globalThis Function eval self window global module exports import constructor __proto__ this __generation__x".split(
    " ",
  );

it("reaches nothing of JavaScript's", () => {
  const payloads = [
    ...NAMES.map((name) => `{{ ${name} }}`),
    ...STARTS.flatMap((start) =>
      REACHES.flatMap((name) => [`{{ (${start}).${name} }}`, `{{ (${start})['${name}'] }}`]),
    ),
    "{{ ''['constructor']['constructor']('return process')() }}",
    "{{ range.constructor('return 1')() }}",
    "{{ messages | map(attribute='constructor') | list }}",
    "{{ messages | map(attribute='__proto__.constructor') | list }}",
    "{{ messages | attr('constructor') }}",
    "{% set ns = namespace(__proto__=1) %}{{ ns.toString }}",
    "{{ dict(__proto__={'a': 1}).a }}",
    "{{ {'__proto__': {'a': 1}}.a }}",
  ];
  for (const payload of payloads) {
    let text = "";
    try {
      text = render(payload);
    } catch (error) {
      expect(error).toBeInstanceOf(OctavoError);
    }
    expect([payload, /function|\[native|\[object|=>/.test(text)]).toEqual([payload, false]);
    expect([payload, text.replace(/Undefined|[[\], ]/g, "")]).toEqual([payload, ""]);
  }
});

it("is not slowed down by a long conversation", () => {
  const messages = Array.from({ length: 5000 }, (_, i) => ({ role: i % 2 ? "assistant" : "user", content: "Hello" }));
  const text = tokenizer.apply_chat_template(messages, {
    chat_template: "{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'] | trim + '\n' }}{% endfor %}",
    tokenize: false,
  });
  expect(text.split("\n").length).toBe(5001);
});

it("odd arguments of apply_chat_template are refused with a typed error", async () => {
  const chat_template = "{{ messages[0].content }}{{ tools }}{{ documents }}{{ mine }}";
  const conversation = [{ role: "user", content: "x" }];
  const apply = tokenizer.apply_chat_template.bind(tokenizer) as (...args: readonly unknown[]) => unknown;
  await all("apply_chat_template(it)", (odd) => apply(odd, { chat_template }));
  await all("apply_chat_template([it])", (odd) => apply([odd], { chat_template }));
  await all("content", (odd) => apply([{ role: "user", content: odd }], { chat_template }));
  for (const option of [...Object.keys(APPLY), "mine"]) {
    await all(`{ ${option} }`, (odd) => apply(conversation, { chat_template, [option]: odd }));
  }
});
