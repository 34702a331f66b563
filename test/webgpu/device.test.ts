// Tests specific to this backend: ragged host writes, buffers that one dispatch reads and writes, failures that kernels
// report, memory limits, a lost device, and the number of dispatches of a decode step.

import { join } from "node:path";
import { expect, test } from "vitest";
import { openWebGPU, type WebGPUBackend } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { DeviceError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { DecodeSession } from "../../src/generate/session.js";
import { openDevice, requestDevice, sharedDevice } from "../../src/load/device.js";
import { add } from "../../src/ops/add.js";
import { advance } from "../../src/ops/advance.js";
import { argmax } from "../../src/ops/argmax.js";
import { contiguous, copyInto } from "../../src/ops/copy.js";
import { embedding } from "../../src/ops/embedding.js";
import { flat } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { deviceErrors } from "../support/gpu-errors.js";
import { onGPU } from "../support/suites.js";
import { describeGPU, gpu, watched } from "../support/webgpu.js";

describeGPU("WebGPU device", () => {
  let backend: WebGPUBackend;
  let device: Device;
  onGPU((opened, behind) => {
    device = opened;
    backend = behind;
  });

  test("says what it is", () => {
    expect(device.name).toBe("webgpu");
    expect(backend.description).toMatch(/^WebGPU, ./);
  });

  test("writes and reads at every offset and length", async () => {
    const whole = flat(
      device,
      Uint8Array.from({ length: 32 }, (_, i) => 100 + i),
    );
    const expected = Uint8Array.from({ length: 32 }, (_, i) => 100 + i);
    for (let at = 0; at < 9; at++) {
      for (let length = 0; length < 11; length++) {
        const bytes = Uint8Array.from({ length }, (_, i) => (at * 16 + length + i * 7) & 255);
        whole.writeBytes(bytes, at);
        expected.set(bytes, at);
      }
    }
    expect(await whole.read()).toEqual(expected);
    for (let at = 0; at < 9; at++) {
      for (const length of [1, 3, 8, 11]) {
        const part = whole.narrow(0, at, length);
        expect(await part.read()).toEqual(expected.slice(at, at + length));
        part.dispose();
      }
    }
    whole.dispose();
  });

  test("a copy inside one buffer reads what was there before", async () => {
    const x = flat(
      device,
      Float32Array.from({ length: 64 }, (_, i) => i),
    );
    const low = x.narrow(0, 0, 40);
    const high = x.narrow(0, 20, 40);
    copyInto(low, high);
    const want = Array.from({ length: 64 }, (_, i) => (i >= 20 && i < 60 ? i - 20 : i));
    expect(Array.from(await x.read())).toEqual(want);
    for (const tensor of [x, low, high]) tensor.dispose();
  });

  test("a token id outside the table rejects reads of the rows, and names op and module", async () => {
    const table = Tensor.from(device, new Float32Array(12), [4, 3]);
    const ids = flat(device, Int32Array.of(1, 9));
    const before = device.enter("model.embed_tokens");
    const rows = embedding(table, ids);
    device.enter(before);
    await expect(rows.read()).rejects.toThrow(
      /^embedding in model.embed_tokens: token id 9 is outside the vocabulary of 4/,
    );
    ids.write(Int32Array.of(1, 2));
    const right = embedding(table, ids);
    expect((await right.read()).length).toBe(6);
    for (const tensor of [table, ids, rows, right]) tensor.dispose();
  });

  test("more calls fail than there are slots: none counts as successful", async () => {
    const fine = flat(device, Float32Array.of(1, 2));
    const bad = Tensor.from(device, Float32Array.of(0, Number.NaN), [1, 2]);
    const ids = Array.from({ length: 1500 }, () => argmax(bad));
    await expect(ids[0]!.read()).rejects.toThrow(/argmax: logits hold NaN/);
    await expect(ids[1499]!.read()).rejects.toThrow(/argmax: logits hold NaN/);
    expect(Array.from(await fine.read())).toEqual([1, 2]);
    for (const tensor of [fine, bad, ...ids]) tensor.dispose();
  });

  test("nobody reads for a long time: the failure log reads by itself, and loses nothing", async () => {
    const x = flat(device, Int32Array.of(0));
    const id = scope(() => argmax(Tensor.from(device, Float32Array.of(Number.NaN, 1), [1, 2])));
    for (let i = 0; i < 40; i++) {
      for (let n = 0; n < 4000; n++) advance(x, 1);
      await new Promise((resolve) => setTimeout(resolve));
    }
    expect(await x.read()).toEqual(Int32Array.of(160_000));
    await expect(id.read()).rejects.toThrow(/argmax: logits hold NaN/);
    x.dispose();
    id.dispose();
  });

  test("more dispatches than one uniform buffer holds, and more workgroups than one dimension", async () => {
    const x = flat(device, Int32Array.of(0));
    for (let i = 0; i < 1500; i++) advance(x, 1);
    expect(await x.read()).toEqual(Int32Array.of(1500));
    const n = 65536 * 64 + 5;
    const a = Tensor.empty(device, [n], "f32");
    scope(() => copyInto(flat(device, Float32Array.of(3)).expand(n), a));
    const sum = add(a, a);
    const tail = sum.narrow(0, n - 7, 7);
    expect(Array.from(await tail.read())).toEqual(new Array(7).fill(6));
    for (const tensor of [x, a, sum, tail]) tensor.dispose();
    device.arena.trim();
  });

  test("a load takes the model and a piece of one tensor; the next step is under way before a token is read", {
    timeout: 240_000,
  }, async () => {
    const folder = join(import.meta.dirname, "..", "..", "models", "storyteller");
    device.arena.trim();
    device.arena.resetPeak();
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device, load_in_8bit: true });
    const largest = Math.max(
      ...[...model.module.parameters()].map(({ shape }) => shape.reduce((n, size) => n * size, 1)),
    );
    // Two copies in bf16 (as read, and as converted), beside its memory in the model.
    expect(device.memory.peak - device.memory.live).toBeLessThan(2 * 2 * largest + 4096);
    const order: string[] = [];
    const greedy = { do_sample: false, temperature: 1, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, seed: 0 };
    const config = { ...greedy, max_new_tokens: 8, eos_token_ids: [] };
    const session = new DecodeSession(device, model.module, { rows: 1, capacity: 10, cache_dtype: "bf16" });
    await session.add([{ row: 0, prompt: [1, 20], config }]);
    let running = session.step()!;
    for (let step = 0; step < 4; step++) {
      const reading = running.then(() => order.push(`read ${step}`));
      const submits = backend.statistics.submits;
      running = session.step()!;
      if (backend.statistics.submits > submits) order.push(`submitted ${step}`);
      await reading;
    }
    expect(order).toEqual([0, 1, 2, 3].flatMap((step) => [`submitted ${step}`, `read ${step}`]));
    await running;
    session.dispose();
    model.dispose();
  });

  // A layer is 8 dispatches, in 8 bits too (steps.test.ts).
  test.each([
    ["f32", {}, 8],
    ["int8", { load_in_8bit: true }, 8],
  ] as const)(
    "a decode step in %s is few dispatches and makes no pipelines or bind groups",
    async (_, storage, most) => {
      const folder = join(FIXTURES, "models", "llama");
      const model = await AutoModelForCausalLM.from_pretrained(folder, { device, ...storage });
      const options = { input_ids: [[5, 6, 7]], do_sample: false, eos_token_id: 0 } as const;
      await model.generate({ ...options, max_new_tokens: 12 });
      const before = { ...backend.statistics };
      await model.generate({ ...options, max_new_tokens: 12 });
      const after = backend.statistics;
      const layers = model.config.num_hidden_layers as number;
      expect(after.pipelines).toBe(before.pipelines);
      const perToken = (after.dispatches - before.dispatches) / 12;
      expect(perToken).toBeLessThan(most * layers + 12);
      model.dispose();
      device.arena.trim();
    },
  );

  test.each([false, true])("the storyteller's text is the reference's (8 bits: %s)", async (load_in_8bit) => {
    const folder = join(import.meta.dirname, "..", "..", "models", "storyteller");
    const reference = openDevice("reference");
    const texts: number[][] = [];
    for (const on of [device, reference]) {
      const model = await AutoModelForCausalLM.from_pretrained(folder, { device: on, dtype: "float32", load_in_8bit });
      const [ids] = await model.generate({ input_ids: [[1, 20, 30]], max_new_tokens: 6, do_sample: false });
      texts.push(ids!);
      model.dispose();
    }
    await reference.close();
    expect(texts[0]).toEqual(texts[1]);
  });

  test("a lost device ends running work with a typed error; another one opens", async () => {
    let raw: GPUDevice | undefined;
    const lost = new Device(
      await openWebGPU(
        watched((seen) => {
          raw = seen;
        }),
      ),
    );
    const x = flat(lost, Float32Array.of(1, 2, 3));
    const pending = x.read();
    raw!.destroy();
    await pending.catch((error: unknown) => expect(error).toBeInstanceOf(DeviceError));
    await expect(x.read()).rejects.toThrow(DeviceError);
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(lost.backend.lost).toBe(true);
    expect(() => flat(lost, Float32Array.of(1))).toThrow(DeviceError);
    await lost.close();
    await using fresh = await requestDevice("webgpu");
    const y = flat(fresh, Float32Array.of(4));
    expect(Array.from(await y.read())).toEqual([4]);
    y.dispose();
  });

  test("the shared device is reopened after a loss", async () => {
    const original = gpu!.requestAdapter;
    let raw: GPUDevice | undefined;
    const { requestAdapter } = watched((seen) => {
      raw = seen;
    });
    // A watched adapter lets the test destroy the device.
    gpu!.requestAdapter = async (options) => {
      gpu!.requestAdapter = original;
      return requestAdapter(options);
    };
    const first = await sharedDevice("webgpu");
    const x = flat(first, Float32Array.of(1, 2));
    const endless = Array.from({ length: 3 }, () => x.read());
    raw!.destroy();
    for (const outcome of await Promise.allSettled(endless)) {
      if (outcome.status === "rejected") expect(outcome.reason).toBeInstanceOf(DeviceError);
    }
    await expect(x.read()).rejects.toThrow(/the device was lost/);
    expect(await sharedDevice("webgpu")).not.toBe(first);
    const second = await sharedDevice("webgpu");
    expect(await sharedDevice("webgpu")).toBe(second);
    const y = flat(second, Float32Array.of(3));
    expect(Array.from(await y.read())).toEqual([3]);
    y.dispose();
    await first.close();
    await second.close();
  });

  test("the suites notice an error that no read reports", async () => {
    const adapter = (await gpu!.requestAdapter())!;
    const raw = await adapter.requestDevice();
    const wrong = { size: 16, usage: 0x80 | 0x01 }; // STORAGE and MAP_READ exclude each other
    raw.createBuffer(wrong);
    raw.pushErrorScope("validation");
    raw.createBuffer(wrong);
    await raw.popErrorScope();
    await expect.poll(() => deviceErrors.length).toBe(2);
    for (const message of deviceErrors.splice(0)) expect(message).toMatch(/usage/i);
    raw.destroy();
  });

  test("strided results of narrow dtypes keep their neighbours", async () => {
    const x = Tensor.from(
      device,
      Uint8Array.from({ length: 12 }, (_, i) => i),
      [4, 3],
    );
    const y = Tensor.from(device, new Uint8Array(24).fill(255), [4, 6]);
    scope(() => copyInto(x, y.narrow(1, 2, 3)));
    const want = Array.from({ length: 24 }, (_, i) =>
      i % 6 >= 2 && i % 6 < 5 ? Math.floor(i / 6) * 3 + (i % 6) - 2 : 255,
    );
    expect(Array.from(await y.read())).toEqual(want);
    const turned = x.permute(1, 0);
    const rows = contiguous(turned);
    expect(Array.from(await rows.read())).toEqual([0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]);
    for (const tensor of [x, y, turned, rows]) tensor.dispose();
  });
});
