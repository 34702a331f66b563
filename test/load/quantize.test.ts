// A checkpoint that is quantized file by file is what a loaded model saves, and takes the memory of one file.

import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { FOLDERS } from "../../src/checkpoints/folder-write.js";
import { AbortError, OptionError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, AutoModelForSeq2SeqLM } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import type { ProgressEvent } from "../../src/load/fill.js";
import { type QuantizeOptions, quantizeCheckpoint } from "../../src/load/quantize.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../../src/quant/config.js";
import { Disk } from "../../src/sources/disk.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";
import { temporary } from "../support/temporary.js";

const device = openDevice("cpu", { threads: 2 });
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

function quantize(from: string, into: string, config: BitsAndBytesOptions, more: Partial<QuantizeOptions> = {}) {
  const quantization = new BitsAndBytesConfig(config);
  return quantizeCheckpoint(new Disk(from), into, FOLDERS, {
    ...{ device, name: "model", dtype: "auto", quantization },
    ...more,
  });
}

const NF4 = { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true } as const;

test.each([
  ["llama", { load_in_8bit: true }],
  ["llama", NF4],
  ["gpt2", { load_in_8bit: true }], // transposed matrices
  ["mixtral", NF4], // stacks of experts
  ["t5", { load_in_4bit: true }], // an encoder and a decoder
] as const)("%s %o: byte for byte what the loaded model saves", async (name, config) => {
  const from = join(FIXTURES, "models", name);
  const [streamed, whole] = [temporary(name), temporary(name)];
  const { files } = await quantize(from, streamed, config);
  const loader = name === "t5" ? AutoModelForSeq2SeqLM : AutoModelForCausalLM;
  await using model = await loader.from_pretrained(from, { device, quantization_config: config });
  await model.save_pretrained(whole);
  expect(readdirSync(streamed).sort()).toEqual(readdirSync(whole).sort());
  expect([...files].sort()).toEqual(readdirSync(streamed).sort());
  for (const file of files)
    expect(readFileSync(join(streamed, file)).equals(readFileSync(join(whole, file)))).toBe(true);
});

test("takes the memory of a file of weights and a few pieces, and reports one progress", async () => {
  const into = temporary("storyteller");
  const allocate = device.allocate.bind(device);
  let most = 0;
  device.allocate = (bytes, label) => {
    const made = allocate(bytes, label);
    most = Math.max(most, device.memory.live);
    return made;
  };
  const events: ProgressEvent[] = [];
  let saved: Awaited<ReturnType<typeof quantize>>;
  try {
    const options = { max_shard_size: "1MB", progress_callback: (event: ProgressEvent) => void events.push(event) };
    saved = await quantize(STORYTELLER, into, { load_in_8bit: true }, options);
  } finally {
    device.allocate = allocate;
  }
  const shards = saved.files.filter((name) => name.endsWith(".safetensors"));
  expect(shards.length).toBeGreaterThan(5);
  // The largest tensor, which has a file of its own, in bf16: the embedding. It is there twice while it is copied.
  const largest = 4096 * 256 * 2;
  expect(Math.max(...shards.map((name) => statSync(join(into, name)).size))).toBeLessThan(largest + 10_000);
  expect(most).toBeGreaterThan(largest);
  expect(most).toBeLessThan(2.5 * largest);
  expect(saved.bytes).toBeGreaterThan(2 * most - largest);
  const loaded = events.map((event) => event.loaded);
  expect(loaded).toEqual([...loaded].sort((a, b) => a - b));
  expect(events.at(-1)).toMatchObject({ status: "done", progress: 100 });
  expect(events.filter(({ status }) => status === "done")).toHaveLength(1);
  await using model = await AutoModelForCausalLM.from_pretrained(into, { device });
  expect(model.quantized_modules.length).toBeGreaterThan(30);
});

test("what is quantized already is refused, and an abort leaves no folder", async () => {
  const into = temporary("refused");
  const stored = join(FIXTURES, "checkpoints", "llama", "bnb-int8");
  await expect(quantize(stored, into, { load_in_8bit: true })).rejects.toThrow(/quantized already: llm_int8/);
  await expect(quantize(stored, into, NF4)).rejects.toBeInstanceOf(OptionError);
  const at = new AbortController();
  const work = quantize(STORYTELLER, into, NF4, {
    signal: at.signal,
    max_shard_size: "500KB",
    progress_callback: ({ loaded }) => {
      if (loaded > 2_000_000) at.abort();
    },
  });
  await expect(work).rejects.toBeInstanceOf(AbortError);
  expect(existsSync(into)).toBe(false);
  expect(readdirSync(dirname(into)).filter((name) => name.includes("refused"))).toEqual([]);
});
