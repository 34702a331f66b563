// Chat templates give the texts that transformers gives (fixtures/chat, by make_chat.py), and hostile ones are stopped.

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, expectTypeOf, it } from "vitest";
import { OctavoError, OptionError } from "../../src/core/errors.js";
import { Disk } from "../../src/sources/disk.js";
import type { IntTensor, PreTrainedTokenizer } from "../../src/tokenizer/api.js";
import { strftime } from "../../src/tokenizer/chat/functions.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { MemorySource } from "../fuzz/support/memory-source.js";
import { golden, STORYTELLER } from "./golden.js";

interface Case {
  readonly template?: string;
  readonly snippet?: string;
  readonly chat: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly text?: string;
  readonly error?: true;
  readonly ids?: number[];
  readonly masks?: number[];
}
/** Masks of conversations whose ids are cut and padded. */
interface Masked {
  readonly masked?: string;
  readonly chats: string[];
  readonly side: "left" | "right";
  readonly options: Readonly<Record<string, unknown>>;
  readonly ids: number[] | number[][];
  readonly masks: number[] | number[][];
}
/** Masks by other tokenizers: those of golden.jsonl, with parts of their files changed. */
interface Marked {
  readonly kind: string;
  readonly change: object;
  readonly marked?: string;
  readonly chat: string;
  readonly ids: number[];
  readonly masks: number[];
}
interface Shared {
  readonly templates: Readonly<Record<string, string>>;
  readonly chats: Readonly<Record<string, { role: string }[]>>;
}
const [shared, ...cases] = readFileSync(new URL("../fixtures/chat/cases.jsonl", import.meta.url), "utf8")
  .trimEnd()
  .split("\n")
  .map((line) => JSON.parse(line)) as [Shared, ...Case[]];

let tokenizer: PreTrainedTokenizer;
beforeAll(async () => {
  tokenizer = await loadTokenizer(new Disk(STORYTELLER), { bos_token: "<|endoftext|>", eos_token: "<|endoftext|>" });
});

/** The text of a case, or the error's class. */
function rendered({ chat, options }: Case, chat_template: string): string | typeof OctavoError {
  try {
    return tokenizer.apply_chat_template(shared.chats[chat]!, { ...options, chat_template, tokenize: false });
  } catch (error) {
    expect(error).toBeInstanceOf(OctavoError);
    return OctavoError;
  }
}

describe.each(Object.keys(shared.templates))("%s", (name) => {
  it("gives Python's texts", () => {
    const own = cases.filter(({ template }) => template === name);
    expect(own.length).toBeGreaterThan(30);
    for (const one of own) {
      const made = rendered(one, shared.templates[name]!);
      expect([one.chat, one.options, made]).toEqual([one.chat, one.options, one.error ? OctavoError : one.text]);
    }
  });
});

describe("what templates do", () => {
  it.each(cases.flatMap((one) => (one.snippet === undefined ? [] : [[one.snippet, one] as const])))(
    "%s",
    (snippet, one) => {
      expect(rendered(one, snippet)).toEqual(one.error ? OctavoError : one.text);
    },
  );
});

it("marks the assistant's tokens as Python does", () => {
  const own = cases.filter(({ template, masks }) => template !== undefined && masks !== undefined);
  expect(own.length).toBeGreaterThan(10);
  for (const { template, chat, ids, masks } of own) {
    const chat_template = shared.templates[template!]!;
    const made = tokenizer.apply_chat_template(shared.chats[chat]!, {
      chat_template,
      return_assistant_tokens_mask: true,
    });
    expect([template, chat, made.input_ids, made.assistant_masks]).toEqual([template, chat, ids, masks]);
  }
});

it("marks them where ids are cut, padded and tensors, as Python does", () => {
  const own = (cases as unknown as Masked[]).filter(({ masked }) => masked !== undefined);
  expect(own.length).toBeGreaterThan(40);
  const before = tokenizer.pad_token;
  tokenizer.pad_token = "<|endoftext|>";
  const listsOf = (value: unknown) => {
    const { data, shape } = value as { data?: Int32Array; shape: readonly [number, number] };
    if (data === undefined) return value;
    return Array.from({ length: shape[0] }, (_, row) => [...data.subarray(row * shape[1], (row + 1) * shape[1])]);
  };
  for (const { masked, chats, side, options, ids, masks } of own) {
    tokenizer.truncation_side = side;
    const all = chats.map((name) => shared.chats[name]!);
    const { tokenizer_kwargs, ...own } = options as { tokenizer_kwargs?: object };
    for (const given of [options, { tokenizer_kwargs: { ...own, ...tokenizer_kwargs } }]) {
      const made = tokenizer.apply_chat_template(all.length > 1 ? all : all[0]!, {
        ...given,
        chat_template: shared.templates[masked!]!,
        return_assistant_tokens_mask: true,
      }) as { input_ids: unknown; assistant_masks?: unknown };
      const lists = [listsOf(made.input_ids), listsOf(made.assistant_masks)];
      expect([masked, chats, side, given, ...lists]).toEqual([masked, chats, side, given, ids, masks]);
    }
  }
  tokenizer.truncation_side = "right";
  tokenizer.pad_token = before;
});

it("marks them for tokenizers of every kind, as Python does", async () => {
  const own = (cases as unknown as Marked[]).filter(({ marked }) => marked !== undefined);
  expect(own.length).toBeGreaterThan(90);
  for (const { kind, change, marked, chat, ids, masks } of own) {
    const json = Buffer.from(JSON.stringify({ ...(golden(kind).json as object), ...change }));
    const other = await loadTokenizer(new MemorySource({ "tokenizer.json": json }));
    const made = other.apply_chat_template(shared.chats[chat]!, {
      chat_template: shared.templates[marked!]!,
      return_assistant_tokens_mask: true,
    });
    expect([kind, marked, chat, made.input_ids, made.assistant_masks]).toEqual([kind, marked, chat, ids, masks]);
  }
});

describe("the call", () => {
  const chat = [{ role: "user", content: "Hello" }];
  const text = { tokenize: false } as const;
  const template =
    "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if thinks is defined %}{{ thinks }}{% endif %}";

  it("gives tokens as the tokenizer does, of one conversation or several", () => {
    tokenizer.chat_template = template;
    const ids = tokenizer.encode("<Hello>", { add_special_tokens: false });
    expect(tokenizer.apply_chat_template(chat)).toEqual({ input_ids: ids, attention_mask: ids.map(() => 1) });
    expect(tokenizer.apply_chat_template(chat, { return_dict: false })).toEqual(ids);
    expect(tokenizer.apply_chat_template([chat, chat], text)).toEqual(["<Hello>", "<Hello>"]);
    const both = tokenizer.apply_chat_template([chat, [...chat, ...chat]], { padding: true, return_tensors: "pt" });
    expect(both.input_ids.shape).toEqual([2, 2 * ids.length]);
    const bare = tokenizer.apply_chat_template(chat, { return_dict: false, return_tensors: "pt" });
    expectTypeOf(bare).toEqualTypeOf<IntTensor>();
    expect(bare.shape).toEqual([1, ids.length]);
    const cut = tokenizer.apply_chat_template(chat, { truncation: true, max_length: 1, return_dict: false });
    expect(cut).toEqual(ids.slice(0, 1));
    expect(tokenizer.apply_chat_template(chat, { tokenizer_kwargs: { return_attention_mask: false } })).toEqual({
      input_ids: ids,
    });
  });

  it("gives options to a template that mentions them, and refuses others", () => {
    tokenizer.chat_template = template;
    expect(tokenizer.apply_chat_template(chat, { ...text, thinks: 5 })).toBe("<Hello>5");
    const wrong = (options: Record<string, unknown>) => () => tokenizer.apply_chat_template(chat, options as never);
    expect(wrong({ add_generation_promt: true })).toThrow(/did you mean `add_generation_prompt`/);
    expect(wrong({ messages: [] })).toThrow(OptionError);
    expect(wrong({ thinks: () => 1 })).toThrow(/thinks must be text, numbers/);
    expect(wrong({ tools: "x" })).toThrow(/tools must be a list of objects/);
    expect(wrong({ tokenizer_kwargs: { padd: 1 } })).toThrow(/unknown option `padd`/);
    expect(wrong({ continue_final_message: true, add_generation_prompt: true })).toThrow(/not compatible/);
    expect(() => tokenizer.apply_chat_template([])).toThrow(/at least one message/);
    expect(() => tokenizer.apply_chat_template("Hello" as never)).toThrow(/must be a list of messages/);
    expect(() => tokenizer.apply_chat_template(["Hello"] as never)).toThrow(/must be a list of objects/);
  });

  it("chooses among templates by name, by tools, and says what there is", () => {
    tokenizer.chat_template = { default: "D", tool_use: "T", rag: "R" };
    expect(tokenizer.apply_chat_template(chat, text)).toBe("D");
    expect(tokenizer.apply_chat_template(chat, { ...text, tools: [] })).toBe("T");
    expect(tokenizer.apply_chat_template(chat, { ...text, chat_template: "rag" })).toBe("R");
    expect(tokenizer.apply_chat_template(chat, { ...text, chat_template: "{{ 1 }}" })).toBe("1");
    expect(tokenizer.get_chat_template("rag")).toBe("R");
    tokenizer.chat_template = { a: "A", b: "B" };
    expect(() => tokenizer.get_chat_template()).toThrow(/name one of a, b/);
    tokenizer.chat_template = null;
    expect(() => tokenizer.get_chat_template()).toThrow(/tokenizer.chat_template is not set/);
    expect(() => {
      tokenizer.chat_template = 5 as never;
    }).toThrow(OptionError);
  });

  it("goes on with a field, or the last text of a message", () => {
    const open = (content: unknown, options: object = {}) =>
      tokenizer.apply_chat_template([{ role: "assistant", content }], {
        ...text,
        continue_final_message: true,
        chat_template:
          "{% for m in messages %}{% if m.content is string %}{{ m.content | trim }}{% else %}{{ m.content[0].text }}{% endif %}</s>{% endfor %}",
        ...options,
      });
    expect(open("So ")).toBe("So");
    expect(open([{ type: "text", text: "So " }])).toBe("So ");
    expect(() => open(undefined)).toThrow(/no "content" to continue/);
    expect(() => open("So", { chat_template: "content" })).toThrow(/does not appear in the chat/);
    expect(() => open("So", { continue_final_message: "thinking" })).toThrow(/no "thinking"/);
  });

  it("knows the date in Python's words", () => {
    const date = new Date(2024, 1, 9, 15, 4, 5);
    expect(strftime("%d %b %Y|%A %B %-d|%H:%M:%S|%I %p|%y%m%d|%j|%%|%F %T|%e", date)).toBe(
      "09 Feb 2024|Friday February 9|15:04:05|03 PM|240209|040|%|2024-02-09 15:04:05| 9",
    );
    const year = tokenizer.apply_chat_template(chat, { ...text, chat_template: "{{ strftime_now('%Y') }}" });
    expect(Number(year)).toBeGreaterThan(2020);
  });
});
