// What config.json says of decoders beyond the fixtures: windows and positions by layer, defaults of transformers' classes, both
// layouts of rotary positions, and what is refused by name.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { fromBf16, toBf16 } from "../../src/core/dtype.js";
import { ConfigError, UnsupportedModelError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { ignoredKeys, watched } from "../../src/load/config-keys.js";
import type { DecoderLayer, RotaryAttention } from "../../src/models/_llama.js";
import { buildModel } from "../../src/models/index.js";
import type { ConfigJson } from "../../src/nn/architecture.js";
import { FIXTURES, readArrays } from "../support/fixtures.js";

const SIZES = {
  ...{ vocab_size: 32, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 4 },
  ...{ num_attention_heads: 4, num_key_value_heads: 2, head_dim: 4, max_position_embeddings: 64 },
};

/** The layers of a model of that type with these sizes. */
async function layersOf(model_type: string, more: ConfigJson = {}): Promise<readonly DecoderLayer[]> {
  const { blocks } = await buildModel({ ...SIZES, model_type, ...more }, "causal-lm");
  return blocks[0] as readonly DecoderLayer[];
}
const attentionOf = (layer: DecoderLayer): RotaryAttention =>
  (layer as DecoderLayer & { self_attn: RotaryAttention }).self_attn;
const windows = async (model_type: string, more?: ConfigJson): Promise<unknown[]> =>
  (await layersOf(model_type, more)).map((layer) => attentionOf(layer).options.window);
const refused = (model_type: string, more: ConfigJson): Promise<unknown> => layersOf(model_type, more);

const mixed = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"];
const all = (window: number | undefined): unknown[] => [window, window, window, window];

describe("windows", () => {
  test.each<[string, ConfigJson, unknown[]]>([
    ["mistral", {}, all(4096)],
    ["mistral", { sliding_window: null }, all(undefined)],
    ["mixtral", {}, all(undefined)],
    ["phi3", {}, all(undefined)],
    ["qwen2", { sliding_window: 7, max_window_layers: 0 }, all(undefined)],
    ["qwen2", { use_sliding_window: true, sliding_window: 7, max_window_layers: 3 }, [...all(undefined).slice(1), 7]],
    ["qwen3", { use_sliding_window: true, layer_types: mixed }, [undefined, 4096, 4096, undefined]],
    ["qwen3_moe", { use_sliding_window: true, sliding_window: 9, max_window_layers: 4 }, all(9)],
    ["gemma2", { sliding_window: 5 }, [5, undefined, 5, undefined]],
    ["gemma2", { sliding_window: 5, layer_types: mixed }, [undefined, 5, 5, undefined]],
    ["gemma3_text", { sliding_window: 5, sliding_window_pattern: 3 }, [5, 5, undefined, 5]],
    ["gpt_oss", { sliding_window: 5 }, [5, undefined, 5, undefined]],
    ["olmo3", { sliding_window: 5 }, [5, 5, 5, undefined]],
    ["olmo3", { layer_types: mixed }, [undefined, 4096, 4096, undefined]],
    ["smollm3", { sliding_window: 5 }, all(undefined)],
    ["smollm3", { sliding_window: 5, use_sliding_window: true }, [undefined, undefined, undefined, 5]],
  ])("%s %j", async (type, more, wanted) => {
    expect(await windows(type, more)).toEqual(wanted);
  });
});

test("gpt_neo: kinds of layers are counted before they are listed", async () => {
  const many = Array.from({ length: 1024 }, () => [new Array(1024).fill("local"), 1024]);
  const begin = process.memoryUsage().rss;
  await expect(refused("gpt_neo", { attention_types: many })).rejects.toThrow(
    /has 1073741824 layers, and num_layers is 4/,
  );
  expect(process.memoryUsage().rss - begin).toBeLessThan(256e6);
  await expect(refused("gpt_neo", { attention_layers: ["local"] })).rejects.toThrow(/has 1 layers/);
});

test("which layers rotate, and by which frequencies", async () => {
  const turns = async (type: string, more?: ConfigJson): Promise<string[]> =>
    (await layersOf(type, more)).map((layer) => layer.turns);
  expect(await turns("llama")).toEqual(all("global" as never));
  expect(await turns("smollm3")).toEqual(["global", "global", "global", "not"]);
  expect(await turns("smollm3", { no_rope_layers: [0, 1, 1, 0, 1] })).toEqual(["not", "global", "global", "not"]);
  expect(await turns("gemma3_text", { layer_types: mixed })).toEqual(["global", "local", "local", "global"]);
});

test("factors", async () => {
  const scaleOf = async (type: string, more?: ConfigJson): Promise<number> =>
    attentionOf((await layersOf(type, more))[0]!).options.scale;
  expect(await scaleOf("llama")).toBe(0.5);
  expect(await scaleOf("granite")).toBe(1);
  expect(await scaleOf("granite", { attention_multiplier: 0.125 })).toBe(0.125);
  expect(await scaleOf("gemma2")).toBe(1 / 16);
  expect(await scaleOf("gemma3_text", { query_pre_attn_scalar: 4 })).toBe(0.5);
});

test("layers with experts and without", async () => {
  const sparse = async (more: ConfigJson): Promise<boolean[]> => {
    const experts = { num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 8, ...more };
    return (await layersOf("qwen3_moe", experts)).map((layer) => "experts" in (layer as never as { mlp: object }).mlp);
  };
  expect(await sparse({})).toEqual([true, true, true, true]);
  expect(await sparse({ decoder_sparse_step: 2 })).toEqual([false, true, false, true]);
  expect(await sparse({ decoder_sparse_step: 2, mlp_only_layers: [3] })).toEqual([false, true, false, false]);
  expect(await sparse({ num_experts: 0 })).toEqual([false, false, false, false]);
});

test.each<[string, ConfigJson, RegExp]>([
  ["mistral", { attention_bias: true }, /attention_bias/],
  ["qwen2", { layer_types: mixed }, /layer_types names sliding layers, but there is no sliding_window in use/],
  ["qwen2", { layer_types: mixed.slice(1) }, /layer_types has 3 entries for 4 layers/],
  ["qwen3", { layer_types: [...mixed.slice(1), "chunked_attention"] }, /layer_types\.3/],
  ["qwen3", { rope_parameters: { full_attention: { rope_theta: 5 } } }, /"full_attention" alone/],
  ["gemma2", { use_bidirectional_attention: true }, /use_bidirectional_attention/],
  ["gemma2", { sliding_window: null }, /sliding_window/],
  ["gemma3_text", { use_bidirectional_attention: true }, /use_bidirectional_attention/],
  ["gemma3_text", { rope_parameters: { rope_theta: 5, rope_type: "default" } }, /full_attention and sliding_attention/],
  ["gemma3_text", { rope_scaling: { rope_type: "odd" } }, /"odd" is not supported/],
  ["gemma", { use_bidirectional_attention: true }, /use_bidirectional_attention/],
  ["olmo3", { rope_parameters: { rope_theta: 5, rope_type: "default" } }, /OLMo 3 are full_attention and sliding_att/],
  ["olmo3", { sliding_window: null }, /no sliding_window in use/],
  ["gpt_oss", { num_experts_per_tok: 200 }, /200 experts per token cannot be chosen from 128/],
  ["gpt_oss", { hidden_act: "gelu" }, /hidden_act/],
  ["gpt_oss", { swiglu_limit: 0 }, /swiglu_limit/],
  ["gpt_oss", { sliding_window: null }, /no sliding_window in use/],
  ["phi3", { rope_scaling: { type: "linear", factor: 2 } }, /phi3 has no rope_scaling of type "linear"/],
  ["phi3", { partial_rotary_factor: 0.3 }, /partial_rotary_factor 0\.3 of 4 dims/],
  [
    "phi3",
    { rope_scaling: { type: "su", short_factor: [1], long_factor: [1] } },
    /2 positive numbers as "short_factor"/,
  ],
  ["granite", { logits_scaling: 0 }, /logits_scaling/],
  ["smollm3", { no_rope_layers: [1, 1] }, /no_rope_layers has 2 entries for 4 layers/],
  ["smollm3", { no_rope_layers: [1, 1, 2, 1] }, /no_rope_layers\.2/],
  ["qwen3_moe", { num_experts: 2, num_experts_per_tok: 3 }, /3 experts per token cannot be chosen from 2/],
])("%s %j is refused", async (type, more, message) => {
  await expect(refused(type, more)).rejects.toThrow(ConfigError);
  await expect(refused(type, more)).rejects.toThrow(message);
});

test("Gemma 3 with images is refused, with what is there", async () => {
  const config = { model_type: "gemma3", text_config: { ...SIZES, model_type: "gemma3_text" }, vision_config: {} };
  await expect(buildModel(config, "causal-lm")).rejects.toThrow(UnsupportedModelError);
  await expect(buildModel(config, "causal-lm")).rejects.toThrow(
    /"gemma3" takes images and text, which is not supported/,
  );
});

test.each<[string, ConfigJson]>([
  // What published files say that the fixtures do not.
  ["qwen2", { use_mrope: false, attention_dropout: 0, sliding_window: 32768, max_window_layers: 24 }],
  ["phi3", { attention_bias: false, mlp_bias: false, lm_head_bias: false, full_attn_mod: 1, interpolate_factor: 1 }],
  ["qwen3_moe", { max_window_layers: 48, router_aux_loss_coef: 0.001, norm_topk_prob: true, mlp_only_layers: [] }],
  ["smollm3", { max_window_layers: 28, pretraining_tp: 2, no_rope_layers: [1, 1, 1, 0], layer_types: null }],
  ["gemma2", { hidden_act: "gelu_pytorch_tanh", cache_implementation: "hybrid" }],
])("%s: keys of published files give no warning", async (model_type, more) => {
  const config = { ...SIZES, model_type, ...more };
  const read = new Set<string>();
  await buildModel(watched(config, read), "causal-lm");
  expect(ignoredKeys(config, read)).toBeUndefined();
});

test("Gemma's factor on embeddings is rounded to the model's dtype", async () => {
  const words = readArrays("models", "gemma2", "model.safetensors").get("model.embed_tokens.weight")!.values;
  const id = 7;
  for (const [dtype, factor] of [
    ["float32", Math.fround(Math.sqrt(48))],
    ["bfloat16", 6.9375],
  ] as const) {
    const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "gemma2"), {
      device: "reference",
      dtype,
    });
    const { logits, hidden_states } = model.forward({ input_ids: [[id]], output_hidden_states: true });
    const stored = (at: number): number => (dtype === "bfloat16" ? fromBf16(toBf16(words[at]!)) : words[at]!);
    const wanted = Float32Array.from({ length: 48 }, (_, k) => stored(48 * id + k) * factor);
    expect(await hidden_states![0]!.readFloats()).toEqual(wanted);
    for (const tensor of [logits, ...hidden_states!]) tensor.dispose();
    model.dispose();
  }
});
