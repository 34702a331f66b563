// The key-value cache in 8 bits: what it holds, what it weighs, how far logits move, and what is refused.

import { describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import type { GenerateOptions, PreTrainedModel } from "../../src/generate/model.js";
import { cacheBytes, KVCache } from "../../src/nn/cache.js";
import { ALL_DEVICES } from "../support/devices.js";
import { difference } from "../support/fixtures.js";
import { logitsOf } from "../support/models.js";
import { normals } from "../support/random.js";
import { onModel } from "../support/suites.js";

const IDS = [
  [93, 19, 56, 136, 145, 90, 155, 12, 7, 44, 3],
  [5, 8, 99, 21, 150, 33, 61, 70, 2, 18, 101],
];
const INT8 = { cache_implementation: "quantized", cache_config: { nbits: 8 } } as const;

describe.each(ALL_DEVICES)("int8 cache on %s", (deviceName) => {
  let device: Device;
  let model: PreTrainedModel;
  onModel(deviceName, "llama", (opened, loaded) => {
    device = opened;
    model = loaded;
  });

  test("holds codes that are at most half a step off, and weighs what it says", async () => {
    const layers = [{ groups: 3, k_dim: 20, v_dim: 20 }];
    const shape = { layers, rows: 2, capacity: 16, dtype: "i8" } as const;
    const before = device.memory.live;
    using cache = new KVCache(device, shape);
    expect(cacheBytes(shape)).toBe(2 * 2 * 3 * 16 * (20 + 4));
    expect(cache.nbytes).toBe(cacheBytes(shape) + 2 * 2 * 4); // and the table
    // Blocks are rounded up.
    expect(device.memory.live - before).toBeGreaterThanOrEqual(cache.nbytes);
    const values = normals(5, 2 * 4 * 3 * 20, 2);
    const { k, scales } = scope(() => {
      const x = Tensor.from(device, values, [2, 4, 3, 20]);
      const lanes = Tensor.from(device, Int32Array.of(0, 0, 0, 0, 1, 1, 1, 1, 0, 1, 2, 3, 0, 1, 2, 3), [2, 2, 4]);
      cache.extend([4, 4]);
      return cache.append(0, x, x, lanes);
    });
    const codes = await k.read();
    const absmax = await scales!.readFloats();
    for (let b = 0; b < 2; b++)
      for (let t = 0; t < 4; t++)
        for (let g = 0; g < 3; g++) {
          const row = (b * 3 + g) * 16 + t;
          const want = values.subarray(((b * 4 + t) * 3 + g) * 20, ((b * 4 + t) * 3 + g + 1) * 20);
          const step = absmax[row]! / 127;
          expect(absmax[row]).toBe(Math.max(...want.map(Math.abs)));
          want.forEach((x, d) => {
            // Half a step, and a rounding of the product.
            expect(Math.abs(codes[row * 20 + d]! * step - x)).toBeLessThanOrEqual(0.5001 * step);
          });
        }
  });

  test("logits move little, and the same whether tokens come at once or one by one", async () => {
    const full = await logitsOf(device, model.module, IDS, { parts: [11], cache_dtype: "f32" });
    const whole = await logitsOf(device, model.module, IDS, { parts: [11], cache_dtype: "i8" });
    const steps = await logitsOf(device, model.module, IDS, { parts: [4, 1, 1, 5], cache_dtype: "i8" });
    const size = Math.max(...full[0]!.map(Math.abs));
    for (const b of [0, 1]) {
      // Codes are within 1/254 of a row's largest number; layers add such errors up.
      const moved = difference(whole[b]!, full[b]!);
      expect(moved.max).toBeGreaterThan(0);
      expect(moved.max).toBeLessThan(0.02 * size);
      // Sums in another order can move a code by a step.
      expect(difference(steps[b]!, whole[b]!).max).toBeLessThan(0.01 * size);
    }
  });

  test("a padded row generates what it generates alone", async () => {
    const options = { max_new_tokens: 12, do_sample: false, eos_token_id: null, ...INT8 };
    const short = IDS[1]!.slice(3);
    const input_ids = [IDS[0]!, [0, 0, 0, ...short]];
    const attention_mask = [IDS[0]!.map(() => 1), [0, 0, 0, ...short.map(() => 1)]];
    const [first, second] = await model.generate({ input_ids, attention_mask, ...options });
    expect([first]).toEqual(await model.generate({ input_ids: [IDS[0]!], ...options }));
    const [alone] = await model.generate({ input_ids: [short], ...options });
    expect(second!.slice(11)).toEqual(alone!.slice(8));
  });

  test("prompt lookup gives the tokens of greedy decoding", async () => {
    const input_ids = [[...IDS[0]!, ...IDS[0]!]];
    const options = { input_ids, max_new_tokens: 16, do_sample: false, eos_token_id: null, ...INT8 };
    const looked = await model.generate({ ...options, prompt_lookup_num_tokens: 3 });
    expect(looked).toEqual(await model.generate(options));
  });

  test("footprints", () => {
    const options: GenerateOptions = { input_ids: [IDS[0]!], max_new_tokens: 20 };
    const { layers, groups, head_dim } = model.module.geometry;
    const numbers = 2 * layers * groups * 32; // 31 tokens, in steps of 16
    expect(model.cache_footprint(options)).toEqual({ dtype: "float32", bytes: numbers * head_dim * 4 });
    const bf16 = model.cache_footprint({ ...options, cache_dtype: "bfloat16" });
    expect(bf16).toEqual({ dtype: "bfloat16", bytes: numbers * head_dim * 2 });
    const int8 = { dtype: "int8", bytes: numbers * (head_dim + 4) };
    expect(model.cache_footprint({ ...options, ...INT8 })).toEqual(int8);
    expect(model.cache_footprint({ ...options, cache_implementation: "quantized" })).toEqual(int8);
  });

  test("bytes of caches in use: what the device holds of them, scales included", async () => {
    const held = (): number => {
      const owners = device.arena.owners().filter(({ label }) => /\b(key cache|value cache|cache scales)$/.test(label));
      return owners.reduce((sum, { bytes }) => sum + bytes, 0);
    };
    for (const kind of [{}, { cache_dtype: "bfloat16" }, INT8] as const) {
      const options: GenerateOptions = { input_ids: IDS, max_new_tokens: 2, eos_token_id: null, ...kind };
      expect(model.cache_bytes).toBe(0);
      let steps = 0;
      for await (const _ of model.stream(options)) {
        steps++;
        expect(model.cache_bytes).toBe(model.cache_footprint(options).bytes);
        expect(model.cache_bytes).toBe(held());
        if (kind !== INT8 || steps > 1) continue;
        for await (const _ of model.stream(options)) {
          expect(model.cache_bytes).toBe(held());
          break;
        }
      }
      expect(steps).toBe(2);
    }
    expect(model.cache_bytes).toBe(0);
  });

  test("an offloaded cache is one in the computer's memory", async () => {
    const all: GenerateOptions = { input_ids: [IDS[0]!], max_new_tokens: 2, eos_token_id: null };
    const offloaded = { ...all, cache_implementation: "offloaded" } as const;
    if (deviceName === "webgpu")
      expect(() => model.stream(offloaded)).toThrow(/offloaded.* on webgpu: caches lie on it/);
    else expect(await model.generate(offloaded)).toEqual(await model.generate(all));
  });

  test("what cannot be is refused", () => {
    const refuse = (options: object, says: RegExp): void => {
      const run = (): unknown => model.stream({ input_ids: [IDS[0]!], max_new_tokens: 2, ...options });
      expect(run).toThrow(OptionError);
      expect(run).toThrow(says);
    };
    const quantized = { cache_implementation: "quantized" };
    refuse({ ...quantized, cache_config: { nbits: 4 } }, /nbits must be 8, got 4[\s\S]*use nbits: 8/);
    refuse({ ...quantized, cache_config: { nbits: "8" } }, /nbits must be 8, got "8"/);
    refuse({ ...quantized, cache_config: { bits: 8 } }, /unknown option `bits`/);
    refuse({ ...quantized, cache_config: null }, /must be an object/);
    refuse({ ...quantized, cache_dtype: "float32" }, /has no cache_dtype/);
    refuse({ cache_config: { nbits: 8 } }, /add cache_implementation/);
    refuse({ cache_implementation: "mirrored" as "static" }, /one of dynamic, static, quantized, offloaded/);
    refuse({ cache_dtype: "int8" }, /cache_implementation: "quantized"/);
  });
});
