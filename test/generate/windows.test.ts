// Layers that see a window keep what it needs, and no more; texts are those of a cache that keeps everything.

import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { openDevice } from "../../src/load/device.js";
import { cacheBytesPerToken } from "../../src/nn/cache.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const device = openDevice("cpu", { threads: 2 });
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

/** Longer than a window and a chunk of a prompt together. */
const LONG = Array.from({ length: 600 }, (_, i) => 3 + ((i * 7919) % 90));

const open = async (name: string): Promise<PreTrainedModel> =>
  await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", name), { device });

/** A model whose caches keep everything. */
function keepingAll(model: PreTrainedModel): PreTrainedModel {
  const { windows: _, ...geometry } = model.module.geometry;
  Object.assign(model.module, { geometry });
  return model;
}

describe.each(["mistral", "gemma3_text"])("%s", (name) => {
  test("rings give the tokens that a whole cache gives", async () => {
    await using rings = await open(name);
    await using whole = keepingAll(await open(name));
    const greedy = { do_sample: false, max_new_tokens: 24, eos_token_id: null, pad_token_id: 0 };
    const batch = { input_ids: [LONG, [...LONG.slice(300), ...LONG.slice(0, 300)]] };
    for (const options of [
      greedy,
      { ...greedy, cache_implementation: "quantized" },
      { ...greedy, do_sample: true, temperature: 1.5, seed: 5, num_return_sequences: 2 },
      { ...greedy, prompt_lookup_num_tokens: 700 },
      { ...greedy, num_beams: 3 },
    ] as const) {
      expect(await rings.generate({ ...batch, ...options })).toEqual(await whole.generate({ ...batch, ...options }));
    }
    const tokens = 624;
    const { bytes } = whole.cache_footprint({ ...batch, ...greedy });
    expect(bytes).toBe(2 * tokens * cacheBytesPerToken(whole.module.geometry, "f32"));
    const windows = rings.module.geometry.windows!;
    const kept = windows.map((window) => (window === undefined ? tokens : 16 * Math.ceil((window + 511) / 16)));
    expect(kept.some((some) => some < tokens)).toBe(true);
    const share = kept.reduce((sum, some) => sum + some, 0) / (tokens * kept.length);
    expect(rings.cache_footprint({ ...batch, ...greedy }).bytes).toBeCloseTo(share * bytes, 3);
  });
});
