// Long prompts run in chunks: a signal is noticed between them, memory is bounded by one, and nothing else changes.
// What real models give in chunks is in test/models/runner.test.ts.

import { afterAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { AbortError } from "../../src/core/errors.js";
import { generationConfig } from "../../src/generate/config.js";
import { NgramDrafter } from "../../src/generate/drafters/ngram.js";
import { type Batch, positionsOf } from "../../src/generate/inputs.js";
import { generateSteps } from "../../src/generate/loop.js";
import { PreTrainedModel } from "../../src/generate/model.js";
import { chunksOf, flatChunks } from "../../src/generate/prefill.js";
import type { Loaded } from "../../src/load/index.js";
import type { FloatDType } from "../../src/nn/weight.js";
import { DEVICES, expectNoLeaks, openTestDevice } from "../support/devices.js";
import { difference } from "../support/fixtures.js";
import { logitsOf, randomModel } from "../support/models.js";

const SHAPE = {
  hidden_size: 32,
  num_hidden_layers: 1,
  intermediate_size: 64,
  num_attention_heads: 4,
  vocab_size: 61,
  max_position_embeddings: 8192,
};

async function small(device: Device, dtype: FloatDType = "f32"): Promise<PreTrainedModel> {
  const model = await randomModel(device, SHAPE, dtype);
  const loaded = { model, config: {}, generation_config: {}, dtype, checkpoint_bytes: 0, warnings: [] };
  return new PreTrainedModel(loaded as unknown as Loaded, device, false);
}

const text = (length: number, from = 0): number[] => Array.from({ length }, (_, i) => ((i + from) * 37) % 61);

test("chunks cover the batch, in order and with its positions", () => {
  const mask = Uint8Array.of(0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
  const batch: Batch = { rows: 2, steps: 5, ids: Int32Array.from({ length: 10 }, (_, i) => i), mask };
  expect(chunksOf(batch, positionsOf(batch), 2)).toEqual([
    {
      at: 0,
      steps: 2,
      ids: Int32Array.of(0, 1, 5, 6),
      positions: Int32Array.of(0, 0, 0, 1),
      lanes: Int32Array.of(-1, -1, 1, 1, 0, 0, 0, 1),
      counts: [0, 2],
    },
    {
      at: 2,
      steps: 2,
      ids: Int32Array.of(2, 3, 7, 8),
      positions: Int32Array.of(0, 1, 2, 3),
      lanes: Int32Array.of(0, 0, 1, 1, 0, 1, 2, 3),
      counts: [2, 2],
    },
    {
      at: 4,
      steps: 1,
      ids: Int32Array.of(4, 9),
      positions: Int32Array.of(2, 4),
      lanes: Int32Array.of(0, 1, 2, 4),
      counts: [1, 1],
    },
  ]);
  expect(chunksOf(batch, positionsOf(batch))).toHaveLength(1);
  const many = { rows: 1000, steps: 40, ids: new Int32Array(40_000), mask: undefined };
  expect(chunksOf(many, many.ids).map(({ steps }) => steps)).toEqual([16, 16, 8]);
});

test("flat chunks hold all texts one after the other, and say where each ends", () => {
  const texts = [
    { row: 2, ids: [5, 6, 7], from: 0 },
    { row: 0, ids: [8], from: 4 },
    { row: 1, ids: [], from: 9 },
  ];
  expect(flatChunks(texts, 2)).toEqual([
    { ids: Int32Array.of(5, 6), lanes: Int32Array.of(2, 2, 0, 1), counts: new Map([[2, 2]]), ends: [] },
    {
      ids: Int32Array.of(7, 8),
      lanes: Int32Array.of(2, 0, 2, 4),
      counts: new Map([
        [2, 1],
        [0, 1],
      ]),
      ends: [
        [0, 0],
        [1, 1],
      ],
    },
  ]);
  expect(flatChunks(texts)).toHaveLength(1);
});

describe.each(DEVICES.filter((name) => name !== "reference"))("%s", (name) => {
  const device = openTestDevice(name);
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  test("forward of a long padded batch is that of one shot", async () => {
    const model = await small(device);
    const [a, b] = [text(700), text(1300, 5)];
    const input_ids = [[...new Array<number>(600).fill(0), ...a], b];
    const attention_mask = [[...new Array<number>(600).fill(0), ...new Array<number>(700).fill(1)], b.map(() => 1)];
    const { logits } = model.forward({ input_ids, attention_mask });
    expect(logits.shape).toEqual([2, 1300, 61]);
    const got = await logits.readFloats();
    logits.dispose();
    const want = await logitsOf(device, model.module, input_ids, { mask: attention_mask });
    // Sums in another order, as for any cache (test/laws/sameness.test.ts); logits are below 1.
    const noise = 3 * 4 * Math.sqrt(64) * 4 * 2 ** -24;
    const row = 1300 * 61;
    expect(difference(got.subarray(600 * 61, row), want[0]!.subarray(600 * 61)).max).toBeLessThan(noise);
    expect(difference(got.subarray(row), want[1]!).max).toBeLessThan(noise);
    model.dispose();
  });

  test("a signal stops the prompt after the chunk that runs", async () => {
    const model = await small(device);
    const options = { input_ids: text(4096), max_new_tokens: 1, eos_token_id: null };
    const { live } = device.memory;
    const commands = async (work: () => Promise<void>): Promise<number> => {
      const before = device.recorded;
      await work();
      return device.recorded - before;
    };
    const all = await commands(async () => {
      expect(await model.generate(options)).toHaveLength(1);
    });
    const stopped = await commands(async () => {
      const controller = new AbortController();
      setTimeout(() => controller.abort());
      await expect(model.generate({ ...options, signal: controller.signal })).rejects.toThrow(AbortError);
    });
    // One chunk of eight runs, one more is recorded behind it.
    expect(stopped).toBeGreaterThan(0);
    expect(stopped).toBeLessThan((2.5 / 8) * all);
    const looked = await commands(async () => {
      const controller = new AbortController();
      setTimeout(() => controller.abort());
      const work = model.generate({ ...options, signal: controller.signal, prompt_lookup_num_tokens: 3 });
      await expect(work).rejects.toThrow(AbortError);
    });
    expect(looked).toBeLessThan((2.5 / 8) * all);
    expect(device.memory.live).toBe(live);
    model.dispose();
  });

  test("whenever the signal is found to have fired, nothing is left", async () => {
    const model = await small(device);
    const { live } = device.memory;
    const ids = text(40);
    const batch: Batch = { rows: 1, steps: ids.length, ids: Int32Array.from(ids), mask: undefined };
    for (const drafter of [undefined, new NgramDrafter()]) {
      const wanted = { max_new_tokens: 4, eos_token_id: null };
      const config = generationConfig(wanted, {}, {}, ids.length, SHAPE.vocab_size);
      for (let calm = 0; ; calm++) {
        let looks = 0;
        const signal = {
          get aborted() {
            return looks++ === calm;
          },
        } as AbortSignal;
        const work = (async () => {
          const options = { config, cache_dtype: "f32", chunk: 16, signal, drafter, drafts: 3 } as const;
          for await (const _ of generateSteps(device, model.module, batch, options));
        })();
        const error = await work.then(
          () => undefined,
          (e: unknown) => e,
        );
        expect(device.memory.live, `look ${calm}`).toBe(live);
        if (error === undefined) {
          expect(calm).toBeGreaterThan(6);
          break;
        }
        expect(error).toBeInstanceOf(AbortError);
      }
    }
    model.dispose();
  });

  test("memory between the layers is that of a chunk", async () => {
    const model = await small(device);
    const peak = async (tokens: number): Promise<number> => {
      device.arena.resetPeak();
      const { live } = device.memory;
      await model.generate({ input_ids: text(tokens), max_new_tokens: 1, eos_token_id: null });
      const cache = 2 * 2 * 8 * 4 * tokens; // keys and values, 2 groups of 8, f32
      return device.memory.peak - live - cache;
    };
    const one = await peak(512);
    expect(await peak(4096)).toBeLessThan(1.1 * one);
    model.dispose();
  });
});
