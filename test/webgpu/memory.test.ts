// Out of memory. Buffers are really refused: the tests request more than the device can have, and the buffer it returns is
// as invalid as one for which memory has run out. Every read of a result that needed it rejects with an OutOfMemoryError,
// all other values are right, and work goes on when there is memory again.

import { afterEach, beforeEach, expect, test } from "vitest";
import { openWebGPU } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { KernelError, OutOfMemoryError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { add } from "../../src/ops/add.js";
import { advance } from "../../src/ops/advance.js";
import { copyInto } from "../../src/ops/copy.js";
import { expectNoLeaks, flat } from "../support/devices.js";
import { deviceErrors } from "../support/gpu-errors.js";
import { describeGPU, watched } from "../support/webgpu.js";

/** More bytes than any device has. */
const TOO_MANY = 2 ** 44;
/** Messages that follow from an invalid buffer. */
const EXPECTED = /exceeds the max buffer size|Invalid (Buffer|BindGroup|CommandBuffer)/;
const UNIFORM = 0x40;
const MAP_READ = 0x01;
/** Elements of a tensor that gets a batch of its own while unconfirmed, and of one that shares a batch. */
const LARGE = 1 << 19;
const SMALL = 5000;

type Outcome = readonly number[] | OutOfMemoryError;

/** The first values, or the error of the read. */
async function outcome(tensor: Tensor): Promise<Outcome> {
  try {
    return Array.from(await tensor.read()).slice(0, 3);
  } catch (error) {
    expect(error).toBeInstanceOf(OutOfMemoryError);
    return error as OutOfMemoryError;
  }
}

/** `owner` must be among the largest allocations that the message lists. */
function expectRefused(outcome: Outcome, owner: string): void {
  expect(outcome).toBeInstanceOf(OutOfMemoryError);
  const [told, largest] = (outcome as OutOfMemoryError).message.split("; largest: ");
  expect(told).toMatch(/^webgpu: the device has no \d+ bytes left/);
  expect(largest).toContain(owner);
}

describeGPU("WebGPU memory", () => {
  let raw: GPUDevice;
  let device: Device;
  let uncaptured: string[];
  /** Makes the device refuse the next `count` buffers that `which` selects. */
  function refuse(which: (wanted: GPUBufferDescriptor) => boolean, count = 1): void {
    const create = raw.createBuffer.bind(raw);
    raw.createBuffer = (wanted) => {
      if (count === 0 || !which(wanted)) return create(wanted);
      count--;
      return create({ ...wanted, size: TOO_MANY });
    };
  }
  const open = async (buffer?: number): Promise<Device> => {
    const gpu = watched((seen) => {
      raw = seen;
    });
    return new Device(await openWebGPU(gpu, buffer === undefined ? {} : { buffer }));
  };

  beforeEach(async () => {
    device = await open();
    uncaptured = [];
    raw.addEventListener("uncapturederror", ({ error }) => void uncaptured.push(error.message));
  });
  afterEach(async () => {
    expectNoLeaks(device);
    await device.close();
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(uncaptured).toEqual([]);
    for (const message of deviceErrors.splice(0)) expect(message).toMatch(EXPECTED);
  });

  test("more than the budget is refused at once", () => {
    expect(() => Tensor.empty(device, [2 ** 33], "f32", "huge")).toThrow(OutOfMemoryError);
  });

  test.each(["the guilty first", "the innocent first", "together"])(
    "a large tensor is refused; read: %s",
    async (order) => {
      const a = flat(device, Float32Array.of(1, 2, 3));
      const twice = add(a, a);
      await twice.read();
      refuse(({ size }) => size >= 4 * LARGE);
      const weights = Tensor.empty(device, [LARGE], "f32", "weights");
      const head = weights.narrow(0, 0, 3);
      const guilty = add(head, a);
      const next = add(guilty, guilty);
      const innocent = add(twice, twice);
      const reads = [() => outcome(next), () => outcome(innocent)];
      if (order === "the innocent first") reads.reverse();
      const outcomes: Outcome[] = [];
      if (order === "together") outcomes.push(...(await Promise.all(reads.map((read) => read()))));
      else for (const read of reads) outcomes.push(await read());
      if (order === "the innocent first") outcomes.reverse();
      expectRefused(outcomes[0]!, "weights (2.1 MB in 1)");
      expect(outcomes[1]).toEqual([4, 8, 12]);
      for (const tensor of [weights, guilty, next]) expectRefused(await outcome(tensor), "weights");
      await expect(weights.ready()).rejects.toThrow(OutOfMemoryError);
      expect(await outcome(innocent)).toEqual([4, 8, 12]);
      // There is memory again: the same block is allocated again.
      weights.write(new Float32Array(LARGE).fill(5));
      const right = add(head, a);
      expect(await outcome(right)).toEqual([6, 7, 8]);
      expect(await outcome(weights)).toEqual([5, 5, 5]);
      for (const tensor of [a, twice, weights, head, guilty, next, innocent, right]) tensor.dispose();
    },
  );

  test("a small tensor is refused: calls in the same batch reject, and can be repeated", async () => {
    const a = flat(device, Float32Array.of(1, 2, 3));
    const counter = flat(device, Int32Array.of(7));
    const twice = add(a, a);
    await twice.read();
    refuse(({ size }) => size >= 4 * SMALL);
    const lost = Tensor.empty(device, [SMALL], "f32", "lost");
    const guilty = add(lost, lost);
    const innocent = add(twice, twice);
    advance(counter, 1);
    for (const tensor of [innocent, counter, guilty, lost]) expectRefused(await outcome(tensor), "lost");
    const told = (await outcome(innocent)) as OutOfMemoryError;
    expect(told.message).toMatch(/no 20480 bytes left .*; the batch of commands that needed it was dropped; largest: /);
    expect(await outcome(a)).toEqual([1, 2, 3]);
    expect(await outcome(twice)).toEqual([2, 4, 6]);
    const again = add(twice, twice);
    expect(await outcome(again)).toEqual([4, 8, 12]);
    counter.write(Int32Array.of(7));
    expect(await outcome(counter)).toEqual([7]);
    for (const tensor of [lost, guilty]) tensor.dispose();
    // Its block is reused, with memory this time.
    const heir = Tensor.from(device, new Float32Array(SMALL).fill(2), [SMALL]);
    const sum = add(heir, heir);
    expect(await outcome(sum)).toEqual([4, 4, 4]);
    for (const tensor of [a, counter, twice, innocent, again, heir, sum]) tensor.dispose();
  });

  test("values written to a refused tensor are lost, ragged writes too", async () => {
    refuse(({ size }) => size >= 4 * LARGE);
    const x = Tensor.from(device, new Float32Array(LARGE).fill(3), [LARGE]);
    expectRefused(await outcome(x), "");
    x.write(new Float32Array(LARGE).fill(4));
    expect(await outcome(x)).toEqual([4, 4, 4]);
    x.dispose();
    device.arena.trim();
    refuse(({ size }) => size >= LARGE);
    const bytes = Tensor.empty(device, [LARGE], "u8", "bytes");
    bytes.writeBytes(Uint8Array.of(1, 2, 3), 5);
    expectRefused(await outcome(bytes), "bytes");
    bytes.dispose();
  });

  test("a recording that is replayed: the prepared step's own memory, and a tensor of it", async () => {
    const counter = flat(device, Int32Array.of(0));
    const x = flat(device, Float32Array.of(1, 2, 3));
    const y = flat(device, Float32Array.of(0, 0, 0));
    const innocent = add(x, x);
    await innocent.read();
    const recording = device.capture(() => {
      advance(counter, 1);
      const sum = add(x, x);
      copyInto(sum, y);
      sum.dispose();
    });
    refuse(({ usage }) => (usage & UNIFORM) !== 0);
    recording.replay();
    const other = add(innocent, innocent);
    expectRefused(await outcome(y), "");
    expectRefused(await outcome(counter), "");
    expect(await outcome(other)).toEqual([4, 8, 12]);
    counter.write(Int32Array.of(5));
    recording.replay();
    recording.replay();
    expect(await outcome(y)).toEqual([2, 4, 6]);
    expect(await outcome(counter)).toEqual([7]);
    recording.dispose();

    refuse(({ size }) => size >= 4 * LARGE);
    const weights = Tensor.empty(device, [LARGE], "f32", "weights");
    const head = weights.narrow(0, 0, 3);
    const poor = device.capture(() => copyInto(head, y));
    poor.replay();
    expectRefused(await outcome(y), "weights");
    weights.write(new Float32Array(LARGE).fill(9));
    poor.replay();
    expect(await outcome(y)).toEqual([9, 9, 9]);
    poor.dispose();
    for (const tensor of [counter, x, y, innocent, other, weights, head]) tensor.dispose();
  });

  test("scratch memory of a kernel is refused", async () => {
    const values = Float32Array.from({ length: LARGE }, (_, i) => i);
    const x = Tensor.from(device, values, [LARGE]);
    await x.ready();
    const low = x.narrow(0, 0, LARGE - 8);
    const high = x.narrow(0, 8, LARGE - 8);
    refuse(({ size }) => size >= LARGE);
    copyInto(low, high); // the source is copied to scratch
    expectRefused(await outcome(x), "");
    x.write(values);
    copyInto(low, high);
    expect(Array.from((await x.read()).slice(6, 11))).toEqual([6, 7, 0, 1, 2]);
    for (const tensor of [x, low, high]) tensor.dispose();
  });

  test("a staging buffer is refused: only that read rejects", async () => {
    const x = flat(
      device,
      Float32Array.from({ length: LARGE }, (_, i) => i),
    );
    const small = flat(device, Float32Array.of(1, 2));
    refuse(({ usage, size }) => (usage & MAP_READ) !== 0 && size >= LARGE);
    const [broken, whole] = await Promise.all([outcome(x), outcome(small)]);
    expect((broken as Error).message).toMatch(/no \d+ bytes left to read through: Buffer size .* exceeds/);
    expect(whole).toEqual([1, 2]);
    expect(await outcome(x)).toEqual([0, 1, 2]);
    for (const tensor of [x, small]) tensor.dispose();
  });

  test("a device that has no memory at all is not opened", async () => {
    const gpu = watched((seen) => {
      raw = seen;
      refuse(() => true);
    });
    await expect(openWebGPU(gpu)).rejects.toThrow(OutOfMemoryError);
  });

  test("a device lost for lack of memory says so", async () => {
    let lose: (info: { reason: string; message: string }) => void = () => {};
    const gpu = watched((seen) => {
      const value = new Promise((resolve) => {
        lose = resolve;
      });
      Object.defineProperty(seen, "lost", { value });
      raw = seen;
    });
    const poor = new Device(await openWebGPU(gpu));
    const x = Tensor.empty(poor, [3], "f32", "the last straw");
    raw.destroy();
    lose({ reason: "unknown", message: "vkQueueSubmit failed with VK_ERROR_OUT_OF_DEVICE_MEMORY" });
    const told = await outcome(x);
    expect((told as Error).message).toMatch(/the device was lost .*OUT_OF_DEVICE_MEMORY; largest: the last straw/);
    expect(poor.backend.lost).toBe(true);
    expect(() => flat(poor, Float32Array.of(1))).toThrow(OutOfMemoryError);
    x.dispose();
    await poor.close();
  });

  test("a read in chunks returns the bytes at its beginning, whatever follows", async () => {
    const tiny = await open(1024);
    const n = 3000;
    const values = Float32Array.from({ length: n }, (_, i) => i);
    const zeros = Tensor.from(tiny, new Float32Array(n), [n]);
    const x = Tensor.from(tiny, values, [n]);
    const part = x.narrow(0, 333, 2001);
    const changes: readonly (() => void)[] = [
      () => x.write(new Float32Array(n).fill(1)),
      () => copyInto(zeros, x),
      () => {
        const recording = tiny.capture(() => copyInto(zeros, x));
        recording.replay();
        recording.dispose();
      },
      () => {
        x.dispose();
        part.dispose();
        tiny.arena.trim();
      },
    ];
    for (const change of changes) {
      x.write(values);
      const reads = [x.read(), part.read()];
      change();
      const [whole, middle] = await Promise.all(reads);
      expect(whole).toEqual(values);
      expect(middle).toEqual(values.slice(333, 2334));
    }
    zeros.dispose();
    expectNoLeaks(tiny);
    await tiny.close();
  });

  test("a refused shader fails the call that needed it, and the next call tries again", async () => {
    const x = flat(device, Float32Array.of(1, 2, 3));
    await x.read();
    const create = raw.createShaderModule.bind(raw);
    raw.createShaderModule = (wanted) => {
      raw.createShaderModule = create;
      return create({ ...wanted, code: "nonsense" });
    };
    const sum = add(x, x);
    const told = await sum.read().catch((error: unknown) => error);
    expect(told).toBeInstanceOf(KernelError);
    expect((told as Error).message).toMatch(/^add: webgpu: a pipeline was refused: /);
    const again = add(x, x);
    expect(await outcome(again)).toEqual([2, 4, 6]);
    expect(deviceErrors.length).toBeGreaterThan(0);
    deviceErrors.length = 0;
    for (const tensor of [x, sum, again]) tensor.dispose();
  });
});
