// Buckets of distances (T5, Raffel et al. 2020, section 2.1): exact for near keys, logarithmic for far ones.

/** How distances become buckets. */
export interface Buckets {
  readonly count: number;
  /** Distances from here on share the last bucket. */
  readonly max: number;
  /** Keys before and after the query have separate buckets; else those after it are in the first one. */
  readonly both: boolean;
}

/** The bucket of a distance, key - query, rounded as in transformers (f32 logarithms). */
export function bucketOf(distance: number, { count, max, both }: Buckets): number {
  const half = both ? Math.floor(count / 2) : count;
  const exact = Math.floor(half / 2);
  const n = both ? Math.abs(distance) : Math.max(0, -distance);
  const first = both && distance > 0 ? half : 0;
  if (n < exact) return first + n;
  const share = Math.fround(Math.fround(Math.log(Math.fround(n / exact))) / Math.log(max / exact));
  return first + Math.min(half - 1, exact + Math.trunc(Math.fround(share * (half - exact))));
}

/**
 * The bucket of a distance in DeBERTa v2 (He et al. 2020), the sign kept: exact up to `count / 2`, then logarithmic, the last at
 * `max - 1`; rounded as in transformers (f32).
 */
export function signedBucketOf(distance: number, count: number, max: number): number {
  const { fround } = Math;
  const middle = Math.floor(count / 2);
  const away = Math.abs(distance);
  if (away <= middle) return distance;
  const whole = fround(Math.log(fround((max - 1) / middle)));
  const share = fround(fround(Math.log(fround(away / middle))) / whole);
  return Math.sign(distance) * (Math.ceil(fround(share * (middle - 1))) + middle);
}

/** The bucket of each distance key - query from -max to max. */
export function distanceBuckets(buckets: Buckets): Int32Array {
  const { max } = buckets;
  return Int32Array.from({ length: 2 * max + 1 }, (_, at) => bucketOf(at - max, buckets));
}
