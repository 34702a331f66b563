// Checkpoints: a run that was stopped and resumed gives the bytes of one that was not; which checkpoints stay, and which is the best.

import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { AbortError, CheckpointError, NotFoundError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, get_peft_model, LoraConfig, type PreTrainedModel } from "../../src/index.js";
import { manual_seed } from "../../src/nn/init.js";
import {
  type AnyDataset,
  EarlyStoppingCallback,
  Trainer,
  type TrainerCallback,
  type TrainerOptions,
  type TrainingOptions,
} from "../../src/train.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

type Row = { input_ids: number[]; labels: number[] };
const DATA = readJson<{ train: Row[]; eval: Row[] }>("trainer.json");

/** The same examples as a stream, which is walked anew in each epoch. */
const STREAM: AnyDataset = {
  async *[Symbol.asyncIterator]() {
    yield* DATA.train.slice(0, 5);
  },
};

const LORA = { per_device_train_batch_size: 2, gradient_accumulation_steps: 2, max_steps: 9, learning_rate: 1e-2 };

describe("checkpoints", { timeout: 120_000 }, () => {
  let device: Device;
  const models: PreTrainedModel[] = [];
  beforeEach(async () => {
    device = await requestTestDevice("cpu");
  });
  afterEach(async () => {
    for (const model of models.splice(0)) model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  const load = async (adapter: boolean, base = "llama"): Promise<PreTrainedModel> => {
    const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", base), { device });
    models.push(model);
    if (!adapter) return model;
    manual_seed(3); // adapters begin alike
    return get_peft_model(model, new LoraConfig({ r: 4, lora_dropout: 0.2, target_modules: "all-linear" }));
  };
  const trainerOf = (model: PreTrainedModel, args: TrainingOptions, more: Partial<TrainerOptions> = {}): Trainer =>
    new Trainer({
      model,
      args: { logging_steps: 2, ...args },
      train_dataset: DATA.train,
      processing_class: { pad_token_id: 0 },
      ...more,
    });
  /** Fires a signal in the last event of an update. */
  const stopAt = (step: number): { callback: TrainerCallback; signal: AbortSignal } => {
    const controller = new AbortController();
    return {
      signal: controller.signal,
      callback: { on_step_end: (_, { global_step }) => void (global_step === step && controller.abort()) },
    };
  };
  const filesOf = (folder: string): Map<string, Buffer> =>
    new Map(
      readdirSync(folder).flatMap((name) =>
        name === "training_args.json" ? [] : [[name, readFileSync(join(folder, name))]],
      ),
    );

  test.each<[string, number, TrainingOptions, Partial<TrainerOptions>, boolean]>([
    ["LoRA with dropout, in the middle of an epoch", 6, LORA, {}, true],
    ["LoRA, between two epochs", 4, { ...LORA, lr_scheduler_type: "cosine", warmup_steps: 2 }, {}, true],
    ["a stream that is walked several times", 5, LORA, { train_dataset: STREAM }, true],
    [
      "all weights, states in 8 bits, lengths together",
      3,
      { ...LORA, max_steps: 5, optim: "adamw_8bit", train_sampling_strategy: "group_by_length", weight_decay: 0.1 },
      {},
      false,
    ],
  ])("%s: k updates and then the others give the bytes of all in one go", async (_, k, args, more, adapter) => {
    const [whole, parts] = [temporary("whole"), temporary("parts")];
    const once = trainerOf(await load(adapter), { ...args, output_dir: whole }, more);
    const result = await once.train();
    const { signal, callback } = stopAt(k);
    const first = trainerOf(await load(adapter), { ...args, output_dir: parts }, { ...more, callbacks: [callback] });
    await expect(first.train({ signal })).rejects.toThrow(AbortError);
    expect(readdirSync(parts)).toEqual([`checkpoint-${k}`]);
    const second = trainerOf(await load(adapter), { ...args, output_dir: parts }, more);
    const resumed = await second.train({ resume_from_checkpoint: true });
    const last = `checkpoint-${args.max_steps}`;
    const [want, got] = [filesOf(join(whole, last)), filesOf(join(parts, last))];
    expect([...got.keys()]).toEqual([...want.keys()]);
    for (const [name, bytes] of want) expect(got.get(name)!.equals(bytes), name).toBe(true);
    expect(resumed.training_loss).toBe(result.training_loss);
    expect(want.has(adapter ? "adapter_model.safetensors" : "model.safetensors")).toBe(true);
  });

  test("GPT-2's transposed matrices and tied head come back as they were", async () => {
    const output_dir = temporary("gpt2");
    const args = { ...LORA, max_steps: 2, output_dir };
    const model = await load(false, "gpt2");
    await trainerOf(model, args).train();
    const state = await model.state_dict();
    const again = await load(false, "gpt2");
    // Nothing is left to be done: the weights of the checkpoint are what the run ends with.
    await trainerOf(again, args).train({ resume_from_checkpoint: true });
    for (const [name, tensor] of await again.state_dict()) {
      expect(Buffer.from(await tensor.bytes()).equals(Buffer.from(await state.get(name)!.bytes())), name).toBe(true);
    }
  });

  // Of one that may stay the last goes at the end, as in transformers' Trainer.
  test.each([2, 1])(
    "the best model comes back at the end, and its checkpoint stays (of %i)",
    async (save_total_limit) => {
      const output_dir = temporary("best");
      const model = await load(true);
      const trainer = trainerOf(
        model,
        {
          ...LORA,
          ...{ output_dir, learning_rate: 0.3, lr_scheduler_type: "constant", max_steps: 12 },
          ...{ eval_strategy: "steps", eval_steps: 1, save_steps: 1, save_total_limit, load_best_model_at_end: true },
        },
        { eval_dataset: DATA.eval, callbacks: [new EarlyStoppingCallback({ early_stopping_patience: 3 })] },
      );
      await trainer.train();
      const { log_history, best_metric, best_global_step, best_model_checkpoint, global_step } = trainer.state;
      const losses = log_history.flatMap(({ eval_loss, step }) => (eval_loss === undefined ? [] : [[step, eval_loss]]));
      const [step, loss] = losses.reduce((best, one) => (one[1]! < best[1]! ? one : best));
      expect([best_global_step, best_metric]).toEqual([step, loss]);
      // A rate this high soon makes it worse: three evaluations later the run ends.
      expect(global_step).toBe(step! + 3);
      const kept = save_total_limit === 1 ? [step] : [step, global_step];
      expect(readdirSync(output_dir).sort()).toEqual(kept.map((one) => `checkpoint-${one}`).sort());
      expect(best_model_checkpoint).toBe(`${output_dir}/checkpoint-${step}`);
      expect((await trainer.evaluate()).eval_loss).toBe(loss);
    },
  );

  test("what cannot be resumed is refused by name, and the model stays as it was", async () => {
    const output_dir = temporary("refused");
    const model = await load(true);
    const trainer = trainerOf(model, { ...LORA, max_steps: 2, output_dir });
    await expect(trainer.train({ resume_from_checkpoint: true })).rejects.toThrow(NotFoundError);
    await trainer.train();
    const folder = join(output_dir, "checkpoint-2");
    const saved = readFileSync(join(folder, "training_state.json"), "utf8");
    const before = await (await model.get_adapter_state_dict()).values().next().value!.bytes();
    const fails = async (error: new (...args: never) => Error, text: RegExp): Promise<void> => {
      const failing = trainer.train({ resume_from_checkpoint: folder });
      await expect(failing).rejects.toThrow(error);
      await expect(failing).rejects.toThrow(text);
    };
    writeFileSync(join(folder, "training_state.json"), saved.replace('"batches": ', '"batches": -'));
    await fails(CheckpointError, /not what a Trainer writes/);
    rmSync(join(folder, "training_state.json"));
    await fails(NotFoundError, /no training_state.json/);
    const after = await (await model.get_adapter_state_dict()).values().next().value!.bytes();
    expect(Buffer.from(after).equals(Buffer.from(before))).toBe(true);
  });

  test("save_model and save_only_model write what from_pretrained and load_adapter read", async () => {
    const output_dir = temporary("only");
    const model = await load(true);
    const trainer = trainerOf(model, { ...LORA, max_steps: 2, output_dir, save_only_model: true });
    await trainer.train();
    await trainer.save_model();
    expect(existsSync(join(output_dir, "checkpoint-2", "optimizer.safetensors"))).toBe(false);
    const [a, b] = ["adapter_model.safetensors", join("checkpoint-2", "adapter_model.safetensors")].map((name) =>
      readFileSync(join(output_dir, name)),
    );
    expect(a!.equals(b!)).toBe(true);
    const other = await load(false);
    await other.load_adapter(output_dir);
    const logits = async (one: PreTrainedModel): Promise<Float32Array> => {
      const { logits } = one.forward({ input_ids: DATA.eval[0]!.input_ids });
      using _ = logits;
      return (await logits.readFloats()).slice();
    };
    expect(await logits(other)).toEqual(await logits(model));
  });
});
