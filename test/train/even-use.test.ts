// The loss for an even use of experts (output_router_logits, router_aux_loss_coef), against transformers (test/fixtures/make_even_use.py).

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { AutoModelForCausalLM, AutoTokenizer, get_peft_model, type PreTrainedModel } from "../../src/index.js";
import { manual_seed } from "../../src/nn/init.js";
import { DPOTrainer, SFTTrainer, Trainer } from "../../src/train.js";
import { STORYTELLER } from "../support/cli.js";
import { DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";
import { gpu } from "../support/webgpu.js";

interface Losses {
  aux_loss: number;
  loss: number;
  bare: number;
}
interface Case {
  input_ids: number[][];
  attention_mask: number[][];
  plain: Losses;
  masked: Losses;
  trainer: { rows: number[][]; losses: number[]; learning_rate: number; max_steps: number };
}
const { weight, cases } = readJson<{ weight: number; cases: Record<string, Case> }>("torch", "even_use.json");
const golden = readArrays("torch", "even_use.safetensors");

/** The folder of a model whose config.json says more. */
function folderOf(name: string, more: object): string {
  const folder = temporary("even-use");
  cpSync(join(FIXTURES, "models", name), folder, { recursive: true });
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, router_aux_loss_coef: weight, ...more }));
  return folder;
}

const off = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
  Array.from(a).reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);
const NAMES = Object.keys(cases);

describe.each([...DEVICES, ...(gpu ? ["webgpu"] : [])])("%s", { timeout: 240_000 }, (on) => {
  let device: Device;
  let model: PreTrainedModel;
  beforeEach(async () => {
    device = await requestTestDevice(on);
  });
  afterEach(async () => {
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });
  const open = async (name: string, more: object = {}): Promise<void> => {
    model = await AutoModelForCausalLM.from_pretrained(folderOf(name, more), { device, dtype: "float32" });
  };

  // The plain loops and a GPU in software are slow: they do one.
  describe.each(on === "cpu" ? NAMES : NAMES.slice(0, 1))("%s", (name) => {
    const { input_ids, attention_mask, ...kinds } = cases[name]!;
    const batchOf = (kind: "plain" | "masked") => {
      const labels = input_ids.map((row, r) => row.map((id, t) => (attention_mask[r]![t] === 0 ? -100 : id)));
      return kind === "plain" ? { input_ids, labels: input_ids } : { input_ids, labels, attention_mask };
    };

    test.each(["plain", "masked"] as const)("%s: losses and gradients are transformers'", async (kind) => {
      await open(name);
      model.requires_grad_();
      const want = kinds[kind];
      // Sums of f32 in another order.
      const near = (got: number, to: number): void => expect(Math.abs(got - to)).toBeLessThan(1e-5 * to);
      const bare = model.forward({ ...batchOf(kind), skip_logits: true });
      near((await bare.loss.readFloats())[0]!, want.bare);
      bare.loss.dispose();
      for (const checkpoints of [false, true]) {
        if (checkpoints) model.gradient_checkpointing_enable();
        const out = model.forward({ ...batchOf(kind), output_router_logits: true, skip_logits: checkpoints });
        const { loss, aux_loss, router_logits, ...rest } = out;
        near((await loss!.readFloats())[0]!, want.loss);
        near((await aux_loss!.readFloats())[0]!, want.aux_loss);
        const first = golden.get(`${name}.${kind}.router_logits`)!;
        expect(router_logits![0]!.shape).toEqual(first.shape);
        // Scores of padding see other tokens here than there.
        const real = attention_mask.flat().map((one) => kind === "plain" || one === 1);
        const scores = await router_logits![0]!.readFloats();
        const E = first.shape[1]!;
        const counted = (all: ArrayLike<number>): number[] =>
          Array.from(all).filter((_, at) => real[Math.floor(at / E)]);
        expect(off(counted(scores), counted(first.values as ArrayLike<number>))).toBeLessThan(1e-4);
        await model.backward(loss!);
        for (const one of [loss!, aux_loss!, ...router_logits!]) one.dispose();
        if ("logits" in rest) rest.logits.dispose();
        const parameters = new Map(model.named_parameters());
        const keys = [...golden.keys()].filter((key) => key.startsWith(`${name}.${kind}.model.`));
        expect(keys).toHaveLength(3);
        for (const key of keys) {
          const own = key
            .replace(`${name}.${kind}.`, "")
            .replace("mlp.gate", name === "mixtral" ? "block_sparse_moe.gate" : "mlp.gate");
          const { values } = golden.get(key)!;
          const got = await parameters.get(own)!.grad!.readFloats();
          expect(off(got, values), key).toBeLessThan(1e-4);
        }
        model.zero_grad();
      }
      model.requires_grad_(false);
    });
  });
});

describe("trainers", { timeout: 240_000 }, () => {
  let device: Device;
  let model: PreTrainedModel;
  beforeEach(async () => {
    device = await requestTestDevice("cpu");
  });
  afterEach(async () => {
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });
  const open = async (name: string, more: object = {}): Promise<void> => {
    model = await AutoModelForCausalLM.from_pretrained(folderOf(name, more), { device, dtype: "float32" });
  };

  test("the Trainer does what config.json says, with each batch of an update", async () => {
    for (const name of NAMES) {
      const { rows, losses, learning_rate, max_steps } = cases[name]!.trainer;
      await open(name, { output_router_logits: true });
      const trainer = new Trainer({
        model,
        train_dataset: rows.map((input_ids) => ({ input_ids, labels: input_ids })),
        args: {
          ...{ learning_rate, max_steps, per_device_train_batch_size: 2, gradient_accumulation_steps: 2 },
          ...{
            logging_steps: 1,
            lr_scheduler_type: "constant",
            train_sampling_strategy: "sequential",
            save_strategy: "no",
          },
        },
      });
      await trainer.train();
      const got = trainer.state.log_history.flatMap(({ loss }) => (loss === undefined ? [] : [loss as number]));
      expect(got).toHaveLength(losses.length);
      for (const [i, want] of losses.entries()) expect(Math.abs(got[i]! / want - 1), `${name} ${i}`).toBeLessThan(1e-5);
      if (name !== NAMES.at(-1)) model.dispose();
    }
  });

  test("SFT and DPO add it by themselves, as TRL does; 0 turns it off", async () => {
    await open("mixtral", { output_router_logits: true });
    const processing_class = await AutoTokenizer.from_pretrained(STORYTELLER);
    const small = (ids: number[]): number[] => ids.map((id) => id % 150);
    const rows = [{ input_ids: small([5, 900, 17, 333, 20]), labels: small([5, 900, 17, 333, 20]) }];
    const firstLoss = async (trainer: Trainer): Promise<number> => {
      await trainer.train();
      return trainer.state.log_history[0]!.loss as number;
    };
    const { loss, aux_loss, logits, router_logits } = model.forward({
      ...rows[0]!,
      input_ids: [rows[0]!.input_ids],
      labels: [rows[0]!.labels],
      output_router_logits: true,
      router_aux_loss_coef: 0,
    });
    const [[bare], [uneven]] = await Promise.all([loss!.readFloats(), aux_loss!.readFloats()]);
    for (const one of [loss!, aux_loss!, logits, ...router_logits!]) one.dispose();
    manual_seed(1);
    await get_peft_model(model, { r: 2, target_modules: ["q_proj"] });
    const args = { max_steps: 1, logging_steps: 1, save_strategy: "no", learning_rate: 0, max_length: null } as const;
    for (const [coefficient, want] of [
      [undefined, bare! + 0.001 * uneven!],
      [2, bare! + 2 * uneven!],
      [0, bare!],
    ] as const) {
      const given = coefficient === undefined ? {} : { router_aux_loss_coef: coefficient };
      const got = await firstLoss(
        new SFTTrainer({ model, processing_class, train_dataset: rows, args: { ...args, ...given } }),
      );
      expect(Math.abs(got - want)).toBeLessThan(1e-5 * want);
    }
    const pair = { prompt_ids: small([5, 900]), chosen_ids: small([17, 333]), rejected_ids: small([20, 21]) };
    const dpo = (router_aux_loss_coef: number): Promise<number> =>
      firstLoss(
        new DPOTrainer({ model, processing_class, train_dataset: [pair], args: { ...args, router_aux_loss_coef } }),
      );
    // The adapter changes nothing yet: all answers are as likely as by the reference.
    expect(await dpo(0)).toBeCloseTo(Math.log(2), 5);
    const more = (await dpo(1)) - Math.log(2);
    expect(more).toBeGreaterThan(1);
    expect(((await dpo(2)) - Math.log(2)) / more).toBeCloseTo(2, 4);
  });
});

test("a model without experts has no scores of them", async () => {
  const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"));
  expect(() => model.forward({ input_ids: [[5, 6]], output_router_logits: true })).toThrow(/has no experts/);
  model.dispose();
});
