// How much a chat template may do. Templates come with a model's files, and a few characters can ask for more than there is of
// time or memory: every step, and every character that a step looks at or makes, is counted. Not here: the steps (interpreter.ts).

import { FormatError } from "../../core/errors.js";

/** Steps of one conversation, beside those for its messages. A template of 200 nodes takes some 200 for each message. */
const STEPS = 1_000_000;
const STEPS_FOR_EACH = 2_000;
/** Characters that count as one step. */
const CHARACTERS = 64;
/** Longest text and longest list that a template may make. */
const LONGEST = 8 * 1024 * 1024;
export const MOST_ITEMS = 100_000;
/** Levels of calls and expressions in each other. */
const LEVELS = 400;
const MILLISECONDS = 5_000;
/** Steps between two looks at the clock. */
const LOOK = 4_096;

/** @throws FormatError always, about the template */
export function refuse(what: string, cause?: unknown): never {
  throw new FormatError(`chat template: ${what}`, { details: { key: "chat_template" }, cause });
}

export class Budget {
  #left: number;
  #level = 0;
  readonly #until = performance.now() + MILLISECONDS;
  readonly #all: number;
  #look = LOOK;

  /** @param values of the conversation: a longer one may take longer */
  constructor(values: number) {
    this.#all = STEPS + STEPS_FOR_EACH * values;
    this.#left = this.#all;
  }

  /** Counts a step over some characters or entries. @throws FormatError when there were too many, or it took too long */
  step(characters = 0): void {
    const cost = 1 + characters / CHARACTERS;
    this.#left -= cost;
    if (this.#left < 0) refuse(`it takes more than ${this.#all} steps`);
    this.#look -= cost;
    if (this.#look > 0) return;
    this.#look = LOOK;
    if (performance.now() > this.#until) refuse(`it takes longer than ${MILLISECONDS / 1000} seconds`);
  }

  /** Counts a walk over characters that makes or asks something for each of them. */
  walk(characters: number): void {
    this.step(16 * characters);
  }

  /** Counts the making of a text, before it is made. @throws FormatError for one of more than 8 million characters */
  text(length: number): void {
    if (length > LONGEST) refuse(`it makes a text of more than ${LONGEST} characters`);
    this.step(length);
  }

  /** Counts text that is added to an output of `length` characters. @throws FormatError for an output that is too long */
  output(length: number, added: number): void {
    if (length + added > LONGEST) refuse(`it makes a text of more than ${LONGEST} characters`);
    this.step(added);
  }

  /** The same for a list. @throws FormatError for more than 100,000 items */
  items(count: number): void {
    if (count > MOST_ITEMS) refuse(`it makes a list of more than ${MOST_ITEMS} items`);
    this.step(count * CHARACTERS);
  }

  /** Goes one level deeper. @throws FormatError below 400 levels */
  enter(): void {
    if (++this.#level > LEVELS) refuse(`it goes deeper than ${LEVELS} levels`);
  }

  leave(): void {
    this.#level--;
  }
}
