// The arena, the command stream, and how a device tells which op of which module failed.

import { describe, expect, test } from "vitest";
import { openReference } from "../../src/backends/reference/index.js";
import type { Backend } from "../../src/core/backend.js";
import { Device } from "../../src/core/device.js";
import { checkOptions, DeviceError, KernelError, OptionError, OutOfMemoryError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { Module, within } from "../../src/nn/module.js";
import { add } from "../../src/ops/add.js";
import { embedding } from "../../src/ops/embedding.js";
import { OPS } from "../../src/ops/index.js";
import { type Attributes, Op, type ReferenceOperands } from "../../src/ops/op.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";

const MB = 1 << 20;

/** A reference backend that counts what is taken from it. */
function counted(budget: number): { device: Device; held: () => number; taken: () => number } {
  const backend = openReference(OPS, budget);
  const sizes = new Map<number, number>();
  let taken = 0;
  const counting: Backend = {
    ...backend,
    allocate(bytes) {
      const buffer = backend.allocate(bytes);
      sizes.set(buffer, bytes);
      taken++;
      return buffer;
    },
    free(buffer) {
      sizes.delete(buffer);
      backend.free(buffer);
    },
  };
  return {
    device: new Device(counting),
    held: () => [...sizes.values()].reduce((a, b) => a + b, 0),
    taken: () => taken,
  };
}

describe("arena", () => {
  test("small blocks are used again, and counted as live only while somebody owns them", () => {
    const { device, taken } = counted(100 * MB);
    for (let i = 0; i < 50; i++) Tensor.empty(device, [1000], "f32").dispose();
    expect(taken()).toBe(1);
    const three = [1, 2, 3].map(() => Tensor.empty(device, [1000], "f32"));
    expect(taken()).toBe(3);
    expect(device.memory).toMatchObject({ live: 12_000, peak: 12_000 });
    for (const tensor of three) tensor.dispose();
    expect(device.memory.live).toBe(0);
    expect(device.memory.peak).toBe(12_000);
    expect(device.memory.kept).toBeGreaterThanOrEqual(12_000);
    device.arena.resetPeak();
    expect(device.memory.peak).toBe(0);
  });

  test("a block is never handed out twice, and is never more than an eighth too large", () => {
    const { device, held } = counted(1000 * MB);
    const buffers = new Set<number>();
    let asked = 0;
    const tensors: Tensor[] = [];
    for (let n = 1; n < 3000; n += 37) {
      const tensor = Tensor.empty(device, [n * n], "u8");
      expect(buffers.has(tensor.buffer)).toBe(false);
      buffers.add(tensor.buffer);
      tensors.push(tensor);
      asked += Math.max(256, n * n);
    }
    expect(held()).toBeGreaterThanOrEqual(asked);
    expect(held()).toBeLessThanOrEqual(asked * 1.126);
    for (const tensor of tensors) tensor.dispose();
  });

  test("large blocks go straight back", () => {
    const { device, held } = counted(1000 * MB);
    const large = Tensor.empty(device, [65 * MB], "u8");
    expect(held()).toBeGreaterThanOrEqual(65 * MB);
    large.dispose();
    expect(held()).toBe(0);
    expect(device.memory.kept).toBe(0);
  });

  test("kept blocks make room before anybody is refused", () => {
    const { device } = counted(4 * MB);
    Tensor.empty(device, [3.5 * MB], "u8").dispose();
    expect(device.memory.kept).toBe(3.5 * MB);
    Tensor.empty(device, [2 * MB], "u8").dispose(); // too small for the kept block, and both do not fit
    expect(device.memory.kept).toBe(2 * MB);
  });

  test("a kept block serves what is a little smaller, the one that fits best first", () => {
    const { device, taken } = counted(100 * MB);
    const make = (bytes: number): Tensor => Tensor.empty(device, [bytes], "u8");
    const [larger, smaller] = [make(12 * MB), make(10 * MB)];
    const fits = smaller.buffer;
    larger.dispose();
    smaller.dispose();
    const mine = make(9 * MB);
    expect(mine.buffer).toBe(fits);
    make(4 * MB).dispose();
    expect(taken()).toBe(3); // 12 MB are too much for 4
    mine.dispose();
  });

  test("kept blocks do not pile up beside what is in use", () => {
    const { device, held } = counted(4000 * MB);
    const weights = Array.from({ length: 5 }, () => Tensor.empty(device, [100 * MB], "u8"));
    for (let mb = 60; mb > 4; mb -= 3.5) {
      const both = [0, 1].map(() => Tensor.empty(device, [mb * MB], "u8"));
      // Two of 60 MB were the most that was in use beside the weights; 32 MB may be kept above that.
      expect(held()).toBeLessThanOrEqual((500 + 120 + 32) * MB);
      for (const tensor of both) tensor.dispose();
    }
    expect(device.memory.kept).toBeGreaterThan(0);
    for (const tensor of weights) tensor.dispose();
  });

  test("trim frees the least recently used blocks first, and what is used later decides how much is kept", () => {
    const { device, held, taken } = counted(1000 * MB);
    const make = (mb: number): Tensor => Tensor.empty(device, [mb * MB], "u8");
    const all = [40, 20, 10].map(make);
    const buffers = all.map((tensor) => tensor.buffer);
    for (const n of [2, 0, 1]) all[n]!.dispose();
    device.arena.trim(65 * MB);
    expect(held()).toBe(60 * MB); // the one of 10 MB was released first
    device.arena.trim(30 * MB);
    expect(held()).toBe(20 * MB);
    const again = make(20);
    expect(again.buffer).toBe(buffers[1]);
    again.dispose();
    expect(taken()).toBe(3);
    make(40).dispose();
    expect(held()).toBe(60 * MB); // 40 in use and 20 kept: below the most in use and the slack
    make(60).dispose();
    expect(held()).toBe(60 * MB);
    device.arena.trim();
    expect(held()).toBe(0);
  });

  test("nothing is freed while a recording is made", () => {
    const { device, held } = counted(1000 * MB);
    const make = (mb: number): Tensor => Tensor.empty(device, [mb * MB], "u8");
    for (const tensor of [40, 40].map(make)) tensor.dispose();
    const recording = device.capture(() => {
      for (const mb of [10, 10, 20]) make(mb).dispose();
      device.arena.trim();
      expect(held()).toBe(110 * MB); // two of 40 of others, 10 and 20 of its own
    });
    recording.dispose();
    device.arena.trim(40 * MB);
    expect(held()).toBeLessThanOrEqual(40 * MB);
    device.arena.trim();
    expect(held()).toBe(0);
  });

  test("what does not fit is refused, naming what holds the memory", () => {
    const { device } = counted(4 * MB);
    const mine = within(device, "model.layers.0", () => Tensor.empty(device, [3 * MB], "u8", "key cache"));
    const small = Tensor.empty(device, [MB / 2], "u8", "mask");
    let error: unknown;
    try {
      Tensor.empty(device, [2 * MB], "u8", "logits");
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(OutOfMemoryError);
    const { message, details, hint } = error as OutOfMemoryError;
    expect(message).toContain("logits needs 2.1 MB, 3.7 MB of 4.2 MB are in use");
    expect(message.indexOf("model.layers.0: key cache (3.1 MB in 1)")).toBeGreaterThan(0);
    expect(message.indexOf("mask")).toBeGreaterThan(message.indexOf("key cache"));
    expect(details).toEqual({ bytes: 2 * MB, live: 3.5 * MB });
    expect(hint).toContain("8 or 4 bits");
    mine.dispose();
    Tensor.empty(device, [2 * MB], "u8", "logits").dispose();
    small.dispose();
    expectNoLeaks(device);
  });

  test("owners are grouped, the largest first", () => {
    const { device } = counted(4 * MB);
    const tensors = [100, 100, 5000].map((n, i) => Tensor.empty(device, [n], "u8", i < 2 ? "small" : "large"));
    expect(device.arena.owners()).toEqual([
      { label: "large", bytes: 5000, count: 1 },
      { label: "small", bytes: 200, count: 2 },
    ]);
    for (const tensor of tensors) tensor.dispose();
  });
});

describe("commands", () => {
  test("operands, strides, offsets and attributes arrive as they were given", async () => {
    let seen: [ReferenceOperands, Attributes] | undefined;
    const op = new Op({
      signature: "probe: a[B,K]:f32~ none[Q]:f32? b[..]:i8 c[1]:i32! ; n:i32 x:f32 m:i32 -> y[B,K]:f32",
      reference(operands, attributes) {
        seen = [operands, attributes];
        operands.y!.data.set(operands.a!.data.map((v) => -v));
        operands.c!.data[0] = operands.c!.data[0]! + 1;
        return undefined;
      },
    });
    const device = new Device(openReference([op]));
    const base = Tensor.from(
      device,
      Float32Array.from({ length: 30 }, (_, i) => i),
      [5, 6],
    );
    const part = base.narrow(0, 1, 3);
    const a = part.narrow(1, 2, 2);
    const b = Tensor.from(device, Int8Array.of(-128, 127, 0), [3, 1, 1]);
    const c = Tensor.from(device, Int32Array.of(41), [1]);
    const y = op.run([a, undefined, b, c], [-7, Math.fround(0.1), 2 ** 31 - 1]);
    expect([...(await y.read())]).toEqual([-8, -9, -14, -15, -20, -21]);
    expect([...(await c.read())]).toEqual([42]);
    const [operands, attributes] = seen!;
    expect(Object.keys(operands)).toEqual(["a", "b", "c", "y"]);
    expect(operands.a!.shape).toEqual([3, 2]);
    expect([...operands.b!.data]).toEqual([-128, 127, 0]);
    expect(attributes).toEqual({ n: -7, x: Math.fround(0.1), m: 2 ** 31 - 1 });
    for (const tensor of [base, part, a, b, c, y]) tensor.dispose();
    expectNoLeaks(device);
  });

  test("thousands of commands between two reads stay in order", async () => {
    const device = openDevice("reference");
    let x = Tensor.from(device, [0], [1]);
    const one = Tensor.from(device, [1], [1]);
    for (let i = 0; i < 3000; i++) {
      const next = add(x, one);
      x.dispose();
      x = next;
    }
    expect([...(await x.read())]).toEqual([3000]);
    expect(device.recorded).toBe(3000);
    x.dispose();
    one.dispose();
    expectNoLeaks(device);
  });
});

describe.each(ALL_DEVICES)("errors of %s", (name) => {
  test("a failing kernel rejects reads of its result, with its op and module", async () => {
    const device = await requestTestDevice(name);
    const table = Tensor.from(device, [1, 2, 3, 4], [2, 2]);
    const good = Tensor.from(device, Int32Array.of(1), [1]);
    const bad = Tensor.from(device, Int32Array.of(5), [1]);
    const y = within(device, "model.embed_tokens", () => embedding(table, bad));
    const z = within(device, "model.later", () => embedding(table, good));
    const error = await y.read().then(
      () => undefined,
      (e: unknown) => e,
    );
    expect(error).toBeInstanceOf(KernelError);
    expect((error as KernelError).message).toMatch(/^embedding in model\.embed_tokens: /);
    expect((error as KernelError).details).toEqual({ op: "embedding", module: "model.embed_tokens" });
    await expect(y.read()).rejects.toThrow(KernelError);
    expect([...(await z.read())]).toEqual([3, 4]);
    for (const tensor of [table, good, bad, y, z]) tensor.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("operands of two devices, and a closed device", async () => {
    const device = await requestTestDevice(name);
    const other = await requestTestDevice(name);
    const x = Tensor.from(device, [1], [1]);
    const y = Tensor.from(other, [1], [1]);
    expect(() => add(x, y)).toThrow(DeviceError);
    expect(device.memory.live).toBe(4); // the output that was made for it is gone
    using sum = add(x, x);
    expect(Array.from(await sum.read())).toEqual([2]);
    const late = add(x, x);
    const reading = late.read(); // a device that closes still answers what it was asked before
    for (const tensor of [late, x, y]) tensor.dispose();
    await device.close();
    expect(Array.from(await reading)).toEqual([2]);
    await device.close();
    expect(() => Tensor.empty(device, [1], "f32")).toThrow("closed");
    await other.close();
  });
});

test("a device without a kernel says so when the op is recorded", () => {
  const device = new Device(openReference([]));
  const x = Tensor.from(device, [1], [1]);
  expect(() => add(x, x)).toThrow("device reference has no kernel for it");
  x.dispose();
});

test.each([
  ["cpus", "cpu"],
  ["cup", "cpu"],
  ["webgup", "webgpu"],
  ["gpuu", "webgpu"],
  ["gpo", "webgpu"],
  ["cdua", "webgpu"],
  ["cuda0", "webgpu"],
  ["mpss", "webgpu"],
])("the unknown device %s is refused, %s suggested", (typed, meant) => {
  expect(() => openDevice(typed)).toThrow(`unknown device "${typed}"; did you mean "${meant}"?`);
});

test("paths come back after an error inside a module", () => {
  const device = openDevice("reference");
  class Broken extends Module {}
  expect(new Broken().path).toBe("");
  const before = device.enter("outer");
  within(device, "inner", () => expect(device.path).toBe("inner"));
  expect(device.path).toBe("outer");
  device.enter(before);
  expect(device.path).toBe("");
});

describe("checkOptions", () => {
  const known = ["load_in_8bit", "load_in_4bit", "dtype"];
  const refusal = (options: object): OptionError => {
    try {
      checkOptions("from_pretrained", options, known);
    } catch (error) {
      return error as OptionError;
    }
    throw new Error("nothing was thrown");
  };

  test("suggests what was meant", () => {
    const error = refusal({ load_in_8bits: true });
    expect(error).toBeInstanceOf(OptionError);
    expect(error.message).toBe("from_pretrained: unknown option `load_in_8bits`; did you mean `load_in_8bit`?");
    expect(error.details).toEqual({ option: "load_in_8bits", suggestion: "load_in_8bit" });
    expect(refusal({ d_type: "f32" }).details.suggestion).toBe("dtype");
  });

  test("lists what there is when nothing is near", () => {
    const error = refusal({ banana: 1 });
    expect(error.message).not.toContain("did you mean");
    expect(error.hint).toContain("load_in_8bit, load_in_4bit, dtype");
  });

  test("takes what is known, and refuses what is no object", () => {
    checkOptions("x", undefined, known);
    checkOptions("x", { dtype: undefined }, known);
    expect(() => checkOptions("x", null as unknown as object, known)).toThrow("got null");
    expect(() => checkOptions("x", "dtype" as unknown as object, known)).toThrow("got string");
  });
});
