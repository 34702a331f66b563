// Processors that look at the text so far.

import { isWhole, listOf } from "../../../core/checks.js";
import { OptionError } from "../../../core/errors.js";
import { show } from "../../../core/show.js";
import type { PrefixAllowedTokens } from "../host-processor.js";
import { idsOf, listsOf, numberOf, RowProcessor, wholeOf } from "./base.js";
import type { Edits } from "./edits.js";
import { MARK, TextProcessor } from "./text-processor.js";

const NEVER = Number.NEGATIVE_INFINITY;

function penalize(scores: Float32Array, ids: Iterable<number>, penalty: number): void {
  for (const id of new Set(ids)) {
    if (id >= scores.length) continue;
    const score = scores[id]!;
    scores[id] = score < 0 ? score * penalty : score / penalty;
  }
}

const isPenalty = (n: number): boolean => n > 0 && Number.isFinite(n);

/** Keskar et al. 2019, "CTRL", section 4.1: tokens that occur lose. */
export class RepetitionPenaltyLogitsProcessor extends RowProcessor {
  readonly penalty: number;

  constructor(penalty: number) {
    super();
    this.penalty = numberOf("penalty", penalty, isPenalty, "a number above 0");
  }

  change(scores: Float32Array, ids: readonly number[]): void {
    penalize(scores, ids, this.penalty);
  }
}

/** Tokens of the encoder's text win. */
export class EncoderRepetitionPenaltyLogitsProcessor extends TextProcessor {
  readonly penalty: number;
  readonly encoder_input_ids: readonly (readonly number[])[];

  constructor(penalty: number, encoder_input_ids: readonly (readonly number[])[]) {
    super();
    this.penalty = 1 / numberOf("penalty", penalty, isPenalty, "a number above 0");
    this.encoder_input_ids = listsOf("encoder_input_ids", encoder_input_ids);
  }

  [MARK](edits: Edits, _: readonly number[], row: number): void {
    for (const id of new Set(encoderText(this.encoder_input_ids, row))) edits.penalize(id, this.penalty);
  }
}

/** @throws OptionError if there is none for a row */
function encoderText(texts: readonly (readonly number[])[], row: number): readonly number[] {
  const text = texts[row];
  if (text) return text;
  throw new OptionError(`encoder_input_ids has ${texts.length} texts, and none for row ${row}`, {
    details: { option: "encoder_input_ids", row },
  });
}

/** Bans followers of the last n-1 tokens of `ids` in `text`. */
function banFollowers(edits: Edits, text: readonly number[], ids: readonly number[], n: number): void {
  if (ids.length + 1 < n) return;
  const from = ids.length - (n - 1);
  for (let at = 0; at + n <= text.length; at++) {
    let same = 0;
    while (same < n - 1 && text[at + same] === ids[from + same]) same++;
    if (same === n - 1) edits.ban([text[at + n - 1]!]);
  }
}

/** No n tokens in a row occur twice. */
export class NoRepeatNGramLogitsProcessor extends TextProcessor {
  readonly ngram_size: number;

  constructor(ngram_size: number) {
    super();
    this.ngram_size = wholeOf("ngram_size", ngram_size, 1);
  }

  [MARK](edits: Edits, ids: readonly number[]): void {
    banFollowers(edits, ids, ids, this.ngram_size);
  }
}

/** No n tokens in a row of the encoder's text are generated. */
export class EncoderNoRepeatNGramLogitsProcessor extends TextProcessor {
  readonly ngram_size: number;
  readonly encoder_input_ids: readonly (readonly number[])[];

  constructor(encoder_ngram_size: number, encoder_input_ids: readonly (readonly number[])[]) {
    super();
    this.ngram_size = wholeOf("encoder_ngram_size", encoder_ngram_size, 1);
    this.encoder_input_ids = listsOf("encoder_input_ids", encoder_input_ids);
  }

  [MARK](edits: Edits, ids: readonly number[], row: number): void {
    banFollowers(edits, encoderText(this.encoder_input_ids, row), ids, this.ngram_size);
  }
}

/** Adds a bias to a token wherever the tokens before it in one of the sequences end the text. */
export class SequenceBiasLogitsProcessor extends TextProcessor {
  readonly sequence_bias: readonly (readonly [ids: readonly number[], bias: number])[];

  /** @param sequence_bias pairs of token ids and a bias */
  constructor(sequence_bias: readonly (readonly [ids: readonly number[], bias: number])[]) {
    super();
    const isPair = (pair: unknown): pair is readonly [readonly number[], number] => {
      const [ids, bias] = listOf(pair, (_): _ is unknown => true) ?? [];
      return (listOf(ids, isWhole)?.length ?? 0) > 0 && typeof bias === "number" && !Number.isNaN(bias);
    };
    const pairs = listOf(sequence_bias, isPair);
    if (!pairs) {
      throw new OptionError(`sequence_bias must be a list of [token ids, number], got ${show(sequence_bias)}`, {
        details: { option: "sequence_bias" },
      });
    }
    // Of pairs for the same tokens the last counts, as in Python, where they are keys.
    this.sequence_bias = [...new Map(pairs.map((pair) => [pair[0].join(), pair])).values()];
  }

  [MARK](edits: Edits, ids: readonly number[]): void {
    for (const [sequence, bias] of this.sequence_bias) {
      const last = sequence.at(-1)!;
      if (last >= edits.vocab) {
        throw new OptionError(`sequence_bias: ${last} is not a token id below ${edits.vocab}`);
      }
      const from = ids.length - (sequence.length - 1);
      if (from < 0) continue;
      let same = 0;
      while (same < sequence.length - 1 && ids[from + same] === sequence[same]) same++;
      if (same === sequence.length - 1) edits.add(last, bias);
    }
  }
}

/** Sequences that are never generated. One token that ends a text is left out. */
export class NoBadWordsLogitsProcessor extends SequenceBiasLogitsProcessor {
  constructor(bad_words_ids: readonly (readonly number[])[], eos_token_id?: number | readonly number[] | null) {
    const ends = eos_token_id === undefined || eos_token_id === null ? [] : idsOf("eos_token_id", eos_token_id);
    const words = listsOf("bad_words_ids", bad_words_ids);
    super(words.filter((word) => word.length > 1 || !ends.includes(word[0]!)).map((word) => [word, NEVER] as const));
  }
}

/** A text has at least so many tokens, the prompt included. */
export class MinLengthLogitsProcessor extends TextProcessor {
  readonly min_length: number;
  readonly eos_token_id: readonly number[];

  constructor(min_length: number, eos_token_id: number | readonly number[]) {
    super();
    this.min_length = wholeOf("min_length", min_length, 0);
    this.eos_token_id = idsOf("eos_token_id", eos_token_id);
  }

  [MARK](edits: Edits, ids: readonly number[]): void {
    if (ids.length < this.min_length) edits.ban(this.eos_token_id);
  }
}

/** At least so many tokens are generated. */
export class MinNewTokensLengthLogitsProcessor extends TextProcessor {
  readonly prompt_length_to_skip: number;
  readonly min_new_tokens: number;
  readonly eos_token_id: readonly number[];

  constructor(prompt_length_to_skip: number, min_new_tokens: number, eos_token_id: number | readonly number[]) {
    super();
    this.prompt_length_to_skip = wholeOf("prompt_length_to_skip", prompt_length_to_skip, 0);
    this.min_new_tokens = wholeOf("min_new_tokens", min_new_tokens, 0);
    this.eos_token_id = idsOf("eos_token_id", eos_token_id);
  }

  [MARK](edits: Edits, ids: readonly number[]): void {
    if (ids.length - this.prompt_length_to_skip < this.min_new_tokens) edits.ban(this.eos_token_id);
  }
}

function ban(scores: Float32Array, ids: Iterable<number>): void {
  for (const id of ids) if (id < scores.length) scores[id] = NEVER;
}

/** Only these tokens can come. */
function allowOnly(scores: Float32Array, ids: readonly number[]): void {
  const kept = ids.filter((id) => id < scores.length).map((id) => [id, scores[id]!] as const);
  scores.fill(NEVER);
  for (const [id, score] of kept) scores[id] = score;
}

/** A function of the caller's says which tokens may follow a text. */
export class PrefixConstrainedLogitsProcessor extends RowProcessor {
  readonly #allowed: PrefixAllowedTokens;
  readonly #beams: number;

  constructor(prefix_allowed_tokens_fn: PrefixAllowedTokens, num_beams = 1) {
    super();
    if (typeof prefix_allowed_tokens_fn !== "function") {
      throw new OptionError(`prefix_allowed_tokens_fn must be a function, got ${show(prefix_allowed_tokens_fn)}`);
    }
    this.#allowed = prefix_allowed_tokens_fn;
    this.#beams = wholeOf("num_beams", num_beams, 1);
  }

  change(scores: Float32Array, ids: readonly number[], row: number): void {
    const item = Math.floor(row / this.#beams);
    const allowed = idsOf("prefix_allowed_tokens_fn's result", this.#allowed(item, ids));
    if (!allowed.some((id) => id < scores.length)) {
      throw new OptionError(`prefix_allowed_tokens_fn allows no token for row ${item}`, {
        details: { option: "prefix_allowed_tokens_fn" },
      });
    }
    allowOnly(scores, allowed);
  }
}

/** The first token. */
export class ForcedBOSTokenLogitsProcessor extends TextProcessor {
  readonly bos_token_id: number;

  constructor(bos_token_id: number) {
    super();
    this.bos_token_id = wholeOf("bos_token_id", bos_token_id, 0);
  }

  [MARK](edits: Edits, ids: readonly number[]): void {
    if (ids.length === 1) edits.force([this.bos_token_id], 0);
  }
}

/** The last token of a text that gets as long as it may. */
export class ForcedEOSTokenLogitsProcessor extends TextProcessor {
  readonly max_length: number;
  readonly eos_token_id: readonly number[];

  constructor(max_length: number, eos_token_id: number | readonly number[]) {
    super();
    this.max_length = wholeOf("max_length", max_length, 1);
    this.eos_token_id = idsOf("eos_token_id", eos_token_id);
  }

  [MARK](edits: Edits, ids: readonly number[]): void {
    if (ids.length === this.max_length - 1) edits.force(this.eos_token_id, 0);
  }
}

/** The end of a text gets likelier by a factor for each token after `start`. */
export class ExponentialDecayLengthPenalty extends TextProcessor {
  readonly start: number;
  readonly factor: number;
  readonly eos_token_id: readonly number[];

  /** @param exponential_decay_length_penalty [start, counted from the prompt's end; factor] */
  constructor(
    exponential_decay_length_penalty: readonly [start: number, factor: number],
    eos_token_id: number | readonly number[],
    input_ids_seq_length: number,
  ) {
    super();
    const [start, factor] = listOf(exponential_decay_length_penalty, (n): n is number => typeof n === "number") ?? [];
    const name = "exponential_decay_length_penalty";
    this.start = wholeOf(`${name}'s start`, start, 0) + wholeOf("input_ids_seq_length", input_ids_seq_length, 0);
    this.factor = numberOf(`${name}'s factor`, factor, isPenalty, "a number above 0");
    // An id that is named twice grows once.
    this.eos_token_id = [...new Set(idsOf("eos_token_id", eos_token_id))];
  }

  [MARK](edits: Edits, ids: readonly number[]): void {
    const over = ids.length - this.start;
    if (over > 0) for (const id of this.eos_token_id) edits.grow(id, this.factor ** over - 1);
  }
}

/** Tokens that never come. */
export class SuppressTokensLogitsProcessor extends RowProcessor {
  readonly suppress_tokens: readonly number[];

  constructor(suppress_tokens: readonly number[]) {
    super();
    this.suppress_tokens = idsOf("suppress_tokens", suppress_tokens);
  }

  change(scores: Float32Array): void {
    ban(scores, this.suppress_tokens);
  }
}

/** Tokens that do not come first. */
export class SuppressTokensAtBeginLogitsProcessor extends RowProcessor {
  readonly begin_suppress_tokens: readonly number[];
  readonly begin_index: number;

  constructor(begin_suppress_tokens: readonly number[], begin_index: number) {
    super();
    this.begin_suppress_tokens = idsOf("begin_suppress_tokens", begin_suppress_tokens);
    this.begin_index = wholeOf("begin_index", begin_index, 0);
  }

  change(scores: Float32Array, ids: readonly number[]): void {
    if (ids.length === this.begin_index) ban(scores, this.begin_suppress_tokens);
  }
}

const LARGEST = 3.4028234663852886e38;

/** NaN becomes 0, infinities the largest numbers. */
export class InfNanRemoveLogitsProcessor extends RowProcessor {
  change(scores: Float32Array): void {
    for (let i = 0; i < scores.length; i++) {
      const score = scores[i]!;
      if (Number.isNaN(score)) scores[i] = 0;
      else if (!Number.isFinite(score)) scores[i] = Math.sign(score) * LARGEST;
    }
  }
}
