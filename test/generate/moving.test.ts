// to(), cpu(), cuda(), half(), float(), bfloat16() of loaded models: dense models move and are converted, as if they had been loaded so;
// quantized ones move with their codes, and refuse to be converted in transformers' words.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import { OctavoError, OptionError, OutOfMemoryError } from "../../src/core/errors.js";
import {
  AutoModelForCausalLM,
  AutoModelForMaskedLM,
  DynamicCache,
  type FromPretrainedOptions,
  LoraConfig,
  type PreTrainedModel,
  requestDevice,
} from "../../src/index.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const IDS = [
  [3, 1, 4, 1, 5, 9],
  [2, 7, 1, 8, 2, 8],
];
const fixture = (name: string): string => join(FIXTURES, "models", name);
const load = (name: string, options: FromPretrainedOptions = {}): Promise<PreTrainedModel> =>
  AutoModelForCausalLM.from_pretrained(fixture(name), { device: "cpu", ...options });

async function results(model: PreTrainedModel): Promise<unknown[]> {
  const { logits } = model.forward({ input_ids: IDS });
  const values = await logits.readFloats();
  logits.dispose();
  return [values, await model.generate({ input_ids: IDS, max_new_tokens: 5, do_sample: false })];
}

async function resultsOf(name: string, options: FromPretrainedOptions): Promise<unknown[]> {
  await using model = await load(name, options);
  return await results(model);
}

const PLAIN: readonly (readonly [string, FromPretrainedOptions])[] = [
  ["float16", { dtype: "float16" }],
  ["float32", { dtype: "float32" }],
  ["bfloat16", { dtype: "bfloat16" }],
];

// Only the native add-on has logical devices.
describe.skipIf(!nativeAvailable())("a loaded model", () => {
  test.each(["llama", "bloom", "granite"])(
    "%s: converted, it is what it would be if it had been loaded so",
    async (name) => {
      for (const [dtype, options] of PLAIN) {
        const wanted = await resultsOf(name, options);
        await using model = await load(name, { dtype: "float32" });
        const before = model.device.memory.live;
        if (dtype === "float16") expect(model.half()).toBe(model);
        else if (dtype === "bfloat16") model.bfloat16();
        else model.bfloat16().float(); // rounded on its way
        // What it freed: other suites may have left something on the device that they share.
        const freed = (await aliveOf(name, { dtype: "float32" })) - (await aliveOf(name, options));
        expect(before - model.device.memory.live).toBe(freed);
        if (dtype !== "float32") expect(await results(model)).toEqual(wanted);
        expect(model.to(dtype)).toBe(model);
      }
    },
  );

  test("how products may round stays as it was asked for", async () => {
    const how = { compute_dtype: "float32" } as const;
    const wanted = await resultsOf("llama", { dtype: "bfloat16", ...how });
    await using model = await load("llama", { dtype: "float32", ...how });
    expect(await results(model.bfloat16())).toEqual(wanted);
    expect(wanted).not.toEqual(await resultsOf("llama", { dtype: "bfloat16" }));
  });

  async function aliveOf(name: string, options: FromPretrainedOptions): Promise<number> {
    await using model = await load(name, { ...options, threads: 1 });
    return model.device.memory.live;
  }

  test.each<[string, FromPretrainedOptions]>([
    ["floats", {}],
    ["8 bits", { load_in_8bit: true }],
    ["4 bits", { load_in_4bit: true, bnb_4bit_use_double_quant: true }],
  ])("%s: it moves, and back", async (_, how) => {
    const other = await requestDevice("cpu:5", { threads: 1 });
    const third = await requestDevice("reference");
    try {
      const model = await load("llama", { ...how, threads: 1 });
      const before = model.device;
      const wanted = await results(model);
      const [values, tokens] = wanted;
      // What a caller keeps stays good: results where they are, texts by being read anew.
      const { logits } = model.forward({ input_ids: IDS });
      const past_key_values = new DynamicCache();
      const more = { input_ids: IDS, max_new_tokens: 5, do_sample: false, past_key_values };
      expect(await model.generate(more)).toEqual(tokens);
      expect(model.to(other)).toBe(model);
      expect([model.device, model.hf_device_map]).toEqual([other, { "": "cpu:5" }]);
      expect(await results(model)).toEqual(wanted);
      expect(await logits.readFloats()).toEqual(values);
      logits.dispose();
      expect(await model.generate(more)).toEqual(tokens);
      past_key_values.reset();
      expectNoLeaks(before);
      expect(await model.to(third).generate({ input_ids: IDS, max_new_tokens: 5, do_sample: false })).toEqual(tokens);
      other.arena.trim();
      expectNoLeaks(other);
      model.to(other);
      await model[Symbol.asyncDispose]();
      expect(() => before.checkOpen()).toThrow(/closed/); // it was the model's own
      other.checkOpen(); // the caller's
      for (const one of [other, third]) expectNoLeaks(one);
    } finally {
      await other.close();
      await third.close();
    }
  });

  test("one that does not fit stays where it was", async () => {
    const small = await requestDevice("cpu:5", { memory: 100_000 });
    await using model = await load("llama", { dtype: "float32", threads: 1 });
    const wanted = await results(model);
    expect(() => model.to(small)).toThrow(OutOfMemoryError);
    const { live } = model.device.memory;
    model.device.limit(live + 1000);
    expect(() => model.bfloat16()).toThrow(OutOfMemoryError);
    model.device.limit(2 ** 40);
    expect([model.device.memory.live, model.dtype]).toEqual([live, "f32"]);
    expect(await results(model)).toEqual(wanted);
    expectNoLeaks(small);
    await small.close();
    expect(() => model.to(small)).toThrow(/closed/);
    expect(await results(model)).toEqual(wanted);
  });

  test("what is refused, in transformers' words", async () => {
    await using model = await load("llama", { load_in_8bit: true });
    expect(() => model.to("float16")).toThrow(/You cannot cast a bitsandbytes model in a new `dtype`/);
    for (const method of ["half", "bfloat16"] as const) {
      expect(() => model[method]()).toThrow(`\`.${method}()\` is not supported for quantized model`);
    }
    expect(model.float()).toBe(model); // it is
    expect(() => model.cuda()).toThrow(/requestDevice\("webgpu"\)/);
    expect(() => model.to("nowhere")).toThrow(OptionError);
    model.dequantize().half();
    expect(model.dtype).toBe("f16");
    await using other = await load("llama", { load_in_8bit: true, dtype: "float16" });
    expect(await results(model)).toEqual(await results(other.dequantize()));
    model.add_adapter(new LoraConfig({ target_modules: ["q_proj"] }));
    expect(() => model.bfloat16()).toThrow(/adapters need their weights in their place/);
    model.delete_adapter("default");
    const text = model.stream({ input_ids: [IDS[0]!], max_new_tokens: 4 });
    await text.next();
    expect(() => model.bfloat16()).toThrow(OctavoError);
    await text.return(undefined);
    await using flash = await load("llama", { dtype: "float16", attn_implementation: "flash_attention_2" });
    expect(() => flash.float()).toThrow(OptionError);
    expect(flash.bfloat16().dtype).toBe("bf16");
  });

  test("parts on several devices are converted where they are, and do not move", async () => {
    const wanted = await resultsOf("llama", { dtype: "float16" });
    for (const where of [
      { device_map: { "": "cpu:0", "model.layers.1": "cpu:1" } },
      { tp_plan: "auto", tp_size: 2 },
    ] as const) {
      await using model = await load("llama", { device: undefined, dtype: "float32", ...where });
      expect(await results(model.half())).toEqual(wanted);
      const other = await requestDevice("cpu:5");
      expect(() => model.to(other)).toThrow(/you can't move a model that is on several devices/);
      await other.close();
    }
  });

  test("encoders, too", async () => {
    const run = async (options: FromPretrainedOptions, change: "half" | "eval"): Promise<unknown> => {
      await using model = await AutoModelForMaskedLM.from_pretrained(fixture("bert"), { device: "cpu", ...options });
      const { logits } = model[change]().forward({ input_ids: IDS });
      const values = await logits.readFloats();
      logits.dispose();
      return values;
    };
    expect(await run({ dtype: "float32" }, "half")).toEqual(await run({ dtype: "float16" }, "eval"));
  });
});
