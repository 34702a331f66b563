// Texts that begin alike, as a tree: what several begin with is computed once. Pure numbers.

/** A text to read, and the tokens whose probabilities count. */
export interface TokenText {
  /** At least two tokens. */
  readonly ids: readonly number[];
  /** The first token that counts; those before it are context only. At least 1. */
  readonly from: number;
}

/** Tokens that follow those of a parent. */
export interface Branch {
  /** Position of its first token. */
  readonly at: number;
  readonly ids: readonly number[];
  readonly branches: readonly Branch[];
  /** Texts of which it is a part, by number. */
  readonly texts: readonly number[];
}

/** Shorter beginnings are not worth a fork: they are computed once for each text. */
const LEAST_SHARED = 8;

function compare(a: readonly number[], b: readonly number[]): number {
  const most = Math.min(a.length, b.length);
  for (let i = 0; i < most; i++) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return a.length - b.length;
}

function sharedLength(a: readonly number[], b: readonly number[], end: number): number {
  let n = 0;
  while (n < end && a[n] === b[n]) n++;
  return n;
}

/** Tokens that the model reads of a text: the last one is only predicted. */
const readLength = ({ ids }: TokenText): number => ids.length - 1;

/** The order in which texts that begin alike are neighbours. */
export function neighbours(texts: readonly TokenText[]): number[] {
  return [...texts.keys()].sort((a, b) => compare(texts[a]!.ids, texts[b]!.ids) || a - b);
}

/**
 * Cuts texts in order into batches of at most `most.texts` texts that read at most about `most.tokens` tokens, those that a text
 * shares with the one before it not counted. A batch has at least one text.
 */
export function batches(
  texts: readonly TokenText[],
  order: readonly number[],
  most: { readonly texts: number; readonly tokens: number },
): number[][] {
  const cut: number[][] = [];
  let tokens = 0;
  for (const text of order) {
    const batch = cut.at(-1);
    const before = batch?.at(-1);
    const end = readLength(texts[text]!);
    const own = end - (before === undefined ? 0 : sharedLength(texts[before]!.ids, texts[text]!.ids, end));
    if (batch && batch.length < most.texts && tokens + own <= most.tokens) {
      batch.push(text);
      tokens += own;
    } else {
      cut.push([text]);
      tokens = end;
    }
  }
  return cut;
}

/**
 * The tree of texts that stand in the order of `neighbours`.
 * @param shares false: each text is computed on its own
 */
export function treeOf(texts: readonly TokenText[], members: readonly number[], shares: boolean): Branch[] {
  const grow = (group: readonly number[], at: number): Branch[] => {
    const branches: Branch[] = [];
    for (let first = 0; first < group.length; ) {
      const head = texts[group[first]!]!;
      let shared = readLength(head);
      let next = first + 1;
      for (; shares && next < group.length; next++) {
        const other = texts[group[next]!]!;
        const length = sharedLength(head.ids, other.ids, Math.min(shared, readLength(other)));
        // The whole of both texts may be shorter than a beginning that is worth it.
        const same = length === readLength(other) && length === shared;
        if (length - at < LEAST_SHARED && !same) break;
        shared = length;
      }
      const own = group.slice(first, next);
      const inside = own.filter((text) => readLength(texts[text]!) > shared);
      branches.push({ at, ids: head.ids.slice(at, shared), branches: grow(inside, shared), texts: own });
      first = next;
    }
    return branches;
  };
  return grow(members, 0);
}
