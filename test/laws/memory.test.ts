// Law: memory that runs out leaves nothing behind, whichever allocation it meets. Each piece of work runs again and again,
// and the n-th allocation of the n-th run is refused. No number matters: WebGPU is Dawn's null backend, which computes nothing.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openWebGPU } from "../../src/backends/webgpu/index.js";
import { openCheckpoint } from "../../src/checkpoints/checkpoint.js";
import { Device } from "../../src/core/device.js";
import { NotFoundError, OutOfMemoryError } from "../../src/core/errors.js";
import { perplexity } from "../../src/eval/perplexity.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { fill } from "../../src/load/fill.js";
import { readConfigJson } from "../../src/load/index.js";
import { plan } from "../../src/load/plan.js";
import { fillRandomly } from "../../src/load/random.js";
import { architectureOf, buildModel, taskOf } from "../../src/models/index.js";
import type { Scheme } from "../../src/nn/weight.js";
import { BitsAndBytesConfig } from "../../src/quant/config.js";
import { fourBitScheme } from "../../src/quant/four-bit.js";
import { schemeOf } from "../../src/quant/index.js";
import { llmInt8Scheme } from "../../src/quant/llm-int8.js";
import { Disk } from "../../src/sources/disk.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { gpu, idle } from "../support/webgpu.js";

const folder = join(FIXTURES, "models", "llama");
const transposed = join(FIXTURES, "models", "gpt2");
const input_ids = [
  [1, 5, 9, 4],
  [1, 7, 8, 2],
];

/** Runs `work` with each of its allocations refused once, until it gets through. Gives the number of allocations. */
async function starve(device: Device, work: () => Promise<void>): Promise<number> {
  const { live } = device.memory;
  const allocate = device.allocate.bind(device);
  try {
    for (let n = 1; ; n++) {
      let left = n;
      device.allocate = (bytes, label) => {
        if (--left === 0) throw new OutOfMemoryError(`${label} is refused`);
        return allocate(bytes, label);
      };
      const error = await work().then(
        () => undefined,
        (e: unknown) => e,
      );
      const owners = device.arena.owners().map(({ label, bytes }) => `${label}: ${bytes}`);
      expect(device.memory.live, `allocation ${n}: ${String(error)}; live: ${owners.join(", ")}`).toBe(live);
      if (left > 0) {
        expect(error).toBeUndefined();
        return n - 1;
      }
      expect(error).toBeInstanceOf(OutOfMemoryError);
    }
  } finally {
    device.allocate = allocate;
  }
}

const SCHEMES: [string, FromPretrainedOptions][] = [
  ["dense f32", {}],
  ["dense bf16", { dtype: "bfloat16" }],
  ["int8", { load_in_8bit: true }],
  ["nf4", { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } }],
  ["nf4 twice", { quantization_config: { load_in_4bit: true, bnb_4bit_use_double_quant: true } }],
  // Blocks that reach across rows are kept in rows.
  ["fp4, long blocks", { quantization_config: { load_in_4bit: true, bnb_4bit_blocksize: 4096 } }],
];

describe.each(["cpu", "reference", ...(gpu ? ["webgpu"] : [])])("%s: nothing is left when memory runs out", (name) => {
  let device: Device;
  beforeAll(async () => {
    if (name === "webgpu") device = new Device(await openWebGPU(await idle()));
    else device = openDevice(name, name === "cpu" ? { threads: 1 } : {});
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  test.each(SCHEMES)("while a model loads: %s", async (_, options) => {
    // Transposed files take another way only where values are read, which is the host's.
    for (const from of name === "webgpu" ? [folder] : [folder, transposed]) {
      const count = await starve(device, async () => {
        const model = await AutoModelForCausalLM.from_pretrained(from, { device, ...options });
        model.dispose();
      });
      expect(count).toBeGreaterThan(20);
    }
  });

  // Work on bf16 allocates what f32 does, and "nf4" a part of "nf4 twice", which has the most tensors.
  // Each run is the work up to one allocation, so that time grows with the square of their number.
  const storages = { reference: ["nf4 twice"], webgpu: ["int8", "nf4 twice"] }[name] ?? [
    ...["dense f32", "int8", "nf4 twice", "fp4, long blocks"],
  ];
  test("while it generates, scores, and gives its matrices back", { timeout: 240_000 }, async () => {
    for (const [storage, options] of SCHEMES) {
      if (!storages.includes(storage)) continue;
      const model = await AutoModelForCausalLM.from_pretrained(folder, { device, ...options });
      const most = { input_ids, max_new_tokens: 3, eos_token_id: null };
      const mask = {
        attention_mask: [
          [0, 1, 1, 1],
          [1, 1, 1, 1],
        ],
      }; // prettier-ignore
      await starve(device, async () => void (await model.generate(most)));
      await starve(
        device,
        async () =>
          void (await model.generate({ ...most, ...mask, do_sample: true, seed: 1, repetition_penalty: 1.3 })),
      );
      await starve(
        device,
        async () => void (await model.generate({ ...most, input_ids: input_ids[0]!, prompt_lookup_num_tokens: 2 })),
      );
      await starve(device, async () => model.forward({ input_ids, ...mask }).logits.dispose());
      await starve(device, async () => void (await perplexity(model, [1, 4, 2, 8, 5, 7], { window: 4, stride: 2 })));
      await starve(device, async () => {
        for (const parameter of model.module.parameters()) {
          if ("product" in parameter && parameter.product) parameter.weight.dense("f16").dispose();
        }
      });
      model.dispose();
    }
  });
});

test.each(["none", "llm_int8", "nf4"])("while a model is filled with random values: %s", async (quantization) => {
  const device = openDevice("cpu", { threads: 1 });
  const config = { ...(await readConfigJson(new Disk(folder))), num_hidden_layers: 1 };
  const scheme = {
    none: undefined,
    llm_int8: llmInt8Scheme(6),
    nf4: fourBitScheme({ kind: "nf4", blocksize: 64, double_quant: true, compute: "f32" }),
  }[quantization];
  const count = await starve(device, async () => {
    const model = await buildModel(config, "causal-lm");
    try {
      await fillRandomly(device, model, { dtype: "bf16", scheme });
    } finally {
      model.dispose();
    }
  });
  expect(count).toBeGreaterThan(20);
  expectNoLeaks(device);
  await device.close();
});

test("while an adapter is merged into codes", async () => {
  const device = openDevice("cpu", { threads: 1 });
  const model = await AutoModelForCausalLM.from_pretrained(folder, { device, load_in_8bit: true });
  const count = await starve(device, async () => {
    try {
      model.add_adapter({ r: 1, target_modules: ["q_proj"], use_dora: true });
      await model.merge_adapter();
      model.unmerge_adapter();
      expect(model.adapters!.choice.merged.size).toBe(0);
    } finally {
      // What fails while adapters are taken out leaves them in.
      if (model.adapters) model.unload();
    }
  });
  expect(count).toBeGreaterThan(20);
  model.dispose();
  expectNoLeaks(device);
  await device.close();
});

test("a file that is gone while it is read leaves nothing", async () => {
  const gone = join(folder, "gone.safetensors");
  const device = openDevice("reference"); // reads through the host
  const config = await readConfigJson(new Disk(folder));
  const architecture = await architectureOf(config);
  const checkpoint = await openCheckpoint(new Disk(folder));
  const schemes: (Scheme | undefined)[] = [undefined, schemeOf(new BitsAndBytesConfig({ load_in_8bit: true }))];
  for (const scheme of schemes) {
    for (let n = 0; ; n++) {
      const model = taskOf(architecture, "causal-lm")(config);
      const steps = plan(model, architecture, checkpoint, { dtype: "f32", scheme });
      if (n === steps.items.length) break;
      const items = steps.items.map((item, i) =>
        i === n
          ? { ...item, parts: item.parts.map((part) => ({ ...part, from: { ...part.from, file: gone } })) }
          : item,
      );
      await expect(fill(device, { ...steps, items }, { name: "x", dtype: "f32" })).rejects.toThrow(NotFoundError);
      model.dispose();
      expectNoLeaks(device);
    }
  }
  await device.close();
});
