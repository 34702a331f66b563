// Gradient checkpointing: the same bytes as without it, in less memory.

import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM, get_peft_model, LoraConfig, type PreTrainedModel } from "../../src/index.js";
import { checkpointed } from "../../src/nn/checkpoint.js";
import { manual_seed } from "../../src/nn/init.js";
import { multiply } from "../../src/ops/gated.js";
import { scale } from "../../src/ops/scale.js";
import { Trainer } from "../../src/train.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";

const { train } = readJson<{ train: { input_ids: number[]; labels: number[] }[] }>("trainer.json");
const BATCH = {
  input_ids: [
    [5, 6, 7, 8, 9],
    [10, 11, 12, 0, 0],
  ],
  attention_mask: [
    [1, 1, 1, 1, 1],
    [1, 1, 1, 0, 0],
  ],
  labels: [
    [5, 6, 7, 8, 9],
    [-100, 11, 12, -100, -100],
  ],
};

describe("on the CPU", { timeout: 120_000 }, () => {
  let device: Device;
  let model: PreTrainedModel | undefined;
  beforeEach(async () => {
    device = await requestTestDevice("cpu");
  });
  afterEach(async () => {
    model?.dispose();
    expectNoLeaks(device);
    await device.close();
  });
  const load = async (base: string): Promise<PreTrainedModel> => {
    model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", base), { device });
    return model;
  };

  // Windows, positions by length, ALiBi, learned positions: what blocks share with their pass.
  const bases = ["gpt2", "bloom", "gemma3_text", "llama-rope-dynamic"];
  test.each(bases)("all weights of %s get the same gradients", async (base) => {
    const net = await load(base);
    net.requires_grad_();
    const gradients: Float32Array[][] = [];
    const losses: number[] = [];
    for (const on of [false, true]) {
      if (on) net.gradient_checkpointing_enable({ use_reentrant: false });
      expect(net.is_gradient_checkpointing).toBe(on);
      using loss = net.forward({ ...BATCH, skip_logits: true }).loss;
      losses.push(await net.backward(loss));
      const own: Float32Array[] = [];
      for (const { grad } of net.parameters()) if (grad) own.push((await grad.readFloats()).slice());
      gradients.push(own);
      net.zero_grad();
    }
    expect(losses[1]).toBe(losses[0]);
    expect(gradients[1]!.length).toBeGreaterThan(10);
    expect(gradients[1]).toEqual(gradients[0]);
    // A pass that nobody differentiates leaves nothing behind.
    net.forward({ ...BATCH, skip_logits: true }).loss.dispose();
    net.requires_grad_(false);
  });

  test("a body that depends on other values than its input and parameters is recorded as it is", async () => {
    using w = Tensor.from(device, [2, 3], [2]).keep();
    using x = Tensor.from(device, [5, 7], [2]).keep();
    w.requires_grad_();
    let [runs, held] = [0, 0];
    scope(() => {
      const twice = scale(w, 2);
      const body = (h: Tensor): Tensor => {
        runs++;
        return multiply(multiply(h, twice), w);
      };
      checkpointed(x, body, () => {
        held++;
        return () => {};
      }).backward(Tensor.from(device, [1, 1], [2]));
    });
    // d(2 x w²) = 4 x w; once to find out, and once on the tape.
    expect(await w.grad!.readFloats()).toEqual(Float32Array.of(40, 84));
    expect([runs, held]).toEqual([2, 0]);
  });

  test("adapters with dropout learn the same, in less memory", async () => {
    const run = async (gradient_checkpointing: boolean): Promise<{ losses: unknown[]; peak: number }> => {
      const net = await load("llama");
      manual_seed(5);
      get_peft_model(net, new LoraConfig({ r: 4, lora_dropout: 0.2, target_modules: "all-linear" }));
      const long = train.map(({ input_ids }) => ({
        input_ids: Array.from({ length: 100 }, (_, i) => input_ids[i % 4]!),
      }));
      const trainer = new Trainer({
        model: net,
        args: {
          ...{ max_steps: 3, per_device_train_batch_size: 2, gradient_accumulation_steps: 2, logging_steps: 1 },
          ...{ learning_rate: 1e-2, save_strategy: "no", gradient_checkpointing },
        },
        train_dataset: long.map((row) => ({ ...row, labels: row.input_ids })),
      });
      const before = device.memory.live;
      let peak = 0;
      trainer.add_callback({ on_substep_end: () => void (peak = Math.max(peak, device.memory.peak - before)) });
      await trainer.train();
      expect(net.is_gradient_checkpointing).toBe(false);
      net.dispose();
      const losses = trainer.state.log_history.map(({ loss, grad_norm }) => [loss, grad_norm]);
      return { losses, peak };
    };
    const checkpointed = await run(true);
    const plain = await run(false);
    expect(checkpointed.losses).toEqual(plain.losses);
    // Of two blocks one is kept at a time.
    expect(checkpointed.peak).toBeLessThan(0.8 * plain.peak);
  });
});
