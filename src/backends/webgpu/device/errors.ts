// Failures that kernels find while they run. A kernel writes a code and three numbers into the flag buffer, which
// failure-log.ts turns into the reference's error messages. The buffer begins with the number of calls that have failed;
// every read copies that word too. Slots follow: a call's number modulo their count picks its slot.

export const FAILURE = {
  tokenId: 1,
  target: 2,
  nan: 3,
  laneRow: 4,
  lanePosition: 5,
  historyOverflow: 6,
  noLogits: 7,
  historyRange: 8,
  expert: 9,
  page: 10,
  room: 11,
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
    case FAILURE.laneRow:
      return `a lane is of row ${a}; the table has ${b}`;
    case FAILURE.lanePosition:
      return `a lane stands at position ${a}`;
    case FAILURE.page:
      return `the table names page ${a}; the cache has ${b}`;
    case FAILURE.room:
      return `${a} keys do not fit pages of ${b} tokens`;
    case FAILURE.historyOverflow:
      return `position ${a} is outside a history of ${b}`;
    case FAILURE.historyRange:
      return `tokens ${a} to ${b} are outside a history of ${c}`;
    case FAILURE.expert:
      return `expert ${a} is not one of ${b}`;
    default:
      return `failure ${code} (${a}, ${b})`;
  }
}
