// Writes a GGUF (version 3) llama with random weights and a dummy vocabulary, for llama.cpp. Layout: header, metadata,
// tensor directory, then the tensors, each aligned to 32 bytes.

import { join } from "node:path";
import { bytesOf, cached, ones } from "./bytes.mjs";
import { EPSILON, matrices, POSITIONS, ROPE_BASE } from "./shapes.mjs";

/** Numbers of the tensor types in ggml.h. */
const TYPES = { F32: 0, Q4_0: 2, Q8_0: 8, Q4_K: 12, Q6_K: 14, BF16: 30 };
/** general.file_type of llama.h. */
const FILE_TYPES = { Q4_0: 2, Q8_0: 7, Q4_K: 14, BF16: 32 };
const ALIGNMENT = 32;
const NAMES = {
  q: "attn_q",
  k: "attn_k",
  v: "attn_v",
  o: "attn_output",
  gate: "ffn_gate",
  up: "ffn_up",
  down: "ffn_down",
};

/** @param {number} value */
const u32 = (value) => {
  const b = Buffer.alloc(4);
  b.writeUInt32LE(value);
  return b;
};
/** @param {number} value */
const u64 = (value) => {
  const b = Buffer.alloc(8);
  b.writeBigUInt64LE(BigInt(value));
  return b;
};
/** @param {number} value */
const f32 = (value) => {
  const b = Buffer.alloc(4);
  b.writeFloatLE(value);
  return b;
};
/** @param {string} value */
const text = (value) => Buffer.concat([u64(Buffer.byteLength(value)), Buffer.from(value)]);

/** Encoders of metadata values by type number. */
const VALUES = { 4: u32, 5: u32, 6: f32, 8: text };
/** @param {string} key @param {4 | 5 | 6 | 8} type @param {any} value */
const entry = (key, type, value) => Buffer.concat([text(key), u32(type), VALUES[type](value)]);
/** @param {string} key @param {4 | 5 | 6 | 8} type @param {any[]} values */
const list = (key, type, values) =>
  Buffer.concat([text(key), u32(9), u32(type), u64(values.length), ...values.map(VALUES[type])]);

/** A sentencepiece-like vocabulary: unknown, begin, end, all bytes, and made-up words. @param {number} size */
function vocabulary(size) {
  const tokens = ["<unk>", "<s>", "</s>"];
  const types = [2, 3, 3];
  for (let i = 0; i < 256; i++) {
    tokens.push(`<0x${i.toString(16).toUpperCase().padStart(2, "0")}>`);
    types.push(6);
  }
  for (let i = tokens.length; i < size; i++) {
    tokens.push(`\u2581w${i}`);
    types.push(1);
  }
  return { tokens, types, scores: tokens.map((_, i) => (i < 259 ? 0 : -i)) };
}

/**
 * The file of a shape in a type, written on first use.
 * @param {string} folder @param {import("./shapes.mjs").Shape} s @param {"Q8_0" | "Q4_0" | "Q4_K" | "BF16"} type
 */
export function ggufFile(folder, s, type) {
  /** @type {{ name: string, dims: number[], type: keyof typeof TYPES }[]} */
  const tensors = [];
  const matrix = (name, outputs, inputs, stored = type) =>
    tensors.push({ name: `${name}.weight`, dims: [inputs, outputs], type: stored });
  const vector = (name) => tensors.push({ name: `${name}.weight`, dims: [s.hidden], type: "F32" });
  matrix("token_embd", s.vocab, s.hidden);
  for (let layer = 0; layer < s.layers; layer++) {
    vector(`blk.${layer}.attn_norm`);
    for (const [name, outputs, inputs] of matrices(s)) matrix(`blk.${layer}.${NAMES[name]}`, outputs, inputs);
    vector(`blk.${layer}.ffn_norm`);
  }
  vector("output_norm");
  matrix("output", s.vocab, s.hidden, type.startsWith("Q4") ? "Q6_K" : type);

  const { tokens, types, scores } = vocabulary(s.vocab);
  const metadata = [
    entry("general.architecture", 8, "llama"),
    entry("general.name", 8, `random ${s.name}`),
    entry("general.file_type", 4, FILE_TYPES[type]),
    entry("llama.block_count", 4, s.layers),
    entry("llama.context_length", 4, POSITIONS),
    entry("llama.embedding_length", 4, s.hidden),
    entry("llama.feed_forward_length", 4, s.ffn),
    entry("llama.attention.head_count", 4, s.heads),
    entry("llama.attention.head_count_kv", 4, s.groups),
    entry("llama.attention.layer_norm_rms_epsilon", 6, EPSILON),
    entry("llama.rope.dimension_count", 4, s.hidden / s.heads),
    entry("llama.rope.freq_base", 6, ROPE_BASE),
    entry("llama.vocab_size", 4, s.vocab),
    entry("tokenizer.ggml.model", 8, "llama"),
    list("tokenizer.ggml.tokens", 8, tokens),
    list("tokenizer.ggml.scores", 6, scores),
    list("tokenizer.ggml.token_type", 5, types),
    entry("tokenizer.ggml.bos_token_id", 4, 1),
    entry("tokenizer.ggml.eos_token_id", 4, 2),
    entry("tokenizer.ggml.unknown_token_id", 4, 0),
  ];

  return cached(join(folder, `${s.name}.${type}.gguf`), (writer) => {
    writer.put(Buffer.concat([Buffer.from("GGUF"), u32(3), u64(tensors.length), u64(metadata.length), ...metadata]));
    let offset = 0;
    for (const { name, dims, type: stored } of tensors) {
      writer.put(Buffer.concat([text(name), u32(dims.length), ...dims.map(u64), u32(TYPES[stored]), u64(offset)]));
      const bytes = bytesOf(
        stored,
        dims.reduce((n, d) => n * d, 1),
      );
      offset += Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
    }
    writer.align(ALIGNMENT);
    for (const { dims, type: stored } of tensors) {
      if (dims.length === 1) writer.put(ones(dims[0]));
      else writer.random(stored, dims[0] * dims[1]);
      writer.align(ALIGNMENT);
    }
  });
}
