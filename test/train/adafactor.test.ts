// Adafactor, against transformers (test/fixtures/make_adafactor.py): steps, states, and the Trainer with it.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { Parameter } from "../../src/bnb/optim/index.js";
import type { Device } from "../../src/core/device.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM } from "../../src/index.js";
import { Adafactor, type AdafactorOptions, Trainer, TrainingArguments, type TrainingOptions } from "../../src/train.js";
import { ALL_DEVICES } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { onDevice } from "../support/suites.js";
import { temporary } from "../support/temporary.js";

type Values = Record<string, number[]>;
const fixture = readJson<{
  shapes: Record<string, number[]>;
  start: Values;
  grads: Values[];
  runs: { options: AdafactorOptions; values: Values; states: Record<string, Values> }[];
  trainer: { rows: number[][]; arguments: TrainingOptions; losses: number[] };
}>("optim", "adafactor.json");
const { shapes, start, grads, runs, trainer: golden } = fixture;
const NAMES = Object.keys(shapes);

/** Sums of f32 in another order. */
const near = (got: ArrayLike<number>, want: readonly number[], about: string): void => {
  const size = want.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  const off = want.reduce((most, x, i) => Math.max(most, Math.abs(x - got[i]!)), 0);
  expect(got.length).toBe(want.length);
  expect(off / size, about).toBeLessThan(2e-6);
};

describe.each(ALL_DEVICES)("on %s", (name) => {
  let device: Device;
  onDevice(name, (opened) => (device = opened));

  test.each(runs)("$options", async ({ options, values, states }) => {
    const params = NAMES.map((key) => new Parameter(Tensor.from(device, start[key]!, shapes[key]!, "f32")));
    const optimizers = [new Adafactor(params, options)];
    for (const [t, step] of grads.entries()) {
      if (t === 2) {
        // Another one goes on with its states.
        const state = optimizers[0]!.state_dict();
        optimizers.push(new Adafactor(params));
        optimizers[1]!.load_state_dict(state);
        for (const one of Object.values(state.state)) for (const x of Object.values(one)) if (Tensor.is(x)) x.dispose();
      }
      const gradients = NAMES.map((key) => Tensor.from(device, step[key]!, shapes[key]!, "f32"));
      optimizers.at(-1)!.step(gradients);
      for (const gradient of gradients) gradient.dispose();
    }
    const { state, param_groups } = optimizers[1]!.state_dict();
    expect(param_groups[0]).toMatchObject({ params: [0, 1, 2], ...options });
    for (const [i, key] of NAMES.entries()) {
      near(await params[i]!.value.readFloats(), values[key]!, key);
      expect(Object.keys(state[i]!).sort()).toEqual([...Object.keys(states[key]!), "step"].sort());
      for (const [part, want] of Object.entries(states[key]!)) {
        const own = state[i]![part] as Tensor;
        near(await own.readFloats(), want, `${key} ${part}`);
        own.dispose();
      }
    }
    for (const one of [...optimizers, ...params]) one.dispose();
  });
});

const train = async (more: TrainingOptions, from?: true): Promise<readonly [number[], Float32Array]> => {
  const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { dtype: "float32" });
  const trainer = new Trainer({
    model,
    train_dataset: golden.rows.map((input_ids) => ({ input_ids, labels: input_ids })),
    args: {
      ...{ ...golden.arguments, logging_steps: 1, train_sampling_strategy: "sequential", save_strategy: "no" },
      ...more,
    },
  });
  await trainer.train(from ? { resume_from_checkpoint: true } : {});
  const losses = trainer.state.log_history.flatMap(({ loss }) => (loss === undefined ? [] : [loss as number]));
  const weights = await model.module.output_embeddings()!.weight.weight.dense("f32");
  const values = (await weights.readFloats()).slice();
  weights.dispose();
  model.dispose();
  return [losses, values];
};

test("the Trainer's losses are transformers', and a resumed run ends with the same bits", {
  timeout: 120_000,
}, async () => {
  const [losses, whole] = await train({});
  expect(losses).toHaveLength(golden.losses.length);
  for (const [i, want] of golden.losses.entries()) expect(Math.abs(losses[i]! / want - 1), `${i}`).toBeLessThan(2e-5);
  const output_dir = temporary("adafactor");
  const saves = { output_dir, save_strategy: "steps", save_steps: 3, save_total_limit: 1 } as const;
  await train({ ...saves, max_steps: 3, lr_scheduler_type: "constant" });
  const constant = { lr_scheduler_type: "constant" } as const;
  const [, resumed] = await train({ ...saves, ...constant, save_strategy: "no" }, true);
  const [, straight] = await train(constant);
  expect(resumed).toEqual(straight);
  expect(whole).not.toEqual(straight);
});

test("what does not fit together is refused in Python's sense, and other optimizers with a reason", () => {
  const param = { value: undefined };
  for (const [options, message] of [
    [{ lr: 1e-3 }, /lr cannot be used with relative_step/],
    [{ lr: 1e-3, relative_step: false, warmup_init: true }, /warmup_init: true needs relative_step/],
    [{ relative_step: false }, /lr is needed where relative_step is false/],
    [{ eps: [1e-30] }, /eps must be two numbers/],
    [{ beta1: 1 }, /beta1 must be a number from 0 to below 1, or null/],
    [{ optim_bits: 8 }, /unknown option `optim_bits`/],
  ] as const) {
    expect(() => new Adafactor([{ params: [] }], options as never), JSON.stringify(options)).toThrow(message);
  }
  expect(() => new Adafactor([param as never])).toThrow(/a group has params, a list/);
  for (const [optim, message] of [
    ["galore_adamw", /lower ranks/],
    ["schedule_free_adamw", /averages of weights/],
    ["adamw_torch_xla", /for TPUs: adamw_torch/],
    ["adamw_anyprecision", /states are f32 or 8-bit codes/],
    ["lomo", /consumed while they are computed/],
  ] as const) {
    expect(() => new TrainingArguments({ optim: optim as never }), optim).toThrow(message);
  }
});
