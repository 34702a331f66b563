// Processors that shape the distribution from which tokens are drawn.

import { entriesOf, ShapeError } from "../../../core/errors.js";
import { Tensor } from "../../../core/tensor.js";
import { ascending, largest, logSoftmax, numberOf, RowProcessor, readScores, softmax, wholeOf } from "./base.js";

const NEVER = Number.NEGATIVE_INFINITY;

/** Settings of processors that drop tokens. */
export interface KeepOptions {
  /** Tokens that are kept in any case; default 1. */
  readonly min_tokens_to_keep?: number;
}

/** @throws OptionError */
function keepOf(name: string, options: KeepOptions): number {
  const given = Object.fromEntries(entriesOf(name, options, ["min_tokens_to_keep"]));
  return wholeOf("min_tokens_to_keep", given.min_tokens_to_keep ?? 1, 1);
}

/** Up to here the largest are found in one pass; more of them by sorting all. */
const FEW = 256;

/** The `count`-th largest score. */
function nthLargest(scores: Float32Array, count: number): number {
  if (count <= FEW && count <= scores.length) return scores[largest(scores, count).at(-1) ?? 0]!;
  return Float32Array.from(scores).sort()[scores.length - Math.min(count, scores.length)]!;
}

export class TemperatureLogitsWarper extends RowProcessor {
  readonly temperature: number;

  constructor(temperature: number) {
    super();
    const fits = (n: number): boolean => n > 0 && Number.isFinite(n);
    this.temperature = numberOf("temperature", temperature, fits, "a number above 0");
  }

  change(scores: Float32Array): void {
    for (let i = 0; i < scores.length; i++) scores[i] = scores[i]! / this.temperature;
  }
}

/** Keeps the k largest scores, and those equal to the last of them (Fan et al. 2018). */
export class TopKLogitsWarper extends RowProcessor {
  readonly top_k: number;

  constructor(top_k: number, options: KeepOptions = {}) {
    super();
    this.top_k = Math.max(wholeOf("top_k", top_k, 1), keepOf("TopKLogitsWarper", options));
  }

  change(scores: Float32Array): void {
    const least = nthLargest(scores, this.top_k);
    for (let i = 0; i < scores.length; i++) if (scores[i]! < least) scores[i] = NEVER;
  }
}

/** Keeps the likeliest tokens up to a probability (Holtzman et al. 2020). */
export class TopPLogitsWarper extends RowProcessor {
  readonly top_p: number;
  readonly min_tokens_to_keep: number;

  constructor(top_p: number, options: KeepOptions = {}) {
    super();
    this.top_p = numberOf("top_p", top_p, (n) => n >= 0 && n <= 1, "a number from 0 to 1");
    this.min_tokens_to_keep = keepOf("TopPLogitsWarper", options);
  }

  change(scores: Float32Array): void {
    const order = ascending(scores);
    const shares = softmax(scores);
    let sum = 0;
    for (let n = 0; n < order.length; n++) {
      const i = order[n]!;
      sum += shares[i]!;
      if (n >= scores.length - this.min_tokens_to_keep || !(sum <= 1 - this.top_p)) return;
      scores[i] = NEVER;
    }
  }
}

/** Drops tokens below a share of the likeliest one's probability. */
export class MinPLogitsWarper extends RowProcessor {
  readonly min_p: number;
  readonly min_tokens_to_keep: number;

  constructor(min_p: number, options: KeepOptions = {}) {
    super();
    this.min_p = numberOf("min_p", min_p, (n) => n >= 0 && n <= 1, "a number from 0 to 1");
    this.min_tokens_to_keep = keepOf("MinPLogitsWarper", options);
  }

  change(scores: Float32Array): void {
    const shares = softmax(scores);
    const least = this.min_p * shares.reduce((most, share) => Math.max(most, share), 0);
    dropBelow(scores, shares, least, this.min_tokens_to_keep);
  }
}

/** Drops tokens whose key is below `least`, but not the `keep` likeliest. */
function dropBelow(scores: Float32Array, shares: Float64Array, least: number, keep: number): void {
  const kept = new Set(keep <= FEW ? largest(scores, keep, "higher") : ascending(scores).slice(-keep));
  for (let i = 0; i < scores.length; i++) if (shares[i]! < least && !kept.has(i)) scores[i] = NEVER;
}

function entropyOf(shares: Float64Array): number {
  return -shares.reduce((sum, share) => sum + (share > 0 ? share * Math.log(share) : 0), 0);
}

/** Keeps the tokens whose surprise is nearest to the mean (Meister et al. 2023). */
export class TypicalLogitsWarper extends RowProcessor {
  readonly mass: number;
  readonly min_tokens_to_keep: number;

  constructor(mass = 0.9, options: KeepOptions = {}) {
    super();
    this.mass = numberOf("typical_p", mass, (n) => n > 0 && n < 1, "a number between 0 and 1");
    this.min_tokens_to_keep = keepOf("TypicalLogitsWarper", options);
  }

  change(scores: Float32Array): void {
    const shares = softmax(scores);
    const entropy = entropyOf(shares);
    const far = shares.map((share) => Math.abs(-Math.log(share) - entropy));
    const order = ascending(far);
    let sum = 0;
    let last = 0;
    for (const i of order) {
      sum += shares[i]!;
      if (!(sum < this.mass)) break;
      last++;
    }
    const most = far[order[Math.min(last, order.length - 1)]!]!;
    const kept = new Set(order.slice(0, this.min_tokens_to_keep));
    for (let i = 0; i < scores.length; i++) if (far[i]! > most && !kept.has(i)) scores[i] = NEVER;
  }
}

const isCutoff = (n: number): boolean => n > 0 && n < 1;

/** Drops tokens below a probability (Hewitt et al. 2022). */
export class EpsilonLogitsWarper extends RowProcessor {
  readonly epsilon: number;
  readonly min_tokens_to_keep: number;

  constructor(epsilon: number, options: KeepOptions = {}) {
    super();
    this.epsilon = numberOf("epsilon", epsilon, isCutoff, "a number between 0 and 1");
    this.min_tokens_to_keep = keepOf("EpsilonLogitsWarper", options);
  }

  change(scores: Float32Array): void {
    dropBelow(scores, softmax(scores), this.epsilon, this.min_tokens_to_keep);
  }
}

/** Drops tokens below a probability that shrinks as the distribution gets flatter (Hewitt et al. 2022). */
export class EtaLogitsWarper extends RowProcessor {
  readonly epsilon: number;
  readonly min_tokens_to_keep: number;

  constructor(epsilon: number, options: KeepOptions = {}) {
    super();
    this.epsilon = numberOf("epsilon", epsilon, isCutoff, "a number between 0 and 1");
    this.min_tokens_to_keep = keepOf("EtaLogitsWarper", options);
  }

  change(scores: Float32Array): void {
    const shares = softmax(scores);
    const eta = Math.min(this.epsilon, Math.sqrt(this.epsilon) * Math.exp(-entropyOf(shares)));
    dropBelow(scores, shares, eta, this.min_tokens_to_keep);
  }
}

/** Scores as log-probabilities. */
export class LogitNormalization extends RowProcessor {
  change(scores: Float32Array): void {
    logSoftmax(scores);
  }
}

/** Sanchez et al. 2023: away from what the model says without the condition. */
export class ClassifierFreeGuidanceLogitsProcessor {
  readonly guidance_scale: number;

  constructor(guidance_scale: number) {
    this.guidance_scale = numberOf("guidance_scale", guidance_scale, (n) => n > 1, "a number above 1");
  }

  /**
   * @param scores f32[2B,V]: with the condition, then without
   * @returns f32[B,V]
   * @throws OptionError, ShapeError
   */
  async call(_input_ids: unknown, scores: Tensor): Promise<Tensor> {
    const { values, vocab } = await readScores(scores);
    const rows = values.length / vocab / 2;
    if (!Number.isSafeInteger(rows)) {
      throw new ShapeError(`scores need rows with and without the condition, got ${values.length / vocab}`);
    }
    const [half, scale] = [rows * vocab, this.guidance_scale];
    const out = values.slice(0, half).map((given, i) => scale * (given - values[half + i]!) + values[half + i]!);
    return Tensor.from(scores.device, out, [rows, vocab]);
  }
}
