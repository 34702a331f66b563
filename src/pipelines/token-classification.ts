// token-classification: labels of tokens, of words, or of entities, with their places in the text.

import { choice, type Options, such } from "../core/options.js";
import type { PreTrainedEncoder } from "../generate/encoder-model.js";
import { softmax } from "../generate/processors/host/base.js";
import { warnOnce } from "../generate/warn.js";
import type { PreTrainedTokenizer } from "../tokenizer/api.js";
import { labelOf } from "./classify.js";
import { asText, inBatches, isTexts, kind, listed, type Parts, TOKENIZER_CALL, valuesOf } from "./kinds.js";

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
  truncation: TOKENIZER_CALL.truncation,
  max_length: TOKENIZER_CALL.max_length,
};
export interface TokenClassificationOptions extends Options<typeof LABEL> {}

interface Token {
  readonly id: number;
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
  readonly tokens: readonly Token[];
}

const best = (scores: Float64Array): number => scores.indexOf(scores.reduce((most, one) => Math.max(most, one)));

/** The text of tokens; of unknown ones what stands in the text. */
function wordOf(tokenizer: PreTrainedTokenizer, text: string, tokens: readonly Token[]): string {
  const runs: Token[][] = [];
  for (const token of tokens) {
    const last = runs.at(-1);
    const unknown = token.id === tokenizer.unk_token_id;
    if (last && !unknown && last[0]!.id !== tokenizer.unk_token_id) last.push(token);
    else runs.push([token]);
  }
  const parts = runs.map((run) =>
    run[0]!.id === tokenizer.unk_token_id
      ? text.slice(run[0]!.start, run[0]!.end)
      : tokenizer.decode(
          run.map(({ id }) => id),
          { clean_up_tokenization_spaces: false },
        ),
  );
  return parts.join(tokenizer.backend.marks_subwords ? " " : "");
}

/** The label of a word, whose tokens may disagree. */
function labelOfWord(
  tokens: readonly Token[],
  strategy: "first" | "average" | "max",
  name: (n: number) => string,
): Labelled {
  let { scores } = tokens[0]!;
  if (strategy === "max") {
    const surest = tokens.reduce((a, b) => (b.scores[best(b.scores)]! > a.scores[best(a.scores)]! ? b : a));
    scores = surest.scores;
  } else if (strategy === "average") {
    scores = scores.map((_, n) => tokens.reduce((sum, token) => sum + token.scores[n]!, 0) / tokens.length);
  }
  return { entity: name(best(scores)), score: scores[best(scores)]!, tokens };
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

export const tokenClassification = kind({
  models: ["token-classification"],
  needs: ["tokenizer"],
  calls: LABEL,
  async run(parts: Parts<PreTrainedEncoder<"token-classification">>, inputs, options) {
    const { aggregation_strategy: strategy = "none", ignore_labels = ["O"], ...how } = options;
    const { items, many } = listed(inputs, asText, "a text");
    const { model, tokenizer } = parts;
    const name = (n: number): string => labelOf(model.config, n);
    if (strategy !== "none" && strategy !== "simple" && !tokenizer.backend.marks_subwords) {
      warnOnce(
        "token-classification words",
        "token-classification: this tokenizer does not mark parts of words; words are taken to end at spaces",
      );
    }
    const found = await inBatches(
      items,
      parts.batch_size,
      (text) => text.length,
      async (batch) => {
        const encoded = tokenizer([...batch], {
          padding: true,
          ...how,
          return_offsets_mapping: true,
          return_special_tokens_mask: true,
        });
        const { input_ids, attention_mask, token_type_ids } = encoded;
        const { logits } = await valuesOf(model.forward({ input_ids, attention_mask, token_type_ids }), "logits");
        const [, steps = 0, labels = 0] = logits.shape;
        return batch.map((text, row) => {
          const first = attention_mask![row]!.indexOf(1); // padding may be at the left
          const tokens = input_ids[row]!.flatMap((id, t): Token[] => {
            if (encoded.special_tokens_mask![row]![t] === 1) return [];
            const [start, end] = encoded.offset_mapping![row]![t]!;
            const word = tokenizer.convert_ids_to_tokens(id);
            const unknown = id === tokenizer.unk_token_id;
            const at = (row * steps + t) * labels;
            // Of a tokenizer that marks parts of words, what is longer than its text has a mark.
            const continues = tokenizer.backend.marks_subwords
              ? [...word].length !== [...text.slice(start, end)].length
              : start > 0 && !text.slice(start - 1, start + 1).includes(" ");
            return [
              {
                id,
                index: t - first,
                word: unknown ? text.slice(start, end) : word,
                start,
                end,
                scores: softmax(logits.values.subarray(at, at + labels)),
                continues: !unknown && continues,
              },
            ];
          });
          return labelled(text, tokens);
        });
      },
    );

    function labelled(text: string, tokens: readonly Token[]): (TokenLabel | Entity)[] {
      const each = (token: Token): Labelled => labelOfWord([token], "first", name);
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
      const all = words.map((own) => (strategy === "simple" ? each(own[0]!) : labelOfWord(own, strategy, name)));
      return grouped(all).flatMap((group): Entity[] => {
        const entity_group = tagOf(group[0]!.entity).tag;
        if (ignore_labels.includes(entity_group)) return [];
        const own = group.flatMap((one) => one.tokens);
        const score = group.reduce((sum, one) => sum + one.score, 0) / group.length;
        return [
          { entity_group, score, word: wordOf(tokenizer, text, own), start: own[0]!.start, end: own.at(-1)!.end },
        ];
      });
    }

    return many ? found : found[0];
  },
});
