// The Trainer against transformers' (with torch and peft): losses, norms and rates of every update, evaluations, schedules.

import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { AutoModelForCausalLM, type PreTrainedModel } from "../../src/index.js";
import { get_scheduler, type Logs, type SchedulerType, Trainer, type TrainingOptions } from "../../src/train.js";
import { DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

interface Golden {
  schedules: {
    name: SchedulerType;
    warmup: number | null;
    total: number | null;
    extra: Record<string, unknown> | null;
    rates: number[];
  }[];
  plateau: { extra: Record<string, unknown>; metrics: number[]; rates: number[] };
  train: { input_ids: number[]; labels: number[] }[];
  eval: { input_ids: number[]; labels: number[] }[];
  runs: Record<string, { model: string; adapter?: string; args: TrainingOptions; logs: Logs[] }>;
}

const GOLDEN = readJson<Golden>("trainer.json");

describe("schedules", () => {
  test.each(GOLDEN.schedules.map((one) => [one.name, one] as const))("%s has transformers' rates", (name, golden) => {
    const optimizer = { param_groups: [{ lr: 1e-3 }, { lr: 1e-3 }] };
    const schedule = get_scheduler(name, optimizer, {
      num_warmup_steps: golden.warmup ?? undefined,
      num_training_steps: golden.total ?? undefined,
      scheduler_specific_kwargs: golden.extra ?? undefined,
    });
    for (const [k, want] of golden.rates.entries()) {
      // Both compute in f64; a cosine of two libraries may differ in its last bit.
      for (const lr of schedule.get_last_lr()) expect(Math.abs(lr - want), `update ${k + 1}`).toBeLessThan(1e-18);
      expect(optimizer.param_groups[1]!.lr).toBe(schedule.get_last_lr()[1]);
      schedule.step();
    }
  });

  test("reduce_lr_on_plateau follows a metric, also from a saved state", () => {
    const { extra, metrics, rates } = GOLDEN.plateau;
    const made = () => {
      const optimizer = { param_groups: [{ lr: 1e-3 }] };
      return get_scheduler("reduce_lr_on_plateau", optimizer, { scheduler_specific_kwargs: extra });
    };
    let schedule = made();
    for (const [i, metric] of metrics.entries()) {
      schedule.step(metric);
      expect(schedule.get_last_lr()[0]).toBeCloseTo(rates[i]!, 15);
      const state = JSON.parse(JSON.stringify(schedule.state_dict()));
      schedule = made();
      schedule.load_state_dict(state);
    }
  });
});

describe.each(DEVICES)("%s", { timeout: 120_000 }, (name) => {
  let device: Device;
  let model: PreTrainedModel | undefined;
  beforeEach(async () => {
    device = await requestTestDevice(name);
  });
  afterEach(async () => {
    model?.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  // The reference is slow, and what it runs is the oracle of each op in other suites.
  const runs = name === "cpu" ? Object.keys(GOLDEN.runs) : name === "reference" ? ["full"] : ["lora"];
  test.each(runs)("%s: every update and evaluation is as in transformers", async (run) => {
    const { model: base, adapter, args, logs: golden } = GOLDEN.runs[run]!;
    model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", base), { device, dtype: "float32" });
    if (adapter) await model.load_adapter(join(FIXTURES, adapter), { is_trainable: true });
    const trainer = new Trainer({
      model,
      args: {
        ...args,
        output_dir: temporary("trainer"),
        logging_steps: 1,
        save_strategy: "no",
        train_sampling_strategy: "sequential",
      },
      train_dataset: GOLDEN.train,
      eval_dataset: GOLDEN.eval,
      processing_class: { pad_token_id: 0 },
    });
    const live = device.memory.live;
    const { global_step, training_loss } = await trainer.train();
    const { log_history } = trainer.state;
    expect(log_history.length).toBe(golden.length);
    for (const [i, want] of golden.entries()) {
      const got = log_history[i]!;
      for (const [key, value] of Object.entries(want)) {
        if (key === "total_flos") continue;
        // The library sums in f32 and in another order; gradients of twenty updates add that up.
        const bound = key === "learning_rate" || key === "epoch" ? 1e-12 : key === "grad_norm" ? 1e-4 : 1e-5;
        expect(Math.abs(got[key]! - value), `${key} of step ${want.step}`).toBeLessThan(
          bound * Math.max(1, Math.abs(value)),
        );
      }
    }
    if (run === "counted") {
      // As in Python the numbers of the run are among an evaluation's.
      expect(await trainer.evaluate()).toMatchObject({ epoch: 2, num_input_tokens_seen: 208 });
      log_history.pop();
    }
    expect(global_step).toBe(golden.at(-1)!.step);
    expect(training_loss).toBe(log_history.at(-1)!.train_loss);
    // Nothing is left but the weights: gradients and states of the optimizer are freed.
    expect(device.memory.live).toBe(live);
  });
});
