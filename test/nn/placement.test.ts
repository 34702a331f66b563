// Models on several devices, and weights that come when their block is about to run: the same bits as on one device with
// all weights there, in a forward pass, with a cache, and replayed.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { NativeBackend } from "../../src/backends/native/index.js";
import type { Device } from "../../src/core/device.js";
import { DeviceError, FormatError, KernelError, OctavoError, OutOfMemoryError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { openDevice } from "../../src/load/device.js";
import { writeOffload } from "../../src/load/offload.js";
import type { CausalLM } from "../../src/nn/decoder.js";
import type { Module } from "../../src/nn/module.js";
import { BlockPlacement, onFile, onHost, tensorsOf } from "../../src/nn/placement.js";
import type { Scheme } from "../../src/nn/weight.js";
import { fourBitScheme } from "../../src/quant/four-bit.js";
import { llmInt8Scheme } from "../../src/quant/llm-int8.js";
import { o4Scheme } from "../../src/quant/o4.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES } from "../support/fixtures.js";
import { logitsOf, randomModel } from "../support/models.js";
import { gpu } from "../support/webgpu.js";

const LLAMA = join(FIXTURES, "models", "llama");
const IDS = [
  [3, 1, 4, 1, 5, 9, 2, 6],
  [2, 7, 1, 8, 2, 8, 1, 8],
];
const folder = mkdtempSync(join(tmpdir(), "octavo-placement-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A model of its own on each device; block i of the first is exchanged for that of device i. */
function spread(models: readonly CausalLM[], devices: readonly Device[]): BlockPlacement {
  const [first] = models;
  const blocks = first!.blocks[0]! as Module[];
  const placement = new BlockPlacement(devices[0]!);
  for (const [i, block] of blocks.entries()) {
    const other = models[i % models.length]!.blocks[0]! as Module[];
    blocks[i] = other[i]!;
    other[i] = block;
    placement.place(blocks[i]!);
  }
  first!.placement = placement;
  return placement;
}

async function closeAll(devices: readonly Device[]): Promise<void> {
  for (const device of devices) {
    expectNoLeaks(device);
    await device.close();
  }
}

const FIELDS = {
  hidden_size: 64,
  num_hidden_layers: 6,
  intermediate_size: 160,
  num_attention_heads: 4,
  vocab_size: 50,
};

/** A model of three blocks on a device, its logits, and the CPU's device beside. */
async function threeBlocks(name: string) {
  const device = await requestTestDevice(name);
  const cpu = openDevice("cpu", { threads: 1 });
  const model = await randomModel(device, { ...FIELDS, num_hidden_layers: 3 }, "f32");
  return { device, cpu, model, before: await logitsOf(device, model, IDS), blocks: model.blocks[0]! };
}

describe("by layers over logical devices", () => {
  test.each<[string, FromPretrainedOptions]>([
    ["dense", {}],
    ["int8", { load_in_8bit: true }],
    ["nf4", { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } }],
  ])("the fixture llama gives the same bits as on one: %s", async (_, options) => {
    const devices = [openDevice("cpu:0", { threads: 2 }), openDevice("cpu:1", { threads: 1 })];
    const models: PreTrainedModel[] = [];
    for (const device of devices)
      models.push(await AutoModelForCausalLM.from_pretrained(LLAMA, { device, ...options }));
    const [model] = models;
    const run = async (): Promise<unknown[]> => {
      const { logits } = model!.forward({ input_ids: IDS });
      const values = await logits.readFloats();
      logits.dispose();
      const cached = await logitsOf(devices[0]!, model!.module, IDS, { parts: [3, 1, 2, 1, 1], cache_dtype: "bf16" });
      const padded = await logitsOf(devices[0]!, model!.module, IDS, {
        parts: [4, 4],
        mask: [
          [0, 0, 1, 1, 1, 1, 1, 1],
          [1, 1, 1, 1, 1, 1, 1, 1],
        ],
      });
      const tokens = await model!.generate({ input_ids: IDS, max_new_tokens: 12 });
      const sampled = await model!.generate({
        input_ids: IDS,
        max_new_tokens: 12,
        do_sample: true,
        seed: 5,
        repetition_penalty: 1.2,
      });
      return [values, cached, padded, tokens, sampled];
    };
    const alone = await run();
    const recorded = devices[1]!.recorded;
    spread(
      models.map(({ module }) => module),
      devices,
    );
    expect(await run()).toEqual(alone);
    // The second device did its share, replays included.
    expect(devices[1]!.recorded).toBeGreaterThan(recorded + 24);
    for (const one of models) one.dispose();
    await closeAll(devices);
  });

  test.each(["bloom", "gpt2", "opt", "opt-350m-like"])("other architectures, too: %s", async (name) => {
    const devices = [openDevice("cpu:0", { threads: 1 }), openDevice("cpu:1", { threads: 1 })];
    const models: PreTrainedModel[] = [];
    const path = join(FIXTURES, "models", name);
    for (const device of devices) models.push(await AutoModelForCausalLM.from_pretrained(path, { device }));
    const run = (): Promise<number[][]> =>
      models[0]!.generate({ input_ids: IDS, max_new_tokens: 8, do_sample: false, eos_token_id: null });
    const alone = await run();
    spread(
      models.map(({ module }) => module),
      devices,
    );
    expect(await run()).toEqual(alone);
    for (const one of models) one.dispose();
    await closeAll(devices);
  });

  test("cpu, reference and webgpu in one model", async () => {
    const names = ["cpu", "reference", ...(gpu ? ["webgpu"] : [])];
    const devices = await Promise.all(names.map(requestTestDevice));
    const models = await Promise.all(devices.map((device) => randomModel(device, FIELDS, "f32")));
    const alone = await Promise.all(models.map((model, i) => logitsOf(devices[i]!, model, IDS)));
    spread(models, devices);
    // Sums in f32 in another order on each backend: no further from each than they are from one another.
    const apart = Math.max(...alone.map((rows) => difference(alone[0]![0]!, rows[0]!).max), 1e-5);
    const mixed = await logitsOf(devices[0]!, models[0]!, IDS, { parts: [5, 1, 1, 1] });
    for (const [b, row] of mixed.entries()) expect(difference(row, alone[0]![b]!).max).toBeLessThanOrEqual(4 * apart);
    for (const model of models) model.dispose();
    await closeAll(devices);
  });

  test("a failure on one of them is told by what is made of it; the next pass is well", async () => {
    const devices = [openDevice("cpu:0", { threads: 1 }), openDevice("cpu:1", { threads: 1 })];
    const models = await Promise.all(devices.map((device) => randomModel(device, FIELDS, "f32")));
    const [model] = models;
    const before = await logitsOf(devices[0]!, model!, IDS);
    spread(models, devices);
    const error = await logitsOf(devices[0]!, model!, [[3, 1000, 4]]).catch((e: Error) => e);
    expect(error).toBeInstanceOf(KernelError);
    expect((error as Error).message).toMatch(/^embedding in model\.embed_tokens: token id 1000/);
    expect(await logitsOf(devices[0]!, model!, IDS)).toEqual(before);
    for (const one of models) one.dispose();
    await closeAll(devices);
  });
});

const SCHEMES: [string, () => Scheme | undefined][] = [
  ["dense", () => undefined],
  ["int8", () => llmInt8Scheme(6)],
  ["nf4 twice", () => fourBitScheme({ kind: "nf4", blocksize: 64, double_quant: true, compute: "f32" })],
  ["o4", () => o4Scheme("int8")],
];

describe("weights that are fetched while the block before computes", () => {
  test.each(SCHEMES)("from a file: the same bits, and at most two blocks at once: %s", async (name, scheme) => {
    const device = openDevice("cpu:0", { threads: 2 });
    const model = await randomModel(device, FIELDS, "f32", scheme());
    const before = await logitsOf(device, model, IDS, { parts: [5, 1, 1, 1] });
    const blocks = model.blocks[0]!;
    const placement = new BlockPlacement(device);
    const { live } = device.memory;
    const bytes = blocks.map((block) => tensorsOf(block).reduce((sum, tensor) => sum + tensor.nbytes, 0));
    for (const [i, block] of blocks.entries()) {
      const file = join(folder, `${name}-${i}.bin`);
      placement.place(block, onFile(await writeOffload(tensorsOf(block), file)));
    }
    model.placement = placement;
    const all = bytes.reduce((sum, n) => sum + n, 0);
    const away = device.memory.live;
    expect(live - away).toBe(all);
    device.arena.resetPeak();
    const seen: number[] = [];
    // What of the blocks' memory is owned while a block is recorded.
    const count = (): void => void seen.push(blocks.filter((b) => tensorsOf(b).some((t) => t.resident)).length);
    const { enter } = placement;
    placement.enter = (...args) => {
      const h = enter.apply(placement, args);
      count();
      return h;
    };
    expect(await logitsOf(device, model, IDS, { parts: [5, 1, 1, 1] })).toEqual(before);
    expect(Math.max(...seen)).toBe(2);
    expect(seen.filter((n) => n === 2).length).toBe(4 * (blocks.length - 1));
    expect(device.memory.live).toBe(away);
    // Two blocks and what a pass takes beside them: less than all blocks.
    expect(device.memory.peak - away).toBeLessThan(all);
    const { loadsAhead, overlapped } = (device.backend as NativeBackend).loadCounts();
    expect(overlapped).toBeGreaterThan(0); // kernels of a block began while weights of the next were read
    expect(loadsAhead).toBe(4 * blocks.reduce((sum, block) => sum + tensorsOf(block).length, 0));
    model.dispose();
    placement.dispose();
    await closeAll([device]);
  });

  test("replayed steps fetch them anew each time: from a file, from another device, and some that stay", async () => {
    const devices = [openDevice("cpu:0", { threads: 2 }), openDevice("cpu:1", { threads: 1 })];
    const [device, host] = devices;
    const model = await AutoModelForCausalLM.from_pretrained(LLAMA, { device: device!, load_in_8bit: true });
    const options = { input_ids: IDS, max_new_tokens: 16, do_sample: false };
    const before = await model.generate(options);
    const [first, second] = model.module.blocks[0]!;
    using placement = new BlockPlacement(device!);
    placement.place(first!, onFile(await writeOffload(tensorsOf(first!), join(folder, "first.bin"))));
    placement.place(second!, onHost(tensorsOf(second!), host!));
    model.module.placement = placement;
    expect(placement.devices).toEqual(devices);
    expect(await model.generate(options)).toEqual(before);
    expect(await model.generate(options)).toEqual(before);
    model.dispose();
    placement.dispose();
    await closeAll(devices);
  });

  test.each(["reference", ...(gpu ? ["webgpu"] : [])])(
    "onto %s, which reads no files, by way of the cpu",
    async (name) => {
      const { device, cpu, model, before, blocks } = await threeBlocks(name);
      using placement = new BlockPlacement(device);
      expect(() => onFile([{ tensor: tensorsOf(blocks[0]!)[0]!, file: "x", position: 0 }])).toThrow(DeviceError);
      for (const [i, block] of blocks.entries()) {
        const tensors = tensorsOf(block);
        const resident =
          i === 1
            ? onHost(tensors, cpu)
            : onFile(await writeOffload(tensors, join(folder, `${name}-via-${i}.bin`)), cpu);
        placement.place(block, resident);
      }
      model.placement = placement;
      expect(await logitsOf(device, model, IDS)).toEqual(before);
      expect(await logitsOf(device, model, IDS)).toEqual(before);
      model.dispose();
      placement.dispose();
      await closeAll([device, cpu]);
    },
  );

  test.each(["cpu:0", "reference"])(
    "without memory for a block on %s: nothing stays, and the next pass is well",
    async (name) => {
      const { device, cpu, model, before, blocks } = await threeBlocks(name);
      const bytes = tensorsOf(blocks[0]!).reduce((sum, tensor) => sum + tensor.nbytes, 0);
      using placement = new BlockPlacement(device);
      const file = join(folder, `${name}-small.bin`);
      for (const block of blocks) placement.place(block, onFile(await writeOffload(tensorsOf(block), file), cpu));
      model.placement = placement;
      // Without a half of the first block, or of the second, which is read ahead; on the way, or where it goes to.
      const cases = device.readsFiles
        ? ([
            [device, 0.5],
            [device, 1.5],
          ] as const)
        : ([
            [cpu, 0.5],
            [device, 0.5],
          ] as const);
      for (const [small, blocksThere] of cases) {
        small.arena.trim();
        const { live, budget } = small.memory;
        small.limit(live + Math.floor(blocksThere * bytes));
        await expect(logitsOf(device, model, IDS)).rejects.toThrow(OutOfMemoryError);
        expect(small.memory.live).toBe(live);
        small.limit(budget);
        expect(await logitsOf(device, model, IDS)).toEqual(before);
      }
      model.dispose();
      placement.dispose();
      await closeAll([device, cpu]);
    },
  );

  test("a file that is gone spoils the pass with its name, and nothing else; weights away from their block are refused", async () => {
    const device = openDevice("cpu:0", { threads: 1 });
    const model = await randomModel(device, FIELDS, "f32");
    const before = await logitsOf(device, model, IDS);
    const block = model.blocks[0]![2]!;
    const tensors = tensorsOf(block);
    const kept = await writeOffload(tensors, join(folder, "whole.bin"));
    model.placement = new BlockPlacement(device).place(
      block,
      onFile(kept.map((one) => ({ ...one, file: join(folder, "gone.bin") }))),
    );
    for (let n = 0; n < 2; n++) {
      const error = await logitsOf(device, model, IDS).catch((e: Error) => e);
      expect(error).toBeInstanceOf(FormatError);
      expect((error as Error).message).toMatch(/^load in model\.layers\.2: cannot open .*gone\.bin: No such file/);
    }
    expect(() => tensors[0]!.buffer).toThrow(OctavoError);
    expect(() => tensors[0]!.buffer).toThrow("while it was evicted");
    const cut = join(folder, "cut.bin");
    writeFileSync(cut, "short");
    model.placement = new BlockPlacement(device).place(block, onFile(kept.map((one) => ({ ...one, file: cut }))));
    const short = await logitsOf(device, model, IDS).catch((e: Error) => e);
    expect((short as Error).message).toMatch(/^load in model\.layers\.2: .*cut\.bin ends at byte 5; bytes/);
    model.placement = new BlockPlacement(device).place(block, onFile(kept));
    expect(await logitsOf(device, model, IDS)).toEqual(before);
    model.dispose();
    await closeAll([device]);
  });
});
