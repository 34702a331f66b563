// Training in a Worker: what a page gets is what an SFTTrainer learns, and what stays behind is nothing but that.

import { cpSync } from "node:fs";
import { join } from "node:path";
import { MessageChannel } from "node:worker_threads";
import { afterAll, beforeAll, expect, test } from "vitest";
import { WorkerHost, type WorkerLike } from "../../src/browser/client.js";
import type { WorkerTrained, WorkerTrainingStep } from "../../src/browser/protocol.js";
import { type Port, serve } from "../../src/browser/worker.js";
import { AbortError, AutoModelForCausalLM, AutoTokenizer, OptionError, requestDevice } from "../../src/index.js";
import { manual_seed } from "../../src/nn.js";
import { SFTTrainer } from "../../src/train.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";
import { type Site, serveFolder } from "./bundle.js";

const EXAMPLES = ["the cat sat on the mat", "a dog ran", "the dog sat on a cat", "the cat ran"].map((text) => ({
  text,
}));
const ARGS = { max_steps: 3, per_device_train_batch_size: 2, learning_rate: 0.01, seed: 5 };
const LORA = { r: 4, target_modules: ["q_proj", "v_proj"] };
const PROMPT = { prompt: "the cat", max_new_tokens: 8, do_sample: false };

let site: Site;
let host: WorkerHost;
const { port1: page, port2: worker } = new MessageChannel();

beforeAll(async () => {
  const folder = temporary("trained");
  cpSync(join(FIXTURES, "models", "llama"), folder, { recursive: true });
  for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
    cpSync(join(FIXTURES, "dpo", name), join(folder, name));
  }
  site = await serveFolder(folder);
  serve(worker as unknown as Port);
  host = new WorkerHost(Object.assign(page, { terminate: () => page.close() }) as unknown as WorkerLike);
  await host.load(`${site.address}/`, { device: "reference", dtype: "float32" });
});
afterAll(async () => {
  await host.dispose();
  page.close();
  await site.stop();
});

const text = async (): Promise<string> => (await host.generate(PROMPT)).text;
let base: string;
let trained: WorkerTrained;

test("learns what an SFTTrainer learns, and gives PEFT's files", async () => {
  base = await text();
  const steps: WorkerTrainingStep[] = [];
  trained = await host.train({
    train_dataset: EXAMPLES,
    args: ARGS,
    peft_config: LORA,
    step: (step) => void steps.push(step),
  });
  expect(steps.filter(({ logs }) => logs.loss !== undefined).map(({ step, steps: all }) => [step, all])).toEqual([
    [1, 3],
    [2, 3],
    [3, 3],
  ]);
  expect(Object.keys(trained.files).sort()).toEqual(["adapter_config.json", "adapter_model.safetensors"]);

  await using device = await requestDevice("reference");
  await using model = await AutoModelForCausalLM.from_pretrained(site.folder, { device, dtype: "float32" });
  const processing_class = await AutoTokenizer.from_pretrained(site.folder);
  manual_seed(ARGS.seed);
  model.add_adapter(LORA);
  const args = { ...ARGS, logging_steps: 1, save_strategy: "no" as const };
  const trainer = new SFTTrainer({ model, args, processing_class, train_dataset: EXAMPLES });
  const { training_loss } = await trainer.train();
  expect(trained.training_loss).toBe(training_loss);
  expect(trained.trainable_parameters).toBe(model.get_nb_trainable_parameters()[0]);
  // Its own file gives the same logits: an adapter that is loaded again works as the one that learned.
  const { input_ids } = processing_class("the cat");
  const learned = await model.generate({ input_ids: [input_ids], max_new_tokens: 8, do_sample: false });
  await model.load_adapter(trained.files, "again");
  expect(model.active_adapters()).toEqual(["again"]);
  expect(await model.generate({ input_ids: [input_ids], max_new_tokens: 8, do_sample: false })).toEqual(learned);
  expect(await text()).toBe(
    processing_class.decode(learned[0]!.slice(input_ids.length), { skip_special_tokens: true }),
  );
});

test("works until it is disabled or deleted, and again from its files", async () => {
  const changed = await text();
  expect(changed).not.toBe(base);
  expect(await host.disable_adapters()).toEqual({ names: ["default"], active: [] });
  expect(await text()).toBe(base);
  expect(await host.enable_adapters()).toEqual({ names: ["default"], active: ["default"] });
  expect(await text()).toBe(changed);
  expect(await host.delete_adapter("default")).toEqual({ names: [], active: [] });
  expect(await text()).toBe(base);
  expect(await host.load_adapter(trained.files, "kept")).toEqual({ names: ["kept"], active: ["kept"] });
  expect(await text()).toBe(changed);
});

test("what fails or is aborted leaves the model as it was", async () => {
  const changed = await text();
  const { live } = await host.memory();
  const aborted = new AbortController();
  const run = { train_dataset: EXAMPLES, peft_config: LORA, adapter_name: "next" };
  const long = host.train({
    ...run,
    args: { ...ARGS, max_steps: 1000 },
    step: () => aborted.abort(),
    signal: aborted.signal,
  });
  await expect(long).rejects.toThrow(AbortError);
  await expect(host.train({ ...run, args: { learning_rat: 1 } as object })).rejects.toThrow(
    /did you mean `learning_rate`/,
  );
  await expect(host.train({ ...run, train_dataset: [{ words: "x" }] })).rejects.toThrow(OptionError);
  await expect(host.train({ train_dataset: EXAMPLES, adapter_name: "none" })).rejects.toThrow(/no adapter none/);
  await expect(host.load_adapter({ "adapter_config.json": new Uint8Array(3) }, "broken")).rejects.toThrow(/adapter_/);
  expect(await host.set_adapter("kept")).toEqual({ names: ["kept"], active: ["kept"] });
  expect((await host.memory()).live).toBe(live);
  expect(await text()).toBe(changed);
});

test("an adapter that is there learns more", async () => {
  const more = await host.train({ train_dataset: EXAMPLES, args: { ...ARGS, max_steps: 1 }, adapter_name: "kept" });
  expect(more.adapter_name).toBe("kept");
  expect(more.files["adapter_model.safetensors"]).not.toEqual(trained.files["adapter_model.safetensors"]);
});
