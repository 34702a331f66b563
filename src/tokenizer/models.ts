// Makes the model of a tokenizer.

import { Bpe } from "./bpe.js";
import type { Model } from "./model.js";
import { Pieces } from "./pieces.js";
import type { ModelParts } from "./tokenizer-json.js";
import { Unigram } from "./unigram.js";
import { WordLevel, WordPiece } from "./word-models.js";

/**
 * The model of a checked tokenizer.json.
 * @throws FormatError when a token is too long for its kind of model
 */
export function buildModel(parts: ModelParts & { readonly file: string }): Model {
  const { file, model, vocab, merges, scores, unk_token_id: unk, inner } = parts;
  switch (model.type) {
    case "BPE":
      return new Bpe(file, vocab, merges, {
        unk: typeof model.unk_token === "string" ? unk : null,
        fuse_unk: model.fuse_unk === true,
        byte_fallback: model.byte_fallback === true,
        ignore_merges: model.ignore_merges === true,
        end_of_word_suffix: String(model.end_of_word_suffix ?? ""),
      });
    case "Unigram":
      return new Unigram(file, scores, vocab, unk, model.byte_fallback === true);
    case "WordPiece": {
      const most = Number(model.max_input_chars_per_word ?? 100);
      return new WordPiece(file, vocab, unk, String(model.continuing_subword_prefix ?? "##"), most);
    }
    case "WordLevel":
      return new WordLevel(file, vocab, unk);
    case "Pieces": {
      const cutting = { model: buildModel({ file, ...inner! }), pieces: inner!.vocab, unk: inner!.unk_token_id };
      return new Pieces(file, cutting, vocab, unk);
    }
  }
}
