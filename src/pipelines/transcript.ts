// Whisper's tokens to text: parts between times, windows of long sound, and chunks that overlap, joined where their tokens match. The
// rules, with their limits, are those of transformers' tokenization_whisper.py, so that texts are the same.

import { languageName } from "../generate/languages.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { Times } from "../tokenizer/timed.js";
import { type Timing, wordsOf } from "./words.js";

/** The seconds of a part of a transcript; null where the model wrote none. */
export type Timestamp = readonly [start: number | null, end: number | null];

/** A part of a transcript. */
export interface TranscriptChunk {
  readonly text: string;
  readonly timestamp?: Timestamp;
  /** In English, as "german". */
  readonly language?: string | null;
}

/** What was written of one sound, or of one chunk of it. */
export interface WrittenChunk {
  readonly tokens: readonly number[];
  /** The second at which each token ends. */
  readonly times?: readonly number[];
  /** Seconds of the chunk, and of its sides that belong to its neighbours. */
  readonly stride?: readonly [length: number, left: number, right: number];
}

export interface TranscriptOptions {
  readonly return_timestamps: boolean | "word";
  readonly return_language: boolean;
  /** Seconds of a step of the times. */
  readonly time_precision: number;
}

export interface Transcript {
  readonly text: string;
  readonly chunks?: readonly TranscriptChunk[];
}

/** Steps of the times in a window, whatever the model. */
const WINDOW = 1500;
const LANGUAGE = /^<\|([a-z]{2,3})\|>$/;

const seconds = (time: number): number => Number(time.toFixed(2));

/** The language of a token such as "<|de|>", in English; undefined for other tokens. */
function languageOf(token: string | undefined): string | undefined {
  const code = LANGUAGE.exec(token ?? "")?.[1];
  return code === undefined ? undefined : languageName(code);
}

/** Tokens with the times of each, if there are any. */
interface Tokens {
  readonly ids: readonly number[];
  readonly times: readonly Timing[];
}

/**
 * Tokens of chunks that overlap as one text: where two of them match best, the left one goes on to the middle of the match and the
 * right one from there. With times only tokens match that come in order.
 */
export function joinedTokens(sequences: readonly Tokens[]): Tokens {
  const ids: number[] = [];
  const times: Timing[] = [];
  let left: Tokens = sequences[0] ?? { ids: [], times: [] };
  for (const right of sequences.slice(1)) {
    const [most, size] = [left.ids.length, right.ids.length];
    const timed = left.times.length > 0 || right.times.length > 0;
    let best = 0;
    let [leftMiddle, rightMiddle] = [most, 0];
    for (let i = 1; i < most + size; i++) {
      const [from, to] = [Math.max(0, most - i), Math.min(most, most + size - i)];
      const begin = Math.max(0, i - most);
      let matches = 0;
      for (let t = from; t < to; t++) {
        const other = begin + t - from;
        if (left.ids[t] !== right.ids[other]) continue;
        if (timed && !inOrder(left.times[t]!, right.times[other]!)) continue;
        matches++;
      }
      // Among equal shares the longer match wins.
      const score = matches / i + i / 10_000;
      if (matches < 2 || score <= best) continue;
      best = score;
      leftMiddle = (from + to) >> 1;
      rightMiddle = (begin + Math.min(size, i)) >> 1;
    }
    ids.push(...left.ids.slice(0, leftMiddle));
    times.push(...left.times.slice(0, leftMiddle));
    left = { ids: right.ids.slice(rightMiddle), times: right.times.slice(rightMiddle) };
  }
  return { ids: [...ids, ...left.ids], times: [...times, ...left.times] };
}

function inOrder([start, end]: Timing, [later, last]: Timing): boolean {
  return start < later || (start === later && end <= last);
}

/** The same for ids alone. */
export function joined(sequences: readonly (readonly number[])[]): readonly number[] {
  return joinedTokens(sequences.map((ids) => ({ ids, times: [] }))).ids;
}

interface OpenChunk {
  language: string | undefined;
  start: number | null;
}

/** Reads the outputs of one sound, one after the other. */
class Reader {
  readonly #tokenizer: PreTrainedTokenizer;
  readonly #options: TranscriptOptions;
  readonly #begin: number;
  readonly #texts: Times | undefined;
  readonly #chunks: (TranscriptChunk & { readonly words: readonly TranscriptChunk[] })[] = [];
  /** Tokens of the chunk that is open, by the outputs they come from. */
  #before: Tokens[] = [];
  #chunk: OpenChunk = { language: undefined, start: null };
  #language: string | undefined;
  #offset = 0;
  /** The next time is the second of a pair that belongs to a neighbour. */
  #skips = false;

  constructor(tokenizer: PreTrainedTokenizer, begin: number, options: TranscriptOptions) {
    this.#tokenizer = tokenizer;
    this.#options = options;
    this.#begin = begin;
    this.#texts = Times.of(tokenizer.backend);
  }

  #open(): void {
    this.#before = [];
    this.#chunk = { language: this.#language, start: null };
  }

  /** Ends a chunk at a time, or at none. */
  #close(end: number | null): void {
    const { ids, times } = joinedTokens(this.#before);
    const text = this.#tokenizer.decode(ids);
    const { language = null, start } = this.#chunk;
    const words =
      this.#options.return_timestamps === "word" ? wordsOf(this.#tokenizer, ids, times, this.#language) : [];
    const own = words.map((word) => ({ ...word, language: this.#language ?? null }));
    this.#chunks.push({ text, timestamp: [start, end], language, words: own });
    this.#open();
  }

  add({ tokens, times, stride }: WrittenChunk): void {
    const { time_precision: step, return_timestamps } = this.#options;
    const begin = this.#begin;
    const ids = this.#texts?.withoutPrompt(tokens) ?? tokens;
    const special = this.#tokenizer.backend.special_ids;
    let first = begin;
    let last: number | undefined; // times from there on belong to the right neighbour
    if (stride) {
      const [length, left, right] = stride;
      this.#offset -= left;
      if (left > 0) first = left / step + begin;
      if (right > 0) {
        for (const id of ids.toReversed()) {
          if (id < begin) continue;
          if (last !== undefined && (id - begin) * step < length - right) break;
          last = id;
        }
      }
    }
    // Sound of several windows: times that fall begin another one.
    let [highest, second, passed] = [0, 0, 0];
    let own: { ids: number[]; times: Timing[] } = { ids: [], times: [] };
    for (const [n, id] of ids.entries()) {
      if (special.has(id)) {
        const language = languageOf(this.#tokenizer.backend.id_to_token(id));
        if (language === undefined) continue;
        if (this.#language !== undefined && language !== this.#language && !return_timestamps) {
          this.#before.push(own);
          this.#close(null);
          own = { ids: [], times: [] };
        }
        this.#chunk.language = language;
        this.#language = language;
        continue;
      }
      if (id < begin) {
        own.ids.push(id);
        if (return_timestamps === "word") {
          const from = n === 0 ? 0 : times![n - 1]!;
          own.times.push([seconds(from + this.#offset), seconds(times![n]! + this.#offset)]);
        }
        continue;
      }
      const at = (id - begin) * step;
      if (at < highest) {
        if (n >= 2 && !(ids[n - 1]! >= begin && ids[n - 2]! >= begin)) passed += step * WINDOW;
        else {
          highest = second;
          passed += second;
        }
      }
      second = highest;
      highest = at;
      const time = seconds(at + this.#offset + passed);
      if (last && id >= last) this.#skips = true;
      else if (this.#skips || (this.#before.length > 0 && id < first)) this.#skips = false;
      else if (this.#chunk.start === null) this.#chunk.start = time;
      else if (time !== this.#chunk.start) {
        this.#before.push(own);
        this.#close(time);
        own = { ids: [], times: [] };
      }
    }
    if (stride) this.#offset += stride[0] - stride[2];
    if (own.ids.length > 0) this.#before.push(own);
    else if (!this.#before.some(({ ids: some }) => some.length > 0)) this.#open();
  }

  end(): Transcript {
    if (this.#before.length > 0) this.#close(null);
    const text = this.#chunks.map((chunk) => chunk.text).join("");
    const { return_timestamps, return_language } = this.#options;
    if (!return_timestamps && !return_language) return { text };
    const found = return_timestamps === "word" ? this.#chunks.flatMap(({ words }) => words) : this.#chunks;
    const chunks = found.map(({ text: part, timestamp, language }) => ({
      ...(return_language ? { language: language ?? null } : {}),
      ...(return_timestamps ? { timestamp: timestamp! } : {}),
      text: part,
    }));
    return { text, chunks };
  }
}

/**
 * The transcript of one sound.
 * @param outputs of its chunks, in order
 * @param begin the token of time 0; Infinity for a model that writes none
 */
export function transcriptOf(
  tokenizer: PreTrainedTokenizer,
  outputs: readonly WrittenChunk[],
  begin: number,
  options: TranscriptOptions,
): Transcript {
  const reader = new Reader(tokenizer, begin, options);
  for (const output of outputs) reader.add(output);
  return reader.end();
}
