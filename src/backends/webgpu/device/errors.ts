// Failures that kernels find while they run. A kernel writes a code and three numbers into the flag buffer, which
// failure-log.ts turns into the reference's error messages. The buffer begins with the number of calls that have failed;
// every read copies that word too. Slots follow: a call's number modulo their count picks its slot.

export const FAILURE = {
  tokenId: 1,
  target: 2,
  nan: 3,
  cacheOverflow: 4,
  keysOverflow: 5,
  historyOverflow: 6,
  noLogits: 7,
} as const;

/** Words of the head, and of each slot: number of the call, code, three numbers, padding. */
export const FLAG_WORDS = 8;
export const FLAG_SLOTS = 1024;

const TAGS = 2 ** 32 - 1;

/** The tag that kernels write for a call: its number in 32 bits, never 0. */
export function tagOf(call: number): number {
  return 1 + (call % TAGS);
}

/** The number from `first` on that has this tag. */
export function untag(tag: number, first: number): number {
  return first + ((tag - 1 - (first % TAGS) + TAGS) % TAGS);
}

export function failureText(code: number, a: number, b: number, c: number): string {
  switch (code) {
    case FAILURE.tokenId:
      return `token id ${a} is outside the vocabulary of ${b}`;
    case FAILURE.target:
      return `target ${a} is outside the vocabulary of ${b}`;
    case FAILURE.nan:
      return "logits hold NaN";
    case FAILURE.noLogits:
      return "all logits are -inf";
    case FAILURE.cacheOverflow:
      return `${a} + ${c} tokens do not fit a cache of ${b}`;
    case FAILURE.keysOverflow:
      return `${a} + ${c} keys do not fit ${b}`;
    case FAILURE.historyOverflow:
      return `position ${a} is outside a history of ${b}`;
    default:
      return `failure ${code} (${a}, ${b})`;
  }
}
