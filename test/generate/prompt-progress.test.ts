// progress_callback of generate and stream: what it hears of a long prompt, and that it changes nothing.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Device } from "../../src/core/device.js";
import { generationConfig } from "../../src/generate/config.js";
import { readBatch } from "../../src/generate/inputs.js";
import { generateSteps } from "../../src/generate/loop.js";
import type { PromptProgress } from "../../src/generate/prefill.js";
import { fillRandomly } from "../../src/load/random.js";
import { buildModel } from "../../src/models/index.js";
import type { CausalLM } from "../../src/nn/decoder.js";
import { expectNoLeaks, openTestDevice } from "../support/devices.js";

describe("progress of prompts", () => {
  let device: Device;
  let model: CausalLM;
  beforeAll(async () => {
    device = openTestDevice("cpu");
    model = await buildModel(
      {
        model_type: "llama",
        hidden_size: 32,
        num_hidden_layers: 1,
        intermediate_size: 64,
        num_attention_heads: 2,
        vocab_size: 50,
        max_position_embeddings: 128,
      },
      "causal-lm",
    );
    await fillRandomly(device, model, { dtype: "f32" });
  });
  afterAll(async () => {
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  const run = async (
    prompts: number[][],
    chunk: number,
    progress?: (event: PromptProgress) => void,
    signal?: AbortSignal,
  ) => {
    const batch = readBatch(prompts, undefined, 50);
    const config = generationConfig(
      { max_new_tokens: 3, do_sample: false, eos_token_id: null },
      {},
      {},
      batch.steps,
      50,
    );
    const tokens: (readonly number[])[] = [];
    const options = { config, cache_dtype: "f32", chunk, progress, signal } as const;
    for await (const { token_ids } of generateSteps(device, model, batch, options)) {
      tokens.push(token_ids);
    }
    return tokens;
  };
  const prompt = Array.from({ length: 20 }, (_, i) => (i * 7) % 50);

  it("are told chunk by chunk, with the end before the first tokens, and the tokens stay the same", async () => {
    const events: PromptProgress[] = [];
    const told = await run([prompt], 6, (event) => events.push(event));
    expect(events.map(({ status, loaded, total }) => [status, loaded, total])).toEqual([
      ["initiate", 0, 20],
      ["progress", 6, 20],
      ["progress", 12, 20],
      ["progress", 18, 20],
      ["done", 20, 20],
    ]);
    expect(events.map(({ progress }) => progress)).toEqual([0, 30, 60, 90, 100]);
    expect(told).toEqual(await run([prompt], 6));
  });

  it("count all rows, and say little of a prompt that is read at once", async () => {
    const events: PromptProgress[] = [];
    await run([prompt, prompt], 100, (event) => events.push(event));
    expect(events.map(({ status, loaded, total }) => [status, loaded, total])).toEqual([
      ["initiate", 0, 40],
      ["done", 40, 40],
    ]);
  });

  it.each(["initiate", "progress", "done"])("end the generation where the listener throws at %s", async (status) => {
    const problem = new Error("enough");
    const listener = (event: PromptProgress): void => {
      if (event.status === status) throw problem;
    };
    await expect(run([prompt], 6, listener)).rejects.toBe(problem);
    await device.synchronize();
  });

  it.each(["initiate", "progress", "done"])(
    "lets the listener abort at %s, with its reason as the cause",
    async (status) => {
      const abort = new AbortController();
      const reason = new Error("enough");
      const listener = (event: PromptProgress): void => {
        if (event.status === status) abort.abort(reason);
      };
      await expect(run([prompt], 6, listener, abort.signal)).rejects.toMatchObject({
        code: "ERR_ABORTED",
        cause: reason,
      });
    },
  );
});
