// Which keys of config.json a model is built without. Every key is read by its architecture, known to change nothing here, or
// named in a warning: nothing that a file says is dropped in silence.

import { UnsupportedModelError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { ConfigJson } from "../nn/architecture.js";

/** Options of generate() that config.json may hold, which count where a model has no generation_config.json. */
export const GENERATION_KEYS: readonly string[] = `
  max_length max_new_tokens min_length min_new_tokens do_sample early_stopping num_beams num_beam_groups diversity_penalty
  temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size
  bad_words_ids num_return_sequences suppress_tokens begin_suppress_tokens
  forced_decoder_ids exponential_decay_length_penalty remove_invalid_values use_cache cache_implementation max_time
  stop_strings min_p epsilon_cutoff eta_cutoff encoder_repetition_penalty renormalize_logits sequence_bias guidance_scale
  penalty_alpha dola_layers watermarking_config force_words_ids prompt_lookup_num_tokens num_assistant_tokens
  num_assistant_tokens_schedule assistant_confidence_threshold forced_bos_token_id forced_eos_token_id`
  .trim()
  .split(/\s+/);

/** Keys that change no result of a forward pass or are read elsewhere, by reason. Sources: transformers 5.18 and 4.x. */
const WITHOUT_EFFECT: Readonly<Record<string, string>> = {
  // Read by the loader itself, whatever the architecture.
  loading: "model_type architectures dtype torch_dtype quantization_config transformers_weights _name_or_path",
  // Read by generate(), or by the tokenizer.
  tokens: `bos_token_id eos_token_id pad_token_id decoder_start_token_id unk_token_id sep_token_id cls_token_id mask_token_id
    tokenizer_class model_max_length prefix`,
  generation: GENERATION_KEYS.join(" "),
  tasks: "task_specific_params output_scores return_dict_in_generate",
  // Of classifiers: what has an effect on their shape they read themselves.
  labels: "id2label label2id num_labels _num_labels problem_type finetuning_task",
  training: `initializer_range initializer_factor init_std attention_dropout attention_probs_dropout_prob attn_pdrop activation_dropout
    classifier_dropout dropout dropout_rate embd_pdrop embed_dropout resid_dropout hidden_dropout hidden_dropout_prob layerdrop resid_pdrop qa_dropout
    seq_classif_dropout embedding_dropout residual_dropout mlp_dropout initializer_cutoff_factor feat_proj_dropout
    feat_quantizer_dropout feat_extract_dropout final_dropout drop_path_rate ctc_loss_reduction ctc_zero_infinity layerscale_value
    use_mask_token logit_scale_init_value encoder_layerdrop decoder_layerdrop apply_spec_augment mask_time_prob mask_time_length
    mask_time_min_masks mask_feature_prob mask_feature_length mask_feature_min_masks mask_time_min_space mask_time_other
    mask_time_selection mask_channel_length mask_channel_min_space mask_channel_other mask_channel_prob mask_channel_selection summary_first_dropout summary_last_dropout
    classifier_dropout_prob pooler_dropout cls_dropout router_aux_loss_coef router_jitter_noise gradient_checkpointing classif_dropout`,
  // Other ways to the same numbers: sums in f32 are exact enough for all of them.
  numerics: `pretraining_tp slow_but_exact reorder_and_upcast_attn attention_softmax_in_fp32 scale_attention_softmax_in_fp32 masked_softmax_fusion
    bias_dropout_fusion skip_bias_add skip_bias_add_qkv offset_alibi chunk_size_feed_forward use_bfloat16 _attn_implementation
    attn_implementation _attn_implementation_autoset _experts_implementation deterministic_flash_attn reference_compile repad_logits_with_grad
    use_flash_attn use_xentropy fused_bias_fc fused_dropout_add_ln dense_seq_output`,
  // Of heads and classes that these files may also serve.
  otherHeads: `summary_activation summary_proj_to_labels summary_type summary_use_proj encoder_stride classifier_proj_size
    use_weighted_layer_sum median_filter_width sparse_prediction sparse_pred_ignore_index
    num_codevectors_per_group num_codevector_groups contrastive_logits_temperature num_negatives codevector_dim
    proj_codevector_dim diversity_loss_weight tdnn_dim tdnn_kernel tdnn_dilation xvector_output_dim apply_layernorm reshape_hidden_states out_features out_indices
    stage_names _out_features _out_indices`,
  // Of MPT: how the original starts, trains and prints.
  mpt: "init_config init_device emb_pdrop embedding_fraction learned_pos_emb verbose tokenizer_name",
  // What files say of themselves.
  notes: `n_ctx n_positions seq_length transformers_version _commit_hash model_name_or_path output_past auto_map unsloth_fixed unsloth_version
    is_encoder_decoder language languages license tags save_step _sliding_window_pattern
    scalable_attention do_blenderbot_90_layernorm max_trained_positions pad_vocab_size_multiple parallel_block_tied_norm`,
};

/** Keys that change nothing at these values, which files often spell out. */
const NEUTRAL: Readonly<Record<string, unknown>> = {
  add_bias_logits: false,
  extra_layer_norm: false,
  add_cross_attention: false,
  force_bos_token_to_be_generated: false,
  scale_attn_weights: true,
  scale_attn_by_inverse_layer_idx: false,
  is_decoder: false,
  tie_encoder_decoder: false,
  tie_weights_: true,
  output_attentions: false,
  output_hidden_states: false,
  output_router_logits: false,
  return_dict: true,
  torchscript: false,
  use_return_dict: true,
  // Of ALBERT's first code, which does something else at other values.
  down_scale_factor: 1,
  gap_size: 0,
  net_structure_type: 0,
  num_memory_blocks: 0,
  use_mrope: false,
  "rope_parameters.partial_rotary_factor": 1,
  "rope_scaling.partial_rotary_factor": 1,
};

const KNOWN: ReadonlySet<string> = new Set(Object.values(WITHOUT_EFFECT).flatMap((names) => names.split(/\s+/)));
/** How many a warning names. */
const NAMED = 8;

/** How a key of config.json counts for a model whose `read` keys are known. */
export type KeyUse = "read" | "without effect" | "ignored";

/** `path` is the key, or "outer.inner" for a key of an object that was read key by key. */
export function useOf(path: string, value: unknown, read: ReadonlySet<string>): KeyUse {
  if (read.has(path)) return "read";
  // A tower of a model has the keys of a model; so has MPT's attn_config, a config class of its own in transformers 5.
  const key = path.replace(/^(attn|text|vision)_config\./, "");
  if (value === null || value === undefined || KNOWN.has(key)) return "without effect";
  if (isEmpty(value)) return "without effect";
  return Object.hasOwn(NEUTRAL, key) && NEUTRAL[key] === value ? "without effect" : "ignored";
}

function isEmpty(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

function isObject(value: unknown): value is ConfigJson {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A view of a config.json that adds the paths of the keys whose values are read to `read`. */
export function watched(config: ConfigJson, read: Set<string>, prefix = ""): ConfigJson {
  return new Proxy(config, {
    get(target, key) {
      const value = Reflect.get(target, key);
      if (typeof key !== "string") return value;
      read.add(prefix + key);
      return isObject(value) ? watched(value, read, `${prefix}${key}.`) : value;
    },
  });
}

/** The generation config of a model that has no file of it: what its config.json says of generation, as transformers reads it. */
export function generationOf(config: ConfigJson): ConfigJson {
  const said = GENERATION_KEYS.filter((key) => (config[key] ?? undefined) !== undefined);
  if (said.length === 0) return {};
  return { ...Object.fromEntries(said.map((key) => [key, config[key]])), _from_model_config: true };
}

/** The warning for the keys that a model was built without; undefined if there are none. */
export function ignoredKeys(config: ConfigJson, read: ReadonlySet<string>): string | undefined {
  const ignored: string[] = [];
  const visit = (fields: ConfigJson, prefix: string): void => {
    for (const [key, value] of Object.entries(fields)) {
      const path = prefix + key;
      const use = useOf(path, value, read);
      if (use === "ignored") ignored.push(`${path} ${show(value)}`);
      else if (use === "read" && isObject(value) && isPart(path, read)) visit(value, `${path}.`);
    }
  };
  visit(config, "");
  if (ignored.length === 0) return undefined;
  const more = ignored.length > NAMED ? ` and ${ignored.length - NAMED} more` : "";
  return `config.json: ignored: ${ignored.slice(0, NAMED).join(", ")}${more}`;
}

/** Keys that make layers of another kind than an architecture builds, if it does not read them. */
const EXPERTS = /^(moe_)?(num|n)(_local|_routed)?_experts$/;

/** @throws UnsupportedModelError for a mixture of experts in the config of an architecture that has none */
export function refuseExperts(config: ConfigJson, read: ReadonlySet<string>): void {
  for (const [key, value] of Object.entries(config)) {
    if (!EXPERTS.test(key) || read.has(key) || typeof value !== "number" || value <= 1) continue;
    throw new UnsupportedModelError(
      `config.json: ${key} ${show(value)}: a ${show(config.model_type)} model with experts is not supported`,
      { details: { field: key }, hint: "mixtures of experts that are supported: mixtral, qwen3_moe, gpt_oss" },
    );
  }
}

/** True if keys of that object were read one by one. */
function isPart(path: string, read: ReadonlySet<string>): boolean {
  for (const other of read) if (other.startsWith(`${path}.`)) return true;
  return false;
}
