// DPOTrainer against TRL's (test/fixtures/make_dpo.py), what becomes of examples, and its losses by their formulas.

import { join } from "node:path";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OutOfMemoryError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import {
  AutoModelForCausalLM,
  AutoTokenizer,
  type PreTrainedModel,
  type PreTrainedTokenizer,
} from "../../src/index.js";
import type { Parameter } from "../../src/nn/index.js";
import { dpoLoss } from "../../src/train/dpo-loss.js";
import {
  DataCollatorForPreference,
  Dataset,
  DPOConfig,
  type DPOConfigOptions,
  DPOTrainer,
  type DPOTrainerOptions,
  prepare_preference_dataset,
} from "../../src/train.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";

type Logs = Record<string, number>;
interface Run {
  readonly loss_type: "sigmoid" | "hinge" | "ipo" | "robust";
  readonly beta: number;
  readonly label_smoothing: number;
  readonly logs: Logs[];
  readonly evaluated: Logs;
}
const { rows, tokens, runs } = readJson<{ rows: Logs[]; tokens: object[]; runs: Run[] }>("dpo", "runs.json");
const LLAMA = join(FIXTURES, "models", "llama");

let words: PreTrainedTokenizer;
beforeAll(async () => {
  words = await AutoTokenizer.from_pretrained(join(FIXTURES, "dpo"));
});

let device: Device;
let models: PreTrainedModel[] = [];
const load = async (): Promise<PreTrainedModel> => {
  if (models.length === 0) device = await requestTestDevice("cpu");
  const model = await AutoModelForCausalLM.from_pretrained(LLAMA, { device });
  models.push(model);
  return model;
};
afterEach(async () => {
  if (models.length === 0) return;
  for (const model of models) model.dispose();
  models = [];
  expectNoLeaks(device);
  await device.close();
});

/** Adam divides small gradients by their own size, so that the last bits of f32 count; three updates carry them on. */
function expectNear(got: Logs, golden: Logs): void {
  for (const [name, value] of Object.entries(golden)) {
    expect(Math.abs(got[name]! - value), name).toBeLessThan(2e-3 * Math.max(1, Math.abs(value)));
  }
}

describe("runs", () => {
  test.each(runs)("$loss_type", async ({ loss_type, beta, label_smoothing, logs, evaluated }) => {
    const model = await load();
    await model.load_adapter(join(FIXTURES, "dpo", "began"), { is_trainable: true });
    const trainer = new DPOTrainer({
      model,
      processing_class: words,
      train_dataset: rows,
      eval_dataset: rows,
      args: new DPOConfig({
        ...{
          loss_type: [loss_type],
          beta,
          label_smoothing,
          learning_rate: 5e-3,
          num_train_epochs: 3,
          logging_steps: 1,
        },
        ...{ lr_scheduler_type: "constant", save_strategy: "no" },
      }),
    });
    await trainer.train();
    const own = trainer.state.log_history.filter(({ loss }) => loss !== undefined) as Logs[];
    expect(own).toHaveLength(logs.length);
    for (const [i, log] of logs.entries()) expectNear(own[i]!, log);
    expectNear((await trainer.evaluate()) as Logs, { eval_loss: evaluated.eval_loss! });
    expectNear(trainer.state.log_history.at(-1) as Logs, evaluated);
    expect(model.adapters!.choice).toMatchObject({ enabled: true, active: ["default"] });
  });

  test("a model of its own, and an adapter called ref, are references too", async () => {
    const [model, reference] = [await load(), await load()];
    const args = {
      max_steps: 1,
      logging_steps: 1,
      learning_rate: 5e-3,
      lr_scheduler_type: "constant",
      save_strategy: "no",
    } as const;
    const given = { processing_class: words, train_dataset: rows, args };
    await new DPOTrainer({ ...given, model, ref_model: reference }).train();
    model.dispose();
    models = [reference];
    await reference.load_adapter(join(FIXTURES, "dpo", "began"), "ref");
    await reference.load_adapter(join(FIXTURES, "dpo", "began"), "own", { is_trainable: true });
    const trainer = new DPOTrainer({ ...given, model: reference });
    await trainer.train();
    // Both adapters are the same yet.
    expect(trainer.state.log_history[0]).toMatchObject({
      "rewards/chosen": 0,
      "rewards/rejected": 0,
      "rewards/margins": 0,
    });
    expect(reference.adapters!.choice.active).toEqual(["own"]);
  });

  test("training and evaluations between its logs have means of their own", async () => {
    const model = await load();
    await model.load_adapter(join(FIXTURES, "dpo", "began"), "ref");
    await model.load_adapter(join(FIXTURES, "dpo", "began"), "own", { is_trainable: true });
    for (const [name, parameter] of model.adapters!.named_parameters() as Iterable<[string, Parameter]>) {
      const { data } = parameter;
      if (name.includes("lora_B.own"))
        await data.write(Float32Array.from({ length: data.size }, (_, i) => Math.sin(i)));
    }
    const turned = rows.map(({ chosen, rejected, ...one }) => ({ ...one, chosen: rejected!, rejected: chosen! }));
    const trainer = new DPOTrainer({
      model,
      processing_class: words,
      train_dataset: rows,
      eval_dataset: turned,
      args: {
        ...{ learning_rate: 0, max_steps: 5, logging_steps: 4, eval_strategy: "steps", eval_steps: 2 },
        ...{ per_device_train_batch_size: rows.length, save_strategy: "no" },
      },
    });
    await trainer.train();
    await trainer.evaluate();
    const log = trainer.state.log_history as Logs[];
    const margin = log.find(({ loss }) => loss !== undefined)!["rewards/margins"]!;
    expect(Math.abs(margin)).toBeGreaterThan(0.1);
    const evaluated = log.filter(({ eval_loss }) => eval_loss !== undefined);
    expect(evaluated).toHaveLength(4); // after updates 2, 4 and the last one, and by hand
    // The same sums in other orders: a batch of training may be shuffled.
    for (const one of evaluated) expect(one["eval_rewards/margins"]! / margin).toBeCloseTo(-1, 5);
  });

  test("a loss that is no number is said so", async () => {
    const model = await load();
    await model.load_adapter(join(FIXTURES, "dpo", "began"), { is_trainable: true });
    const [[, parameter]] = [...model.adapters!.named_parameters()] as [[string, Parameter]];
    await parameter.data.write(new Float32Array(parameter.data.size).fill(Number.NaN));
    const args = { max_steps: 1, save_strategy: "no" } as const;
    const running = new DPOTrainer({ model, processing_class: words, train_dataset: rows, args }).train();
    await expect(running).rejects.toMatchObject({ code: "ERR_NOT_FINITE", details: { step: 1 } });
  });

  test("memory that runs out leaves nothing, and what worked works", async () => {
    const model = await load();
    const trainer = new DPOTrainer({
      ...{ model, processing_class: words, train_dataset: rows, eval_dataset: rows, peft_config: { r: 2 } },
      args: { max_steps: 1, save_strategy: "no" },
    });
    const { live } = device.memory;
    const allocate = device.allocate.bind(device);
    for (const work of [() => trainer.train(), () => trainer.evaluate()]) {
      // In the middle of a pass, and behind what is noted of it.
      for (const before of ["attention", "log-probabilities"]) {
        let [due, over] = [false, false];
        device.allocate = (bytes, label) => {
          if (due && !over) {
            over = true;
            throw new OutOfMemoryError(`${label} is refused`);
          }
          due ||= label === before;
          return allocate(bytes, label);
        };
        await expect(work()).rejects.toThrow(OutOfMemoryError);
        expect(device.memory.live, before).toBe(live);
        expect(model.adapters!.choice).toMatchObject({ enabled: true, active: ["default"] });
      }
    }
    device.allocate = allocate;
    model.disable_adapters();
    expect(await trainer.evaluate()).toHaveProperty("eval_loss");
    expect(model.adapters!.choice.enabled).toBe(false);
    model.enable_adapters();
    await model.merge_adapter();
    await expect(trainer.evaluate()).rejects.toThrow(/adapters are merged into the weights/);
    model.unload();
    await expect(trainer.train()).rejects.toThrow(/no adapters any more/);
  });

  test("what is refused", async () => {
    const model = await load();
    const made = (more: object) => () =>
      new DPOTrainer({ model, processing_class: words, train_dataset: rows, ...more } as DPOTrainerOptions);
    expect(made({})).toThrow(/nothing to compare the model to/);
    expect(made({ ref_model: model })).toThrow(/the model itself, which changes/);
    expect(made({ peft_config: { init_lora_weights: "pissa" } })).toThrow(/cannot wait for/);
    expect(made({ peft_config: { r: 2 }, args: { loss_type: "orpo" } })).toThrow(/loss_type must be one of "sigmoid"/);
    expect(made({ peft_config: { r: 2 }, args: { beta: 0 } })).toThrow(/beta must be a number above 0/);
    expect(made({ peft_config: { r: 2 }, args: { loss_type: "ipo", label_smoothing: 0.1 } })).toThrow(/not "ipo"/);
    expect(made({ peft_config: { r: 2 }, train_dataset: [{ prompt: "w5" }] })).toThrow(/example 0: expected chosen/);
    expect(made({ peft_config: { r: 2 }, compute_loss_func: () => 0 })).toThrow(/compute_loss_func/);
    expect(made({ peft_config: { r: 2 }, compute_metrics: () => ({}) })).toThrow(/compute_metrics/);
    const smooth = { label_smoothing_factor: 0.1 };
    expect(made({ peft_config: { r: 2 }, args: smooth })).toThrow(/label_smoothing_factor/);
    expect(() => new DPOConfig(smooth)).toThrow(/label_smoothing_factor/);
    expect(made({ args: { label_smoothing_factor: 0 }, compute_metrics: null })).toThrow(/nothing to compare/);
    expect(made({ peft_config: { r: 2 }, args: { eval_strategy: "epoch" } })).toThrow(/needs an eval_dataset/);
    expect(made({ peft_config: { r: 2 }, callbacks: [3] })).toThrow(/callbacks are objects/);
    expect(made({ peft_config: { r: 2, init_lora_weights: "olora" } })).toThrow(/a constructor cannot wait for/);
    expect(model.adapters).toBeUndefined();
  });
});

describe("random preferences and options, as in TRL", () => {
  interface Random extends Omit<Run, "loss_type" | "beta" | "label_smoothing"> {
    readonly mode: "began" | "trained" | "ref_model";
    readonly rows: Logs[];
    readonly options: DPOConfigOptions;
  }
  const { chat_template, runs } = readJson<{ chat_template: string; runs: Random[] }>("dpo", "random.json");
  test.each(runs)("$mode, $options.loss_type", async ({ mode, rows, options, logs, evaluated }) => {
    const model = await load();
    const given = mode === "ref_model" ? { ref_model: await load() } : {};
    if (mode !== "ref_model") await model.load_adapter(join(FIXTURES, "dpo", mode), { is_trainable: true });
    const trainer = new DPOTrainer({
      ...{ model, ...given, processing_class: words, train_dataset: rows, eval_dataset: rows },
      args: {
        ...{ ...options, chat_template },
        ...{ logging_steps: 1, save_strategy: "no", train_sampling_strategy: "sequential" },
      },
    });
    await trainer.train();
    const own = trainer.state.log_history.filter(({ loss }) => loss !== undefined) as Logs[];
    expect(own).toHaveLength(logs.length);
    for (const [i, golden] of logs.entries()) expectNear(own[i]!, golden);
    expectNear(await trainer.evaluate(), evaluated);
    // An adapter that was there is compared to a copy of itself, which does not learn.
    if (mode === "ref_model") return;
    expect(model.adapters!.names).toEqual(["default", "ref"]);
    expect(model.adapters!.choice.active).toEqual(["default"]);
    const trained = [...model.named_parameters()].filter(([, one]) => one.requires_grad);
    expect(trained.some(([name]) => name.includes(".ref."))).toBe(false);
  });
});

describe("examples", () => {
  const prepared = (list: object[], options = {}) =>
    prepare_preference_dataset(Dataset.from_list(list as never), words, options).to_list();

  test("become TRL's tokens", () => expect(prepared(rows)).toEqual(tokens));

  test("the prompt is what both answers begin with", () => {
    const [one] = prepared([{ chosen: "w5 w6 w7 w8", rejected: "w5 w6 </s>" }]);
    expect(one).toEqual({ prompt_ids: [5, 6], chosen_ids: [7, 8, 2], rejected_ids: [2] });
  });

  test("messages that are none", () => {
    const odd = [{ role: "user", content: 1n }];
    expect(() => prepared([{ chosen: odd, rejected: odd.map((one) => ({ ...one })) }])).toThrow(/a list of messages/);
  });

  test("a prompt does not end within a character", () => {
    // Both are two UTF-16 units, of which the first is the same.
    const [one] = prepared([{ chosen: "w5 \u{1f600}", rejected: "w5 \u{1f601}" }]);
    expect(one!.prompt_ids).toEqual([5]);
  });

  test("messages by the chat template", () => {
    const says = (role: string, content: string) => [{ role, content }];
    const chat_template =
      "{% for m in messages %}{{ 'w3 ' if m.role == 'user' else 'w4 ' }}{{ m.content }} {% endfor %}{{ 'w4 ' if add_generation_prompt }}";
    const answers = { chosen: says("assistant", "w8"), rejected: says("assistant", "w9 w10") };
    const golden = { prompt_ids: [3, 5, 4], chosen_ids: [8], rejected_ids: [9, 10] };
    expect(prepared([{ prompt: says("user", "w5"), ...answers }], { chat_template })).toEqual([golden]);
    expect(() => prepared([{ prompt: says("user", "w5"), ...answers }])).toThrow(/need a chat template/);
  });

  test("prompts that leave no room are left out, and batches are cut and filled", () => {
    const list = [
      { prompt_ids: [1, 2, 3], chosen_ids: [4, 5], rejected_ids: [6] },
      { prompt_ids: [7, 8], chosen_ids: [9], rejected_ids: [10, 11] },
    ];
    expect(prepared(list, { max_length: 3 })).toEqual([list[1]]);
    expect(prepared(list, { max_length: 3, truncation_mode: "keep_end" })).toEqual(list);
    // The example of TRL's documentation.
    expect(new DataCollatorForPreference({ pad_token_id: 0 })(list)).toEqual({
      input_ids: [
        [1, 2, 3, 4, 5],
        [7, 8, 9, 0, 0],
        [1, 2, 3, 6, 0],
        [7, 8, 10, 11, 0],
      ],
      attention_mask: [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
      ],
      completion_mask: [
        [0, 0, 0, 1, 1],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 1, 1, 0],
      ],
    });
    const ends = new DataCollatorForPreference({ pad_token_id: 0, max_length: 2, truncation_mode: "keep_end" })(list);
    expect(ends.input_ids).toEqual([
      [4, 5],
      [8, 9],
      [3, 6],
      [10, 11],
    ]);
  });
});

test("the losses of one pair by their formulas", async () => {
  const own = await requestTestDevice("reference");
  const [up, down] = [Tensor.from(own, [1], [1]), Tensor.from(own, [-1], [1])]; // by how much answers have become likelier
  const lengths = { chosen: Float32Array.of(2), rejected: Float32Array.of(4) };
  const h = 0.2;
  const surprise = (x: number): number => Math.log(1 + Math.exp(-x));
  const golden = {
    sigmoid: 0.598139, // log-probabilities of -10 and -14, by the reference -11 and -13
    hinge: 1 - h,
    ipo: (1 / 2 + 1 / 4 - 5) ** 2,
  };
  for (const [loss_type, value] of Object.entries(golden)) {
    using loss = dpoLoss(up, down, lengths, { beta: 0.1, loss_type: loss_type as never, label_smoothing: 0 });
    expect((await loss.readFloats())[0]).toBeCloseTo(value, 5);
  }
  using smoothed = dpoLoss(up, down, lengths, { beta: 0.1, loss_type: "sigmoid", label_smoothing: 0.1 });
  expect((await smoothed.readFloats())[0]).toBeCloseTo(0.9 * surprise(h) + 0.1 * surprise(-h), 5);
  for (const one of [up, down]) one.dispose();
  await own.close();
});
