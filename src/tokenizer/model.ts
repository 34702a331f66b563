// What models of tokenizers are: pieces of text to ids. Each is in a file of its own (bpe.ts, unigram.ts, word-models.ts).

import { FormatError } from "../core/errors.js";
import { show } from "../core/show.js";
import { fail } from "./json-file.js";

/** Merges of BPE in the order of their ranks: ids of the two tokens and of what they become. */
export interface Merges {
  readonly left: Int32Array;
  readonly right: Int32Array;
  readonly result: Int32Array;
}

/** Tokens of Unigram with their scores, in the order of their ids. */
export type Scores = readonly (readonly [token: string, score: number])[];

export interface Model {
  /**
   * Adds the ids of a piece to `out`.
   * @param banned ids that no text may become, but for the unknown token where the vocabulary lacks the text; for one model
   * always the same, if given
   * @throws FormatError when the vocabulary lacks a part of the piece and there is no unknown token
   */
  encode(piece: string, banned: ReadonlySet<number> | undefined, out: number[]): void;

  /** The same, and the place of each token in the piece: where it starts and ends, in units, and always whole characters. */
  place(piece: string, banned: ReadonlySet<number> | undefined, out: number[], places: number[]): void;
}

/** Longest token of models that try every length, in UTF-16 units. Published ones stay under 100. */
export const LONGEST_TOKEN = 512;

/** @throws FormatError for the first token that is longer than 512 units */
export function checkLengths(file: string, tokens: Iterable<string>): void {
  for (const token of tokens) {
    if (token.length > LONGEST_TOKEN) {
      fail(file, "model.vocab", `${show(token)} has ${token.length} characters, at most ${LONGEST_TOKEN} are taken`);
    }
  }
}

/** @throws FormatError always */
export function unknownToken(file: string, token: string): never {
  throw new FormatError(`${file}: ${show(token)} is not in the vocabulary and there is no unk_token`, {
    details: { file, key: "model.unk_token" },
  });
}
