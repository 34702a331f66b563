// LoRA over dense, LLM.int8() and NF4 weights, against peft: losses and the first gradients, then ten steps of AdamW.

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import type { BitsAndBytesOptions } from "../../src/quant/config.js";
import { adamW, decoded, largest, off, type Step, stepOf } from "../support/adapter-steps.js";
import { DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { readArrays } from "../support/fixtures.js";
import { lossOf } from "../support/losses.js";
import { PeftCase } from "../support/peft-case.js";
import { gpu } from "../support/webgpu.js";

const NF4: BitsAndBytesOptions = {
  load_in_4bit: true,
  bnb_4bit_quant_type: "nf4",
  bnb_4bit_compute_dtype: "float32",
};
/** With every activation an outlier, products with 8-bit weights round nothing. */
const EXACT_INT8: BitsAndBytesOptions = { load_in_8bit: true, llm_int8_threshold: 1e-9 };
const INT8: BitsAndBytesOptions = { load_in_8bit: true };

describe.each([...DEVICES, ...(gpu ? ["webgpu"] : [])])("%s", { timeout: 240_000 }, (name) => {
  let device: Device;
  beforeEach(async () => {
    device = await requestTestDevice(name);
  });
  afterEach(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  describe.each(["llama", "bloom"])("%s", (base) => {
    const peft = new PeftCase(base, "training");
    const { training, golden } = peft;
    afterEach(() => peft.unload());
    // A software adapter takes minutes for what others do in a second: of the second model it does the first step.
    const full = name !== "webgpu" || base === "llama";
    const slow = full ? "" : " (minutes on a GPU in software, whose ops the conformance suite tests)";
    // The library's gradients are f32 as well; its own tolerance is for what ten steps make of them.
    const close = ({ gradients }: Step): void => {
      for (const [key, got] of gradients) {
        const want = golden.get(`grad_step1.${key}`)!.values;
        expect(off(got, want), key).toBeLessThan(training.tolerance.adapter * Math.max(1, largest(want)));
      }
    };

    test.runIf(full)(`NF4: ten steps of AdamW give the losses and the adapters of peft${slow}`, async () => {
      const loaded = await peft.load(device, NF4);
      const { model } = loaded;
      const tensors = await peft.put(loaded);
      const update = adamW(training);
      for (const [t, want] of training.losses.entries()) {
        const step = await stepOf(device, model, tensors, training.batches[t % 2]!);
        if (t === 0) close(step);
        expect(Math.abs(step.loss - want), `loss of step ${t + 1}`).toBeLessThan(training.tolerance.loss);
        await update(tensors, step.gradients);
      }
      const final = readArrays("peft", base, "training", "final", "adapter_model.safetensors");
      for (const [key, tensor] of tensors) {
        const { values } = final.get(`base_model.model.${key}`)!;
        expect(off(await tensor.readFloats(), values), key).toBeLessThan(training.tolerance.adapter);
      }
    });

    test("dense: the loss and the gradients of the first step", async () => {
      const loaded = await peft.load(device, NF4);
      decoded(loaded.model);
      const tensors = await peft.put(loaded);
      const step = await stepOf(device, loaded.model, tensors, training.batches[0]!);
      expect(Math.abs(step.loss - training.losses[0]!)).toBeLessThan(training.tolerance.loss);
      close(step);
    });

    test.runIf(full)(
      `LLM.int8(): as with the matrix that the codes stand for; near it where activations are coded${slow}`,
      async () => {
        const steps: Step[] = [];
        for (const [options, dense] of [
          [EXACT_INT8, false],
          [EXACT_INT8, true],
          [INT8, false],
        ] as const) {
          const loaded = await peft.load(device, options);
          if (dense) decoded(loaded.model);
          // Adapters that peft has trained: with B at zero, gradients by A would be zero.
          const tensors = await peft.put(loaded, "final");
          steps.push(await stepOf(device, loaded.model, tensors, training.batches[0]!));
          peft.unload();
        }
        const [exact, want, coded] = steps as [Step, Step, Step];
        expect(Math.abs(exact.loss - want.loss)).toBeLessThan(training.tolerance.loss);
        // A forward with coded activations is off by as much as int8 is from fp32: 0.05 in the mean logit of this fixture.
        expect(Math.abs(coded.loss - want.loss)).toBeLessThan(0.2);
        expect(coded.loss).not.toBe(want.loss);
        for (const [key, gradient] of want.gradients) {
          const most = largest(gradient);
          expect(most, key).toBeGreaterThan(1e-3);
          expect(off(exact.gradients.get(key)!, gradient), key).toBeLessThan(
            training.tolerance.adapter * Math.max(1, most),
          );
          const [a, b] = [coded.gradients.get(key)!, gradient];
          const dot = (x: Float32Array, y: Float32Array): number => x.reduce((sum, v, i) => sum + v * y[i]!, 0);
          expect(dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b)), key).toBeGreaterThan(0.95);
        }
      },
    );

    test.runIf(full)(`without its adapters the base is as it was, and they cost no copy of it${slow}`, async () => {
      const loaded = await peft.load(device, NF4);
      const { model } = loaded;
      const losses = async (): Promise<Float32Array> => {
        using loss = lossOf(device, model, training.batches[0]!);
        return loss.readFloats();
      };
      const before = await losses();
      const bytes = device.memory.live;
      const tensors = await peft.put(loaded, "final");
      const added = [...tensors.values()].reduce((sum, { nbytes }) => sum + nbytes, 0);
      expect(device.memory.live - bytes).toBeLessThan(added + tensors.size * 1024);
      expect(off(await losses(), before)).toBeGreaterThan(0.1);
      peft.takeOff();
      expect(device.memory.live).toBe(bytes);
      expect(off(await losses(), before)).toBe(0);
    });
  });
});
