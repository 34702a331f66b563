// Speed of models that are not plain decoders, with random weights: a mixture of experts, an encoder-decoder, an encoder.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { encodeInto } from "../generate/seq2seq.js";
import type { Task } from "../nn/architecture.js";
import type { CacheDType } from "../nn/cache.js";
import type { EncoderModel } from "../nn/encoder.js";
import { Seq2SeqLM } from "../nn/seq2seq.js";
import { beside, CACHED, type Share } from "./machine.js";
import type { ShapeConfig } from "./shapes.js";
import { bytesPerStep, type DecodingModel, decodeTimes, median, weightsPerStep } from "./speed.js";

/** Tokens that the encoder of an encoder-decoder has read. */
const ENCODED = 128;
/** Texts of the encoder's batch, and the tokens of the longest. */
const TEXTS = 32;
const TEXT_TOKENS = 128;

/** One decode step of `batch` tokens. */
export interface StepSpeed extends Share {
  readonly batch: number;
  readonly ms: number;
  /** GB/s of the weights that the step needs, keys and values. */
  readonly bandwidth: number;
  /** Bytes that it reads, and those of weights among them. */
  readonly bytes: number;
  readonly weights: number;
}

/** Encoding a batch of texts. */
export interface EncodeSpeed {
  /** "equal": all texts are of the same length. "ragged": of different ones, without padding. */
  readonly rows: "equal" | "ragged";
  readonly ms: number;
  /** Tokens that are not padding. */
  readonly tokens: number;
}

/**
 * Median milliseconds of a step that decodes a token of each of `batch` texts, of up to `steps` steps.
 * @param how.encoded tokens of each text that an encoder-decoder has read (default: 128)
 */
export async function decodeTime(
  device: Device,
  model: DecodingModel,
  how: { batch: number; steps: number; cache_dtype: CacheDType; patience?: number; encoded?: number },
): Promise<number> {
  const { batch, cache_dtype, encoded = ENCODED } = how;
  const vocab = (model instanceof Seq2SeqLM ? model.encoder_vocab : undefined) ?? model.geometry.vocab;
  const ids = Int32Array.from({ length: batch * encoded }, (_, i) => (i * 7919 + 13) % vocab);
  const text = { rows: batch, steps: encoded, ids, mask: undefined };
  const cross = model instanceof Seq2SeqLM ? encodeInto(device, model, text, cache_dtype) : undefined;
  try {
    return median(await decodeTimes(device, model, { context: 1, ...how, ...(cross ? { cross } : {}) }));
  } finally {
    cross?.dispose();
  }
}

/** Decode steps of a causal model or an encoder-decoder, beside the bandwidth of memory at batch 1. */
export async function stepSpeed(
  device: Device,
  model: DecodingModel,
  options: { batch: number; steps: number; cache_dtype: CacheDType },
): Promise<StepSpeed> {
  const { batch, steps, cache_dtype } = options;
  const encoded = model instanceof Seq2SeqLM ? ENCODED : 0;
  const bytes = bytesPerStep(model, batch, steps / 2 + encoded, cache_dtype);
  const { made: ms, ...share } = await beside(
    device,
    batch === 1 ? "read" : undefined,
    () => decodeTime(device, model, options),
    (one) => ({ speed: bytes / one / 1e6, cached: bytes < CACHED }),
  );
  return { batch, ms, bandwidth: bytes / ms / 1e6, bytes, weights: weightsPerStep(model, batch), ...share };
}

/** Median milliseconds of encoding 32 texts of up to 128 tokens, all as long or of 4 to 128 tokens. */
export async function encodeSpeed(
  device: Device,
  model: EncoderModel,
  rows: EncodeSpeed["rows"],
  runs: number,
): Promise<EncodeSpeed> {
  const lengths = Array.from({ length: TEXTS }, (_, row) =>
    rows === "equal" ? TEXT_TOKENS : Math.ceil(((row + 1) * TEXT_TOKENS) / TEXTS),
  );
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  const shape = rows === "equal" ? [TEXTS, TEXT_TOKENS] : [1, tokens];
  const positions = Int32Array.from(lengths.flatMap((length) => Array.from({ length }, (_, t) => t)));
  const segments = Int32Array.from(lengths.flatMap((length, row) => new Array<number>(length).fill(row)));
  const ids = positions.map((at, i) => (i * 7919 + at + 13) % model.geometry.vocab);
  const times: number[] = [];
  for (let run = 0; run <= runs; run++) {
    const start = performance.now();
    scope(() => {
      const input = {
        positions: Tensor.from(device, positions, shape),
        ...(rows === "ragged" ? { segments: Tensor.from(device, segments, shape) } : {}),
      };
      using pass = model.pass(input);
      model.hidden(pass, Tensor.from(device, ids, shape));
      return undefined;
    });
    await device.synchronize();
    if (run > 0) times.push(performance.now() - start);
  }
  return { rows, ms: median(times), tokens };
}

/** The task of each shape that is not a plain decoder. */
export const TASK_SHAPES: Readonly<Record<string, { readonly task: Task; readonly config: ShapeConfig }>> = {
  "T5-3B": {
    task: "seq2seq-lm",
    config: {
      ...{ model_type: "t5", vocab_size: 32128, d_model: 1024, d_kv: 128, d_ff: 16384, num_layers: 24, num_heads: 32 },
      ...{ hidden_size: 1024, intermediate_size: 16384, num_attention_heads: 32, num_key_value_heads: 32 },
    },
  },
  "T5-LARGE": {
    task: "seq2seq-lm",
    config: {
      ...{ model_type: "t5", vocab_size: 32128, d_model: 1024, d_kv: 64, d_ff: 4096, num_layers: 24, num_heads: 16 },
      ...{ hidden_size: 1024, intermediate_size: 4096, num_attention_heads: 16, num_key_value_heads: 16 },
    },
  },
  "BERT-BASE": {
    task: "base",
    config: {
      ...{ model_type: "bert", vocab_size: 30522, hidden_size: 768, intermediate_size: 3072, num_hidden_layers: 12 },
      ...{ num_attention_heads: 12, num_key_value_heads: 12, max_position_embeddings: 512 },
    },
  },
  MOE: {
    task: "causal-lm",
    config: {
      ...{
        model_type: "mixtral",
        vocab_size: 32000,
        hidden_size: 1024,
        intermediate_size: 2816,
        num_hidden_layers: 16,
      },
      ...{ num_attention_heads: 16, num_key_value_heads: 8, num_local_experts: 8, num_experts_per_tok: 2 },
      ...{ max_position_embeddings: 4096, rms_norm_eps: 1e-5, tie_word_embeddings: false },
    },
  },
};
