// What config.json files of decoders can say: what is not done here is refused by name, and old and new layouts of a file give
// the same model.

import { cpSync, mkdtempSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { ConfigError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { buildModel } from "../../src/models/index.js";
import { expectNoLeaks, openTestDevice } from "../support/devices.js";
import { difference, FIXTURES, readArrays, readJson } from "../support/fixtures.js";

type Fields = Readonly<Record<string, unknown>>;

const published = (name: string): Fields => readJson<Fields>("models", name, "config.json");
const without = (fields: Fields, ...keys: string[]): Fields =>
  Object.fromEntries(Object.entries(fields).filter(([key]) => !keys.includes(key)));

const REFUSED: readonly [fixture: string, fields: Fields, message: RegExp][] = [
  ["gpt_neox", { rotary_pct: 2 }, /rotary_pct must be above 0 and at most 1, got 2/],
  ["gpt_neox", { rotary_pct: 0.2 }, /0\.2 of a head of 16 is 3/],
  ["gpt_neox", { rope_theta: 500 }, /rope_theta 500 .* something else than rotary_emb_base/],
  ["gpt_neox", { partial_rotary_factor: 0.5 }, /partial_rotary_factor 0\.5 .*something else/],
  ["gpt_neox", { rope_scaling: { type: "odd", factor: 2 } }, /rope_scaling type "odd" is not supported/],
  ["falcon-7b-like", { num_ln_in_parallel_attn: 2 }, /num_ln_in_parallel_attn 2 needs new_decoder_architecture/],
  ["falcon-7b-like", { multi_query: false, num_kv_heads: 2 }, /num_kv_heads 2 needs new_decoder_architecture/],
  ["falcon-7b-like", { num_attention_heads: 16 }, /even head size, got 3/],
  ["falcon-7b-like", { apply_residual_connection_post_layernorm: true }, /apply_residual_connection_post_layernorm/],
  ["falcon-40b-like", { parallel_attn: false }, /new_decoder_architecture needs parallel_attn/],
  ["falcon-40b-like", { num_kv_heads: 3 }, /8 attention heads cannot share 3/],
  ["mpt", { attn_config: { alibi: false } }, /attn_config\.alibi: only models with ALiBi are supported \(got false\)/],
  ["mpt", { attn_config: { qk_ln: true } }, /attn_config\.qk_ln/],
  ["mpt", { attn_config: { attn_type: "multiquery_attention" } }, /attn_config\.attn_type/],
  ["mpt", { logit_scale: "inv_sqrt_d_model" }, /logit_scale/],
  ["mpt", { norm_type: "rmsnorm" }, /norm_type/],
  ["mpt", { expansion_ratio: 2 }, /expansion_ratio/],
  ["mpt", { no_bias: false }, /no_bias/],
  ["gptj", { rotary_dim: 18 }, /rotary_dim must be even and at most the head size 16, got 18/],
  ["gptj", { rotary_dim: 3 }, /rotary_dim must be even/],
  ["gptj", { scale_attn_weights: false }, /scale_attn_weights/],
  ["codegen", { n_head: 6, rotary_dim: 4 }, /heads come in 4 parts, got 6/],
  ["stablelm", { partial_rotary_factor: 0 }, /partial_rotary_factor must be above 0 and at most 1, got 0/],
  ["stablelm", { num_key_value_heads: 2 }, /3 attention heads cannot share 2/],
];

test.each(REFUSED)("%s with %j is refused", async (name, fields, message) => {
  const build = buildModel({ ...published(name), ...fields }, "causal-lm");
  await expect(build).rejects.toThrow(ConfigError);
  await expect(build).rejects.toThrow(message);
});

const NEOX = published("gpt_neox");
const NEOX_ROPE = { rope_type: "default", rope_theta: 10000, partial_rotary_factor: 0.25 };

const MPT_ATTENTION = {
  ...{ return_dict: true, output_hidden_states: false, dtype: null, model_type: "", id2label: { 0: "LABEL_0" } },
  ...(published("mpt").attn_config as Fields),
};

/** A Falcon config in the words of the first files. */
function refinedWeb(name: string, model_type: string): Fields {
  const { num_attention_heads: n_head, num_hidden_layers: n_layer, num_kv_heads: n_head_kv, ...rest } = published(name);
  return { ...without(rest, "new_decoder_architecture"), model_type, n_head, n_layer, n_head_kv };
}

/** Files that say the same as the fixture's. */
const SAME: readonly [what: string, fixture: string, config: Fields][] = [
  [
    "the layout of transformers 5",
    "gpt_neox",
    { ...without(NEOX, "rotary_pct", "rotary_emb_base"), rope_parameters: NEOX_ROPE },
  ],
  ["both names", "gpt_neox", { ...NEOX, rope_theta: 10000, partial_rotary_factor: 0.25, attention_bias: true }],
  ["what transformers 5 writes into attn_config", "mpt", { ...published("mpt"), attn_config: MPT_ATTENTION }],
  ["no attn_config", "mpt", without(published("mpt"), "attn_config")],
  [
    "the layout of transformers 5",
    "stablelm-heads",
    {
      ...without(published("stablelm-heads"), "partial_rotary_factor", "rope_theta"),
      rope_parameters: { rope_type: "default", rope_theta: 10000, partial_rotary_factor: 0.5 },
    },
  ],
  ["RefinedWebModel", "falcon-7b-like", refinedWeb("falcon-7b-like", "RefinedWebModel")],
  ["RefinedWeb", "falcon-40b-like", refinedWeb("falcon-40b-like", "RefinedWeb")],
  ["RefinedWebModel", "falcon-rw-sdpa", refinedWeb("falcon-rw-sdpa", "RefinedWebModel")],
];

test("Falcon's ALiBi counts as attn_implementation says, and a model tells what was not said", async () => {
  const folder = join(FIXTURES, "models", "falcon-rw-like");
  const logits = async (options: FromPretrainedOptions): Promise<{ values: number[]; warnings: readonly string[] }> => {
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device: "reference", ...options });
    const { logits: out } = model.forward({ input_ids: [[20, 30, 40, 50]] });
    const values = [...(await out.readFloats())];
    const { warnings } = model;
    out.dispose();
    model.dispose();
    return { values, warnings };
  };
  const [silent, eager, sdpa] = [
    await logits({}),
    await logits({ attn_implementation: "eager" }),
    await logits({ attn_implementation: "sdpa" }),
  ];
  expect(silent.values).toEqual(eager.values);
  expect(silent.values).not.toEqual(sdpa.values);
  expect(silent.warnings.join()).toMatch(/ALiBi is added twice.*"sdpa"/);
  expect([...eager.warnings, ...sdpa.warnings]).toEqual([]);
});

test("Falcon's ALiBi and a cache in 8 bits", async () => {
  const device = openTestDevice("cpu");
  const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "falcon-rw-sdpa"), { device });
  const input_ids = [[20, 30, 40]];
  await expect(model.generate({ input_ids, cache_implementation: "quantized", max_new_tokens: 2 })).rejects.toThrow(
    "a cache in 8 bits cannot hold the ALiBi of this Falcon model",
  );
  expect(await model.generate({ input_ids, cache_dtype: "bfloat16", max_new_tokens: 2 })).toHaveLength(1);
  model.dispose();
  expectNoLeaks(device);
  await device.close();
});

describe("the same model", () => {
  const device = openTestDevice("cpu");
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  test.each(SAME)("%s: %s", async (_, name, config) => {
    const folder = mkdtempSync(join(tmpdir(), "octavo-configs-"));
    const from = join(FIXTURES, "models", name);
    symlinkSync(join(from, "model.safetensors"), join(folder, "model.safetensors"));
    cpSync(join(from, "generation_config.json"), join(folder, "generation_config.json"));
    writeFileSync(join(folder, "config.json"), JSON.stringify(config));
    const expected = readJson<{ inputs: { single: { input_ids: number[][] } }; tolerance_fp32: number }>(
      ...["models", name, "expected.json"],
    );
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device });
    expect(model.warnings).toEqual([]);
    const { logits } = model.forward(expected.inputs.single);
    const want = readArrays("models", name, "expected.safetensors").get("fp32.single.logits")!;
    expect(difference(await logits.readFloats(), want.values).max).toBeLessThan(expected.tolerance_fp32);
    logits.dispose();
    model.dispose();
  });
});
