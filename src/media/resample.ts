// Sound at another rate, as torchaudio.functional.resample computes it by default, and transformers' pipelines with it: each new
// sample is a sum of the old ones near it, weighted by a sinc below the lower of both rates' limits under a window of Hann
// (Smith, "Digital Audio Resampling Home Page", https://ccrma.stanford.edu/~jos/resample).

import { OptionError, ShapeError } from "../core/errors.js";
import { show } from "../core/show.js";

/** Zeros of the sinc on each side that the window leaves. */
const ZEROS = 6;
/** The sinc's limit as a share of half the lower rate. */
const ROLLOFF = 0.99;
/** Rates that sound has: 1 Hz to 1 MHz. */
const MOST_HZ = 1_000_000;
/** Samples of a result at most: 4 GB. */
const MOST = 2 ** 30;
/** Phases whose weights are kept; of more each is used too seldom. */
const KEPT = 4096;

function greatestDivisor(a: number, b: number): number {
  return b === 0 ? a : greatestDivisor(b, a % b);
}

/** The weights of old samples in a new one, from the old sample `first` on, counted from the period's start. */
interface Phase {
  readonly first: number;
  readonly weights: Float64Array;
}

/** The weights of new sample `n` of a period, of `target` new samples in place of `source` old ones. */
function phaseOf(n: number, source: number, target: number): Phase {
  const limit = Math.min(source, target) * ROLLOFF;
  const reach = Math.ceil((ZEROS * source) / limit);
  const middle = (n * source) / target;
  const half = (ZEROS * source) / limit;
  const first = Math.max(-reach, Math.ceil(middle - half));
  const last = Math.min(reach + source - 1, Math.floor(middle + half));
  const weights = Float64Array.from({ length: last - first + 1 }, (_, i) => {
    const t = ((first + i) / source - n / target) * limit;
    const sinc = t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t);
    return (sinc * Math.cos((Math.PI * t) / ZEROS / 2) ** 2 * limit) / source;
  });
  return { first, weights };
}

/** A rate of sound. @throws OptionError */
export function rateOf(rate: unknown): number {
  if (typeof rate === "number" && Number.isInteger(rate) && rate >= 1 && rate <= MOST_HZ) return rate;
  throw new OptionError(`sampling_rate must be a whole number of Hz from 1 to ${MOST_HZ}, got ${show(rate)}`, {
    details: { option: "sampling_rate" },
  });
}

/**
 * Samples f32[T] at rate `from` as f32[ceil(T · to / from)] at rate `to`; silence is assumed before and after them.
 * @throws OptionError for a rate that sound does not have, ShapeError for a result that is too long
 */
export function resample(samples: Float32Array, from: number, to: number): Float32Array {
  const divisor = greatestDivisor(rateOf(from), rateOf(to));
  const [source, target] = [from / divisor, to / divisor];
  if (source === target) return samples;
  const length = Math.ceil((target * samples.length) / source);
  if (length > MOST) throw new ShapeError(`sound at ${from} Hz: ${length} samples at ${to} Hz are too many`);
  const kept: Phase[] = [];
  const out = new Float32Array(length);
  for (let at = 0; at < length; at++) {
    const n = at % target;
    const phase = kept[n] ?? phaseOf(n, source, target);
    if (n < KEPT) kept[n] = phase;
    const { first, weights } = phase;
    const begin = Math.floor(at / target) * source + first;
    let sum = 0;
    for (let i = Math.max(0, -begin); i < weights.length && begin + i < samples.length; i++) {
      sum += samples[begin + i]! * weights[i]!;
    }
    out[at] = sum;
  }
  return out;
}
