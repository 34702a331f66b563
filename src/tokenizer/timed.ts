// Texts with times: Whisper's tokens of times, which are no part of a text, and the frames of CTC models. As in transformers'
// tokenization_whisper.py and tokenization_wav2vec2.py.

import { OptionError } from "../core/errors.js";
import type { Tokenizer } from "./engine.js";
import { trimmed } from "./text.js";

/** A part of a transcript, from one second to another. */
export interface TextOffset {
  readonly text: string;
  readonly timestamp: readonly [start: number, end: number];
}

/** What `decode` gives with `output_offsets`. */
export interface TextWithOffsets {
  readonly text: string;
  readonly offsets: readonly TextOffset[];
}

/** A character or word of a CTC model, and the frames in which it is heard: from the first one to before `end_offset`. */
export interface FrameOffset {
  readonly start_offset: number;
  readonly end_offset: number;
}
export interface CharOffset extends FrameOffset {
  readonly char: string;
}
export interface WordOffset extends FrameOffset {
  readonly word: string;
}

/** What `decode` gives with `output_char_offsets` or `output_word_offsets`. */
export interface TextWithFrames {
  readonly text: string;
  readonly char_offsets?: readonly CharOffset[];
  readonly word_offsets?: readonly WordOffset[];
}

/** Seconds of a step of Whisper's times, and the steps of its window. */
const PRECISION = 0.02;
const WINDOW = 1500;
const TIME = /^<\|\d+\.\d+\|>$/;

/** Tokens of a vocabulary that tell times. */
export class Times {
  /** The token of time 0. */
  readonly begin: number;
  readonly #tokenizer: Tokenizer;
  readonly #previous: number | undefined;
  readonly #start: number | undefined;

  private constructor(tokenizer: Tokenizer, begin: number) {
    this.begin = begin;
    this.#tokenizer = tokenizer;
    this.#previous = tokenizer.token_to_id("<|startofprev|>");
    this.#start = tokenizer.token_to_id("<|startoftranscript|>");
  }

  /** Those of a tokenizer; undefined for one of other texts. */
  static of(tokenizer: Tokenizer): Times | undefined {
    const last = tokenizer.token_to_id("<|notimestamps|>");
    return last === undefined ? undefined : new Times(tokenizer, last + 1);
  }

  /** Ids without those of times, as they come; with `skips` also without a text before the transcript. */
  reader(skips: boolean): (ids: readonly number[]) => number[] {
    const prompt = this.#promptReader(skips);
    const told = (id: number): boolean => id >= this.begin && TIME.test(this.#tokenizer.id_to_token(id) ?? "");
    return (ids) => prompt(ids).filter((id) => !told(id));
  }

  #promptReader(skips: boolean): (ids: readonly number[]) => readonly number[] {
    let before: boolean | undefined = skips ? undefined : false;
    return (ids) => {
      if (before === undefined && ids.length > 0) before = ids[0] === this.#previous;
      if (!before) return ids;
      const at = this.#start === undefined ? -1 : ids.indexOf(this.#start);
      if (at < 0) return [];
      before = false;
      return ids.slice(at);
    };
  }

  /** Ids without a text before the transcript. */
  withoutPrompt(ids: readonly number[]): readonly number[] {
    return this.#promptReader(true)(ids);
  }

  /** A text with its times written as "<|1.08|>", counted from the first window's beginning. */
  text(ids: readonly number[], decode: (ids: readonly number[]) => string, skips: boolean, step = PRECISION): string {
    let parts: (string | number[])[] = [[]];
    let [last, before, passed] = [0, 0, 0];
    const all = skips ? this.withoutPrompt(ids) : ids;
    for (const [n, id] of all.entries()) {
      if (id < this.begin) {
        (parts.at(-1) as number[]).push(id);
        continue;
      }
      const time = (id - this.begin) * step;
      if (time < last) {
        // Another window began.
        if (n >= 2 && !(all[n - 1]! >= this.begin && all[n - 2]! >= this.begin)) passed += step * WINDOW;
        else {
          last = before;
          passed += before;
          parts = parts.slice(0, -2);
        }
      }
      before = last;
      last = time;
      parts.push(`<|${(time + passed).toFixed(2)}|>`, []);
    }
    return parts.map((part) => (typeof part === "string" ? part : part.length > 0 ? decode(part) : "")).join("");
  }

  /** The parts of a text between its times. */
  offsets(ids: readonly number[], decode: (ids: readonly number[]) => string, step = PRECISION): TextOffset[] {
    const isTime = (at: number): boolean => ids[at] !== undefined && ids[at]! >= this.begin;
    const places = [...ids.keys()].filter(isTime);
    const cuts = places.filter((at) => isTime(at - 1));
    if (places.length === 0 || (cuts.length === 0 && places.length === 1)) return [];
    const end = places.at(-1)! + 1;
    if (!cuts.includes(end)) cuts.push(end);
    const found: TextOffset[] = [];
    let [from, last, passed] = [places[0]!, 0, 0];
    for (const to of cuts) {
      if (to - from > 1) {
        const [start, stop] = [ids[from]! - this.begin, ids[to - 1]! - this.begin];
        if (start < last) passed += from >= 2 && !(isTime(from - 2) && isTime(from - 1)) ? WINDOW : last;
        last = stop;
        const timestamp = [start * step + passed * step, stop * step + passed * step] as const;
        found.push({ text: decode(this.reader(false)(ids.slice(from, to))), timestamp });
      }
      from = to;
    }
    return found;
  }
}

/**
 * Characters and words of a CTC model's every frame, with the frames in which they are.
 * @throws OptionError for the tokenizer of another model
 */
export function framesOf(
  tokenizer: Tokenizer,
  ids: readonly number[],
): { readonly chars: CharOffset[]; readonly words: WordOffset[] } {
  const { frames } = tokenizer;
  if (!frames) {
    throw new OptionError(
      "tokenizer.decode: output_char_offsets and output_word_offsets are for tokenizers of CTC models",
    );
  }
  const chars: CharOffset[] = [];
  const tokens = ids.map((id) => tokenizer.id_to_token(id));
  for (let at = 0; at < tokens.length; ) {
    const token = tokens[at];
    let end = at + 1;
    while (end < tokens.length && tokens[end] === token) end++;
    if (token !== undefined && token !== frames.pad_token) {
      const char = token === frames.word_delimiter_token ? frames.content : token;
      chars.push({ char, start_offset: at, end_offset: end });
    }
    at = end;
  }
  const words: WordOffset[] = [];
  let word: CharOffset[] = [];
  const finish = (): void => {
    if (word.length === 0) return;
    const [first, last] = [word[0]!, word.at(-1)!];
    const text = word.map(({ char }) => char).join("");
    words.push({ word: text, start_offset: first.start_offset, end_offset: last.end_offset });
    word = [];
  };
  for (const one of chars) {
    if (one.char === frames.content) finish();
    else word.push(one);
  }
  finish();
  return { chars, words };
}

/**
 * Ids of a text that comes before a transcript, for `prompt_ids` of generate().
 * @throws OptionError for the tokenizer of another model, and a text that holds special tokens
 */
export function promptIds(tokenizer: Tokenizer, text: string): number[] {
  const begin = tokenizer.token_to_id("<|startofprev|>");
  if (begin === undefined) {
    throw new OptionError(
      "tokenizer.get_prompt_ids: only Whisper continues a text: the vocabulary has no <|startofprev|>",
    );
  }
  const ids = tokenizer.encode(` ${trimmed(text, true, true)}`, { add_special_tokens: false });
  const special = ids.find((id) => tokenizer.special_ids.has(id));
  if (special === undefined) return [begin, ...ids];
  throw new OptionError(`tokenizer.get_prompt_ids: the text holds the special token ${tokenizer.id_to_token(special)}`);
}
