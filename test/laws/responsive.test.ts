// Law: Node's event loop keeps turning while a model loads and generates. And what is left after work that was stopped.

import { cpSync, mkdtempSync, rmSync, truncateSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { listAdapters } from "../../src/backends/webgpu/node.js";
import type { Device } from "../../src/core/device.js";
import { AbortError, OptionError } from "../../src/core/errors.js";
import { writeRandomCheckpoint } from "../../src/eval/checkpoint.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import type { ProgressEvent } from "../../src/load/fill.js";
import { llmInt8Scheme } from "../../src/quant/llm-int8.js";
import { expectNoLeaks, requestTestDevice, whyNoWasm } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { logitsOf, randomModel, STORYTELLER } from "../support/models.js";
import { turnsDuring } from "../support/turns.js";
import { gpu } from "../support/webgpu.js";

/** The law: 99 of 100 turns of the loop come less than this late. */
const LIMIT_MS = 20;
/** The same where this thread reads the files itself: it copies pieces of 8 MB into memory that is touched for the first time. */
const COPYING_LIMIT_MS = 60;
/** The same beside an adapter in software, which computes on the processors that this thread wants; a step takes it longer. */
const SOFTWARE_LIMIT_MS = 100;
/** Other programs share the machine: the best of so many tries counts. */
const TRIES = 3;

/** p99 of the time between two turns of the loop during `work`, in ms: the best of a few tries, of which the first below `limit` is the last. */
async function delay(work: () => Promise<void>, limit = LIMIT_MS, turns?: number): Promise<number> {
  let best = Number.POSITIVE_INFINITY;
  for (let n = 0; n < TRIES && best >= limit; n++) best = Math.min(best, await turnsDuring(work, turns));
  return best;
}

describe.each(["cpu", ...(whyNoWasm ? [] : ["wasm"])])("the event loop of %s", (name) => {
  // On wasm this thread reads the files, and wants a processor for that.
  const device = openDevice(name, { threads: name === "wasm" ? 1 : 2 });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  test.each([{}, { load_in_8bit: true }, { load_in_4bit: true }])("turns while a model loads %o", async (options) => {
    const p99 = await delay(async () => {
      const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device, ...options });
      model.dispose();
    });
    expect(p99).toBeLessThan(LIMIT_MS);
  });

  describe("while a checkpoint loads that takes several breaths", () => {
    const folder = mkdtempSync(join(tmpdir(), "octavo-long-load-"));
    afterAll(() => rmSync(folder, { recursive: true, force: true }));
    let bytes = 0;
    beforeAll(async () => {
      bytes = await writeRandomCheckpoint(folder, {
        model_type: "llama",
        hidden_size: 1024,
        num_hidden_layers: 4,
        intermediate_size: 3584,
        num_attention_heads: 16,
        num_key_value_heads: 16,
        vocab_size: 8000,
        max_position_embeddings: 512,
      });
      expect(bytes).toBeGreaterThan(2 * (64 << 20)); // two breaths of src/load/fill.ts
    });

    test.each([{}, { load_in_8bit: true }, { load_in_4bit: true }])("turns: %o", async (options) => {
      const seen: ProgressEvent[] = [];
      const p99 = await delay(async () => {
        seen.length = 0;
        const progress_callback = (event: ProgressEvent): void => void seen.push(event);
        const model = await AutoModelForCausalLM.from_pretrained(folder, { device, ...options, progress_callback });
        model.dispose();
      });
      expect(p99).toBeLessThan(name === "wasm" ? COPYING_LIMIT_MS : LIMIT_MS);
      // How often it is told in between is a matter of time.
      expect(seen[0]).toMatchObject({ status: "initiate", loaded: 0, total: bytes });
      expect(seen.at(-1)).toMatchObject({ status: "done", loaded: bytes, total: bytes, progress: 100 });
      for (const [n, { status, loaded }] of seen.slice(1, -1).entries()) {
        expect(status).toBe("progress");
        expect(loaded).toBeGreaterThan(seen[n]!.loaded);
      }
      expectNoLeaks(device);
    });

    test("a signal between two breaths stops it, and nothing is left", async () => {
      const controller = new AbortController();
      const seen: string[] = [];
      const loading = AutoModelForCausalLM.from_pretrained(folder, {
        device,
        load_in_8bit: true,
        signal: controller.signal,
        progress_callback: ({ status }) => {
          seen.push(status);
          // The first wait for the device lets this come.
          if (status === "initiate") setImmediate(() => controller.abort());
        },
      });
      await expect(loading).rejects.toThrow(AbortError);
      expect(seen).not.toContain("done");
      expectNoLeaks(device);
    });

    test("a file that ends early while it is read is told at the next breath", async () => {
      const short = mkdtempSync(join(tmpdir(), "octavo-short-load-"));
      cpSync(folder, short, { recursive: true });
      const seen: string[] = [];
      const loading = AutoModelForCausalLM.from_pretrained(short, {
        device,
        progress_callback: ({ status }) => {
          seen.push(status);
          // The headers have been read by now.
          if (status === "initiate") truncateSync(join(short, "model.safetensors"), 1 << 20);
        },
      });
      // Where the device reads files itself, it is a kernel that fails.
      await expect(loading).rejects.toThrow(
        name === "cpu" ? /^load in [\w.]+: .*ends at byte 1048576/ : /model\.safetensors: ended at byte 1048576/,
      );
      expect(seen).not.toContain("done");
      expectNoLeaks(device);
      rmSync(short, { recursive: true, force: true });
    });
  });

  test("turns while a model generates", async () => {
    const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device, load_in_8bit: true });
    const p99 = await delay(async () => {
      await model.generate({
        input_ids: [[5, 300, 77]],
        max_new_tokens: 200,
        do_sample: true,
        seed: 1,
        eos_token_id: null,
      });
    });
    model.dispose();
    expect(p99).toBeLessThan(LIMIT_MS);
  });

  test("turns while a larger model takes a long prompt", async () => {
    const shape = {
      hidden_size: 768,
      num_hidden_layers: 6,
      intermediate_size: 2048,
      num_attention_heads: 12,
      vocab_size: 4000,
    };
    const model = await randomModel(device, shape, "f32", llmInt8Scheme(6));
    const ids = [Array.from({ length: 400 }, (_, i) => (i * 37) % 4000)];
    const p99 = await delay(async () => {
      await logitsOf(device, model, ids, { parts: [400] });
    });
    model.dispose();
    expect(p99).toBeLessThan(LIMIT_MS);
  });
});

// Shaders are built when they are first used, which takes this thread: the first try is for that.
describe.skipIf(!gpu)("the event loop of webgpu", { timeout: 240_000 }, () => {
  let device: Device;
  let limit = LIMIT_MS;
  beforeAll(async () => {
    device = await requestTestDevice("webgpu");
    const [adapter] = await listAdapters();
    if (adapter?.facts.software) limit = SOFTWARE_LIMIT_MS;
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  test.each([{}, { load_in_8bit: true }, { load_in_4bit: true }])("turns while a model loads %o", async (options) => {
    const p99 = await delay(async () => {
      const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device, ...options });
      model.dispose();
    }, limit);
    expect(p99).toBeLessThan(limit);
  });

  test.each([{}, { load_in_8bit: true }, { load_in_4bit: true }])(
    "turns while a model generates: %o",
    async (options) => {
      const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device, ...options });
      const prompt = {
        input_ids: [Array.from({ length: 24 }, (_, i) => i + 5)],
        max_new_tokens: limit === LIMIT_MS ? 12 : 6,
        eos_token_id: null,
      };
      const p99 = await delay(async () => {
        await model.generate(prompt);
      }, limit);
      model.dispose();
      expect(p99).toBeLessThan(limit);
    },
  );
});

describe("nothing is left", () => {
  const folder = join(FIXTURES, "models", "llama");
  const input_ids = [[1, 5, 9]];

  const devices = ["cpu", ...(gpu ? ["webgpu"] : [])];

  test.each(devices)("%s: after generation that ends, is stopped, is left early, or is refused", async (name) => {
    const device = await requestTestDevice(name);
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device });
    const { live } = device.memory;
    const steady = async (work: () => Promise<unknown>): Promise<void> => {
      await work();
      expect(device.memory.live).toBe(live);
    };
    const options = { input_ids, max_new_tokens: 30, eos_token_id: null };

    await steady(() => model.generate(options));
    await steady(() => model.generate({ ...options, do_sample: true, seed: 3, repetition_penalty: 1.2 }));
    await steady(async () => {
      const controller = new AbortController();
      const streamer = { put: () => controller.abort("enough"), end: () => {} };
      await expect(model.generate({ ...options, signal: controller.signal, streamer })).rejects.toThrow(AbortError);
    });
    await steady(async () => {
      await expect(model.generate({ ...options, signal: AbortSignal.abort() })).rejects.toThrow(AbortError);
    });
    await steady(async () => {
      let steps = 0;
      for await (const { token_ids } of model.stream(options)) {
        expect(token_ids).toHaveLength(1);
        if (++steps === 3) break;
      }
    });
    await steady(async () => {
      const streamer = {
        put: () => {
          throw new Error("mine");
        },
        end: () => {},
      };
      await expect(model.generate({ ...options, streamer })).rejects.toThrow("mine");
    });
    for (const wrong of [
      { ...options, input_ids: [[100_000]] },
      { ...options, max_new_tokens: 0 },
      { ...options, temperature: -1 },
      { ...options, max_newtokens: 3 },
    ]) {
      await steady(async () => {
        await expect(model.generate(wrong)).rejects.toThrow(OptionError);
      });
    }
    // And it still works.
    await steady(() => model.generate(options));
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test.each(devices)("%s: when a text is longer than the model's positions", async (name) => {
    const device = await requestTestDevice(name);
    const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "opt"), { device });
    const { live } = device.memory;
    const positions = model.module.geometry.max_positions;
    await expect(model.generate({ input_ids, max_new_tokens: positions })).rejects.toThrow(
      `the ${positions} positions`,
    );
    expect(device.memory.live).toBe(live);
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("of a device of the model's own, once the model is gone", async () => {
    const model = await AutoModelForCausalLM.from_pretrained(folder, { threads: 1 });
    const { device } = model;
    await model[Symbol.asyncDispose]();
    expectNoLeaks(device);
    expect(() => device.allocate(4, "x")).toThrow("closed");
  });

  test.each(devices)("%s: when two texts are generated at once on one device", async (name) => {
    const device = await requestTestDevice(name);
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device });
    const { live } = device.memory;
    const options = { max_new_tokens: 20, eos_token_id: null };
    const alone = [
      await model.generate({ ...options, input_ids }),
      await model.generate({ ...options, input_ids: [[7, 7]] }),
    ];
    const both = await Promise.all([
      model.generate({ ...options, input_ids }),
      model.generate({ ...options, input_ids: [[7, 7]] }),
    ]);
    expect(both).toEqual(alone);
    expect(device.memory.live).toBe(live);
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });
});
