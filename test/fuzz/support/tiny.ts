// Models so small that thousands are loaded in a second: one layer, eight channels, every architecture.

import type { StoredDType } from "../../../src/checkpoints/stored.js";
import type { Device } from "../../../src/core/device.js";
import { scope } from "../../../src/core/tensor.js";
import { fillRandomly } from "../../../src/load/random.js";
import { architectureOf, buildModel } from "../../../src/models/index.js";
import { placeOf, type Task } from "../../../src/nn/architecture.js";
import { Linear, Matrix } from "../../../src/nn/module.js";
import type { Scheme } from "../../../src/nn/weight.js";
import { contiguous } from "../../../src/ops/copy.js";
import type { Files } from "./memory-source.js";

/** What most decoders' files say. */
const DECODER = {
  ...{ torch_dtype: "float32", vocab_size: 16, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1 },
  ...{ num_attention_heads: 2, num_key_value_heads: 1, hidden_act: "silu", max_position_embeddings: 32 },
  ...{ rms_norm_eps: 1e-6, rope_theta: 10000, tie_word_embeddings: false, attention_bias: false, eos_token_id: 2 },
};
const WINDOWS = { use_sliding_window: true, sliding_window: 4, max_window_layers: 0, layer_types: null };
const GEMMA = {
  ...{ head_dim: 4, hidden_activation: "gelu_pytorch_tanh", query_pre_attn_scalar: 4, sliding_window: 4 },
  ...{ layer_types: ["sliding_attention"], final_logit_softcapping: 30, tie_word_embeddings: true },
};
/** Configs of the decoders that differ from DECODER by little. */
const DESCENDANTS: readonly Readonly<Record<string, unknown>>[] = [
  { model_type: "mistral", sliding_window: 4, rope_scaling: { type: "dynamic", factor: 2 } },
  { model_type: "qwen2", ...WINDOWS },
  {
    ...{ model_type: "qwen3", ...WINDOWS, head_dim: 4 },
    rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 8, truncate: false, mscale: 1 },
  },
  {
    ...{ model_type: "qwen3_moe", num_experts: 2, num_experts_per_tok: 1, moe_intermediate_size: 4 },
    ...{ norm_topk_prob: true, decoder_sparse_step: 1, mlp_only_layers: [], head_dim: 4 },
  },
  {
    ...{ model_type: "phi3", original_max_position_embeddings: 8, partial_rotary_factor: 0.5, sliding_window: null },
    rope_scaling: { type: "longrope", short_factor: [1], long_factor: [2] },
  },
  { model_type: "gemma2", ...GEMMA, attn_logit_softcapping: 50 },
  {
    ...{ model_type: "gemma3_text", ...GEMMA, rope_theta: 1e6, rope_local_base_freq: 10000 },
    ...{ sliding_window_pattern: 6, rope_scaling: { rope_type: "linear", factor: 8 } },
  },
  {
    ...{ model_type: "granite", mlp_bias: false, embedding_multiplier: 12, attention_multiplier: 0.1 },
    ...{ residual_multiplier: 0.2, logits_scaling: 8 },
  },
  { model_type: "smollm3", no_rope_layers: [0], no_rope_layer_interval: 4, mlp_bias: false, ...WINDOWS },
];

/** What config.json of published models holds, with small sizes, and the task that it is read for. */
export const TINY: readonly { readonly task: Task; readonly config: Readonly<Record<string, unknown>> }[] = [
  {
    task: "causal-lm",
    config: {
      ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", torch_dtype: "float32", vocab_size: 16 },
      ...{
        hidden_size: 8,
        intermediate_size: 12,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
      },
      ...{ hidden_act: "silu", max_position_embeddings: 32, rms_norm_eps: 1e-5, rope_theta: 10000, eos_token_id: 2 },
      rope_scaling: {
        ...{ rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 },
        original_max_position_embeddings: 16,
      },
      ...{ tie_word_embeddings: false, attention_bias: false, mlp_bias: false, use_cache: true, pretraining_tp: 1 },
    },
  },
  {
    task: "causal-lm",
    config: {
      ...{ architectures: ["GPT2LMHeadModel"], model_type: "gpt2", torch_dtype: "float32", vocab_size: 16, n_embd: 8 },
      ...{ n_head: 2, n_layer: 1, n_positions: 16, n_ctx: 16, activation_function: "gelu_new", eos_token_id: 2 },
      ...{ layer_norm_epsilon: 1e-5, attn_pdrop: 0.1, summary_type: "cls_index", summary_activation: null },
    },
  },
  {
    task: "causal-lm",
    config: {
      ...{
        architectures: ["BloomForCausalLM"],
        model_type: "bloom",
        torch_dtype: "float32",
        vocab_size: 16,
        n_embed: 8,
      },
      ...{ n_layer: 1, num_attention_heads: 2, layer_norm_epsilon: 1e-5, offset_alibi: 100, pretraining_tp: 1 },
      ...{ apply_residual_connection_post_layernorm: false, pad_token_id: 3, eos_token_id: 2, n_inner: null },
    },
  },
  {
    task: "causal-lm",
    config: {
      ...{
        architectures: ["OPTForCausalLM"],
        model_type: "opt",
        torch_dtype: "float32",
        vocab_size: 16,
        hidden_size: 8,
      },
      ...{ ffn_dim: 12, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 16, prefix: "</s>" },
      ...{ word_embed_proj_dim: 4, activation_function: "relu", do_layer_norm_before: true, dropout: 0.1 },
    },
  },
  {
    task: "causal-lm",
    config: {
      ...{ architectures: ["MixtralForCausalLM"], model_type: "mixtral", torch_dtype: "float32", vocab_size: 16 },
      ...{
        hidden_size: 8,
        intermediate_size: 12,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        num_key_value_heads: 1,
      },
      ...{ num_local_experts: 2, num_experts_per_tok: 1, sliding_window: null, rope_theta: 1e6, hidden_act: "silu" },
      ...{ max_position_embeddings: 32, rms_norm_eps: 1e-5, output_router_logits: false, router_aux_loss_coef: 0.02 },
    },
  },
  ...DESCENDANTS.map((config) => ({ task: "causal-lm" as const, config: { ...DECODER, ...config } })),
  {
    task: "causal-lm",
    config: {
      ...{ architectures: ["GPTNeoXForCausalLM"], model_type: "gpt_neox", torch_dtype: "float32", vocab_size: 16 },
      ...{ hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2, hidden_act: "gelu" },
      ...{ rotary_pct: 0.5, rotary_emb_base: 10000, use_parallel_residual: true, tie_word_embeddings: false },
      ...{ max_position_embeddings: 32, layer_norm_eps: 1e-5, eos_token_id: 0 },
    },
  },
  {
    task: "causal-lm",
    config: {
      ...{ architectures: ["FalconForCausalLM"], model_type: "falcon", torch_dtype: "float32", vocab_size: 16 },
      ...{ hidden_size: 8, num_hidden_layers: 1, num_attention_heads: 4, num_kv_heads: 2, ffn_hidden_size: 12 },
      ...{ new_decoder_architecture: true, multi_query: true, parallel_attn: true, alibi: false, bias: false },
      ...{ layer_norm_epsilon: 1e-5, eos_token_id: 11, num_ln_in_parallel_attn: 1 },
    },
  },
  {
    task: "causal-lm",
    config: {
      ...{ architectures: ["MPTForCausalLM"], model_type: "mpt", torch_dtype: "float32", vocab_size: 16, d_model: 8 },
      ...{ n_heads: 2, n_layers: 1, max_seq_len: 32, expansion_ratio: 4, no_bias: true, logit_scale: null },
      ...{ norm_type: "low_precision_layernorm", attn_config: { alibi: true, alibi_bias_max: 8, clip_qkv: 6 } },
      ...{ eos_token_id: 2, init_device: "cpu", learned_pos_emb: true },
    },
  },
  {
    task: "causal-lm",
    config: {
      ...{ architectures: ["GPTJForCausalLM"], model_type: "gptj", torch_dtype: "float32", vocab_size: 16, n_embd: 8 },
      ...{ n_head: 2, n_layer: 1, n_positions: 16, n_inner: null, rotary: true, rotary_dim: 2, eos_token_id: 2 },
      ...{ activation_function: "gelu_new", layer_norm_epsilon: 1e-5, tie_word_embeddings: false },
    },
  },
  {
    task: "causal-lm",
    config: {
      ...{ architectures: ["StableLmForCausalLM"], model_type: "stablelm", torch_dtype: "float32", vocab_size: 16 },
      ...{ hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2, hidden_act: "silu" },
      ...{ num_key_value_heads: 1, partial_rotary_factor: 0.5, qk_layernorm: true, use_parallel_residual: true },
      ...{ max_position_embeddings: 32, layer_norm_eps: 1e-5, use_qkv_bias: true, eos_token_id: 2 },
    },
  },
  {
    task: "causal-lm",
    config: {
      ...{ architectures: ["Olmo2ForCausalLM"], model_type: "olmo2", torch_dtype: "float32", vocab_size: 16 },
      ...{ hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2, hidden_act: "silu" },
      ...{ num_key_value_heads: 1, rms_norm_eps: 1e-6, rope_theta: 500000, attention_bias: false, eos_token_id: 2 },
      ...{ max_position_embeddings: 32, tie_word_embeddings: false },
    },
  },
  {
    task: "seq2seq-lm",
    config: {
      ...{ architectures: ["T5ForConditionalGeneration"], model_type: "t5", torch_dtype: "float32", vocab_size: 16 },
      ...{ d_model: 8, d_kv: 4, d_ff: 12, num_layers: 1, num_heads: 2, relative_attention_num_buckets: 8 },
      ...{ feed_forward_proj: "gated-gelu", tie_word_embeddings: false, is_encoder_decoder: true, eos_token_id: 1 },
      ...{ decoder_start_token_id: 0, pad_token_id: 0, layer_norm_epsilon: 1e-6, n_positions: 16 },
    },
  },
  {
    task: "masked-lm",
    config: {
      ...{ architectures: ["BertForMaskedLM"], model_type: "bert", torch_dtype: "float32", vocab_size: 16 },
      ...{ hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2, hidden_act: "gelu" },
      ...{ max_position_embeddings: 16, type_vocab_size: 2, layer_norm_eps: 1e-12, pad_token_id: 0 },
      ...{ position_embedding_type: "absolute", gradient_checkpointing: false },
    },
  },
  {
    task: "sequence-classification",
    config: {
      ...{
        architectures: ["BertForSequenceClassification"],
        model_type: "bert",
        torch_dtype: "float32",
        vocab_size: 16,
      },
      ...{ hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2, hidden_act: "gelu" },
      ...{ max_position_embeddings: 16, type_vocab_size: 2, layer_norm_eps: 1e-12, id2label: { 0: "no", 1: "yes" } },
    },
  },
  {
    task: "image-classification",
    config: {
      ...{ architectures: ["ViTForImageClassification"], model_type: "vit", torch_dtype: "float32", image_size: 8 },
      ...{ patch_size: 4, num_channels: 3, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1 },
      ...{ num_attention_heads: 2, hidden_act: "gelu", layer_norm_eps: 1e-12, qkv_bias: true, id2label: { 0: "no" } },
    },
  },
  {
    task: "image-classification",
    config: {
      ...{ architectures: ["Dinov2ForImageClassification"], model_type: "dinov2", torch_dtype: "float32" },
      ...{ image_size: 8, patch_size: 4, num_channels: 3, hidden_size: 8, mlp_ratio: 2, num_hidden_layers: 1 },
      ...{ num_attention_heads: 2, hidden_act: "gelu", layer_norm_eps: 1e-6, use_swiglu_ffn: true, num_labels: 2 },
    },
  },
  {
    task: "clip",
    config: {
      ...{ architectures: ["CLIPModel"], model_type: "clip", torch_dtype: "float32", projection_dim: 4 },
      text_config: {
        ...{ vocab_size: 16, hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2 },
        ...{ max_position_embeddings: 8, hidden_act: "quick_gelu", eos_token_id: 2 },
      },
      vision_config: {
        ...{ hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2, image_size: 8 },
        ...{ patch_size: 4, num_channels: 3, hidden_act: "quick_gelu" },
      },
    },
  },
  {
    task: "ctc",
    config: {
      ...{ architectures: ["Wav2Vec2ForCTC"], model_type: "wav2vec2", torch_dtype: "float32", vocab_size: 16 },
      ...{ hidden_size: 8, intermediate_size: 12, num_hidden_layers: 1, num_attention_heads: 2, hidden_act: "gelu" },
      ...{ conv_dim: [4, 4], conv_stride: [5, 2], conv_kernel: [10, 3], conv_bias: false, feat_extract_norm: "group" },
      ...{ num_conv_pos_embeddings: 4, num_conv_pos_embedding_groups: 2, do_stable_layer_norm: false },
      ...{ feat_extract_activation: "gelu", num_feat_extract_layers: 2, add_adapter: false, layer_norm_eps: 1e-5 },
    },
  },
  {
    task: "speech-seq2seq",
    config: {
      ...{ architectures: ["WhisperForConditionalGeneration"], model_type: "whisper", torch_dtype: "float32" },
      ...{ vocab_size: 16, d_model: 8, num_mel_bins: 4, max_source_positions: 4, max_target_positions: 8 },
      ...{ encoder_layers: 1, encoder_attention_heads: 2, encoder_ffn_dim: 12, activation_function: "gelu" },
      ...{ decoder_layers: 1, decoder_attention_heads: 2, decoder_ffn_dim: 12, decoder_start_token_id: 1 },
      ...{ eos_token_id: 2, pad_token_id: 2, suppress_tokens: [3], begin_suppress_tokens: [4], scale_embedding: false },
    },
  },
];

/** A tensor of a checkpoint, as a mutant may change it. */
export interface TinyTensor {
  name: string;
  dtype: StoredDType;
  shape: readonly number[];
  bytes: Uint8Array;
}

/** The tensors of a tiny model with random weights, by their names in files; quantized if there is a scheme. */
export async function tinyTensors(device: Device, at: number, scheme?: Scheme): Promise<TinyTensor[]> {
  const { config, task } = TINY[at]!;
  const { names } = await architectureOf(config);
  const model = await buildModel(config, task);
  await fillRandomly(device, model, { dtype: "f32", scheme });
  const tensors: TinyTensor[] = [];
  const published = new Map(
    [...model.named_modules()].flatMap(([, module]) =>
      module instanceof Linear ? [[module.weight, module.published_paths] as const] : [],
    ),
  );
  const seen = new Set<unknown>();
  for (const [name, parameter] of model.named_parameters()) {
    if (seen.has(parameter)) continue;
    seen.add(parameter);
    if (parameter instanceof Matrix && parameter.weight.scheme !== "dense") {
      // A stack is stored as the matrices of its experts.
      const paths = published.get(parameter)!;
      const rows = parameter.shape[0] / paths.length;
      for (const [e, path] of paths.entries()) {
        const parts = await parameter.weight.parts(`${path}.weight`, e * rows, rows);
        for (const { bytes, ...part } of parts) tensors.push({ ...part, bytes: await bytes() });
      }
      continue;
    }
    const turned = placeOf(name, names)?.transposed === true && parameter.shape.length === 2;
    using values = scope(() => {
      const all = parameter instanceof Matrix ? parameter.weight.dense("f32") : parameter.value;
      return turned ? contiguous(all.permute(1, 0), "f32") : all.alias();
    });
    tensors.push({ name, dtype: "F32", shape: values.shape, bytes: await values.readBytes() });
  }
  model.dispose();
  return tensors;
}

/** The header of a safetensors file as an object, and the bytes that follow it. */
export function layOut(tensors: readonly TinyTensor[]): { header: Record<string, unknown>; data: Buffer } {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let at = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    const end = at + bytes.length;
    // Not an assignment: a name may be "__proto__".
    Object.defineProperty(header, name, {
      value: { dtype, shape, data_offsets: [at, end] },
      enumerable: true,
      configurable: true,
    });
    at = end;
  }
  return { header, data: Buffer.concat(tensors.map(({ bytes }) => bytes)) };
}

/** The bytes of a safetensors file with this header, whatever it says. */
export function safetensors(header: Uint8Array, data: Uint8Array, length: bigint = BigInt(header.length)): Buffer {
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt.asUintN(64, length));
  return Buffer.concat([size, header, data]);
}

export const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

/** The folder of a tiny model. */
export function tinyFiles(at: number, tensors: readonly TinyTensor[]): Files {
  const { header, data } = layOut(tensors);
  return { "config.json": json(TINY[at]!.config), "model.safetensors": safetensors(json(header), data) };
}
