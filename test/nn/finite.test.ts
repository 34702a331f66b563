// Where the first infinity or NaN arises, on every kind of device.

import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { OctavoError, OptionError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import type { Linear, Parameter } from "../../src/nn/module.js";
import { denseScheme, storeRows } from "../../src/nn/weight.js";
import * as nn from "../../src/nn.js";
import { contiguous } from "../../src/ops/copy.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const cpu = openDevice("cpu", { threads: 2 });
const reference = openDevice("reference");
afterAll(async () => {
  for (const one of [cpu, reference]) {
    expectNoLeaks(one);
    await one.close();
  }
});

const folder = (name: string): string => join(FIXTURES, "models", name);
const TEXT = { input_ids: [[3, 44, 17, 90, 5]] };

/** Overwrites one number of a vector. */
async function spoil(parameter: Parameter, value: number): Promise<void> {
  const { device, shape } = parameter.value;
  const values = await parameter.value.readFloats();
  values[1] = value;
  parameter.fill(Tensor.from(device, values, shape));
}

/** Overwrites one number of a matrix. */
async function spoilMatrix({ weight }: Linear, value: number): Promise<void> {
  const device = weight.tensors[0]!.device;
  using before = weight.dequantize();
  const values = await before.readFloats();
  values[3] = value;
  using rows = Tensor.from(device, values, weight.shape);
  weight.fill(storeRows(denseScheme("f32"), rows, "weight"));
}

describe.each([
  ["cpu", cpu],
  ["reference", reference],
] as const)("%s", (_, device) => {
  test("the module, the op, and the parameter that is to blame", async () => {
    await using model = await AutoModelForCausalLM.from_pretrained(folder("llama"), { device, dtype: "float32" });
    expect(await model.check_finite(TEXT)).toBeUndefined();
    await spoilMatrix(model.module.get_submodule("model.layers.1.mlp.up_proj") as Linear, Number.NaN);
    expect(await model.check_finite(TEXT)).toMatchObject({
      module: "model.layers.1.mlp.up_proj",
      op: "linear",
      value: "NaN",
      count: 5, // one output of each token
      elements: 5 * 112,
      parameter: "model.layers.1.mlp.up_proj.weight",
    });
    // What comes first counts.
    const norm = model.module.get_submodule("model.layers.0.post_attention_layernorm") as unknown as {
      weight: Parameter;
    };
    await spoil(norm.weight, Number.POSITIVE_INFINITY);
    expect(await model.check_finite(TEXT)).toMatchObject({
      module: "model.layers.0.post_attention_layernorm",
      op: "rms_norm",
      value: "infinity",
      parameter: "model.layers.0.post_attention_layernorm.weight",
    });
  });

  test("a module of one's own: products that overflow, conversions that overflow", async () => {
    const net = new nn.Sequential(new nn.Linear(4, 4), new nn.ReLU(), new nn.Linear(4, 2));
    using _net = net.to(device);
    using x = Tensor.from(device, new Float32Array(8).fill(1), [2, 4]);
    await spoilMatrix(net.at(2) as unknown as Linear, Number.POSITIVE_INFINITY);
    const found = await nn.check_finite(() => net.forward(x));
    expect(found).toMatchObject({ module: "2", op: "linear", shape: [2, 2] });
    using large = Tensor.from(device, new Float32Array(4).fill(1e30), [4]);
    expect(await nn.check_finite(() => nn.functional.multiply(large, large))).toMatchObject({
      ...{ module: "", value: "infinity", count: 4 },
    });
    using y = Tensor.from(device, Float32Array.of(1e8, 1), [2]);
    // 10,000 squared is more than f16 holds.
    expect(await nn.check_finite(() => contiguous(y, "f16"))).toEqual({
      ...{ module: "", op: "copy", value: "infinity", count: 1, elements: 2, shape: [2] },
    });
    expect(await nn.check_finite(() => contiguous(y, "bf16"))).toBeUndefined();
  });
});

test("encoders and both halves of encoder-decoders", async () => {
  await using bert = await AutoModel.from_pretrained(folder("bert"), { device: cpu, dtype: "float32" });
  expect(await bert.check_finite(TEXT)).toBeUndefined();
  await spoilMatrix(bert.module.get_submodule("encoder.layer.1.output.dense") as Linear, Number.NEGATIVE_INFINITY);
  expect(await bert.check_finite(TEXT)).toMatchObject({ module: "encoder.layer.1.output.dense" });
  await using t5 = await AutoModelForSeq2SeqLM.from_pretrained(folder("t5"), { device: cpu, dtype: "float32" });
  const both = { ...TEXT, decoder_input_ids: [[0, 7]] };
  expect(await t5.check_finite(both)).toBeUndefined();
  const { module } = t5;
  const [path] = [...module.named_modules()].find(([name]) => /^decoder\.block\.1\..*\.wo$/.test(name))!;
  await spoilMatrix(module.get_submodule(path) as Linear, Number.NaN);
  expect(await t5.check_finite(both)).toMatchObject({ module: path });
});

test("refusals, and what a check leaves behind", async () => {
  await expect(nn.check_finite(3 as never)).rejects.toBeInstanceOf(OptionError);
  await expect(nn.check_finite(async () => {})).rejects.toThrow(/asynchronous/);
  const thrown = nn.check_finite(() => {
    nn.functional.relu(Tensor.from(cpu, Float32Array.of(1), [1]));
    throw new OctavoError("ERR_TEST", "mine");
  });
  await expect(thrown).rejects.toThrow("mine");
  const model = await AutoModelForCausalLM.from_pretrained(folder("llama"), { device: cpu });
  await expect(model.check_finite({ input_ids: [[100000]] })).rejects.toThrow(/vocabulary|id/);
  await expect(model.check_finite({ nothing: 1 })).rejects.toBeInstanceOf(OptionError);
  model.dispose();
  await expect(model.check_finite(TEXT)).rejects.toThrow(/dispose/);
});
