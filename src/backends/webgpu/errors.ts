// Failures that kernels find while they run. A kernel writes a code and two numbers into the flag buffer; the next read
// brings them back and turns them into a sentence (the same ones that the reference says).

export const FAILURE = {
  tokenId: 1,
  target: 2,
  nan: 3,
  cacheOverflow: 4,
  keysOverflow: 5,
  historyOverflow: 6,
} as const;

/** Words of the flag buffer: code, op, site, two numbers, padding. */
export const FLAG_WORDS = 8;

export function failureText(code: number, a: number, b: number, c: number): string {
  switch (code) {
    case FAILURE.tokenId:
      return `token id ${a} is outside the vocabulary of ${b}`;
    case FAILURE.target:
      return `target ${a} is outside the vocabulary of ${b}`;
    case FAILURE.nan:
      return "logits hold NaN";
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
