// from_pretrained with tp_plan: matrices cut over logical devices. The same bits as on one device, whatever the number of devices, in
// every form of storage, because every output is summed on one device over all inputs.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import { AutoModelForCausalLM, type FromPretrainedOptions, type PreTrainedModel } from "../../src/index.js";
import { FIXTURES } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";

const IDS = [
  [3, 1, 4, 1, 5, 9, 2, 6],
  [2, 7, 1, 8, 2, 8, 1, 8],
];
const fixture = (name: string): string => join(FIXTURES, "models", name);
const load = (name: string, options: FromPretrainedOptions): Promise<PreTrainedModel> =>
  AutoModelForCausalLM.from_pretrained(name, options);

/** Logits, tokens and sampled tokens. */
async function results(model: PreTrainedModel): Promise<unknown[]> {
  const { logits } = model.forward({ input_ids: IDS });
  const values = await logits.readFloats();
  logits.dispose();
  const tokens = await model.generate({ input_ids: IDS, max_new_tokens: 8, do_sample: false });
  const sampled = await model.generate({ input_ids: IDS, max_new_tokens: 8, do_sample: true, seed: 7 });
  return [values, tokens, sampled];
}

describe.skipIf(!nativeAvailable())("tp_plan", () => {
  test.each<[string, string, FromPretrainedOptions, number]>([
    ["in 8 bits, with outliers", STORYTELLER, { load_in_8bit: true, llm_int8_threshold: 2 }, 3],
    [
      "in fp4, quantized twice",
      STORYTELLER,
      { load_in_4bit: true, bnb_4bit_use_double_quant: true, bnb_4bit_quant_type: "fp4" },
      2,
    ],
    ["in bfloat16", fixture("qwen2"), { dtype: "bfloat16" }, 3],
    ["in nf4", fixture("mistral"), { load_in_4bit: true, bnb_4bit_quant_type: "nf4" }, 2],
    ["gpt2", fixture("gpt2"), {}, 2],
    ["opt", fixture("opt"), { load_in_8bit: true }, 2],
    ["bloom", fixture("bloom"), {}, 4],
    ["more devices than rows of panels", fixture("llama"), {}, 7],
  ])("%s: the same bits", async (_, name, how, tp_size) => {
    await using alone = await load(name, { device: "cpu", threads: 1, ...how });
    await using model = await load(name, { tp_plan: "auto", tp_size, ...how });
    expect(await results(model)).toEqual(await results(alone));
    const devices = model.module.placement?.devices ?? [];
    expect([model.tp_size, model.hf_device_map]).toEqual([tp_size, { "": "cpu:0" }]);
    expect(devices.map(({ name }) => name)).toEqual(Array.from({ length: tp_size }, (_, n) => `cpu:${n}`));
    for (const { memory } of devices) {
      expect(memory.live).toBeGreaterThan(0);
      expect(memory.live).toBeLessThan(alone.device.memory.live);
    }
  });
});
