// Transfers: a tensor on another device, while nobody waits on the host. Order, failures, bounds, recordings of several
// devices.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openReference } from "../../src/backends/reference/index.js";
import type { Backend } from "../../src/core/backend.js";
import { captureAll, Device } from "../../src/core/device.js";
import { DeviceError, KernelError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { within } from "../../src/nn/module.js";
import { add } from "../../src/ops/add.js";
import { copyInto } from "../../src/ops/copy.js";
import { embedding } from "../../src/ops/embedding.js";
import { OPS } from "../../src/ops/index.js";
import { transfer } from "../../src/ops/transfer.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";

const MB = 1 << 20;

const rejection = (promise: Promise<unknown>): Promise<Error | undefined> =>
  promise.then(
    () => undefined,
    (error: Error) => error,
  );

/** A reference device whose reads end when they are let go; says how many are under way. */
function slow(): { device: Device; letGo: () => void; waiting: () => number; bytes: () => number } {
  const backend = openReference(OPS);
  let gates: (() => void)[] = [];
  let bytes = 0;
  const gated: Backend = {
    ...backend,
    async read(...args) {
      const data = await backend.read(...args);
      bytes += args[2];
      await new Promise<void>((go) => gates.push(go));
      return data;
    },
  };
  return {
    device: new Device(gated),
    letGo: () => {
      const open = gates;
      gates = [];
      for (const go of open) go();
    },
    waiting: () => gates.length,
    bytes: () => bytes,
  };
}

const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve));

const pairs = [...new Set(ALL_DEVICES)].flatMap((name) => [
  [name, "cpu"],
  ["cpu", name],
]);

describe.each(pairs)("from %s to %s", (first, second) => {
  let from: Device;
  let to: Device;
  beforeAll(async () => {
    from = await requestTestDevice(first!);
    to = await requestTestDevice(second!);
  });
  afterAll(async () => {
    for (const device of [from, to]) {
      expectNoLeaks(device);
      await device.close();
    }
  });

  test("the values of every dtype arrive; strided tensors as rows", async () => {
    for (const [dtype, values] of [
      ["f32", Float32Array.of(1, -2, 3.5, 4, 5, 6)],
      ["f16", Float32Array.of(1, -2, 3.5, 4, 5, 6)],
      ["bf16", Float32Array.of(1, -2, 3.5, 4, 5, 6)],
      ["i32", Int32Array.of(1, -2, 2 ** 31 - 1, 4, 5, 6)],
      ["i8", Int8Array.of(1, -2, -128, 4, 5, 6)],
      ["u8", Uint8Array.of(1, 2, 255, 4, 5, 6)],
    ] as const) {
      using x = Tensor.from(from, values, [2, 3], dtype);
      using y = transfer(x, to);
      expect(y.device).toBe(to);
      expect([y.shape, y.dtype]).toEqual([[2, 3], dtype]);
      expect([...(await y.read())]).toEqual([...values]);
      using turned = x.permute(1, 0);
      using z = transfer(turned, to);
      expect([...(await z.read())]).toEqual([0, 3, 1, 4, 2, 5].map((i) => values[i]));
    }
    using none = Tensor.empty(from, [0, 4], "f32");
    using nothing = transfer(none, to);
    expect([nothing.device, nothing.shape]).toEqual([to, [0, 4]]);
  });

  test("it is a snapshot, and everything recorded later on the target comes behind it", async () => {
    using x = Tensor.from(from, new Float32Array(3000).fill(1), [3000]);
    using y = transfer(x, to);
    x.write(new Float32Array(3000).fill(50)); // what was sent was sent
    using one = Tensor.from(to, new Float32Array(3000).fill(10), [3000]);
    const sum = add(y, one);
    one.write(new Float32Array(3000).fill(7)); // a write is seen by later commands only
    const later = add(y, one);
    y.write(new Float32Array(3000).fill(-1));
    using back = transfer(sum, from);
    sum.dispose(); // stream-ordered, too: its memory may have the next owner at once
    using other = Tensor.from(to, new Float32Array(3000), [3000]);
    expect((await back.readFloats()).every((v) => v === 11)).toBe(true);
    expect((await later.readFloats()).every((v) => v === 8)).toBe(true);
    expect((await y.readFloats()).every((v) => v === -1)).toBe(true);
    expect((await other.readFloats()).every((v) => v === 0)).toBe(true);
    expect((await x.readFloats()).every((v) => v === 50)).toBe(true);
    later.dispose();
  });

  test("a failure travels: what is made of the bytes is spoilt, and nothing else", async () => {
    using table = Tensor.from(from, [1, 2, 3, 4], [2, 2]);
    using bad = Tensor.from(from, Int32Array.of(5), [1]);
    using good = Tensor.from(from, Int32Array.of(1), [1]);
    using x = within(from, "model.embed_tokens", () => embedding(table, bad));
    using fine = embedding(table, good);
    using y = transfer(x, to);
    using z = transfer(fine, to);
    using sum = add(y, y);
    using other = add(z, z);
    using back = transfer(sum, from);
    for (const tensor of [y, sum, back]) {
      const error = await rejection(tensor.read());
      expect(error).toBeInstanceOf(KernelError);
      expect(error!.message).toMatch(/^embedding in model\.embed_tokens: .*5/);
      expect((error as KernelError).details).toEqual({ op: "embedding", module: "model.embed_tokens" });
    }
    expect([...(await other.read())]).toEqual([6, 8]);
    // Written anew, the bytes are good again.
    y.write([1, 1]);
    expect([...(await y.read())]).toEqual([1, 1]);
  });

  test("a recording of both is replayed in order, back and forth", async () => {
    using x = Tensor.from(from, Float32Array.of(1, 2), [2]);
    using one = Tensor.from(to, Float32Array.of(1, 1), [2]);
    using recording = captureAll([from, to], () =>
      scope(() => {
        const there = transfer(add(x, x), to); // 2x
        const back = transfer(add(there, one), from); // 2x + 1
        copyInto(back, x);
      }),
    );
    expect([...(await x.read())]).toEqual([1, 2]);
    recording.replay();
    expect([...(await x.read())]).toEqual([3, 5]);
    for (let n = 0; n < 3; n++) recording.replay();
    expect([...(await x.read())]).toEqual([31, 47]);
    // The two halves of the recording give their memory back, replays that wait included.
    recording.replay();
    recording.dispose();
    expect([...(await x.read())]).toEqual([63, 95]);
    expect(() => recording.replay()).toThrow("after dispose");
  });
});

describe("the host never waits", () => {
  test("to the same device it is the tensor itself", () => {
    const device = openDevice("reference");
    const x = Tensor.from(device, [1], [1]);
    expect(transfer(x, device)).toBe(x);
    x.dispose();
    expectNoLeaks(device);
  });

  test("a target that waits for a slow source takes everything, in order, and at most a window of bytes", async () => {
    const source = slow();
    const to = openDevice("cpu", { threads: 1 });
    const count = 24;
    const arrived: Tensor[] = [];
    for (let n = 0; n < count; n++) {
      using x = Tensor.from(source.device, new Uint8Array(4 * MB).fill(n), [4 * MB]);
      arrived.push(transfer(x, to));
    }
    let reads = 0;
    const values = arrived.map(async (tensor) => {
      const bytes = (await tensor.read()) as Uint8Array;
      reads++;
      return [bytes[0], bytes.at(-1)];
    });
    let most = 0;
    for (let rounds = 0; reads < count; rounds++) {
      if (rounds > 10 * count) throw new Error("the transfers do not come to an end");
      await turn();
      most = Math.max(most, source.waiting() * 4 * MB);
      source.letGo();
    }
    expect(await Promise.all(values)).toEqual(Array.from({ length: count }, (_, n) => [n, n]));
    expect(most).toBeLessThanOrEqual(32 * MB);
    expect(most).toBeGreaterThan(4 * MB); // several are under way at once
    for (const tensor of arrived) tensor.dispose();
    for (const device of [source.device, to]) {
      expectNoLeaks(device);
      await device.close();
    }
  });

  test("devices that send to each other in turn do not stand still", async () => {
    const a = slow();
    const b = slow();
    let x = Tensor.from(a.device, new Float32Array(6 * MB).fill(1), [6 * MB]);
    for (let n = 0; n < 6; n++) {
      const there = transfer(x, n % 2 === 0 ? b.device : a.device);
      x.dispose();
      x = there;
    }
    const reading = x.read();
    let done = false;
    void reading.then(() => {
      done = true;
    });
    for (let rounds = 0; !done && rounds < 200; rounds++) {
      await turn();
      a.letGo();
      b.letGo();
    }
    expect(done).toBe(true);
    x.dispose();
    for (const { device } of [a, b]) expectNoLeaks(device);
  });
});

describe("ends", () => {
  test("one device of a recording alone refuses the transfer, and is as before", async () => {
    const from = openDevice("cpu", { threads: 1 });
    const to = openDevice("cpu", { threads: 1 });
    using x = Tensor.from(from, [1], [1]);
    expect(() => from.capture(() => scope(() => void transfer(x, to)))).toThrow(DeviceError);
    expect(() => from.capture(() => scope(() => void transfer(x, to)))).toThrow(/captureAll/);
    expect(() => captureAll([from, from, to], () => captureAll([to], () => {}))).toThrow("inside another");
    using y = transfer(x, to);
    expect([...(await y.read())]).toEqual([1]);
    for (const tensor of [x, y]) tensor.dispose();
    for (const device of [from, to]) {
      expectNoLeaks(device);
      await device.close();
    }
  });

  test.each([
    ["cpu", "cpu"],
    ["reference", "cpu"],
    ["cpu", "reference"],
  ])("a closed device is a typed error at once: %s to %s", async (first, second) => {
    const from = openDevice(first);
    const to = openDevice(second);
    const x = Tensor.from(from, [1], [1]);
    await to.close();
    expect(() => transfer(x, to)).toThrow(DeviceError);
    expect([...(await x.read())]).toEqual([1]);
    const other = openDevice(second);
    await from.close();
    expect(() => transfer(x, other)).toThrow(DeviceError);
    expectNoLeaks(other);
    using y = Tensor.from(other, [2], [1]);
    expect([...(await y.read())]).toEqual([2]);
    y.dispose();
    await other.close();
  });

  test("devices that close with a transfer under way answer what they were asked", async () => {
    for (const [first, second] of [
      ["cpu", "cpu"],
      ["reference", "cpu"],
      ["cpu", "reference"],
    ]) {
      const from = openDevice(first!);
      const to = openDevice(second!);
      const x = Tensor.from(from, new Float32Array(MB).fill(3), [MB]);
      const y = transfer(x, to);
      const reading = y.readFloats();
      await Promise.all([from.close(), to.close()]);
      expect((await reading).every((v) => v === 3)).toBe(true);
    }
  });

  test("a source that is lost spoils what was to come, with its own error; a target that is lost hangs nobody", async () => {
    const backend = openReference(OPS);
    const lost = new DeviceError("the device was lost (test)");
    const from = new Device({ ...backend, read: () => Promise.reject(lost) });
    const to = openDevice("cpu", { threads: 1 });
    const x = Tensor.from(from, [1], [1]);
    const y = transfer(x, to);
    const sum = add(y, y);
    expect(await rejection(sum.read())).toBe(lost);
    using fine = Tensor.from(to, [2], [1]);
    expect([...(await fine.read())]).toEqual([2]);

    const refusing = openReference(OPS);
    const gone = new Device({
      ...refusing,
      write: () => {
        throw lost;
      },
      spoil: () => {
        throw lost;
      },
      read: () => Promise.reject(lost),
    });
    const z = transfer(fine, gone);
    expect(await rejection(z.read())).toBe(lost);
    for (const tensor of [x, y, sum, z, fine]) tensor.dispose();
    for (const device of [from, to, gone]) expectNoLeaks(device);
    await to.close();
  });

  test("a command that the backend refuses while the stream is held is told by the next read", async () => {
    const backend = openReference(OPS);
    const refusal = new DeviceError("submit refused (test)");
    let refuse = false;
    const to = new Device({
      ...backend,
      submit(words, count) {
        if (refuse) throw refusal;
        backend.submit(words, count);
      },
    });
    const from = openDevice("cpu", { threads: 1 });
    using x = Tensor.from(from, [1], [1]);
    using y = transfer(x, to);
    refuse = true;
    using sum = add(y, y);
    expect(await rejection(sum.read())).toBe(refusal);
    refuse = false;
    expect([...(await y.read())]).toEqual([1]);
    for (const tensor of [x, y, sum]) tensor.dispose();
    expectNoLeaks(to);
    await from.close();
  });
});
