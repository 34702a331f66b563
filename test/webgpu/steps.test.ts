// The number of dispatches of a decode step: each costs a GPU microseconds, whatever it does.

import { expect, test } from "vitest";
import type { WebGPUBackend } from "../../src/backends/webgpu/index.js";
import type { Device } from "../../src/core/device.js";
import { DecodeSession } from "../../src/generate/session.js";
import type { CacheDType } from "../../src/nn/cache.js";
import type { FloatDType, Scheme } from "../../src/nn/weight.js";
import { fourBitScheme } from "../../src/quant/four-bit.js";
import { llmInt8Scheme } from "../../src/quant/llm-int8.js";
import { randomModel } from "../support/models.js";
import { onGPU } from "../support/suites.js";
import { describeGPU } from "../support/webgpu.js";

const nf4 = (double_quant: boolean): Scheme =>
  fourBitScheme({ kind: "nf4", blocksize: 64, double_quant, compute: "f32" });

describeGPU("WebGPU decode steps", () => {
  let backend: WebGPUBackend;
  let device: Device;
  onGPU((opened, behind) => {
    device = opened;
    backend = behind;
  });

  /** Dispatches of a replayed step of a model, after a prompt of `steps` tokens. */
  async function dispatches(
    num_hidden_layers: number,
    [dtype, scheme]: readonly [FloatDType, Scheme?],
    { cache_dtype = "bf16" as CacheDType, steps = 3 },
  ): Promise<number> {
    const sizes = { hidden_size: 64, intermediate_size: 128, num_attention_heads: 4, vocab_size: 48 };
    const model = await randomModel(device, { ...sizes, num_hidden_layers }, dtype, scheme);
    const greedy = { do_sample: false, temperature: 1, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, seed: 0 };
    const config = { ...greedy, max_new_tokens: 8, eos_token_ids: [] };
    const session = new DecodeSession(device, model, { rows: 1, capacity: steps + 8, cache_dtype });
    await session.add([{ row: 0, prompt: new Int32Array(steps).fill(5), config }]);
    await session.step();
    await session.step();
    const before = backend.statistics.dispatches;
    const step = session.step();
    const count = backend.statistics.dispatches - before;
    await step;
    session.dispose();
    model.dispose();
    return count;
  }

  // A layer: norm, q + k + v, rotations with appends, attention, o, norm, gate * up, down.
  test.each([
    ["bf16", ["bf16"], {}, 8],
    ["bf16 with a cache of codes", ["bf16"], { cache_dtype: "i8" }, 10],
    ["bf16 with room for more than 256 tokens", ["bf16"], { steps: 260 }, 9],
    ["int8", ["bf16", llmInt8Scheme(6)], {}, 8],
    ["nf4", ["bf16", nf4(false)], {}, 8],
    ["nf4 with double quantization", ["bf16", nf4(true)], {}, 12],
  ] as const)("a layer in %s", async (_, storage, session, count) => {
    const [one, two] = [await dispatches(1, storage, session), await dispatches(2, storage, session)];
    expect(two - one).toBe(count);
    // Places, the rope table, embedding, norm, head; the choice, the copy of its token, and the advance of the lanes.
    expect(one - count).toBe(8);
  });
});
