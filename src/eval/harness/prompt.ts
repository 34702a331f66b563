// How questions and answers follow each other in a prompt: as plain text, or as the messages of a conversation. The rules are those
// of lm-evaluation-harness.

import { strip } from "../../tokenizer/chat/blanks.js";

/** One part of a prompt. */
export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
  /** What follows it in plain text. */
  readonly delimiter: string;
}
/** A message as chat templates take it. */
export interface Said {
  readonly role: Message["role"];
  readonly content: string;
}

interface Turn {
  readonly question: string;
  /** Text of an example's answer; "" where the model answers. */
  readonly answer: string;
  /** What the answer begins with in any case. */
  readonly prefix: string;
  readonly target_delimiter: string;
  /** What follows the answer. */
  readonly fewshot_delimiter: string;
}

export const endsBlank = (text: string): boolean => strip(text, undefined, false, true) !== text;
const startsBlank = (text: string): boolean => strip(text, undefined, true, false) !== text;

/** Two texts with a delimiter between them, where neither brings a blank. */
export function spaced(before: string, after: string, delimiter: string): string {
  if (before === "" || after === "") return before + after;
  return endsBlank(before) || startsBlank(after) ? before + after : before + delimiter + after;
}

/** A question with its answer, or with what its answer begins with. */
export function turn({ question, answer, prefix, target_delimiter, fewshot_delimiter }: Turn): Message[] {
  const apart = prefix !== "" && question !== "" && !endsBlank(question) && !startsBlank(prefix);
  const delimiter = apart || (answer !== "" && prefix === "") ? target_delimiter : "";
  const asked: Message = { role: "user", content: question, delimiter };
  if (answer !== "") {
    return [asked, { role: "assistant", content: spaced(prefix, answer, " "), delimiter: fewshot_delimiter }];
  }
  return prefix === "" ? [asked] : [asked, { role: "assistant", content: prefix, delimiter: "" }];
}

/** All messages as one text. */
export function plainText(messages: readonly Message[]): string {
  return messages.map(({ content, delimiter }) => content + delimiter).join("");
}

/** A conversation. @param multiturn examples are turns of their own; otherwise they stand in the message that asks */
export function conversation(messages: readonly Message[], multiturn: boolean): Said[] {
  const said = ({ role, content }: Message): Said => ({ role, content });
  if (multiturn) return messages.map(said);
  const start = messages[0]?.role === "system" ? 1 : 0;
  const end = messages.at(-1)?.role === "assistant" ? messages.length - 1 : messages.length;
  const asked = messages.slice(start, end);
  const content = plainText(asked.slice(0, -1)) + (asked.at(-1)?.content ?? "");
  return [...messages.slice(0, start).map(said), { role: "user", content }, ...messages.slice(end).map(said)];
}
