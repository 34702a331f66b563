// token-classification: labels of tokens, of words, or of entities, with their places in the text.

import { listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { choice, flag, type Options, option, such, text as textOption } from "../core/options.js";
import * as z from "../core/schema.js";
import type { PreTrainedEncoder } from "../generate/encoder-model.js";
import { paddedRows } from "../generate/inputs.js";
import { softmax } from "../generate/processors/host/base.js";
import { warnOnce } from "../generate/warn.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { labelOf } from "./classify.js";
import { inBatches, isText, isTexts, kind, listed, type Parts, TOKENIZER_CALL, valuesOf } from "./kinds.js";

/** A token with its label, of `aggregation_strategy: "none"`. */
export interface TokenLabel {
  readonly entity: string;
  readonly score: number;
  /** Its number among the tokens, special ones included. */
  readonly index: number;
  readonly word: string;
  /** Where it begins and ends in the text. */
  readonly start: number;
  readonly end: number;
}

/** Tokens that follow each other with one label. */
export interface Entity {
  readonly entity_group: string;
  readonly score: number;
  readonly word: string;
  readonly start: number;
  readonly end: number;
}

const STRATEGIES = ["none", "simple", "first", "average", "max"] as const;

const LABEL = {
  /**
   * "none", the default, gives each token. The others join neighbours of one label: "simple" tokens, the others words, whose label is
   * that of their first token, of their mean, or of their surest token.
   */
  aggregation_strategy: choice(STRATEGIES),
  /** Labels that are left out; ["O"] by default. */
  ignore_labels: such<readonly string[]>((value) => isTexts(value), "a list of labels"),
  /** Of texts that are longer than the model's rows all is read, in rows that have so many tokens in common. */
  stride: option(z.int().min(0), "a whole number from 0"),
  /** Inputs are lists of words. */
  is_split_into_words: flag(),
  /** What is put between words, where places in the text are counted; a space by default. */
  delimiter: textOption(),
  /** Cut what is too long for the tokenizer's rows; true by default. */
  truncation: TOKENIZER_CALL.truncation,
  max_length: TOKENIZER_CALL.max_length,
};
export interface TokenClassificationOptions extends Options<typeof LABEL> {}

interface Token {
  readonly index: number;
  readonly word: string;
  readonly start: number;
  readonly end: number;
  readonly scores: Float64Array;
  /** It goes on with the word of the token before. */
  readonly continues: boolean;
}

/** One or several tokens with one label. */
interface Labelled {
  readonly entity: string;
  readonly score: number;
  readonly word: string;
  readonly start: number;
  readonly end: number;
}

/** A text, and the words that it is made of if they were given. */
interface Input {
  readonly text: string;
  readonly words?: readonly string[] | undefined;
}

/** A row of tokens of an input. */
interface Row {
  readonly item: number;
  readonly ids: readonly number[];
  readonly types: readonly number[] | undefined;
  readonly special: readonly number[];
  readonly offsets: readonly (readonly [number, number])[];
}

const best = (scores: Float64Array): number => scores.indexOf(scores.reduce((most, one) => Math.max(most, one)));

/** The label of a word, whose tokens may disagree. */
function labelOfWord(
  tokens: readonly Token[],
  strategy: "first" | "average" | "max",
  name: (n: number) => string,
  word: string,
): Labelled {
  let { scores } = tokens[0]!;
  if (strategy === "max") {
    const surest = tokens.reduce((a, b) => (b.scores[best(b.scores)]! > a.scores[best(a.scores)]! ? b : a));
    scores = surest.scores;
  } else if (strategy === "average") {
    scores = scores.map((_, n) => tokens.reduce((sum, token) => sum + token.scores[n]!, 0) / tokens.length);
  }
  const entity = name(best(scores));
  return { entity, score: scores[best(scores)]!, word, start: tokens[0]!.start, end: tokens.at(-1)!.end };
}

/** "B" begins an entity, "I" goes on with one, as every label without a prefix does. */
function tagOf(entity: string): { readonly begins: boolean; readonly tag: string } {
  const begins = entity.startsWith("B-");
  return { begins, tag: begins || entity.startsWith("I-") ? entity.slice(2) : entity };
}

/** Neighbours of one tag together. */
function grouped(all: readonly Labelled[]): Labelled[][] {
  const groups: Labelled[][] = [];
  for (const one of all) {
    const last = groups.at(-1);
    const { begins, tag } = tagOf(one.entity);
    if (last && !begins && tagOf(last.at(-1)!.entity).tag === tag) last.push(one);
    else groups.push([one]);
  }
  return groups;
}

/** Of entities of rows that overlap: of those that begin in one another the longest, or the surest. */
function apart<E extends { readonly start: number; readonly end: number; readonly score: number }>(all: E[]): E[] {
  const found: E[] = [];
  for (const one of all.sort((a, b) => a.start - b.start)) {
    const last = found.at(-1);
    if (!last || one.start >= last.end || one.start < last.start) {
      found.push(one);
      continue;
    }
    const more = one.end - one.start - (last.end - last.start);
    if (more > 0 || (more === 0 && one.score > last.score)) found[found.length - 1] = one;
  }
  return found;
}

/** Words as a text with what stands between them. @throws OptionError for what are no words */
function ofWords(inputs: unknown, delimiter: string): Input[] {
  const asWords = (value: unknown): readonly string[] | undefined => listOf(value, isText);
  const one = asWords(inputs);
  const { items } =
    one && one.length > 0
      ? { items: [one] }
      : listed(inputs, asWords, "a list of words, because of is_split_into_words");
  return items.map((words) => ({ text: words.join(delimiter), words }));
}

type How = Options<Pick<typeof LABEL, "truncation" | "max_length" | "stride" | "delimiter">>;

/** The rows of a text. */
function rowsOf(tokenizer: PreTrainedTokenizer, item: number, { text, words }: Input, how: How): Row[] {
  const { truncation = true, max_length, stride } = how;
  const over = stride === undefined ? {} : { stride, return_overflowing_tokens: true };
  if (words === undefined) {
    const marks = { return_offsets_mapping: true, return_special_tokens_mask: true } as const;
    const found = tokenizer([text], { truncation, max_length, ...over, ...marks });
    return found.input_ids.map((ids, n) => ({
      item,
      ids,
      types: found.token_type_ids?.[n],
      special: found.special_tokens_mask![n]!,
      offsets: found.offset_mapping![n]!,
    }));
  }
  // Each word by itself, as tokenizers read what is split already.
  const all: { readonly id: number; readonly offset: readonly [number, number] }[] = [];
  let from = 0;
  for (const word of words) {
    const plain = { add_special_tokens: false, truncation: false, return_offsets_mapping: true };
    const { input_ids, offset_mapping } = tokenizer([word], plain);
    const begin = from;
    input_ids[0]!.forEach((id, n) => {
      const [start, end] = offset_mapping![0]![n]!;
      all.push({ id, offset: [begin + start, begin + end] });
    });
    from += word.length + (how.delimiter ?? " ").length;
  }
  const limit = truncation === false ? Number.POSITIVE_INFINITY : (max_length ?? tokenizer.model_max_length);
  const room = limit - tokenizer.backend.frame([]).ids.length;
  if (all.length > room && room <= (stride ?? 0)) {
    throw new OptionError(`rows of ${limit} tokens have room for ${room} of the words, and overlap by ${stride ?? 0}`, {
      details: { option: "stride" },
    });
  }
  const rows: Row[] = [];
  for (let at = 0; ; at += room - stride!) {
    const part = all.slice(at, at + room);
    // Numbers below 0 are no ids: places of tokens in the part.
    const { ids, token_type_ids } = tokenizer.backend.frame(part.map((_, n) => -1 - n));
    rows.push({
      item,
      ids: ids.map((id) => (id < 0 ? part[-1 - id]!.id : id)),
      types: token_type_ids,
      special: ids.map((id) => (id < 0 ? 0 : 1)),
      offsets: ids.map((id) => (id < 0 ? part[-1 - id]!.offset : [0, 0])),
    });
    if (stride === undefined || at + room >= all.length) return rows;
  }
}

export const tokenClassification = kind({
  models: ["token-classification"],
  needs: ["tokenizer"],
  calls: LABEL,
  async run(parts: Parts<PreTrainedEncoder<"token-classification">>, inputs, options) {
    const { aggregation_strategy: strategy = "none", ignore_labels = ["O"], is_split_into_words, ...how } = options;
    const { model, tokenizer } = parts;
    const given = is_split_into_words
      ? { items: ofWords(inputs, how.delimiter ?? " "), many: true }
      : listed(inputs, (value) => (isText(value) ? { text: value } : undefined), "a text");
    const { items, many }: { readonly items: readonly Input[]; readonly many: boolean } = given;
    if (how.stride !== undefined && options.aggregation_strategy === "none") {
      throw new OptionError('token-classification: stride needs an aggregation_strategy, which is "none"', {
        details: { option: "stride" },
      });
    }
    const name = (n: number): string => labelOf(model.config, n);
    if (strategy !== "none" && strategy !== "simple" && !tokenizer.backend.marks_subwords) {
      warnOnce(
        "token-classification words",
        "token-classification: this tokenizer does not mark parts of words; words are taken to end at spaces",
      );
    }
    const rows = items.flatMap((item, n) => rowsOf(tokenizer, n, item, how));
    const labelled = await inBatches(
      rows,
      parts.batch_size,
      ({ ids }) => ids.length,
      async (batch) => {
        const { input_ids, attention_mask } = paddedRows(
          batch.map(({ ids }) => ids),
          tokenizer.pad_token_id ?? 0,
          "right",
        );
        const types = batch.map((row) => row.types ?? []);
        const token_type_ids = batch[0]!.types && paddedRows(types, 0, "right").input_ids;
        const { logits } = await valuesOf(model.forward({ input_ids, attention_mask, token_type_ids }), "logits");
        const [, steps = 0, labels = 0] = logits.shape;
        return batch.map((row, b) => {
          const scores = (t: number): Float64Array => {
            const at = (b * steps + t) * labels;
            return softmax(logits.values.subarray(at, at + labels));
          };
          return entitiesOf(tokensOf(items[row.item]!.text, row, scores));
        });
      },
    );
    const found = items.map((_, item) => {
      const own = labelled.filter((_, n) => rows[n]!.item === item);
      const all = own.flat();
      return own.length > 1 ? apart(all) : all;
    });

    function tokensOf(text: string, { ids, special, offsets }: Row, scores: (t: number) => Float64Array): Token[] {
      return ids.flatMap((id, t): Token[] => {
        if (special[t] === 1) return [];
        const [start, end] = offsets[t]!;
        const word = tokenizer.convert_ids_to_tokens(id);
        const unknown = id === tokenizer.unk_token_id;
        const part = text.slice(start, end);
        // Of a tokenizer that marks parts of words, what is longer than its text has a mark.
        const continues = tokenizer.backend.marks_subwords
          ? [...word].length !== [...part].length
          : start > 0 && !text.slice(start - 1, start + 1).includes(" ");
        const own = { index: t, word: unknown ? part : word, start, end };
        return [{ ...own, scores: scores(t), continues: !unknown && continues }];
      });
    }

    function entitiesOf(tokens: readonly Token[]): (TokenLabel | Entity)[] {
      const each = (token: Token): Labelled => labelOfWord([token], "first", name, token.word);
      if (strategy === "none") {
        return tokens.flatMap((token): TokenLabel[] => {
          const { entity, score } = each(token);
          const { index, word, start, end } = token;
          return ignore_labels.includes(entity) ? [] : [{ entity, score, index, word, start, end }];
        });
      }
      const words: Token[][] = [];
      for (const token of tokens) {
        if (strategy !== "simple" && token.continues && words.length > 0) words.at(-1)!.push(token);
        else words.push([token]);
      }
      const textOf = (parts: readonly { readonly word: string }[]): string =>
        tokenizer.backend.join(parts.map(({ word }) => word));
      // As in Python a word that was joined is joined once more with the others of its group.
      const all = words.map((own) =>
        strategy === "simple" ? each(own[0]!) : labelOfWord(own, strategy, name, textOf(own)),
      );
      return grouped(all).flatMap((group): Entity[] => {
        const entity_group = group[0]!.entity.replace(/^[^-]*-/, "");
        if (ignore_labels.includes(entity_group)) return [];
        const score = group.reduce((sum, one) => sum + one.score, 0) / group.length;
        return [{ entity_group, score, word: textOf(group), start: group[0]!.start, end: group.at(-1)!.end }];
      });
    }

    return many ? found : found[0];
  },
});
