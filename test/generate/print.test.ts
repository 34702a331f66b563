// What console.log shows of models, tensors and devices.

import { inspect } from "node:util";
import { expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { onDevice } from "../support/suites.js";

let device: Device;
onDevice("reference", (opened) => {
  device = opened;
});

const shown = async (name: string, options: object): Promise<string> => {
  await using model = await AutoModelForCausalLM.from_pretrained(`${FIXTURES}/models/${name}`, { device, ...options });
  expect(inspect(model)).toBe(String(model));
  expect(inspect({ model }, { depth: 0 })).toContain(String(model).split("\n")[0]);
  return String(model);
};

test("a model is the tree of its modules, with how each weight is stored", async () => {
  expect(await shown("llama", { load_in_8bit: true })).toMatchInlineSnapshot(`
    "PreTrainedModel on reference, float32: LlamaForCausalLM(
      (model): LlamaModel(
        (embed_tokens): Embedding(160, 64, weight=f32)
        (layers): ModuleList(
          (0-1): 2 x LlamaDecoderLayer(
            (self_attn): LlamaAttention(
              (q_proj): Linear(in_features=64, out_features=64, bias=false, weight=llm_int8)
              (k_proj): Linear(in_features=64, out_features=32, bias=false, weight=llm_int8)
              (v_proj): Linear(in_features=64, out_features=32, bias=false, weight=llm_int8)
              (o_proj): Linear(in_features=64, out_features=64, bias=false, weight=llm_int8)
            )
            (input_layernorm): RMSNorm(weight=[64], eps=0.00001)
            (post_attention_layernorm): RMSNorm(weight=[64], eps=0.00001)
            (mlp): LlamaMLP(
              (gate_proj): Linear(in_features=64, out_features=112, bias=false, weight=llm_int8)
              (up_proj): Linear(in_features=64, out_features=112, bias=false, weight=llm_int8)
              (down_proj): Linear(in_features=112, out_features=64, bias=false, weight=llm_int8)
            )
          )
        )
        (norm): RMSNorm(weight=[64], eps=0.00001)
      )
      (lm_head): Linear(in_features=64, out_features=160, bias=false, weight=f32)
    )"
  `);
});

test("4 bits, a stack of experts, and dtypes of what is not quantized", async () => {
  const nf4 = { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } };
  const mixtral = await shown("mixtral", nf4);
  expect(mixtral).toMatch(/q_proj\): Linear\(in_features=\d+, out_features=\d+, bias=false, weight=nf4\)/);
  expect(mixtral).toMatch(/w1\): Linear\(.*experts=\d+, weight=nf4\)/);
  expect(await shown("gpt2", { dtype: "float16" })).toMatch(/Embedding\(\d+, \d+, weight=f16\)/);
});

test("a tree without weights says so", async () => {
  const model = await AutoModelForCausalLM.from_pretrained(`${FIXTURES}/models/llama`, { device });
  model.dispose();
  expect(String(model)).toContain("weight=not loaded");
});

test("a tensor is one line, which says how to get its values", async () => {
  const x = Tensor.from(device, [1, 2, 3, 4, 5, 6], [2, 3]);
  const line = "Tensor([2, 3] f32 on reference; values: await tensor.read())";
  expect(inspect(x)).toBe(line);
  expect(`${x}`).toBe(line);
  x.evict();
  expect(`${x}`).toContain("evicted");
  x.dispose();
  expect(`${x}`).toContain("disposed");
});

test("a device is one line", async () => {
  const own = openDevice("reference");
  own.allocate(16, "something");
  expect(inspect(own)).toMatch(/^Device\(reference: .*; 16 of \d+ bytes are in use\)$/);
  expectNoLeaks(device);
  await own.close();
});
