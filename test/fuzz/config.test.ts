// Mutants of config.json, of every architecture and task.

import { expect, test } from "vitest";
import { Chance } from "./support/chance.js";
import { fuzz } from "./support/fuzz.js";
import { mutateJson, texts, type Words } from "./support/json.js";
import { device, type Folder, left, load, WAYS } from "./support/models.js";
import { TINY, tinyFiles, tinyTensors } from "./support/tiny.js";

const WORDS: Words = {
  values: [
    ...texts(
      "llama",
      "gpt2",
      "bloom",
      "opt",
      "mixtral",
      "t5",
      "bert",
      "vit",
      "whisper",
      "Llama",
      "mistral",
      "phi3",
      "toString",
    ),
    ...texts("clip", "wav2vec2", "dinov2", "group", "layer"),
    ...texts("relu", "gelu", "gelu_new", "silu", "gated-gelu", "gated-", "gated-silu", "absolute", "relative_key"),
    ...texts("float32", "bfloat16", "torch.float16", "float8_e4m3fn", "default", "linear", "llama3", "dynamic", "yarn"),
    ...texts("model.safetensors", "../model.safetensors", "other.safetensors", "model.safetensors.index.json"),
    '{"rope_type":"linear","factor":0}',
    '{"rope_type":"linear","factor":1e300}',
    '{"type":"linear","factor":2}',
    '{"rope_type":"llama3","factor":1e-300,"low_freq_factor":4,"high_freq_factor":4,"original_max_position_embeddings":1}',
    '{"rope_theta":-1}',
    '{"rope_type":"dynamic","factor":1e300}',
    '{"rope_type":"yarn","factor":null,"beta_fast":1e-300,"mscale":2,"mscale_all_dim":1,"original_max_position_embeddings":7}',
    '{"type":"su","short_factor":[1,1],"long_factor":[1e300,1e-300],"attention_factor":1e300}',
    '{"full_attention":{"rope_theta":5},"sliding_attention":null}',
    '["full_attention","sliding_attention"]',
    '["sliding_attention"]',
    '{"quant_method":"bitsandbytes","load_in_8bit":true}',
    '{"quant_method":"gptq","bits":4}',
    '{"load_in_4bit":true,"bnb_4bit_quant_type":"nf4"}',
    ..."8 4 2 12 16 1025 4096 65536 16777216 0.00001 true false null [2] [1,2] [160]".split(" "),
    '{"alibi":true,"alibi_bias_max":1e300}',
    '{"alibi":true,"softmax_scale":1e-300,"clip_qkv":1e300}',
  ],
  keys: texts(
    ..."model_type hidden_size n_embd n_embed vocab_size num_hidden_layers n_layer num_layers num_decoder_layers".split(
      " ",
    ),
    ..."num_attention_heads n_head num_heads num_key_value_heads head_dim d_kv d_model d_ff intermediate_size".split(
      " ",
    ),
    ..."n_inner ffn_dim word_embed_proj_dim max_position_embeddings n_positions n_ctx type_vocab_size".split(" "),
    ..."num_local_experts num_experts num_experts_per_tok sliding_window rope_theta rope_scaling rope_parameters".split(
      " ",
    ),
    ..."rms_norm_eps layer_norm_epsilon layer_norm_eps hidden_act activation_function feed_forward_proj".split(" "),
    ..."dense_act_fn is_gated_act scale_decoder_outputs tie_word_embeddings attention_bias mlp_bias enable_bias".split(
      " ",
    ),
    ..."do_layer_norm_before _remove_final_layer_norm layer_norm_elementwise_affine id2label num_labels".split(" "),
    ..."relative_attention_num_buckets relative_attention_max_distance position_embedding_type is_decoder".split(" "),
    ..."scale_attn_weights scale_attn_by_inverse_layer_idx apply_residual_connection_post_layernorm".split(" "),
    ..."eos_token_id pad_token_id decoder_start_token_id dtype torch_dtype quantization_config".split(" "),
    ..."image_size patch_size num_channels qkv_bias pooler_output_size pooler_act num_mel_bins".split(" "),
    ..."max_source_positions max_target_positions encoder_layers encoder_attention_heads encoder_ffn_dim".split(" "),
    ..."conv_dim conv_stride conv_kernel conv_bias feat_extract_norm feat_extract_activation mlp_ratio".split(" "),
    ..."num_conv_pos_embeddings num_conv_pos_embedding_groups do_stable_layer_norm add_adapter".split(" "),
    ..."text_config vision_config projection_dim use_swiglu_ffn num_feat_extract_layers".split(" "),
    ..."decoder_layers decoder_attention_heads decoder_ffn_dim scale_embedding".split(" "),
    ..."transformers_weights original_max_position_embeddings auto_map".split(" "),
    ..."rotary_pct rotary_emb_base partial_rotary_factor use_parallel_residual rotary_dim qk_layernorm use_qkv_bias".split(
      " ",
    ),
    ..."new_decoder_architecture multi_query parallel_attn num_kv_heads num_ln_in_parallel_attn alibi bias".split(" "),
    ..."attn_config n_heads n_layers max_seq_len expansion_ratio no_bias norm_type logit_scale clip_qkv".split(" "),
    ..."layer_types use_sliding_window max_window_layers sliding_window_pattern no_rope_layers".split(" "),
    ..."no_rope_layer_interval partial_rotary_factor query_pre_attn_scalar attn_logit_softcapping".split(" "),
    ..."final_logit_softcapping embedding_multiplier attention_multiplier residual_multiplier logits_scaling".split(
      " ",
    ),
    ..."moe_intermediate_size decoder_sparse_step mlp_only_layers norm_topk_prob rope_local_base_freq".split(" "),
  ),
};

const folders = await Promise.all(TINY.map(async (_, at) => tinyFiles(at, await tinyTensors(device, at))));

fuzz<Folder>({
  name: "config",
  make(chance) {
    const at = chance.below(TINY.length);
    const { config, task } = TINY[at]!;
    const files = { ...folders[at]!, "config.json": mutateJson(chance, config, WORDS) };
    return { files, task, options: chance.one(WAYS) };
  },
  read: (folder, chance) => load(folder, chance),
  left,
});

test.each(TINY.map(({ config, task }, at) => [String(config.model_type), task, at] as const))(
  "the tiny %s model is read for %s and computes, so that mutants are refused for what was changed",
  async (_, task, at) => {
    await load({ files: folders[at]!, task }, new Chance("unchanged", 0, 0), { loaded: 1, computed: 1 });
    expect(left()).toBeUndefined();
  },
);
