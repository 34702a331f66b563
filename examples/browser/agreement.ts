// How far two texts of one model agree, token by token.

export interface Agreement {
  /** Tokens at the beginning that are the same. */
  readonly equal: number;
  /** Tokens of the longer text. */
  readonly of: number;
  /** Place of the first token that differs, or at which one text has ended; undefined if all are the same. */
  readonly differs: number | undefined;
}

export function agreement(a: readonly number[], b: readonly number[]): Agreement {
  const of = Math.max(a.length, b.length);
  let equal = 0;
  while (equal < of && a[equal] === b[equal]) equal++;
  return { equal, of, differs: equal === of ? undefined : equal };
}

/** A text cut at a token: before it, the token itself (empty if the text ends there), and what follows. */
export interface Cut {
  readonly before: string;
  readonly token: string;
  readonly after: string;
}

/**
 * Cuts a text before its `at`-th token.
 * @param pieces text that each token added; a token in the midst of a character adds none, the one that ends it adds all
 */
export function cut(pieces: readonly string[], at: number): Cut {
  let end = at;
  while (end < pieces.length && pieces[end] === "") end++;
  return {
    before: pieces.slice(0, at).join(""),
    token: pieces[end] ?? "",
    after: pieces.slice(end + 1).join(""),
  };
}
