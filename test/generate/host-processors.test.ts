// Processors of the caller's own on the host: what they see, what they change, what they are refused with.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import {
  ExponentialDecayLengthPenalty,
  SequenceBiasLogitsProcessor,
} from "../../src/generate/processors/host/index.js";
import type { HostProcessor, HostState } from "../../src/generate/processors/host-processor.js";
import { DEVICES, expectNoLeaks, openTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const PROMPT = [93, 19, 56, 136, 145, 90, 155];
const options = { input_ids: [PROMPT], max_new_tokens: 8, eos_token_id: null, seed: 4 };

describe.each(DEVICES)("%s", (name) => {
  let device: Device;
  let model: PreTrainedModel;
  beforeAll(async () => {
    device = openTestDevice(name);
    model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { device });
  });
  afterAll(async () => {
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test.each([false, true])("one that changes nothing changes no text (do_sample %s)", async (do_sample) => {
    const idle: HostProcessor = { process: () => {} };
    for (const more of [{}, { repetition_penalty: 1.4, presence_penalty: 0.3 }]) {
      const want = await model.generate({ ...options, ...more, do_sample });
      expect(await model.generate({ ...options, ...more, do_sample, logits_processor: [idle] })).toEqual(want);
    }
  });

  test("they see each row's text and its logits behind the penalties, in their order", async () => {
    const seen: HostState[] = [];
    const first: HostProcessor = {
      process(logits, at) {
        seen.push({ ...at, ids: [...at.ids] });
        logits.fill(Number.NEGATIVE_INFINITY);
        logits[20 + at.row] = 1;
        logits[30 + at.step] = 0.5;
      },
    };
    const second: HostProcessor = {
      async process(logits, { row, step }) {
        await Promise.resolve();
        expect(logits[20 + row]).toBe(1);
        if (step > 1) logits[20 + row] = 0;
      },
    };
    const input_ids = [
      [0, 0, 5],
      [7, 8, 9],
    ];
    const attention_mask = [
      [0, 0, 1],
      [1, 1, 1],
    ];
    const rows = await model.generate({
      ...options,
      input_ids,
      attention_mask,
      max_new_tokens: 4,
      logits_processor: [first, second],
    });
    expect(rows).toEqual([
      [0, 0, 5, 20, 20, 32, 33],
      [7, 8, 9, 21, 21, 32, 33],
    ]);
    expect(seen.slice(0, 4)).toEqual([
      { row: 0, ids: [5], prompt: 1, step: 0 },
      { row: 1, ids: [7, 8, 9], prompt: 3, step: 0 },
      { row: 0, ids: [5, 20], prompt: 1, step: 1 },
      { row: 1, ids: [7, 8, 9, 21], prompt: 3, step: 1 },
    ]);
  });

  test("one that throws ends the generation with its error", async () => {
    const { live } = device.memory;
    const broken: HostProcessor = {
      process(_, { step }) {
        if (step === 2) throw new RangeError("no token fits");
      },
    };
    await expect(model.generate({ ...options, logits_processor: [broken] })).rejects.toThrow(RangeError);
    expect(device.memory.live).toBe(live);
  });

  test("what is no processor is refused", async () => {
    for (const wrong of [null, {}, [null], [{ process: 1 }]]) {
      const given = { ...options, logits_processor: wrong as unknown as HostProcessor[] };
      await expect(model.generate(given)).rejects.toThrow(OptionError);
      expect(() => model.stream(given)).toThrow("`process(logits, at)`");
    }
  });
});

test("an id that ends texts is made likelier once if it is named twice, and not at all if it is forbidden", () => {
  const scores = Float32Array.of(-4, Number.NEGATIVE_INFINITY, 2, 1);
  new ExponentialDecayLengthPenalty([1, 2], [0, 0, 1], 3).change(scores, [0, 0, 0, 0, 0]);
  expect([...scores]).toEqual([-4 + 4 * (2 ** 1 - 1), Number.NEGATIVE_INFINITY, 2, 1]);
});

test("of two biases for the same tokens the last counts", () => {
  const scores = Float32Array.of(0, 0, 0);
  new SequenceBiasLogitsProcessor([
    [[1], 5],
    [[2, 1], 3],
    [[1], 4],
  ]).change(scores, [0, 2]);
  expect([...scores]).toEqual([0, 7, 0]);
});
