// Log-probabilities of continuations under encoder-decoders: the encoder reads the context, the decoder predicts the continuation.
// Continuations of one length run together, so that no decoder computes padding; the encoder computes none by itself.

import { throwIfAborted } from "../../core/errors.js";
import { scope, Tensor } from "../../core/tensor.js";
import { paddedRows } from "../../generate/inputs.js";
import { decoderStart } from "../../generate/seq2seq-inputs.js";
import type { PreTrainedSeq2SeqLM } from "../../generate/seq2seq-model.js";
import { argmax } from "../../ops/argmax.js";
import { tokenLogprobs } from "../../ops/token-logprobs.js";
import type { TokenText } from "./prefix-tree.js";
import { LOGITS_BYTES, type ScoreOptions } from "./scorer.js";

/** Tokens of a batch, padding of contexts included. */
const BATCH_TOKENS = 4096;

/** Scores all texts: the tokens before `from` are the encoder's. @throws AbortError, KernelError, OutOfMemoryError */
export async function scoreContinuations(
  model: PreTrainedSeq2SeqLM,
  texts: readonly TokenText[],
  options: ScoreOptions,
): Promise<void> {
  model.checkUsable();
  model.hold();
  try {
    await scoreBatches(model, texts, options);
  } finally {
    await model.release();
  }
}

async function scoreBatches(
  model: PreTrainedSeq2SeqLM,
  texts: readonly TokenText[],
  options: ScoreOptions,
): Promise<void> {
  const length = (n: number): number => texts[n]!.ids.length - texts[n]!.from;
  const order = [...texts.keys()].sort((a, b) => length(a) - length(b) || texts[b]!.from - texts[a]!.from || a - b);
  const { vocab } = model.module.geometry;
  for (let at = 0; at < order.length; ) {
    throwIfAborted(options.signal, "evaluation");
    const count = length(order[at]!);
    const tokens = texts[order[at]!]!.from + count; // of the longest
    const fit = Math.min(BATCH_TOKENS / tokens, LOGITS_BYTES / (4 * vocab * count), options.rows);
    const most = Math.max(1, Math.floor(fit));
    const end = order.findIndex((n, place) => place > at && (place === at + most || length(n) !== count));
    const batch = order.slice(at, end < 0 ? undefined : end);
    await scoreBatch(model, texts, batch, options);
    at += batch.length;
  }
}

async function scoreBatch(
  model: PreTrainedSeq2SeqLM,
  texts: readonly TokenText[],
  batch: readonly number[],
  options: ScoreOptions,
): Promise<void> {
  const own = batch.map((n) => texts[n]!);
  const start = decoderStart(model, 1, {}).decoder.ids[0]!;
  const contexts = own.map(({ ids, from }) => ids.slice(0, from));
  const continuations = own.map(({ ids, from }) => ids.slice(from));
  const count = continuations[0]!.length;
  const { logits, encoder_last_hidden_state } = model.forward({
    ...paddedRows(contexts, 0, "right"),
    decoder_input_ids: continuations.map((ids) => [start, ...ids.slice(0, -1)]),
  });
  const made: Tensor[] = [];
  try {
    scope(() => {
      const rows = logits.view(batch.length * count, -1);
      const targets = Tensor.from(logits.device, Int32Array.from(continuations.flat()), [rows.shape[0]!]);
      made.push(tokenLogprobs(rows, targets).keep(), argmax(rows).keep());
    });
    const values = await made[0]!.readFloats();
    const best = await made[1]!.read();
    const scored = batch.map((text, n) => {
      const places = continuations[n]!.map((id, i) => [n * count + i, id] as const);
      const loglikelihood = places.reduce((sum, [place]) => sum + values[place]!, 0);
      return [text, { loglikelihood, is_greedy: places.every(([place, id]) => best[place] === id) }] as const;
    });
    options.ran?.(own.reduce((sum, { ids }) => sum + ids.length, 0));
    await options.scored?.(scored);
  } finally {
    for (const tensor of [...made, logits, encoder_last_hidden_state]) tensor.dispose();
  }
}
