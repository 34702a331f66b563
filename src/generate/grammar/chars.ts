// Sets of characters: sorted, disjoint ranges of Unicode code points. Surrogates are no characters and in no set.

/** Inclusive ranges. */
export type CharSet = readonly (readonly [first: number, last: number])[];

export const LAST = 0x10ffff;
const SURROGATES = [0xd800, 0xdfff] as const;

/** The set of all characters in some ranges, which may overlap. */
export function charSet(ranges: CharSet): CharSet {
  const sorted = ranges.filter(([first, last]) => first <= last).sort((a, b) => a[0] - b[0]);
  const merged: [number, number][] = [];
  for (const [first, last] of sorted) {
    const before = merged.at(-1);
    if (before && first <= before[1] + 1) before[1] = Math.max(before[1], last);
    else merged.push([first, last]);
  }
  return merged.flatMap(([first, last]): [number, number][] => {
    if (last < SURROGATES[0] || first > SURROGATES[1]) return [[first, last]];
    const around: [number, number][] = [
      [first, SURROGATES[0] - 1],
      [SURROGATES[1] + 1, last],
    ];
    return around.filter(([from, to]) => from <= to);
  });
}

export const ANY: CharSet = charSet([[0, LAST]]);

/** The characters of a text. */
export function charsOf(text: string): CharSet {
  return charSet(Array.from(text, (char) => [char.codePointAt(0)!, char.codePointAt(0)!] as const));
}

/** All other characters. */
export function inverted(set: CharSet): CharSet {
  const gaps: [number, number][] = [];
  let next = 0;
  for (const [first, last] of set) {
    gaps.push([next, first - 1]);
    next = last + 1;
  }
  return charSet([...gaps, [next, LAST]]);
}

export function intersection(a: CharSet, b: CharSet): CharSet {
  const common: [number, number][] = [];
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    const [first, last] = [Math.max(a[i]![0], b[j]![0]), Math.min(a[i]![1], b[j]![1])];
    if (first <= last) common.push([first, last]);
    a[i]![1] < b[j]![1] ? i++ : j++;
  }
  return common;
}
