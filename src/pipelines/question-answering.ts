// question-answering: the part of a context that answers a question, by the rules of transformers' version 4. Long contexts are read
// in windows that overlap.

import { OptionError } from "../core/errors.js";
import { flag, type Options, whole } from "../core/options.js";
import type { PreTrainedEncoder } from "../generate/encoder-model.js";
import { paddedRows } from "../generate/inputs.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { inBatches, isText, kind, listed, type Parts, TOKENIZER_CALL, valuesOf } from "./kinds.js";

/** A question, and the text that may answer it. */
export interface Question {
  readonly question: string;
  readonly context: string;
}

export interface Answer {
  readonly score: number;
  /** Where it begins and ends in the context. */
  readonly start: number;
  readonly end: number;
  readonly answer: string;
}

const ANSWER = {
  /** So many answers; with more than one the result is a list. */
  top_k: whole(1),
  /** Tokens by which windows overlap; by default half a window, at most 128. */
  doc_stride: whole(1),
  /** Most tokens of an answer; 15 by default. */
  max_answer_len: whole(1),
  /** Most tokens of a window, question included; 384 by default. */
  max_seq_len: whole(1),
  /** Without effect, as in transformers with fast tokenizers: a question is never cut. */
  max_question_len: whole(1),
  /** Without effect: windows of one length are read together, and padding changes no answer. */
  padding: TOKENIZER_CALL.padding,
  /** "" is an answer as well. */
  handle_impossible_answer: flag(),
  /** Answers are whole words; true by default. */
  align_to_words: flag(),
};
export interface QuestionAnsweringOptions extends Options<typeof ANSWER> {}

/** A part of a context with its question. */
interface Window {
  readonly item: number;
  readonly ids: readonly number[];
  readonly types: readonly number[];
  /** Where the context's tokens begin, their number, and that of the first in the whole context. */
  readonly at: number;
  readonly count: number;
  readonly from: number;
  /** Places that may hold an answer: the context's, and tokens that stand for none. */
  readonly open: readonly boolean[];
}

interface Context {
  readonly text: string;
  readonly offsets: readonly (readonly [number, number])[];
  readonly words: readonly (number | null)[];
}

function asQuestion(value: unknown): Question | undefined {
  const { question, context } = value as Partial<Question>;
  return isText(question) && isText(context) ? { question, context } : undefined;
}

/** What masked places count before softmax: as in transformers, not nothing. */
const HIDDEN = -10_000;

export const questionAnswering = kind({
  models: ["question-answering"],
  needs: ["tokenizer"],
  calls: ANSWER,
  async run(parts: Parts<PreTrainedEncoder<"question-answering">>, inputs, options: QuestionAnsweringOptions) {
    const { items, many } = listed(inputs, asQuestion, "{ question, context }");
    const { top_k = 1 } = options;
    const { tokenizer, model } = parts;
    const contexts: Context[] = [];
    const windows = items.flatMap(({ question, context }, item) => {
      if (question === "" || context === "") throw new OptionError("question and context cannot be empty");
      const own = tokenizer([context], { add_special_tokens: false, return_offsets_mapping: true, truncation: false });
      contexts.push({ text: context, offsets: own.offset_mapping![0]!, words: own.word_ids(0) });
      const asked = tokenizer(question, { add_special_tokens: false, truncation: false }).input_ids;
      return windowsOf(tokenizer, item, asked, own.input_ids[0]!, options);
    });
    const found = items.map((): Answer[] => []);
    const none = items.map(() => Number.POSITIVE_INFINITY);
    const scored = await inBatches(
      windows,
      parts.batch_size,
      ({ ids }) => ids.length,
      async (batch) => {
        const longest = batch.reduce((most, { ids }) => Math.max(most, ids.length), 0);
        const ids = batch.map((one) => one.ids);
        const types = batch.map((one) => one.types);
        const { start_logits, end_logits } = await valuesOf(
          model.forward({
            ...paddedRows(ids, tokenizer.pad_token_id ?? 0, "right"),
            token_type_ids: paddedRows(types, 0, "right").input_ids,
          }),
          "start_logits",
          "end_logits",
        );
        return batch.map(({ ids }, row) => ({
          start: start_logits.values.slice(row * longest, row * longest + ids.length),
          end: end_logits.values.slice(row * longest, row * longest + ids.length),
        }));
      },
    );
    for (const [n, window] of windows.entries()) {
      const { item } = window;
      const [start, end] = [scored[n]!.start, scored[n]!.end].map((logits) => shares(logits, window));
      none[item] = Math.min(none[item]!, start![0]! * end![0]!);
      start![0] = 0;
      end![0] = 0;
      for (const { first, last, score } of spansOf(start!, end!, window, options)) {
        const answer = answerOf(contexts[item]!, window, first, last, score, options);
        const same = found[item]!.findIndex((one) => one.answer.toLowerCase() === answer.answer.toLowerCase());
        if (same < 0) found[item]!.push(answer);
        else found[item]![same] = { ...found[item]![same]!, score: found[item]![same]!.score + score };
      }
    }
    const results = found.map((answers, item) => {
      if (options.handle_impossible_answer) answers.push({ score: none[item]!, start: 0, end: 0, answer: "" });
      const best = answers.sort((a, b) => b.score - a.score).slice(0, top_k);
      return best.length === 1 ? best[0] : best;
    });
    return many ? results : results[0];
  },
});

/** @throws OptionError if the question leaves no room for the context */
function windowsOf(
  tokenizer: PreTrainedTokenizer,
  item: number,
  asked: readonly number[],
  context: readonly number[],
  { max_seq_len, doc_stride }: QuestionAnsweringOptions,
): Window[] {
  const size = max_seq_len ?? Math.min(tokenizer.model_max_length, 384);
  const overlap = doc_stride ?? Math.min(Math.floor(size / 2), 128);
  const { backend } = tokenizer;
  const room = size - asked.length - backend.frame([], []).ids.length;
  if (room <= overlap && room < context.length) {
    throw new OptionError(`windows of ${size} tokens have room for ${room} of the context, and overlap by ${overlap}`, {
      details: { option: "doc_stride" },
    });
  }
  const windows: Window[] = [];
  for (let from = 0; ; from += room - overlap) {
    const part = context.slice(from, from + room);
    // Numbers below 0 are no ids: where they stand in the frame, the context stands.
    const marked = backend.frame(
      asked,
      part.map((_, n) => -1 - n),
    );
    windows.push({
      item,
      ids: marked.ids.map((id) => (id < 0 ? part[-1 - id]! : id)),
      open: marked.ids.map((id) => id < 0 || id === tokenizer.cls_token_id),
      types: marked.token_type_ids,
      at: marked.ids.findIndex((id) => id < 0),
      count: part.length,
      from,
    });
    if (from + room >= context.length) return windows;
  }
}

/** Probabilities of a window's places. */
function shares(logits: Float32Array, { open }: Window): Float64Array {
  const masked = Float64Array.from(logits, (value, n) => (open[n] ? value : HIDDEN));
  const most = masked.reduce((a, b) => Math.max(a, b));
  const weights = masked.map((value) => Math.exp(value - most));
  const sum = weights.reduce((all, one) => all + one, 0);
  return weights.map((weight) => weight / sum);
}

/** A part of a window from its first token to its last one. */
interface Span {
  readonly first: number;
  readonly last: number;
  readonly score: number;
}

/** The likeliest spans of the context; of those that become whole words some more, because several may become the same words. */
function spansOf(
  start: Float64Array,
  end: Float64Array,
  window: Window,
  { top_k = 1, max_answer_len = 15, align_to_words = true }: QuestionAnsweringOptions,
): Span[] {
  const { at, count } = window;
  const most = align_to_words ? top_k * 2 + 10 : top_k;
  const spans: Span[] = [];
  for (let first = at; first < at + count; first++) {
    for (let last = first; last < Math.min(at + count, first + max_answer_len); last++) {
      spans.push({ first, last, score: start[first]! * end[last]! });
    }
  }
  spans.sort((a, b) => b.score - a.score);
  const likely = spans.filter(({ score }) => score > 0).slice(0, most);
  return [...likely, ...unlikely(start, end, window, most - likely.length, max_answer_len)];
}

/**
 * Spans of score 0, which Python has where more are asked for than have one: those that end before they begin, or are too long, or stand for
 * no answer. It takes them from the pairs of all tokens of the window, of which most have no text; of equal scores in no order that is known,
 * here in that of the pairs.
 */
function unlikely(start: Float64Array, end: Float64Array, { open }: Window, room: number, longest: number): Span[] {
  const size = open.length;
  const spans: Span[] = [];
  for (let pair = 0, left = room; pair < size * size && left > 0; pair++) {
    const [first, last] = [Math.floor(pair / size), pair % size];
    const inside = last >= first && last < first + longest;
    if (inside && start[first]! * end[last]! > 0) continue;
    left--;
    if (open[first] && open[last]) spans.push({ first, last, score: 0 });
  }
  return spans;
}

/** The text of a span; whole words are those of the window, which may have a part of the first and the last. */
function answerOf(
  { text, offsets, words }: Context,
  window: Window,
  first: number,
  last: number,
  score: number,
  { align_to_words = true }: QuestionAnsweringOptions,
): Answer {
  const [begin, beyond] = [window.from, window.from + window.count];
  const within = (place: number) => place >= window.at && place < window.at + window.count;
  if (!within(first) || !within(last)) {
    // A token that stands for no answer is at the text's beginning; then words are not made whole.
    const [start, end] = [
      within(first) ? offsets[first - window.at + begin]![0] : 0,
      within(last) ? offsets[last - window.at + begin]![1] : 0,
    ];
    return { score, start, end, answer: text.slice(start, end) };
  }
  let [from, to] = [first - window.at + begin, last - window.at + begin];
  if (align_to_words) {
    while (from > begin && words[from] !== null && words[from - 1] === words[from]) from--;
    while (to + 1 < beyond && words[to] !== null && words[to + 1] === words[to]) to++;
  }
  const [start, end] = [offsets[from]![0], offsets[to]![1]];
  return { score, start, end, answer: text.slice(start, end) };
}
