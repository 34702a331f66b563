// How much memory training will take: two small passes are measured, and continued in a straight line, as what they keep grows with the
// tokens of a batch.

import { scope } from "../core/tensor.js";
import type { PreTrainedModel } from "../generate/model.js";
import { trainedContext } from "../nn/architecture.js";
import { CHUNK_LOGITS } from "../nn/head-loss.js";
import type { TrainingArguments } from "../train/arguments.js";

/** Bytes that are expected at the peak. */
export interface TrainMemory {
  readonly weights: number;
  readonly optimizer: number;
  /** What passes keep of a batch, gradients included. */
  readonly activations: number;
  readonly total: number;
}

/** Bytes of the optimizer for each trained number. */
function stateBytes(optim: string): number {
  const numbers = /ademamix/.test(optim) ? 3 : /adam/.test(optim) ? 2 : 1;
  return numbers * (/8bit/.test(optim) ? 1.02 : 4);
}

/** Least and most tokens of the second pass: enough for activations to outweigh gradients, and few, as they are only for this. */
const TOKENS = { least: 32, most: 256 };
/** Bytes of logits and of their gradient, which the loss takes in pieces. */
const logitBytes = (tokens: number, vocab: number): number => 8 * Math.min(tokens * vocab, CHUNK_LOGITS);

const memoryOf = ({ device }: PreTrainedModel): { readonly live: number; readonly peak: number } => device.memory;

/**
 * Measures two passes of a model that has its adapter.
 * @param tokens of the largest batch
 * @param trainable numbers that are trained
 * @throws OutOfMemoryError and what forward throws
 */
export async function trainMemory(
  model: PreTrainedModel,
  args: TrainingArguments,
  tokens: number,
  trainable: number,
): Promise<TrainMemory> {
  const { arena } = model.device;
  const { vocab } = model.module.geometry;
  const peaks: number[] = [];
  const longest = Math.min(TOKENS.most, trainedContext(model.config) ?? TOKENS.most);
  const second = Math.min(longest, Math.max(TOKENS.least, tokens >> 1));
  const first = Math.max(2, second >> 1);
  for (const count of [first, second]) {
    arena.resetPeak();
    const before = memoryOf(model).live;
    const ids = Array.from({ length: count }, (_, i) => i % 7);
    const loss = scope(() => model.forward({ input_ids: [ids], labels: [ids], skip_logits: true }).loss);
    loss.backward();
    await loss.readFloats();
    loss.dispose();
    model.zero_grad();
    peaks.push(memoryOf(model).peak - before - logitBytes(count, vocab));
  }
  const slope = (peaks[1]! - peaks[0]!) / (second - first);
  const fixed = Math.max(0, peaks[0]! - slope * first);
  const activations = Math.round(fixed + slope * tokens + logitBytes(tokens, vocab));
  const weights = memoryOf(model).live;
  const optimizer = Math.round(trainable * stateBytes(args.optim));
  return { weights, optimizer, activations, total: weights + optimizer + activations };
}
