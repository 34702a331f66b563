// How questions and answers follow each other in a prompt.

import { strip } from "../../tokenizer/chat/blanks.js";

interface Example {
  readonly question: string;
  readonly answer: string;
  /** What the answer begins with in any case. */
  readonly prefix: string;
  readonly target_delimiter: string;
  readonly fewshot_delimiter: string;
}

const endsBlank = (text: string): boolean => strip(text, undefined, false, true) !== text;
const startsBlank = (text: string): boolean => strip(text, undefined, true, false) !== text;

/** Two texts with a delimiter between them, where neither brings a blank. */
export function spaced(before: string, after: string, delimiter: string): string {
  if (before === "" || after === "") return before + after;
  return endsBlank(before) || startsBlank(after) ? before + after : before + delimiter + after;
}

/** A question with its answer, and what follows it. */
export function exampleText({ question, answer, prefix, target_delimiter, fewshot_delimiter }: Example): string {
  if (answer === "") return questionText(question, prefix, target_delimiter);
  const between = prefix === "" || (question !== "" && !endsBlank(question) && !startsBlank(prefix));
  return question + (between ? target_delimiter : "") + spaced(prefix, answer, " ") + fewshot_delimiter;
}

/** A question, and what its answer begins with. */
export function questionText(question: string, prefix: string, target_delimiter: string): string {
  return prefix === "" ? question : spaced(question, prefix, target_delimiter);
}
