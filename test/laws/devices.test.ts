// Law: several devices together compute what one would. Any order of work, transfers, failures, host writes and new owners
// on three devices gives the values, and spoils exactly the tensors, that the order of the calls says.

import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { captureAll, type Device } from "../../src/core/device.js";
import { KernelError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { add } from "../../src/ops/add.js";
import { argmax } from "../../src/ops/argmax.js";
import { copyInto } from "../../src/ops/copy.js";
import { transfer } from "../../src/ops/transfer.js";
import { expectNoLeaks, requestTestDevice, whyNoWasm } from "../support/devices.js";
import { gpu } from "../support/webgpu.js";

const SLOTS = 3;

const step = fc.record({
  kind: fc.constantFrom("add", "send", "send", "write", "fail", "read", "renew"),
  device: fc.nat(2),
  slot: fc.nat(SLOTS - 1),
  other: fc.nat(SLOTS - 1),
  to: fc.nat(2),
  value: fc.integer({ min: -5, max: 5 }),
});
type Step = typeof step extends fc.Arbitrary<infer S> ? S : never;

const GROUPS: [string, string[]][] = [
  ["three logical cpus", ["cpu:0", "cpu:1", "cpu:2"]],
  ["cpu, reference and wasm", ["cpu", "reference", whyNoWasm ? "reference" : "wasm"]],
  ...(gpu ? [["cpu, webgpu and a logical cpu", ["cpu", "webgpu", "cpu:1"]] as [string, string[]]] : []),
];

describe.each(GROUPS)("%s", (_, names) => {
  const devices: Device[] = [];
  beforeAll(async () => {
    for (const name of names) {
      devices.push(name.startsWith("cpu:") ? openDevice(name, { threads: 1 }) : await requestTestDevice(name));
    }
  });
  afterAll(async () => {
    for (const device of devices) {
      expectNoLeaks(device);
      await device.close();
    }
  });

  // Small transfers leave a copy and go on, large ones wait for their target.
  const size = fc.constantFrom(5, 1000, 400_000);

  test("work in any order", async () => {
    await fc.assert(
      fc.asyncProperty(size, fc.array(step, { minLength: 10, maxLength: 60 }), async (n, steps) => {
        const fresh = (device: Device, value: number): Tensor =>
          Tensor.from(device, new Float32Array(n).fill(value), [n]);
        const nans = devices.map((device) => Tensor.from(device, [Number.NaN, 0], [1, 2]));
        const tensors = devices.map((device) => Array.from({ length: SLOTS }, (_, s) => fresh(device, s)));
        // NaN stands for what is spoilt.
        const values = devices.map(() => Array.from({ length: SLOTS }, (_, s) => s));
        const reads: [Promise<number>, number, string][] = [];
        const read = (d: number, s: number): void => {
          const outcome = tensors[d]![s]!.readFloats().then(
            (all) => (all.every((v) => v === all[0]) ? all[0]! : Number.POSITIVE_INFINITY),
            (error: Error) => (error instanceof KernelError ? Number.NaN : Number.NEGATIVE_INFINITY),
          );
          reads.push([outcome, values[d]![s]!, `${devices[d]!.name}[${s}]`]);
        };
        const put = (d: number, s: number, tensor: Tensor, value: number): void => {
          tensors[d]![s]!.dispose();
          tensors[d]![s] = tensor;
          values[d]![s] = value;
        };
        const run = ({ kind, device: d, slot, other, to, value }: Step): void => {
          const [x, y] = [tensors[d]![slot]!, tensors[d]![other]!];
          if (kind === "add") {
            const sum = values[d]![slot]! + values[d]![other]!;
            if (Number.isNaN(sum) || Math.abs(sum) < 2 ** 20) put(d, slot, add(x, y), sum);
          } else if (kind === "send") {
            const there = transfer(x, devices[to]!);
            put(to, other, there === x ? there.alias() : there, values[d]![slot]!);
          } else if (kind === "write") {
            x.write(new Float32Array(n).fill(value));
            // What shares its memory changes along.
            for (const [s, tensor] of tensors[d]!.entries()) if (tensor.buffer === x.buffer) values[d]![s] = value;
          } else if (kind === "fail") {
            scope(() => {
              const bad = Tensor.empty(devices[d]!, [1], "f32");
              copyInto(argmax(nans[d]!), bad);
              copyInto(bad.expand(n), x);
            });
            for (const [s, tensor] of tensors[d]!.entries()) if (tensor.buffer === x.buffer) values[d]![s] = Number.NaN;
          } else if (kind === "read") read(d, slot);
          else put(d, slot, fresh(devices[d]!, value), value);
        };
        for (const one of steps) run(one);
        for (const d of devices.keys()) for (let s = 0; s < SLOTS; s++) read(d, s);
        const outcomes = await Promise.all(reads.map(async ([outcome, , what]) => [what, await outcome]));
        for (const tensor of [...tensors.flat(), ...nans]) tensor.dispose();
        expect(outcomes).toEqual(reads.map(([, value, what]) => [what, value]));
      }),
      { numRuns: names.includes("webgpu") ? 12 : 60, seed: 21, interruptAfterTimeLimit: 20_000 },
    );
  });

  test("a recording of all of them, replayed many times before anybody looks", async () => {
    const xs = devices.map((device, i) => Tensor.from(device, [i + 1], [1]));
    using recording = captureAll(devices, () =>
      scope(() => {
        // Each takes what the one before it has now: a ring.
        const sums = xs.map((x, i) => add(x, transfer(xs[(i + 2) % 3]!, devices[i]!)));
        for (const [i, sum] of sums.entries()) copyInto(sum, xs[i]!);
      }),
    );
    let expected = [1, 2, 3];
    for (let n = 0; n < 12; n++) {
      recording.replay();
      expected = expected.map((v, i) => v + expected[(i + 2) % 3]!);
    }
    const got = await Promise.all(xs.map((x) => x.readFloats()));
    expect(got.map((values) => values[0])).toEqual(expected);
    recording.dispose();
    for (const x of xs) x.dispose();
  });
});

describe("logical devices", () => {
  test("names are checked, and messages carry them", async () => {
    expect(() => openDevice("cpu:64")).toThrow('device "cpu:64": there are 64 logical devices');
    for (const bad of ["cpu:", "cpu:x", "cpu:-1", "cpu:1234", "cpu:1:2", "npu:0"]) {
      expect(() => openDevice(bad), bad).toThrow(`unknown device "${bad}"`);
    }
    // A name of Python, which test/generate/snippets.test.ts has more of.
    expect(() => openDevice("gpu:0")).toThrow('device "webgpu" cannot be opened without waiting');
    const one = openDevice("cpu:1", { threads: 1 });
    const two = openDevice("cpu:2", { threads: 1 });
    expect([one.name, two.name]).toEqual(["cpu:1", "cpu:2"]);
    using x = Tensor.from(one, [1], [1]);
    using y = Tensor.from(two, [1], [1]);
    expect(() => add(x, y)).toThrow("add: operand `b` is on cpu:2, the first one on cpu:1");
    for (const tensor of [x, y]) tensor.dispose();
    await one.close();
    await two.close();
    expect(() => Tensor.from(one, [1], [1])).toThrow("device cpu:1 is closed");
  });

  test("each has threads and a budget of its own", async () => {
    const MB = 1 << 20;
    const small = openDevice("cpu:0", { threads: 1, memory: 4 * MB });
    const large = openDevice("cpu:1", { threads: 2 });
    expect(small.backend.description).toMatch(/1 thread$/);
    expect(large.backend.description).toMatch(/2 threads$/);
    expect(small.memory.budget).toBe(4 * MB);
    using held = Tensor.empty(small, [3 * MB], "u8", "weights");
    expect(() => Tensor.empty(small, [2 * MB], "u8", "logits")).toThrow(/logits needs 2\.1 MB, 3\.1 MB of 4\.2 MB/);
    using other = Tensor.empty(large, [8 * MB], "u8");
    expect(() => transfer(other, small)).toThrow(/transfer needs 8\.4 MB/);
    expect(() => openDevice("cpu:0", { memory: 0 })).toThrow("memory must be a whole number of bytes");
    expect(() => openDevice("reference", { memory: 5 })).toThrow('memory cannot be chosen for device "reference"');
    for (const tensor of [held, other]) tensor.dispose();
    for (const device of [small, large]) {
      expectNoLeaks(device);
      await device.close();
    }
  });
});
