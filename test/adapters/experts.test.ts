// LoRA on models with experts. On the attention (training), where the gradient passes through the experts, the choice of them and, in
// gpt-oss, the sinks; and on the experts themselves (stacks).
// Against peft on dense weights; on quantized ones, and on MXFP4 as it is published, against the floats that they stand for.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { AutoModelForCausalLM, get_peft_model, type PreTrainedModel } from "../../src/index.js";
import { manual_seed } from "../../src/nn/init.js";
import type { BitsAndBytesOptions } from "../../src/quant/config.js";
import { adamW, decoded, largest, off, stepOf } from "../support/adapter-steps.js";
import { DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { PeftCase } from "../support/peft-case.js";
import { temporary } from "../support/temporary.js";
import { gpu, whyNoGPU } from "../support/webgpu.js";

/** With every activation an outlier, products with 8-bit weights round nothing. */
const EXACT_INT8: BitsAndBytesOptions = { load_in_8bit: true, llm_int8_threshold: 1e-9 };
const fourBit = (quant: "nf4" | "fp4" | "o4", double = false): BitsAndBytesOptions => ({
  load_in_4bit: true,
  bnb_4bit_quant_type: quant,
  bnb_4bit_use_double_quant: double,
  bnb_4bit_compute_dtype: "float32",
});
const STORED: readonly (readonly [string, BitsAndBytesOptions])[] = [
  ["LLM.int8()", EXACT_INT8],
  ["NF4, quantized twice", fourBit("nf4", true)],
  ["FP4", fourBit("fp4")],
  ["O4", fourBit("o4")],
];

/** The plain loops are slow, and a GPU in software compiles shaders for seconds: OCTAVO_GPU_CASES=all waits for them. */
const waits = process.env.OCTAVO_GPU_CASES === "all";
if (!gpu || !waits)
  test.skip(`webgpu: ${gpu ? "wants OCTAVO_GPU_CASES=all; the conformance suite tests its ops" : whyNoGPU}`);

describe.each([...DEVICES, ...(gpu && waits ? ["webgpu"] : [])])("%s", { timeout: 240_000 }, (name) => {
  let device: Device;
  beforeEach(async () => {
    device = await requestTestDevice(name);
  });
  afterEach(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  const cases = ["mixtral", "qwen3_moe", "gpt_oss"].flatMap((base) =>
    ["training", "stacks"].map((kind) => [base, kind]),
  );
  describe.each(name === "reference" ? [["gpt_oss", "stacks"]] : cases)("%s, %s", (base, kind) => {
    const peft = new PeftCase(base!, kind!);
    afterEach(() => peft.unload());

    test("dense: three steps of AdamW give the losses and the adapters of peft", async () => {
      await peft.learnsAsPeft(device);
    });

    test.each(name !== "cpu" ? [] : kind === "training" ? STORED : STORED.slice(0, 2))(
      "%s: the gradients are those with the floats that it stands for",
      async (_, options) => {
        const { training } = peft;
        const loaded = await peft.load(device, options);
        const tensors = await peft.put(loaded);
        const got = await stepOf(device, loaded.model, tensors, training.batches[0]!);
        await adamW(training)(tensors, got.gradients);
        const next = await stepOf(device, loaded.model, tensors, training.batches[0]!);
        expect(next.loss).toBeLessThan(got.loss);
        await peft.stepsAsDecoded(device, options, got);
      },
    );
  });
});

describe("models as users hold them", () => {
  const ids = [
    [5, 6, 7, 8, 9, 10, 11],
    [12, 13, 14, 15, 16, 17, 18],
  ];
  const gradientsOf = async (model: PreTrainedModel): Promise<Map<string, Float32Array>> => {
    const { loss } = model.forward({ input_ids: ids, labels: ids, skip_logits: true });
    await model.backward(loss!);
    loss!.dispose();
    const found = new Map<string, Float32Array>();
    for (const [name, { grad }] of model.named_parameters()) if (grad) found.set(name, await grad.readFloats());
    model.zero_grad();
    return found;
  };

  test("gpt-oss with experts in MXFP4: as with the floats, and with checkpoints of blocks", async () => {
    const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "packed", "gpt-oss"), { dtype: "float32" });
    manual_seed(5);
    await get_peft_model(model, { r: 2, target_modules: ["q_proj", "v_proj"], init_lora_weights: false });
    const got = await gradientsOf(model);
    expect(got.size).toBe(8);
    model.gradient_checkpointing_enable();
    expect(await gradientsOf(model)).toEqual(got);
    decoded(model.module);
    for (const [name, want] of await gradientsOf(model)) {
      expect(off(got.get(name)!, want), name).toBeLessThan(1e-4 * Math.max(1, largest(want)));
    }
    model.dispose();
  });

  test("in floats all of a model learns, its experts too", async () => {
    const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "qwen3_moe"), {
      dtype: "float32",
    });
    model.requires_grad_();
    const names = [...model.named_parameters()].map(([name]) => name);
    const got = await gradientsOf(model);
    expect([...got.keys()]).toEqual(names);
    for (const [name, values] of got) expect(largest(values), name).toBeGreaterThan(0);
    model.dispose();
  });

  const STACKS = join(FIXTURES, "peft", "mixtral", "stacks", "final");
  const mixtral = (options: object = {}): Promise<PreTrainedModel> =>
    AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "mixtral"), { dtype: "float32", ...options });
  const logitsOf = async (model: PreTrainedModel): Promise<Float32Array> => {
    const { logits } = model.forward({ input_ids: ids });
    const read = await logits.readFloats();
    logits.dispose();
    return read;
  };

  test("adapters of experts are merged, taken out, turned off and written as peft has them", async () => {
    const model = await mixtral();
    const before = await logitsOf(model);
    await model.load_adapter(STACKS);
    const active = await logitsOf(model);
    expect(off(active, before)).toBeGreaterThan(0.1);
    await model.merge_adapter();
    expect(off(await logitsOf(model), active)).toBeLessThan(1e-4);
    model.unmerge_adapter();
    expect(off(await logitsOf(model), active)).toBeLessThan(1e-4);
    model.disable_adapters();
    expect(off(await logitsOf(model), before)).toBeLessThan(1e-4);
    model.enable_adapters();
    const out = join(temporary("stacks"), "adapter");
    await model.save_pretrained(out);
    const config = (folder: string): object => JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8"));
    expect({ ...config(out), base_model_name_or_path: "models/mixtral" }).toEqual(config(STACKS));
    const tensors = (folder: string): Buffer => readFileSync(join(folder, "adapter_model.safetensors"));
    expect(tensors(out)).toEqual(tensors(STACKS));
    model.delete_adapter("default");
    expect(off(await logitsOf(model), before)).toBeLessThan(1e-4);
    model.dispose();
  });

  test("merged into 8 bits, an adapter of experts costs a rounding of the sums", async () => {
    const model = await mixtral({ load_in_8bit: true });
    await model.load_adapter(STACKS);
    const { errors } = await model.merge_adapter();
    expect(errors.map(({ module }) => module).filter((path) => /layers.0.*experts/.test(path))).toEqual(
      ["w1", "w3", "w2"].map((one) => `model.layers.0.block_sparse_moe.experts.${one}`),
    );
    // Codes of 127 steps: a third of half a step, of weights a few times smaller than the largest of their row.
    for (const { error, module } of errors) expect(error, module).toBeLessThan(0.01);
    model.dispose();
  });

  test("a new adapter of experts changes nothing; what it cannot be is refused by name", async () => {
    const model = await mixtral();
    const before = await logitsOf(model);
    const target_parameters = ["mlp.experts.down_proj"];
    await get_peft_model(model, { r: 2, target_modules: [], target_parameters });
    expect(
      [...model.named_parameters()].filter(([, { requires_grad }]) => requires_grad).map(([name]) => name),
    ).toEqual(
      [0, 1].flatMap((layer) =>
        ["A", "B"].map((one) => `model.layers.${layer}.mlp.experts.lora_${one}.default.weight`),
      ),
    );
    expect(await logitsOf(model)).toEqual(before);
    expect(() => model.forward({ input_ids: ids, adapter_names: ["default", "__base__"] })).toThrow(
      /stacks of experts/,
    );
    const add = (config: object) => () => model.add_adapter(config, "other");
    expect(add({ target_modules: ["w1"] })).toThrow(/experts.w1 holds experts, whose adapters target_parameters names/);
    expect(add({ target_parameters: ["experts.w1"] })).toThrow(/target parameters experts.w1 not found/);
    expect(add({ target_parameters, lora_dropout: 0.1 })).toThrow(/cannot be used with lora_dropout 0.1/);
    expect(add({ target_parameters, use_dora: true })).toThrow(/cannot be used with use_dora true/);
    expect(add({ target_parameters, bias: "all" })).toThrow(/cannot be used with bias "all"/);
    model.dispose();
  });
});
