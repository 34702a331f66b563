// Gradient checkpointing: the same bytes as without it, in less memory.

import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM, get_peft_model, LoraConfig, type PreTrainedModel } from "../../src/index.js";
import { checkpointed, recomputed, recomputedByRows } from "../../src/nn/checkpoint.js";
import { manual_seed } from "../../src/nn/init.js";
import { Dropout } from "../../src/nn/layers.js";
import { activation } from "../../src/ops/activation.js";
import { gated, multiply } from "../../src/ops/gated.js";
import { valueAndGradients } from "../../src/ops/gradient.js";
import { linear } from "../../src/ops/linear.js";
import { scale } from "../../src/ops/scale.js";
import { sumRows } from "../../src/ops/sum-rows.js";
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
    const run = async (gradient_checkpointing: boolean): Promise<{ losses: unknown[]; held: number }> => {
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
      await trainer.train();
      // What waits for the backward pass.
      if (gradient_checkpointing) net.gradient_checkpointing_enable();
      const before = device.memory.live;
      const { loss } = net.forward({
        input_ids: [long[0]!.input_ids],
        labels: [long[0]!.input_ids],
        skip_logits: true,
      });
      const held = device.memory.live - before;
      await net.backward(loss);
      loss.dispose();
      net.gradient_checkpointing_disable();
      expect(net.is_gradient_checkpointing).toBe(false);
      net.dispose();
      const losses = trainer.state.log_history.map(({ loss, grad_norm }) => [loss, grad_norm]);
      return { losses, held };
    };
    const checkpointed = await run(true);
    const plain = await run(false);
    expect(checkpointed.losses).toEqual(plain.losses);
    // Of a block its input is kept, without checkpointing that of its second half too, and what dropout drew.
    expect(checkpointed.held).toBeLessThan(0.6 * plain.held);
  });
});

describe.each(["reference", "cpu", "wasm"] as const)("parts of blocks on %s", (name) => {
  let device: Device;
  beforeEach(async () => {
    device = await requestTestDevice(name);
    manual_seed(3);
  });
  afterEach(async () => {
    expectNoLeaks(device);
    await device.close();
  });
  const values = (count: number, by: number): number[] => Array.from({ length: count }, (_, i) => Math.sin(i * by));
  const make = (shape: readonly number[], by: number): Tensor => {
    const size = shape.reduce((n, length) => n * length, 1);
    return Tensor.from(device, values(size, by), shape).keep();
  };
  const hold = (): (() => void) => () => {};
  const total = (y: Tensor): Tensor => sumRows(multiply(y, y).view(-1, 1)).view(1);

  /** The value and the gradients of `body`, and the bytes that wait for the backward pass. */
  const differentiated = async (by: readonly Tensor[], body: () => Tensor): Promise<[Float32Array[], number]> => {
    let held = 0;
    const { value, gradients } = scope(() =>
      valueAndGradients(by, () => {
        const before = device.memory.live;
        const y = scope(body);
        held = device.memory.live - before - y.nbytes;
        return total(y);
      }),
    );
    const found: Float32Array[] = [];
    for (const one of [value, ...gradients]) {
      found.push(await one.readFloats());
      one.dispose();
    }
    return [found, held];
  };

  test("rows go through the body in pieces, with the same gradients", async () => {
    using x = make([2, 5, 3], 1.3);
    using up = make([7, 3], 0.7);
    using down = make([4, 7], 0.3);
    using gate = make([7, 3], 2.1);
    const body = (h: Tensor): Tensor => linear(gated(linear(h, gate), linear(h, up), "silu"), down);
    const sizes: number[] = [];
    const told = (h: Tensor): Tensor => {
      sizes.push(h.shape[1]!);
      return body(h);
    };
    for (const by of [[x], [x, down], [x, gate, up]]) {
      const [plain] = await differentiated(by, () => body(x));
      sizes.length = 0;
      const [pieces, held] = await differentiated(by, () => recomputedByRows(x, 7, told, hold, 28));
      // 10 rows of 7 in pieces of at most 28: 4, 4 and 2; parameters larger than x are differentiated in one piece.
      const cut = by.slice(1).reduce((sum, { size }) => sum + size, 0) <= x.size;
      expect(sizes).toEqual(cut ? [4, 4, 2, 4, 4, 2] : [4, 4, 2, 5, 5]);
      expect(held).toBe(0);
      // Sums over rows are cut in another place: 1e-6 of the largest.
      for (const [i, one] of pieces.entries()) {
        const largest = Math.max(...plain[i]!.map(Math.abs));
        for (const [at, found] of one.entries()) expect(Math.abs(found - plain[i]![at]!)).toBeLessThan(1e-6 * largest);
      }
    }
  });

  test("where random numbers are drawn, there is one piece", async () => {
    using x = make([6, 4], 1.1);
    const sizes: number[] = [];
    const drop = new Dropout(0.5);
    const body = (h: Tensor): Tensor => {
      sizes.push(h.shape[0]!);
      return scale(drop.forward(h), 3);
    };
    const [plain] = await differentiated([x], () => body(x));
    manual_seed(3);
    sizes.length = 0;
    const [found] = await differentiated([x], () => recomputedByRows(x, 4, body, hold, 8));
    expect(sizes).toEqual([1, 6, 6]);
    expect(found).toEqual(plain);
  });

  test("outputs that others read are computed again, once", async () => {
    using x = make([3, 4], 1.7);
    using w = make([4, 4], 0.9);
    let runs = 0;
    const body = (h: Tensor): readonly [Tensor, Tensor, Tensor] => {
      runs++;
      const y = linear(h, w);
      return [activation(y, "silu"), linear(h, w, { act: "tanh" }), y.narrow(0, 0, 1)];
    };
    const use = ([a, b, c]: readonly Tensor[]): Tensor => multiply(multiply(a!, b!), c!.expand(3, 4));
    const [plain, all] = await differentiated([x, w], () => use(body(x)));
    runs = 0;
    const [found, held] = await differentiated([x, w], () => use(recomputed(x, body, { hold, outputs: true })));
    expect(runs).toBe(2);
    expect(found).toEqual(plain);
    expect(held).toBeLessThan(all);
  });
});
