// Loops of one's own beside the Trainer's, and what the Trainer does around its updates: events, metrics, models of every kind, numbers
// that are none.

import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { AdamW8bit } from "../../src/bnb/optim/index.js";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import {
  AutoModelForCausalLM,
  AutoModelForSequenceClassification,
  type FromPretrainedOptions,
  get_peft_model,
  LoraConfig,
  type PreTrainedModel,
} from "../../src/index.js";
import { functional, Linear, Module, manual_seed } from "../../src/nn/index.js";
import { EVENTS } from "../../src/train/callbacks.js";
import {
  clip_grad_norm_,
  type ForwardOutput,
  get_scheduler,
  no_grad,
  Trainer,
  type TrainerCallback,
  type TrainerOptions,
  type TrainingOptions,
} from "../../src/train.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";

type Row = { input_ids: number[]; labels: number[] };
const DATA = readJson<{ train: Row[]; eval: Row[] }>("trainer.json");
const PADDED = {
  input_ids: [
    [5, 6, 7, 8],
    [9, 10, 0, 0],
  ],
  attention_mask: [
    [1, 1, 1, 1],
    [1, 1, 0, 0],
  ],
};
const LABELS = [
  [-100, 6, 7, 8],
  [9, 10, -100, -100],
];

/** A classifier of two numbers, in octavo/nn. */
class Net extends Module {
  readonly inner = new Linear(2, 16);
  readonly outer = new Linear(16, 2);

  forward({ x, labels }: { x: number[][]; labels?: number[] }): { loss?: Tensor; logits: Tensor } {
    const device = this.device!;
    const inputs = Tensor.from(device, x.flat(), [x.length, 2]);
    const logits = this.outer.forward(functional.silu(this.inner.forward(inputs)));
    if (!labels) return { logits };
    const target = Tensor.from(device, Int32Array.from(labels), [labels.length]);
    return { loss: functional.cross_entropy(logits, target), logits };
  }
}
const QUADRANTS = Array.from({ length: 24 }, (_, i) => {
  const x = [Math.cos(i * 1.7), Math.sin(i * 2.3)];
  return { x, label: Number(x[0]! * x[1]! > 0) };
});

describe("on the CPU", { timeout: 120_000 }, () => {
  let device: Device;
  const owned: { dispose(): void }[] = [];
  const own = <T extends { dispose(): void }>(one: T): T => {
    owned.push(one);
    return one;
  };
  beforeEach(async () => {
    device = await requestTestDevice("cpu");
  });
  afterEach(async () => {
    for (const one of owned.splice(0)) one.dispose();
    expectNoLeaks(device);
    await device.close();
  });
  const load = async (options: FromPretrainedOptions = {}, base = "llama"): Promise<PreTrainedModel> =>
    own(await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", base), { device, ...options }));
  const trainerOf = (
    model: TrainerOptions["model"],
    args: TrainingOptions,
    more: Partial<TrainerOptions> = {},
  ): Trainer =>
    new Trainer({
      ...{ model, train_dataset: DATA.train, processing_class: { pad_token_id: 0 } },
      args: { save_strategy: "no", logging_steps: 1, ...args },
      ...more,
    });
  const losses = ({ state }: Trainer): number[] =>
    state.log_history.flatMap(({ loss }) => (loss === undefined ? [] : [loss]));

  describe("forward({ labels })", () => {
    test("the loss alone is the one beside the logits, and so is its gradient", async () => {
      const model = await load();
      model.requires_grad_();
      for (const more of [{}, { num_items_in_batch: 9 }, { label_smoothing: 0.2 }]) {
        const given = { ...PADDED, labels: LABELS, ...more };
        const norms: number[] = [];
        const values: number[] = [];
        for (const skip_logits of [false, true]) {
          const loss = scope(() => model.forward({ ...given, skip_logits }).loss!);
          values.push(await model.backward(loss));
          norms.push(await clip_grad_norm_(model.parameters(), 1e9));
          loss.dispose();
          model.zero_grad();
        }
        // The same sums in pieces of other sizes.
        expect(Math.abs(values[0]! - values[1]!)).toBeLessThan(1e-5);
        expect(Math.abs(norms[0]! - norms[1]!)).toBeLessThan(1e-4 * norms[0]!);
      }
      expect([...model.parameters()].every(({ grad }) => grad === undefined)).toBe(true);
    });

    test("options of a loss need labels; labels of padding alone give a loss of zero among others", async () => {
      const model = await load();
      expect(() => model.forward({ ...PADDED, skip_logits: true })).toThrow(/pass labels/);
      const none = [
        [-100, -100, -100, -100],
        [-100, -100, -100, -100],
      ];
      expect(() => model.forward({ ...PADDED, labels: none })).toThrow(/none of them counts/);
      using loss = scope(
        () => model.forward({ ...PADDED, labels: none, num_items_in_batch: 5, skip_logits: true }).loss,
      );
      expect(await loss.readFloats()).toEqual(Float32Array.of(0));
    });
  });

  test.each<[string, FromPretrainedOptions]>([
    ["dense", {}],
    ["8 bits", { load_in_8bit: true, llm_int8_threshold: 0 }],
    ["4 bits", { load_in_4bit: true, bnb_4bit_quant_type: "nf4" }],
  ])("a loop of one's own gives the losses of the Trainer: adapters over %s, dropout and all", async (_, options) => {
    const adapted = async (): Promise<PreTrainedModel> => {
      manual_seed(1);
      return get_peft_model(
        await load(options),
        new LoraConfig({ r: 4, lora_dropout: 0.1, target_modules: "all-linear" }),
      );
    };
    const trainer = trainerOf(await adapted(), {
      ...{ per_device_train_batch_size: 1, gradient_accumulation_steps: 2, max_steps: 4, learning_rate: 1e-2 },
      ...{ optim: "adamw_8bit", train_sampling_strategy: "sequential", warmup_steps: 1, max_grad_norm: 0.7 },
    });
    await trainer.train();

    const model = await adapted();
    const params = [...model.parameters()].filter(({ requires_grad }) => requires_grad);
    using optimizer = new AdamW8bit(params, { lr: 1e-2, weight_decay: 0 });
    const schedule = get_scheduler("linear", optimizer, { num_warmup_steps: 1, num_training_steps: 4 });
    model.train();
    manual_seed(42);
    const own: number[] = [];
    for (let step = 0; step < 4; step++) {
      const rows = DATA.train.slice(2 * step, 2 * step + 2);
      const items = rows.flatMap(({ labels }) => labels.slice(1)).filter((label) => label !== -100).length;
      let sum = 0;
      for (const { input_ids, labels } of rows) {
        using loss = model.forward({ input_ids, labels, num_items_in_batch: items, skip_logits: true }).loss;
        sum += await model.backward(loss);
      }
      await clip_grad_norm_(params, 0.7);
      optimizer.step();
      schedule.step();
      optimizer.zero_grad();
      own.push(sum);
    }
    model.eval();
    expect(own).toEqual(losses(trainer));
  });

  test("a module of octavo/nn learns, and its accuracy is what compute_metrics makes of it", async () => {
    manual_seed(2);
    const net = own(new Net().to(device));
    const accuracy: TrainerOptions["compute_metrics"] = ({ predictions: { data, shape }, label_ids }) => {
      expect(shape).toEqual([24, 2]);
      const right = label_ids!.filter((label, i) => Number(data[2 * i + 1]! > data[2 * i]!) === label);
      return { accuracy: right.length / label_ids!.length };
    };
    const trainer = trainerOf(
      net,
      { num_train_epochs: 60, per_device_train_batch_size: 7, gradient_accumulation_steps: 2, learning_rate: 5e-2 },
      { train_dataset: QUADRANTS, eval_dataset: QUADRANTS, compute_metrics: accuracy },
    );
    const before = await trainer.evaluate();
    await trainer.train();
    const after = await trainer.evaluate();
    expect(before.eval_accuracy).toBeLessThan(0.7);
    expect(after.eval_accuracy).toBeGreaterThan(0.95);
    expect(after.eval_loss!).toBeLessThan(before.eval_loss! / 3);
    const { predictions, metrics } = await trainer.predict(QUADRANTS.map(({ x }) => ({ x })));
    expect(predictions.shape).toEqual([24, 2]);
    expect(metrics.test_loss).toBeUndefined();
    expect([...net.parameters()].some(({ requires_grad }) => requires_grad)).toBe(false);
  });

  test("an encoder learns by a loss of one's own, padded", async () => {
    const model = await AutoModelForSequenceClassification.from_pretrained(
      join(FIXTURES, "models", "bert-classifier"),
      {
        device,
      },
    );
    own(model);
    const rows = DATA.train.slice(0, 6).map(({ input_ids }, i) => ({ input_ids, label: i % 2 }));
    const counts: unknown[] = [];
    const trainer = trainerOf(
      model,
      { num_train_epochs: 8, per_device_train_batch_size: 3, learning_rate: 1e-3, lr_scheduler_type: "constant" },
      {
        train_dataset: rows,
        compute_loss_func: ({ logits }, labels, items) => {
          counts.push(items);
          const target = Tensor.from(device, Int32Array.from(labels as number[]), [(labels as number[]).length]);
          return functional.cross_entropy(logits as Tensor, target);
        },
      },
    );
    await trainer.train();
    const all = losses(trainer);
    expect(all.at(-1)!).toBeLessThan(all[0]! / 2);
    expect(counts).toEqual(new Array(16).fill(3));
    // Without labels none is counted: a loss divided by 0 would be no number.
    const given = {
      train_dataset: rows.map(({ input_ids }) => ({ input_ids })),
      compute_loss_func: ({ logits }: ForwardOutput, _: unknown, items: unknown) => {
        counts.push(items);
        return functional.mean(logits as Tensor);
      },
    };
    await trainerOf(model, { max_steps: 1 }, given).train();
    expect(counts.at(-1)).toBeUndefined();
  });

  test("events come in transformers' order, and flags steer the run", async () => {
    const told: string[] = [];
    const watch = Object.fromEntries(
      EVENTS.map((event) => [event, async () => void told.push(event.slice(3))]),
    ) as TrainerCallback;
    const stop: TrainerCallback = {
      on_step_end: (_, { global_step }, control) => void (control.should_training_stop = global_step === 2),
    };
    const trainer = trainerOf(
      get_peft_model(await load(), new LoraConfig({ r: 2 })),
      { per_device_train_batch_size: 2, gradient_accumulation_steps: 2, eval_strategy: "epoch", logging_steps: 2 },
      { callbacks: [watch, stop], eval_dataset: { a: DATA.eval.slice(0, 2) } },
    );
    const { global_step } = await trainer.train();
    expect(global_step).toBe(2);
    const step = ["step_begin", "substep_end", "pre_optimizer_step", "optimizer_step", "step_end"];
    expect(told).toEqual([
      ...["init_end", "train_begin", "epoch_begin", ...step, ...step, "log"],
      ...["epoch_end", "prediction_step", "log", "evaluate", "log", "train_end"],
    ]);
    expect(trainer.state.log_history.map((logs) => Object.keys(logs)[0])).toEqual([
      "loss",
      "eval_a_loss",
      "train_runtime",
    ]);
    expect(trainer.state.epoch).toBeCloseTo(4 / 7, 12);
  });

  test("a loss that is no number ends the run before it reaches the weights, by update and module", async () => {
    const model = get_peft_model(await load(), new LoraConfig({ r: 2, target_modules: ["down_proj"] }));
    const parameters = new Map(model.named_parameters());
    const name = "model.layers.1.mlp.down_proj.lora_B.default.weight";
    const trainer = trainerOf(
      model,
      { per_device_train_batch_size: 2, max_steps: 3 },
      {
        callbacks: [
          {
            on_step_end: (_, { global_step }) => {
              if (global_step === 2) no_grad(() => parameters.get(name)!.data.write(new Float32Array(128).fill(3e38)));
            },
          },
        ],
      },
    );
    const running = trainer.train();
    await expect(running).rejects.toMatchObject({
      code: "ERR_NOT_FINITE",
      details: { step: 3, module: "model.layers.1" },
    });
    await expect(running).rejects.toThrow(/the loss of update 3 is NaN, from model.layers.1 on/);
    expect(trainer.state.global_step).toBe(2);
    expect([...model.parameters()].every(({ grad }) => grad === undefined)).toBe(true);
  });

  test("an adapter that is off is said, and the model can be trained again", async () => {
    const model = get_peft_model(await load(), new LoraConfig({ r: 2 }));
    model.disable_adapters();
    const args = {
      per_device_train_batch_size: 2,
      max_steps: 1,
      include_num_input_tokens_seen: "non_padding" as const,
    };
    const trainer = trainerOf(model, args);
    await expect(trainer.train()).rejects.toThrow(/depends on no/);
    model.enable_adapters();
    const first = trainer.train();
    await expect(trainer.evaluate(DATA.eval)).rejects.toThrow(/at work already/);
    await first;
    expect(losses(trainer).length).toBe(1);
    const real = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13].map((i) => DATA.train[i]!.input_ids.length);
    expect(trainer.state.num_input_tokens_seen).toBeLessThanOrEqual(2 * Math.max(...real));
    expect(trainer.state.num_input_tokens_seen).toBeGreaterThanOrEqual(2 * Math.min(...real));
  });

  test("norms are torch's: [3, 4] at 1 become [0.6, 0.8], and the norm before is told", async () => {
    const a = Tensor.from(device, [1, 1], [2]).keep();
    own(a).grad = Tensor.from(device, [3, 4], [2]);
    expect(await clip_grad_norm_(a, 1)).toBe(5);
    const [x, y] = await a.grad!.readFloats();
    expect(x).toBeCloseTo(0.6, 6);
    expect(y).toBeCloseTo(0.8, 6);
    expect(await clip_grad_norm_([a], 2)).toBeCloseTo(1, 5);
    a.grad = Tensor.from(device, [Number.POSITIVE_INFINITY, 1], [2]);
    await expect(clip_grad_norm_([a], 1, { error_if_nonfinite: true })).rejects.toThrow(/is Infinity/);
  });
});
