// model.memory(): bytes by device and kind, which together are what is live.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import { AutoModelForCausalLM, type FromPretrainedOptions, LoraConfig, type PreTrainedModel } from "../../src/index.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const load = (options: FromPretrainedOptions): Promise<PreTrainedModel> =>
  AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), options);

/** Every kind adds up to what is live. Of a model that rests every byte has a kind. */
function sums(model: PreTrainedModel, rests = true): void {
  for (const one of model.memory().devices) {
    if (rests) expect(one.other).toBe(0);
    const { weights, adapters, constants, caches, recordings, offloaded, other } = one;
    expect(weights + adapters + constants + caches + recordings + offloaded + other).toBe(one.live);
    expect(one.peak).toBeGreaterThanOrEqual(one.live);
  }
}

test.skipIf(!nativeAvailable())(
  "weights, caches, recordings, adapters; on one device, on several, and on the disk",
  async () => {
    const folder = temporary("offload");
    mkdirSync(folder);
    {
      await using model = await load({ device: "cpu", threads: 1, load_in_8bit: true });
      const [idle] = model.memory().devices;
      expect(idle).toMatchObject({ device: "cpu", weights: model.weight_bytes, caches: 0, recordings: 0, other: 0 });
      expect(String(model.memory())).toMatch(/^device +weights +constants +live +reusable +peak +budget\ncpu /);
      const text = model.stream({ input_ids: [[3, 1, 4, 1, 5]], max_new_tokens: 8 });
      for (let i = 0; i < 4; i++) await text.next();
      const [busy] = model.memory().devices;
      expect(busy!.caches).toBeGreaterThan(0);
      expect(busy!.recordings).toBeGreaterThan(0);
      sums(model, false);
      // The rest is a token's logits and what is chosen from them.
      expect(busy!.other).toBeGreaterThan(0);
      expect(busy!.other).toBeLessThan(busy!.caches);
      await text.return(undefined);
      model.add_adapter(new LoraConfig({ target_modules: ["q_proj"] }));
      expect(model.memory().devices[0]!.adapters).toBe(model.adapters!.nbytes);
      sums(model);
    }
    {
      const device_map = { "": "cpu:0", "model.layers.0": "disk", "model.layers.1": "cpu" };
      await using model = await load({ device_map, offload_folder: folder });
      const { devices, disk } = model.memory();
      expect(devices.map(({ device }) => device)).toEqual(["cpu:0", "cpu"]);
      expect(devices[1]!.offloaded).toBe(disk); // both blocks are alike
      expect(devices[0]!.weights + 2 * disk).toBe(model.weight_bytes);
      expect(String(model.memory())).toMatch(/\ndisk +\d/);
      sums(model);
    }
    await using model = await load({ tp_plan: "auto" });
    const { devices } = model.memory();
    expect(devices.length).toBe(2);
    expect(devices[0]!.weights + devices[1]!.weights).toBe(model.weight_bytes);
    sums(model);
  },
);
