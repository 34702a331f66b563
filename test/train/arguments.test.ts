// TrainingArguments and the Trainer's own options: defaults, what is refused and how, whatever is passed.

import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { AutoModel, AutoModelForCausalLM } from "../../src/index.js";
import { Linear } from "../../src/nn/index.js";
import { ACCEPTED, TRAINING } from "../../src/train/options.js";
import * as train from "../../src/train.js";
import { EarlyStoppingCallback, Trainer, TrainingArguments, type TrainingOptions } from "../../src/train.js";
import { FIXTURES } from "../support/fixtures.js";
import { all } from "../support/odd-calls.js";
import { onDevice } from "../support/suites.js";

let device: Device;
onDevice("reference", (opened) => (device = opened));

const ROWS = [{ input_ids: [5, 6, 7], labels: [5, 6, 7] }];
const load = (name = "llama") => AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", name), { device });

describe("TrainingArguments", () => {
  test("have transformers' defaults, and values that follow from others", () => {
    const args = new TrainingArguments();
    expect(args).toMatchObject({
      ...{ per_device_train_batch_size: 8, num_train_epochs: 3, max_steps: -1, learning_rate: 5e-5 },
      ...{ lr_scheduler_type: "linear", max_grad_norm: 1, weight_decay: 0, seed: 42, logging_steps: 500 },
      ...{ save_steps: 500, save_strategy: "steps", eval_strategy: "no", adam_beta2: 0.999, adam_epsilon: 1e-8 },
      ...{ metric_for_best_model: null, greater_is_better: null, eval_steps: null },
    });
    expect([...args.given]).toEqual([]);
    const best = new TrainingArguments({ eval_strategy: "steps", logging_steps: 50, load_best_model_at_end: true });
    expect(best).toMatchObject({ eval_steps: 50, metric_for_best_model: "loss", greater_is_better: false });
    expect(new TrainingArguments({ metric_for_best_model: "accuracy" }).greater_is_better).toBe(true);
    expect(new TrainingArguments({ group_by_length: true }).train_sampling_strategy).toBe("group_by_length");
    expect(JSON.parse(best.to_json_string())).toEqual(best.to_dict());
  });

  test("a warm-up is a number of updates, or a share of them", () => {
    expect(new TrainingArguments({ warmup_steps: 7 }).get_warmup_steps(100)).toBe(7);
    expect(new TrainingArguments({ warmup_steps: 0.03 }).get_warmup_steps(101)).toBe(4);
    expect(new TrainingArguments({ warmup_ratio: 0.1 }).get_warmup_steps(101)).toBe(11);
  });

  test.each<[object, RegExp]>([
    [{ learning_rat: 1 }, /unknown option `learning_rat`; did you mean `learning_rate`\?/],
    [{ lr_scheduler_type: "cosin" }, /did you mean "cosine"\?/],
    [{ optim: "adamw_torch_4bit" }, /optim must be one of .*"adamw_bnb_8bit"/],
    [{ fp16: true }, /fp16 must be false.*the loss is not scaled/s],
    [{ report_to: "wandb" }, /report_to must be "none".*on_log/s],
    [{ max_steps: 0 }, /max_steps must be above 0/],
    [{ logging_steps: 0 }, /logging_steps must be above 0/],
    [{ load_best_model_at_end: true }, /requires the save and eval strategy to match/],
    [
      { load_best_model_at_end: true, eval_strategy: "steps", eval_steps: 3, save_steps: 10 },
      /save_steps to be a multiple of eval_steps/,
    ],
    [{ lr_scheduler_type: "reduce_lr_on_plateau" }, /requires an eval strategy/],
    [{ save_strategy: "best" }, /needs an eval_strategy/],
  ])("%o is refused by name", (options, words) => {
    const error = (): unknown => new TrainingArguments(options as TrainingOptions);
    expect(error).toThrow(OptionError);
    expect(error).toThrow(words);
  });

  test("whatever is passed", async () => {
    await all("TrainingArguments", (odd) => new TrainingArguments(odd as TrainingOptions));
    for (const option of Object.keys({ ...TRAINING, ...ACCEPTED })) {
      await all(`{ ${option} }`, (odd) => new TrainingArguments({ [option]: odd }).to_json_string());
    }
  });
});

describe("Trainer", () => {
  test.each<[string, (model: train.TrainableModel) => train.TrainerOptions, RegExp]>([
    ["no model", () => ({ model: {} as never }), /model must be one of from_pretrained/],
    ["bf16 of another model", (model) => ({ model, args: { bf16: true } }), /bf16: the model is in f32/],
    ["no eval_dataset", (model) => ({ model, args: { eval_strategy: "epoch" } }), /needs an eval_dataset/],
    ["no dataset", (model) => ({ model, train_dataset: 5 as never }), /train_dataset must be a list of examples/],
    ["an unknown option", (model) => ({ model, dataset: [] }) as never, /did you mean `train_dataset`|nearest of/],
    ["a class of callbacks", (model) => ({ model, callbacks: [EarlyStoppingCallback as never] }), /make one of it/],
  ])("%s is refused", async (_, options, words) => {
    await using model = await load();
    expect(() => new Trainer(options(model))).toThrow(OptionError);
    expect(() => new Trainer(options(model))).toThrow(words);
  });

  test("what cannot be trained is refused by name, before anything runs", async () => {
    const dense = { device };
    const folder = join(FIXTURES, "models", "llama");
    const fails = async (options: train.TrainerOptions, words: RegExp): Promise<void> => {
      const trainer = new Trainer({ train_dataset: ROWS, args: { save_strategy: "no" }, ...options });
      await expect(trainer.train()).rejects.toThrow(words);
    };
    await using headless = await AutoModel.from_pretrained(join(FIXTURES, "models", "bert"), dense);
    expect(() => new Trainer({ model: headless as never })).toThrow(/a model for base gives no loss/);
    {
      await using model = await AutoModelForCausalLM.from_pretrained(folder, { device, load_in_8bit: true });
      await fails({ model }, /purely quantized model cannot be fine-tuned/);
    }
    await using model = await load();
    await fails({ model, train_dataset: undefined }, /has no train_dataset/);
    await fails({ model, train_dataset: [] }, /has no example/);
    await fails({ model, train_dataset: (async function* () {})() }, /max_steps must be above 0/);
    await fails({ model, train_dataset: [{ input_ids: [5, 6] }] }, /a batch has no labels, only input_ids/);
    await fails({ model, train_dataset: [...ROWS, { input_ids: [5] }] }, /several lengths/);
    await model.load_adapter(join(FIXTURES, "peft", "llama", "training", "initial"));
    await fails({ model }, /is_trainable/);
    expect([...model.parameters()].some((one) => one.requires_grad)).toBe(false);
  });

  test("whatever is passed", async () => {
    const net = new Linear(2, 2);
    await all("new Trainer", (odd) => new Trainer(odd as never));
    for (const option of [
      "model",
      "args",
      "train_dataset",
      "eval_dataset",
      "callbacks",
      "optimizers",
      "compute_metrics",
    ]) {
      await all(`{ ${option} }`, (odd) => new Trainer({ model: net, [option]: odd } as never));
    }
    const trainer = new Trainer({ model: net, args: { save_strategy: "no" } });
    for (const name of [
      "train",
      "evaluate",
      "predict",
      "save_model",
      "log",
      "add_callback",
      "remove_callback",
    ] as const) {
      if (name === "save_model") continue; // text is a folder, and would be written
      await all(`${name}(it)`, (odd) => (trainer[name] as (odd: unknown) => unknown)(odd));
    }
    for (const option of ["resume_from_checkpoint", "signal"]) {
      await all(`train({ ${option} })`, (odd) => trainer.train({ [option]: odd } as never));
    }
    await all("save_model", (odd) => trainer.save_model(odd as string), [
      "text",
      "long text",
      "undefined",
      "the name of a prototype's field",
    ]);
  });

  test("schedules, norms and early stopping: whatever is passed", async () => {
    const optimizer = { param_groups: [{ lr: 1 }] };
    const { get_scheduler, clip_grad_norm_, LambdaLR, ReduceLROnPlateau } = train;
    const exports = { get_scheduler, clip_grad_norm_, EarlyStoppingCallback, LambdaLR, ReduceLROnPlateau };
    for (const [name, value] of Object.entries(exports) as [string, (...args: unknown[]) => unknown][]) {
      const Class = value as unknown as new (...args: unknown[]) => unknown;
      const call = (...args: unknown[]): unknown =>
        /^class\b/.test(String(value)) ? new Class(...args) : value(...args);
      await all(`${name}(it)`, (odd) => call(odd));
      await all(`${name}("linear", it)`, (odd) => call("linear", odd));
      await all(`${name}(optimizer, it)`, (odd) => call(optimizer, odd));
      await all(`${name}("linear", optimizer, it)`, (odd) => call("linear", optimizer, odd));
    }
    for (const option of ["num_warmup_steps", "num_training_steps", "scheduler_specific_kwargs"]) {
      await all(`get_scheduler({ ${option} })`, (odd) => train.get_scheduler("cosine", optimizer, { [option]: odd }));
    }
    const schedule = train.get_scheduler("constant", optimizer);
    await all("load_state_dict", (odd) => schedule.load_state_dict(odd as never));
    const early = new EarlyStoppingCallback();
    await all("load_state", (odd) => early.load_state(odd));
    await all("early stopping", (odd) => new EarlyStoppingCallback({ early_stopping_patience: odd as number }));
  });
});
