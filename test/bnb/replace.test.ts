// Linears that are replaced: in models of one's own, and in loaded ones, which then are what from_pretrained gives.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Linear4bit, Linear8bitLt } from "../../src/bnb/modules.js";
import { replace_8bit_linear, replace_with_bnb_linear } from "../../src/bnb/replace.js";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import * as nn from "../../src/nn.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../../src/quant/config.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

let device: Device;
beforeAll(() => {
  device = openDevice("cpu", { threads: 2 });
});
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

class Net extends nn.Module {
  body = new nn.Sequential(new nn.Linear(16, 16), new nn.ReLU(), new nn.Linear(16, 8));
  lm_head = new nn.Linear(8, 4);
}

const kinds = (module: nn.Module): Record<string, string> =>
  Object.fromEntries([...module.named_modules()].map(([name, one]) => [name, one.class_name]));

describe("a model of one's own", () => {
  test("declared or on a device, its linears hold the same codes", async () => {
    nn.manual_seed(1);
    using declared = new Net();
    const state = await declared.state_dict();
    using placed = new Net();
    await placed.load_state_dict(state);
    placed.to(device);
    expect(replace_with_bnb_linear(declared)).toBe(declared);
    replace_8bit_linear(placed);
    expect(kinds(declared)).toMatchObject({ "body.0": "Linear8bitLt", "body.1": "ReLU", lm_head: "Linear" });
    expect(kinds(placed)).toEqual(kinds(declared));
    declared.to(device);
    const [a, b] = [await declared.state_dict(), await placed.state_dict()];
    expect([...a.keys()]).toEqual([...b.keys()]);
    expect(a.has("body.2.SCB")).toBe(true);
    for (const [name, tensor] of a) expect(await tensor.bytes()).toEqual(await b.get(name)!.bytes());
    expect(declared.body.at(0)!.path).toBe("body.0");
    expect((declared.body.at(0) as Linear8bitLt).weight.threshold).toBe(6);
    const before = declared.body.at(0);
    replace_with_bnb_linear(declared, { threshold: 3 });
    expect(declared.body.at(0)).toBe(before); // what is quantized stays
  });

  test("what is skipped, and in which kind", () => {
    const four = replace_with_bnb_linear(new Net(), {
      skip_modules: ["body.2"],
      quantization_config: new BitsAndBytesConfig({
        load_in_4bit: true,
        bnb_4bit_quant_type: "nf4",
        bnb_4bit_blocksize: 32,
      }),
    });
    expect(kinds(four)).toMatchObject({ "body.0": "Linear4bit", "body.2": "Linear", lm_head: "Linear4bit" });
    const { quant_type, blocksize } = (four.lm_head as Linear4bit).weight;
    expect([quant_type, blocksize]).toEqual(["nf4", 32]);
    const all = replace_8bit_linear(new Net(), { module_to_not_convert: [], threshold: 2 });
    expect((all.lm_head as Linear8bitLt).weight.threshold).toBe(2);
  });

  test("refusals", () => {
    for (const odd of [undefined, null, {}, "model"]) {
      expect(() => replace_with_bnb_linear(odd as never)).toThrow(OptionError);
      expect(() => replace_8bit_linear(odd as never)).toThrow(OptionError);
    }
    expect(() => replace_with_bnb_linear(new Net(), { treshold: 3 } as never)).toThrow(/did you mean/);
    expect(() => replace_with_bnb_linear(new Net(), { quantization_config: {} })).toThrow(/no quantization/);
    expect(() => replace_with_bnb_linear(new Net(), { skip_modules: "lm_head" as never })).toThrow(OptionError);
  });
});

test.each([
  ["llama in 8 bits", "llama", { load_in_8bit: true }],
  ["llama in NF4", "llama", { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true }],
  ["a mixture of experts in 8 bits", "mixtral", { load_in_8bit: true }],
] as [string, string, BitsAndBytesOptions][])(
  "a loaded model is then as from_pretrained quantizes it: %s",
  async (_, name, fields) => {
    const folder = join(FIXTURES, "models", name);
    const quantization_config = new BitsAndBytesConfig(fields);
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device });
    const quantized = await AutoModelForCausalLM.from_pretrained(folder, { device, quantization_config });
    replace_with_bnb_linear(model, { quantization_config });
    expect(String(model.module)).toContain(fields.load_in_8bit ? "Linear8bitLt(" : "Linear4bit(");
    expect(model.quantized_modules).toEqual(quantized.quantized_modules);
    expect(model.get_memory_footprint()).toBe(quantized.get_memory_footprint());
    const inputs = { input_ids: [[5, 9, 3, 17]] };
    const [a, b] = [await model.forward(inputs), await quantized.forward(inputs)];
    expect([...(await a.logits.readFloats())]).toEqual([...(await b.logits.readFloats())]);
    for (const { logits } of [a, b]) logits.dispose();
    for (const one of [model, quantized]) one.dispose();
  },
);
