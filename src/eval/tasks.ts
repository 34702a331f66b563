// Speed of models that are not plain decoders, with random weights: a mixture of experts, an encoder-decoder, an encoder.

import type { Device } from "../core/device.js";
import { scope, Tensor } from "../core/tensor.js";
import { encodeInto } from "../generate/seq2seq.js";
import type { RequestConfig, RowRequest } from "../generate/sequence.js";
import { DecodeSession } from "../generate/session.js";
import type { Task } from "../nn/architecture.js";
import { type CacheDType, cacheBytesPerToken } from "../nn/cache.js";
import type { Decoder } from "../nn/decoder.js";
import type { EncoderModel } from "../nn/encoder.js";
import type { Model } from "../nn/model.js";
import { Linear, type Matrix } from "../nn/module.js";
import { Seq2SeqLM } from "../nn/seq2seq.js";
import { beside, CACHED, type Share } from "./machine.js";
import type { ShapeConfig } from "./shapes.js";
import { GREEDY, median, WARM_STEPS } from "./speed.js";

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
  /** "padded": all texts are of the same length. "ragged": of different ones, padded to the longest. */
  readonly rows: "equal" | "ragged";
  readonly ms: number;
  /** Tokens that are not padding. */
  readonly tokens: number;
}

/** The matrices of a decoder that a step multiplies with: without an encoder, and without those that its output alone meets. */
function stepMatrices(model: Model): Map<Matrix, number> {
  const decoding = new Set(model.blocks.at(-1)!.flatMap((block) => [...block.named_modules()].map(([, one]) => one)));
  const head = model.output_embeddings();
  const matrices = new Map<Matrix, number>();
  for (const [path, module] of model.named_modules()) {
    if (!(module instanceof Linear) || !(decoding.has(module) || module === head)) continue;
    if (/(EncDecAttention\.[kv]|encoder_attn\.[kv]_proj)$/.test(path)) continue;
    matrices.set(module.weight, module.weight.nbytes);
  }
  return matrices;
}

/**
 * Bytes that a step of `batch` tokens reads at least: of a stack of experts those of `chosen` for each token, as many different
 * ones as random choices meet on average.
 */
export function stepBytes(model: Model, batch: number, chosen: number): number {
  let bytes = 0;
  for (const [{ experts }, size] of stepMatrices(model)) {
    bytes += experts > 1 ? size * (1 - (1 - chosen / experts) ** batch) : size;
  }
  return bytes;
}

/** Median milliseconds of decode steps of a causal model or an encoder-decoder, beside the bandwidth of memory at batch 1. */
export async function stepSpeed(
  device: Device,
  model: Decoder & Model,
  options: { batch: number; steps: number; cache_dtype: CacheDType; config: ShapeConfig },
): Promise<StepSpeed> {
  const { batch, steps, cache_dtype, config } = options;
  const encodes = model instanceof Seq2SeqLM;
  const chosen = typeof config.num_experts_per_tok === "number" ? config.num_experts_per_tok : 1;
  const held = batch * (steps / 2 + (encodes ? ENCODED : 0));
  const weights = stepBytes(model, batch, chosen);
  const bytes = weights + held * cacheBytesPerToken(model.geometry, cache_dtype);
  const time = async (): Promise<number> => {
    const ids = Int32Array.from({ length: batch * ENCODED }, (_, i) => (i * 7919 + 13) % model.geometry.vocab);
    const cross = encodes
      ? encodeInto(device, model, { rows: batch, steps: ENCODED, ids, mask: undefined }, cache_dtype)
      : undefined;
    const capacity = steps + WARM_STEPS + 3;
    const request: RequestConfig = { ...GREEDY, max_new_tokens: capacity - 1, eos_token_ids: [] };
    const requests: RowRequest[] = Array.from({ length: batch }, (_, row) => ({
      row,
      prompt: [ids[row * ENCODED]!],
      config: request,
    }));
    using session = new DecodeSession(device, model, {
      rows: batch,
      capacity,
      cache_dtype,
      ...(cross ? { cross } : {}),
    });
    try {
      await session.add(requests);
      for (let i = 0; i < WARM_STEPS; i++) await session.step();
      const times: number[] = [];
      let running = session.step();
      let last = performance.now();
      for (let i = 0; i < steps; i++) {
        const next = i + 1 < steps ? session.step() : undefined;
        await running;
        const now = performance.now();
        if (i > 0) times.push(now - last); // the first was not pipelined
        last = now;
        running = next;
      }
      return median(times);
    } finally {
      cross?.dispose();
    }
  };
  const { made: ms, ...share } = await beside(device, batch === 1 ? "read" : undefined, time, (one) => ({
    speed: bytes / one / 1e6,
    cached: bytes < CACHED,
  }));
  return { batch, ms, bandwidth: bytes / ms / 1e6, bytes, weights, ...share };
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
