// Builds the structure of a tokenizer.json-like file from a SentencePiece model whose pieces have the ids of a vocab.json beside it (Marian,
// M2M-100). No tokenizer.json can say that; see pieces.ts.

import { type ConvertOptions, template, tokenWithId, type Vocabulary } from "./convert.js";
import { mergesOf, metaspace, sequence, tableOf } from "./convert-spm.js";
import type { Json, JsonObject } from "./json-file.js";
import { M2M_100 } from "./languages.js";
import { PIECE, type SentencePieceModel } from "./sentencepiece.js";

/** A class whose pieces have the ids of a vocab.json beside the model. */
interface VocabularyRules {
  /** Tokens that are cut out of texts, beside the named ones. */
  readonly added: (vocabulary: Vocabulary) => Json[];
  /** What is written after a special token. */
  readonly after: string;
}

/** What is white space beside spaces, the model's table says. */
const SPACES = { type: "Split", pattern: { String: " " }, behavior: "Removed", invert: false };

const WITH_VOCABULARY: Readonly<Record<string, VocabularyRules>> = {
  MarianTokenizer: {
    // A language at the beginning of a text, which is no special token.
    added: ({ ids }) =>
      Object.keys(ids)
        .filter((token) => /^>>.+<<$/.test(token))
        .map((content) => ({ id: Number(ids[content]), content, special: false, normalized: false })),
    after: " ",
  },
  M2M100Tokenizer: {
    added: ({ ids }) => {
      const first = Object.keys(ids).length;
      return M2M_100.split(" ").map((code, i) => {
        // Special where a file lists them, as those of published models do.
        return { id: first + i, content: `__${code}__`, special: false, normalized: false };
      });
    },
    after: "",
  },
};

/** True for classes with a vocabulary beside the SentencePiece model. */
export function hasVocabulary(name: string | undefined): boolean {
  return name !== undefined && Object.hasOwn(WITH_VOCABULARY, name);
}

/**
 * A tokenizer from a SentencePiece model and a vocabulary, which need not have the same pieces.
 * @param ends has the id of what ends a text
 * @throws FormatError when the vocabulary lacks the unknown token or what ends a text
 */
export function convertWithVocabulary(
  model: SentencePieceModel,
  vocabulary: Vocabulary,
  options: ConvertOptions,
  ends = vocabulary,
): JsonObject {
  const pieces = model.pieces.filter(({ type }) => type !== PIECE.control);
  const ids = new Map(pieces.map(({ piece }, id) => [piece, id]));
  const [unk_token] = tokenWithId(vocabulary, options, "unk_token");
  const eos = tokenWithId(ends, options, "eos_token");
  const bpe = { type: "BPE", unk_token: model.names.unk, fuse_unk: true, byte_fallback: model.byte_fallback };
  const inner =
    model.model_type === "bpe"
      ? { ...bpe, vocab: Object.fromEntries(ids), merges: mergesOf(ids) }
      : {
          type: "Unigram",
          unk_id: ids.get(model.names.unk) ?? null,
          vocab: pieces.map(({ piece, score }) => [piece, score]),
        };
  const [table = null] = tableOf(model);
  const rules = WITH_VOCABULARY[options.tokenizer_class!]!;
  return {
    version: "1.0",
    added_tokens: rules.added(vocabulary),
    normalizer: table,
    pre_tokenizer: sequence("pretokenizers", [SPACES, metaspace("always")]),
    post_processor: template([["A"], [eos]], [["A"], ["B"], [eos]]),
    decoder: { type: "Pieces", after: rules.after },
    model: { type: "Pieces", unk_token, vocab: vocabulary.ids, inner },
  };
}
