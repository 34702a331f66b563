// The options of generate() that name token ids. Their checks need the size of the vocabulary.

import { isList, isWhole, listOf } from "../core/checks.js";
import { checkedLater, type Options } from "../core/options.js";
import { show } from "../core/show.js";

export const IDS = {
  /** Ids that end a text; null for none. */
  eos_token_id: checkedLater<number | readonly number[] | null>(),
  /** Id that fills rows that have ended. */
  pad_token_id: checkedLater<number | null>(),
  /** Ids that are never generated; null for none. */
  suppress_tokens: checkedLater<readonly number[] | null>(),
  /** Ids that are not generated as the first token; null for none. */
  begin_suppress_tokens: checkedLater<readonly number[] | null>(),
};

type IdOptions = Options<typeof IDS>;

/** Throws the error for the source of the value: the caller or the file. */
type Refuse = (key: keyof typeof IDS, message: string) => never;

export const isToken =
  (vocab: number) =>
  (id: unknown): id is number =>
    isWhole(id) && id < vocab;

/** An id that no token of the model has, as files of models with a cut vocabulary name, and -1 for "none". */
export const isNoToken =
  (vocab: number) =>
  (id: unknown): boolean =>
    Number.isSafeInteger(id) && !isToken(vocab)(id);

/** Ids that end a text; null from the caller means none. */
export function endOfText(
  options: IdOptions,
  inFile: unknown,
  fromModel: unknown,
  vocab: number,
  refuse: Refuse,
): readonly number[] {
  const token = isToken(vocab);
  const list = (ids: unknown): readonly unknown[] => (isList(ids) ? ids : [ids]);
  if (options.eos_token_id === null) return [];
  const chosen = options.eos_token_id ?? inFile;
  // Ids of the files that are outside the vocabulary are ignored; `fileWarnings` reports them.
  if (chosen === undefined) return list(fromModel ?? []).filter(token);
  const dropped = options.eos_token_id === undefined ? isNoToken(vocab) : () => false;
  const ids = listOf(list(chosen), (id): id is number => token(id) || dropped(id));
  return (
    ids?.filter(token) ?? refuse("eos_token_id", `eos_token_id must be token ids below ${vocab}, got ${show(chosen)}`)
  );
}

/** A list of ids, the caller's or the file's; ids of the file that no token has are left out. */
export function tokensOf(
  key: "suppress_tokens" | "begin_suppress_tokens",
  options: IdOptions,
  inFile: unknown,
  vocab: number,
  refuse: Refuse,
): readonly number[] {
  const token = isToken(vocab);
  const own = options[key];
  const chosen: unknown = own === undefined ? inFile : own;
  if (chosen === undefined || chosen === null) return [];
  const dropped = own === undefined ? isNoToken(vocab) : () => false;
  const ids = listOf(chosen, (id): id is number => token(id) || dropped(id));
  return ids?.filter(token) ?? refuse(key, `${key} must be a list of token ids below ${vocab}, got ${show(chosen)}`);
}

/** The id of padding; undefined if nobody names one that is a token. */
export function padding(
  options: IdOptions,
  inFile: unknown,
  fromModel: unknown,
  vocab: number,
  refuse: Refuse,
): number | undefined {
  const token = isToken(vocab);
  const own = options.pad_token_id ?? undefined;
  const chosen: unknown = own ?? inFile;
  if (token(chosen)) return chosen;
  if (chosen === undefined || (own === undefined && isNoToken(vocab)(chosen)))
    return token(fromModel) ? fromModel : undefined;
  return refuse("pad_token_id", `pad_token_id must be a token id below ${vocab}, got ${show(chosen)}`);
}

/** Options of the host that name ids which are forced, or never chosen. */
export type WordKey = "forced_bos_token_id" | "forced_eos_token_id" | "bad_words_ids";

/**
 * The ids of a forced token, or of words, if all are below `vocab`. Such ids of a file, which no token has, force nothing;
 * `fileWarnings` reports them.
 * @param value of the caller or the file, of the right kind
 * @param own whether it is the caller's
 */
export function within<T>(
  key: WordKey,
  value: T,
  own: boolean,
  vocab: number,
  refuse: (key: WordKey, message: string) => never,
): T | undefined {
  const ids = [value].flat(2);
  const token = isToken(vocab);
  if (ids.every(token)) return value;
  if (own || key === "bad_words_ids") return refuse(key, `${key} must be token ids below ${vocab}, got ${show(value)}`);
  const left = ids.filter(token);
  return left.length === 0 ? undefined : (left as T);
}
