// Whatever is passed to octavo/nn and octavo/bnb: it works, or it is refused with a typed error and a short message, and nothing
// stays behind on the device.

import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { load_and_quantize_model } from "../../src/bnb/load-and-quantize.js";
import * as modules from "../../src/bnb/modules.js";
import { Int8Params, Params4bit } from "../../src/bnb/parameters.js";
import { replace_8bit_linear, replace_with_bnb_linear } from "../../src/bnb/replace.js";
import type { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import * as nn from "../../src/nn.js";
import { expectNoLeaks } from "../support/devices.js";
import { all } from "../support/odd-calls.js";
import { temporary } from "../support/temporary.js";

let device: Device;
beforeAll(() => {
  device = openDevice("reference");
});
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

type Class = new (...args: readonly unknown[]) => unknown;
type Method = (...args: readonly unknown[]) => unknown;
const LAYERS = Object.entries({ ...nn, ...modules, Int8Params, Params4bit }).filter(
  ([, value]) => typeof value === "function" && /^class\b/.test(String(value)),
);

test.each(LAYERS)("new %s", async (name, value) => {
  const Made = value as unknown as Class;
  await all(`new ${name}(it)`, (odd) => new Made(odd));
  await all(`new ${name}(4, it)`, (odd) => new Made(4, odd));
  await all(`new ${name}(4, 4, it)`, (odd) => new Made(4, 4, odd));
  for (const option of [
    "bias",
    "dtype",
    "device",
    "threshold",
    "has_fp16_weights",
    "quant_type",
    "compute_dtype",
    "blocksize",
    "eps",
  ]) {
    await all(`new ${name}(4, 4, { ${option} })`, (odd) => new Made(4, 4, { [option]: odd }));
    await all(`new ${name}(4, { ${option} })`, (odd) => new Made(4, { [option]: odd }));
  }
});

const free = (made: unknown): void => {
  if (Tensor.is(made)) made.dispose();
};

test("methods of modules", async () => {
  using net = new nn.Sequential(new modules.Linear8bitLt(4, 4, { has_fp16_weights: false }), new nn.LayerNorm(4)).to(
    device,
  );
  using table = new modules.EmbeddingNF4(4, 4).to(device);
  for (const name of ["to", "train", "requires_grad_", "load_state_dict", "get_submodule", "named_modules"] as const) {
    await all(`${name}(it)`, (odd) => (net[name] as Method)(odd));
  }
  await all("load_state_dict(state, it)", async (odd) => net.load_state_dict(await net.state_dict(), odd as never));
  await all("load_state_dict({ it })", (odd) => net.load_state_dict({ "0.weight": odd } as never));
  for (const one of [...net, table, new nn.ReLU(), new nn.Dropout(), new nn.Identity()]) {
    await all(`${one.class_name}.forward(it)`, (odd) => free(one.forward(odd as Tensor)));
  }
  using x = Tensor.from(device, [1, 2, 3, 4], [4]);
  for (const [name, call] of Object.entries(nn.functional)) {
    await all(`${name}(it)`, (odd) => free((call as Method)(odd, odd)));
    await all(`${name}(x, it)`, (odd) => free((call as Method)(x, odd)));
  }
  expect(x.alive).toBe(true);
});

test("attention and positions", async () => {
  using q = Tensor.from(device, [1, 2, 3, 4], [1, 2, 2]);
  using packed = Tensor.from(device, [1, 2, 3, 4], [2, 1, 2]);
  const { scaled_dot_product_attention: sdpa, flash_attn_func, flash_attn_varlen_func } = nn.functional;
  for (const option of ["attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa", "softcap"]) {
    await all(`sdpa({ ${option} })`, (odd) => free(sdpa(q, q, q, { [option]: odd })));
  }
  const ends = { cu_seqlens_q: [0, 2], cu_seqlens_k: [0, 2] };
  for (const option of ["dropout_p", "softmax_scale", "causal", "window_size", "softcap", "alibi_slopes"]) {
    await all(`flash({ ${option} })`, (odd) =>
      free(flash_attn_varlen_func(packed, packed, packed, { ...ends, [option]: odd })),
    );
  }
  for (const option of ["cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q"]) {
    await all(`varlen({ ${option} })`, (odd) =>
      free(flash_attn_varlen_func(packed, packed, packed, { ...ends, [option]: odd })),
    );
  }
  await all("flash(it)", (odd) => free(flash_attn_func(odd as Tensor, odd as Tensor, odd as Tensor)));
  for (const [kind, init] of Object.entries(nn.ROPE_INIT_FUNCTIONS)) {
    await all(`${kind}(it)`, (odd) => init(odd as never));
    await all(`${kind}(.., it)`, (odd) => init({ head_dim: 8 }, odd as never));
    for (const field of [
      "head_dim",
      "rope_theta",
      "rope_scaling",
      "max_position_embeddings",
      "partial_rotary_factor",
    ]) {
      await all(`${kind}({ ${field} })`, (odd) => init({ head_dim: 8, [field]: odd }));
    }
  }
  for (const [name, call] of Object.entries({
    build_alibi_tensor: nn.build_alibi_tensor,
    build_falcon_alibi_tensor: nn.build_falcon_alibi_tensor,
    build_mpt_alibi_tensor: nn.build_mpt_alibi_tensor,
    relative_position_bucket: nn.relative_position_bucket,
  })) {
    await all(`${name}(it)`, (odd) => (call as Method)(odd, 2));
    await all(`${name}(.., it)`, (odd) => (call as Method)([[1, 0]], odd));
    await all(`${name}([it])`, (odd) => (call as Method)([odd], 2));
  }
});

test("functions", async () => {
  await all("manual_seed(it)", (odd) => nn.manual_seed(odd as number));
  await all("no_grad(it)", (odd) => nn.no_grad(odd as never));
  await all("text(it)", (odd) => nn.text(odd as never));
  const below = (odd: unknown): unknown => (typeof odd === "string" && odd ? join(temporary("odd"), odd) : odd);
  await all("save(it)", (odd) => nn.save(odd as never, `${temporary("odd")}.safetensors`));
  await all("save(state, it)", (odd) => nn.save(new Map(), below(odd) as string));
  await all("load(it)", (odd) => nn.load(below(odd) as string));
  const net = (): nn.Module => new nn.Sequential(new nn.Linear(2, 2));
  await all("replace_with_bnb_linear(it)", (odd) => replace_with_bnb_linear(odd as nn.Module));
  for (const option of ["threshold", "skip_modules", "quantization_config"]) {
    await all(`replace({ ${option} })`, (odd) => replace_with_bnb_linear(net(), { [option]: odd }));
  }
  for (const option of ["threshold", "module_to_not_convert"]) {
    await all(`replace_8bit_linear({ ${option} })`, (odd) => replace_8bit_linear(net(), { [option]: odd }));
  }
  await all("load_and_quantize_model(it)", (odd) => load_and_quantize_model(odd as nn.Module, { device }));
  await all("load_and_quantize_model(model, it)", (odd) => load_and_quantize_model(net(), odd as object));
});
