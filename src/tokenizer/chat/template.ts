// Conversations to text by a chat template: which template, what it is given, and messages that are to be continued. Not here:
// tokens (../apply-chat-template.ts).

import { OctavoError, OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { strip } from "./blanks.js";
import { globals } from "./functions.js";
import { Interpreter } from "./interpreter.js";
import { Budget, refuse } from "./limits.js";
import { readTemplate } from "./read.js";
import type { Block } from "./syntax.js";
import { Dict, type Key, listOf, Reader, type Value } from "./values.js";

/** What stands behind the message that is to be continued, until the place is found. transformers uses the same. */
const CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG ";

/** What a template is given beside a conversation. */
export interface Given {
  readonly place: string;
  readonly tools: unknown;
  readonly documents: unknown;
  readonly add_generation_prompt: boolean;
  /** The field of the last message that is to be continued. */
  readonly continued: string | undefined;
  readonly variables: Readonly<Record<string, unknown>>;
  /** Whether to find out what the assistant says. */
  readonly spans: boolean;
}

export interface Rendered {
  readonly text: string;
  /** Where the assistant's words stand, in UTF-16 units; empty unless they were asked for. */
  readonly spans: readonly (readonly [start: number, end: number])[];
}

/** Templates that were read, the last few. */
const read = new Map<string, Block>();
const MOST_READ = 16;

function programOf(source: string): Block {
  const known = read.get(source);
  if (known !== undefined) return known;
  const program = readTemplate(source);
  if (read.size === MOST_READ) read.delete(read.keys().next().value!);
  read.set(source, program);
  return program;
}

/** A text that no message holds. */
function unlikely(): string {
  const numbers = crypto.getRandomValues(new Uint32Array(4));
  return `\uFDD0${[...numbers].map((number) => number.toString(36)).join("")}\uFDD1`;
}

function list(place: string, what: string, given: unknown, reader: Reader): Value {
  if (given === undefined || given === null) return null;
  const value = reader.read(what, given);
  if (listOf(value)?.every((entry) => entry instanceof Dict)) return value;
  throw new OptionError(`${place}: ${what} must be a list of objects, got ${show(given)}`, {
    details: { option: what },
  });
}

/**
 * Renders one conversation.
 * @throws OptionError for messages that are none, and where the template refuses them
 * @throws FormatError when the template cannot be read, fails, or takes more time, steps or characters than it may
 */
export function renderChat(source: string, conversation: unknown, given: Given): Rendered {
  const { place, continued } = given;
  const reader = new Reader(place);
  const messages = list(place, "messages", conversation, reader) as readonly Dict[];
  const variables = new Map<string, Value>();
  for (const [name, value] of Object.entries(given.variables)) variables.set(name, reader.read(name, value));
  variables.set("tools", list(place, "tools", given.tools, reader));
  variables.set("documents", list(place, "documents", given.documents, reader));
  variables.set("add_generation_prompt", given.add_generation_prompt);
  const end = continued === undefined ? undefined : continue_(place, source, messages, continued);
  variables.set("messages", end?.messages ?? messages);
  const mark = given.spans && end === undefined ? unlikely() : "";
  const budget = new Budget(reader.count);
  const all = new Map([...globals(budget, () => new Date()), ...variables]);
  try {
    const text = new Interpreter(budget, all, mark).run(programOf(source));
    if (end !== undefined) return { text: cutAt(place, text, end.last), spans: [] };
    return mark === "" ? { text, spans: [] } : unmarked(text, mark);
  } catch (cause) {
    if (cause instanceof OctavoError) throw cause;
    return refuse(cause instanceof RangeError ? "it goes too deep or makes too much" : "it fails", cause);
  }
}

function unmarked(text: string, mark: string): Rendered {
  const parts = text.split(mark);
  const spans: [number, number][] = [];
  let at = 0;
  for (const [i, part] of parts.entries()) {
    if (i % 2 === 1) spans.push([at, at + part.length]);
    at += part.length;
  }
  return { text: parts.join(""), spans };
}

function unfit(place: string, what: string): never {
  throw new OptionError(`${place}: continue_final_message is set but ${what}`, {
    details: { option: "continue_final_message" },
  });
}

/** The messages with the mark behind the text of the last one, and that text. */
function continue_(
  place: string,
  source: string,
  messages: readonly Dict[],
  field: string,
): { messages: readonly Dict[]; last: string } {
  const message = messages.at(-1);
  const value = message?.entries.get(field);
  if (message === undefined || value === undefined || value === null) {
    return unfit(place, `the final message has no ${show(field)} to continue!`);
  }
  if (!source.includes(field)) return unfit(place, `${show(field)} is not an accepted field in the chat_template`);
  const put = (dict: Dict, key: Key, entry: Value) => new Dict(new Map([...dict.entries, [key, entry]]));
  const done = (changed: Value, last: string) => ({
    messages: [...messages.slice(0, -1), put(message, field, changed)],
    last,
  });
  if (typeof value === "string") return done(value + CONTINUED, value);
  const blocks = listOf(value);
  const at = blocks?.findLastIndex((block) => block instanceof Dict && block.entries.has("text")) ?? -1;
  const block = blocks?.[at];
  const text = block instanceof Dict ? block.entries.get("text") : undefined;
  if (blocks === undefined || !(block instanceof Dict) || typeof text !== "string") {
    return unfit(place, "we could not find any text to continue in the final message!");
  }
  return done(blocks.with(at, put(block, "text", text + CONTINUED)), text);
}

function cutAt(place: string, text: string, last: string): string {
  const tag = CONTINUED.trim();
  const at = text.lastIndexOf(tag);
  if (at < 0 || !text.includes(strip(last, undefined, true, true))) {
    return unfit(
      place,
      "the final message does not appear in the chat after applying the chat template! This can happen if the chat template " +
        "deletes portions of the final message.",
    );
  }
  const head = text.slice(0, at);
  if (text.startsWith(CONTINUED, at)) return head;
  return strip(head, undefined, false, true);
}
