// SFTTrainer: examples of several formats, packed and not, from memory and from streams, train an adapter.

import { afterEach, beforeEach, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { AutoModelForCausalLM, AutoTokenizer, OptionError, type PreTrainedModel } from "../../src/index.js";
import {
  Dataset,
  DPOConfig,
  IterableDataset,
  SFTConfig,
  SFTTrainer,
  type SFTTrainerOptions,
  TrainingArguments,
} from "../../src/train.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { STORYTELLER } from "../support/models.js";
import { temporary } from "../support/temporary.js";

const ROWS = [
  { text: "Once upon a time there was a robot who lived on the moon." },
  { text: "The robot found a key." },
  { prompt: "Who lived on the moon?", completion: " A robot." },
  { text: "And the robots danced on the moon all night." },
];

let device: Device;
let model: PreTrainedModel;
beforeEach(async () => {
  device = await requestTestDevice("cpu");
  model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device });
});
afterEach(async () => {
  model.dispose();
  expectNoLeaks(device);
  await device.close();
});

const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
tokenizer.padding_side = "right";
const trained = (options: Partial<SFTTrainerOptions> & { readonly args: object }): SFTTrainer =>
  new SFTTrainer({ model, processing_class: tokenizer, peft_config: { r: 4 }, ...options });
const COMMON = { output_dir: temporary("sft"), save_strategy: "no", learning_rate: 0.01, logging_steps: 1 } as const;

test("texts and completions from memory, evaluated", async () => {
  const args = new SFTConfig({
    ...COMMON,
    num_train_epochs: 4,
    per_device_train_batch_size: 2,
    eval_strategy: "epoch",
  });
  expect([args.learning_rate, new SFTConfig().learning_rate, new SFTConfig().logging_steps]).toEqual([0.01, 2e-5, 10]);
  const trainer = trained({ args, train_dataset: ROWS, eval_dataset: Dataset.from_list(ROWS) });
  const { global_step } = await trainer.train();
  expect(global_step).toBe(8);
  const losses = trainer.state.log_history.flatMap(({ eval_loss }) => eval_loss ?? []);
  expect(losses.length).toBe(4);
  expect(losses.at(-1)!).toBeLessThan(losses[0]!);
});

test("a packed row has the loss of its texts one by one", async () => {
  const run = async (packing: boolean): Promise<number> => {
    const args = { ...COMMON, packing, max_length: 64, max_steps: 1, per_device_train_batch_size: packing ? 1 : 4 };
    const trainer = trained({ args, train_dataset: ROWS });
    expect(trainer.train_dataset).toHaveLength(packing ? 1 : 4);
    await trainer.train();
    model.delete_adapter("default");
    return trainer.state.log_history[0]!.loss!;
  };
  // Sums of 50 losses in another order.
  expect(await run(true)).toBeCloseTo(await run(false), 3);
});

test("a stream", async () => {
  const stream = IterableDataset.from_generator(() => ROWS).shuffle({ seed: 1, buffer_size: 2 });
  const trainer = trained({ args: { ...COMMON, max_steps: 3, per_device_train_batch_size: 2 }, train_dataset: stream });
  await trainer.train();
  expect(trainer.state.log_history.flatMap(({ loss }) => loss ?? []).length).toBe(3);
});

test("TrainingArguments are taken as they are", () => {
  const { args } = trained({ args: new TrainingArguments({ max_steps: 3, seed: 5 }), train_dataset: ROWS });
  expect(args).toMatchObject({ max_steps: 3, seed: 5, learning_rate: 5e-5, logging_steps: 500 });
  expect(args).toBeInstanceOf(SFTConfig);
  expect([...args.given]).not.toContain("save_strategy");
});

test("what is wrong is refused, and the model stays as it is", () => {
  const wrong: [Partial<SFTTrainerOptions>, RegExp][] = [
    [{ args: { packing: 3 } as never }, /packing must be true or false/],
    [{ args: { max_lenght: 3 } as never }, /unknown option `max_lenght`/],
    [{ train_dataset: 3 as never }, /train_dataset must be a Dataset/],
    [{ train_dataset: [{ prompt: "a" }] }, /example 0: expected text/],
    [{ processing_class: {} as never }, /must be the tokenizer/],
    [{ model: {} as never }, /expected a language model/],
    [{ args: { eval_strategy: "epoch" }, train_dataset: ROWS }, /needs an eval_dataset/],
    [{ callbacks: [3 as never] }, /callbacks are objects/],
    [{ args: new DPOConfig() }, /args are the config of another trainer/],
    [{ peft_config: { rank: 3 } as never }, /unknown option `rank`/],
  ];
  for (const [options, message] of wrong) {
    const make = () => trained({ args: COMMON, ...options } as never);
    expect(make).toThrow(OptionError);
    expect(make).toThrow(message);
  }
  expect(model.adapters).toBeUndefined();
});
