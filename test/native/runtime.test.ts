// The native runtime: buffers, order of the queue, failures, file ranges, closing. Kernels are in the files beside it.

import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { afterAll, describe, expect, test } from "vitest";
import { levelFor, openNative } from "../../src/backends/native/index.js";
import { Device } from "../../src/core/device.js";
import { DeviceError, KernelError, OptionError, OutOfMemoryError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { turnsDuring } from "../support/turns.js";
import { Machine, noise, type Operand } from "./helpers.js";

const ADDON = process.env.OCTAVO_ADDON ?? join(import.meta.dirname, "../../build/octavo.node");
const folder = mkdtempSync(join(tmpdir(), "octavo-native-"));
const m = new Machine();

afterAll(async () => {
  await m.backend.close();
  rmSync(folder, { recursive: true, force: true });
});

/** A command that keeps the queue busy for some milliseconds. */
function busy(machine: Machine, on: Operand, times = 1): void {
  for (let i = 0; i < times; i++) machine.run("activation", [on, on], [2]);
}

const big = m.from(noise(1 << 22), [1 << 22]);

describe("deterministic devices", () => {
  const isasCompiled = ["portable", "avx2", "avx512", "avx512bf16", "amx"];
  const tiles = { isasCompiled, isasSupported: isasCompiled, best: "amx" };
  const plain = { isasCompiled, isasSupported: ["portable", "avx2", "avx512"], best: "avx512" };

  test("take the best level without matrix units", () => {
    expect(levelFor({ deterministic: true }, tiles)).toBe("avx512bf16");
    expect(levelFor({ deterministic: true, isa: "avx2" }, tiles)).toBe("avx2");
    expect(levelFor({ deterministic: true }, plain)).toBeUndefined();
    expect(levelFor({ deterministic: false, isa: "amx" }, tiles)).toBe("amx");
    expect(() => levelFor({ deterministic: true, isa: "amx" }, tiles)).toThrow(OptionError);
  });

  test("open as others do", async () => {
    const backend = openNative({ deterministic: true, threads: 1 });
    expect(backend.isa).not.toBe("amx");
    await backend.close();
  });
});

describe("buffers", () => {
  test("write and read, with offsets", async () => {
    const id = m.backend.allocate(100);
    m.backend.write(id, 10, Uint8Array.of(1, 2, 3));
    m.backend.write(id, 11, Uint8Array.of(9));
    expect([...(await m.backend.read(id, 10, 3))]).toEqual([1, 9, 3]);
    expect((await m.backend.read(id, 100, 0)).length).toBe(0);
    m.backend.free(id);
  });

  test("bad arguments throw and name what is wrong", () => {
    const id = m.backend.allocate(16);
    const device = createRequire(import.meta.url)(ADDON).open({ threads: 1 });
    expect(() => m.backend.write(id, 10, new Uint8Array(7))).toThrow(/bytes 10\+7 are outside a buffer of 16/);
    expect(() => m.backend.read(id, 17, 0)).toThrow(/outside a buffer/);
    expect(() => m.backend.read(id, 0, 2 ** 53)).toThrow(/whole number/);
    expect(() => m.backend.read(id, -1, 4)).toThrow(/offset/);
    expect(() => m.backend.read(id, 0.5, 4)).toThrow(/offset/);
    expect(() => m.backend.read(12345, 0, 4)).toThrow(/no buffer 12345/);
    expect(() => m.backend.free(-1)).toThrow(/buffer/);
    expect(() => m.backend.submit(new Int32Array(4), 5)).toThrow(/words/);
    expect(() => m.backend.submit(new Float32Array(4) as unknown as Int32Array, 4)).toThrow(/Int32Array/);
    expect(() => m.backend.write(id, 0, [1] as unknown as Uint8Array)).toThrow(/Uint8Array/);
    expect(() => m.backend.load(id, 0, "", 0, 1)).toThrow(/file/);
    expect(() => m.backend.load(id, 0, "a\0b", 0, 1)).toThrow(/file/);
    expect(() => m.backend.load(id, 0, "x", 0, 17)).toThrow(/outside/);
    expect(() => device.read()).toThrow(/wants 4 arguments/);
    expect(() => device.read.call({}, 0, 0, 0, 0)).toThrow(/receiver/);
    expect(() => device.allocate("12")).toThrow(/bytes/);
    m.backend.free(id);
    expect(() => m.backend.free(id)).toThrow(/no buffer/);
    expect(() => m.backend.write(id, 0, new Uint8Array(1))).toThrow(/no buffer/);
    device.close();
  });

  test("memory that cannot be had is an OutOfMemoryError", () => {
    expect(() => m.backend.allocate(2 ** 46)).toThrow(OutOfMemoryError);
    expect(() => m.backend.allocate(2 ** 52)).toThrow(OutOfMemoryError);
    expect(m.backend.budget).toBeGreaterThan(1e8);
  });

  test("ids and memory come back after free", async () => {
    const ids = new Set<number>();
    for (let i = 0; i < 5000; i++) {
      const id = m.backend.allocate(64 + (i % 7) * 1000);
      ids.add(id);
      m.backend.free(id);
      if (i % 100 === 0) await m.backend.read(big.buffer, 0, 4);
    }
    expect(ids.size).toBeLessThan(2000);
  });
});

describe("order", () => {
  test("a write is seen by later commands only, a free waits for earlier ones", async () => {
    const x = m.from([1, 2, 3], [3]);
    const first = m.empty([3]);
    const second = m.empty([3]);
    busy(m, big, 3);
    m.run("add", [x, x, first]);
    m.backend.write(x.buffer, 0, new Uint8Array(Float32Array.of(10, 20, 30).buffer));
    m.run("add", [x, x, second]);
    m.backend.free(x.buffer);
    const other = m.from([7, 7, 7], [3]);
    expect([...(await m.floats(first))]).toEqual([2, 4, 6]);
    expect([...(await m.floats(second))]).toEqual([20, 40, 60]);
    expect([...(await m.floats(other))]).toEqual([7, 7, 7]);
  });

  test("many reads in flight resolve in order", async () => {
    const counter = m.from([0], [1], "i32");
    const seen: number[] = [];
    const reads: Promise<void>[] = [];
    for (let i = 0; i < 500; i++) {
      m.run("advance", [counter], [1]);
      reads.push(m.ints(counter).then(([value]) => void seen.push(value!)));
    }
    await Promise.all(reads);
    expect(seen).toEqual(Array.from({ length: 500 }, (_, i) => i + 1));
  });

  test("the words of a submit are copied", async () => {
    const counter = m.from([0], [1], "i32");
    busy(m, big);
    m.commands.begin(m.kernel("advance"), 0);
    m.commands.tensor(counter);
    m.commands.int(5);
    m.commands.end();
    m.backend.submit(m.commands.words, m.commands.length);
    m.commands.words.fill(-1, 0, m.commands.length);
    m.commands.reset();
    expect(await m.ints(counter)).toEqual([5]);
  });
});

describe("failures", () => {
  const rejection = (promise: Promise<unknown>) =>
    promise.then(
      () => undefined,
      (error) => error.failure,
    );

  test("the first failure is told of what it spoilt; commands on that are skipped, others are not", async () => {
    const x = m.from([1], [1]);
    const counter = m.from([0], [1], "i32");
    m.run("activation", [x, x], [77], 5);
    m.run("activation", [x, x], [78], 6);
    m.run("advance", [counter], [1]);
    const [first, second, third] = await Promise.allSettled([m.bytes(x), m.ints(counter), m.bytes(x)]);
    const failure = { op: "activation", site: 5, message: "there is no activation 77" };
    expect(first.status === "rejected" && first.reason.failure).toEqual(failure);
    expect(second).toEqual({ status: "fulfilled", value: [1] });
    expect(third.status === "rejected" && third.reason.failure).toEqual(failure);
    m.backend.write(x.buffer, 0, new Uint8Array(4));
    expect(await m.floats(x)).toEqual(Float32Array.of(0));
  });

  test("a buffer that takes the place of a spoilt one is good", async () => {
    const ids: number[] = [];
    for (let n = 0; n < 50; n++) {
      const x = m.from([1], [1]);
      m.run("activation", [x, x], [77]);
      m.backend.free(x.buffer);
      const id = m.backend.allocate(4);
      await expect(m.backend.read(id, 0, 4)).resolves.toHaveLength(4);
      ids.push(id);
    }
    for (const id of ids) m.backend.free(id);
  });

  test("a device turns it into a KernelError that names the module", async () => {
    const device = new Device(openNative({ threads: 1 }));
    const x = Tensor.from(device, Float32Array.of(1, 2), [2]);
    const outer = device.enter("model.layers.3.mlp");
    device.commands.begin(device.kernel("activation"), device.site);
    device.commands.tensor(x);
    device.commands.tensor(x);
    device.commands.int(99);
    device.commands.end();
    device.enter(outer);
    const error = await x.read().catch((e) => e);
    expect(error).toBeInstanceOf(KernelError);
    expect(error.message).toBe("activation in model.layers.3.mlp: there is no activation 99");
    x.dispose();
    await device.close();
  });

  test("malformed commands fail, they do not crash", async () => {
    let x = m.from([1, 2, 3, 4], [4]);
    const probe = async (why: RegExp, operands: readonly (Operand | undefined)[], attrs = [0]) => {
      m.run("activation", operands, attrs, 3);
      const failure = await rejection(m.backend.read(x.buffer, 0, 4));
      expect(failure?.message).toMatch(why);
      expect(failure?.site).toBe(3);
      m.backend.free(x.buffer);
      x = m.from([1, 2, 3, 4], [4]);
    };
    const whole = (words: number[]) => {
      m.backend.submit(Int32Array.from(words), words.length);
      return rejection(m.backend.read(x.buffer, 0, 4));
    };
    await probe(/no buffer 99999/, [{ ...x, buffer: 99999 }, x]);
    await probe(/no buffer -7/, [{ ...x, buffer: -7 }, x]);
    await probe(/needs 20 bytes/, [
      { ...x, shape: [5] },
      { ...x, shape: [5] },
    ]);
    await probe(/needs 16 bytes at 4/, [{ ...x, offset: 4 }, x]);
    await probe(/starts beyond/, [{ ...x, offset: 2 ** 40 }, x]);
    await probe(/negative dim/, [{ ...x, shape: [-4] }, x]);
    await probe(/too large/, [{ ...x, shape: [2 ** 30, 2 ** 30, 2 ** 30] }, x]);
    await probe(/leading dims/, [x, { ...x, shape: [2] }]);
    await probe(/contiguous/, [{ ...x, shape: [2], strides: [2] }, x]);
    await probe(/cannot be i32/, [{ ...x, dtype: "i32" }, x]);
    await probe(/not in panels/, [{ ...x, panels: true }, x]);
    await probe(/missing/, [undefined, x]);
    await probe(/2 words left for 1 attributes/, [x, x], [0, 0]);
    await probe(/0 words left for 1 attributes/, [x, x], []);
    await probe(/bad header/, [{ ...x, shape: [1, 1, 1, 1, 1, 1, 1, 1, 1] }, x]);
    expect(await whole([9999, 3, 1])).toMatchObject({ op: "submit", message: "there is no kernel 9999", site: 1 });
    expect((await whole([0, 2, 1]))?.message).toMatch(/longer/);
    expect((await whole([0, 100, 1]))?.message).toMatch(/longer/);
    expect((await whole([0]))?.message).toMatch(/longer/);
    expect((await whole([m.kernel("activation"), 3, 1]))?.message).toMatch(/too short/);
    expect([...(await m.floats(x))]).toEqual([1, 2, 3, 4]);
  });

  test("strided operands are held to their buffer", async () => {
    const x = m.from(noise(24), [2, 3, 4]);
    const y = m.empty([2, 3, 4]);
    m.run("copy", [m.view(x, [2, 3, 4], [12, 4, 2]), y]);
    expect((await rejection(m.bytes(y)))?.message).toMatch(/needs 108 bytes/);
    m.run("copy", [m.view(x, [2, 3, 4], [12, -4, 1]), y]);
    expect((await rejection(m.bytes(y)))?.message).toMatch(/negative stride/);
  });
});

describe("files", () => {
  const file = join(folder, "data.bin");
  const content = Uint8Array.from({ length: 5 << 20 }, (_, i) => (i * 7919) >> 5);
  writeFileSync(file, content);

  test("ranges arrive in place", async () => {
    const id = m.backend.allocate(content.length + 8);
    m.backend.load(id, 4, file, 0, content.length);
    m.backend.load(id, 0, file, 1000, 3);
    const got = await m.backend.read(id, 0, content.length + 4);
    expect(Buffer.compare(got.subarray(4), content)).toBe(0);
    expect([...got.subarray(0, 3)]).toEqual([...content.subarray(1000, 1003)]);
    m.backend.free(id);
  });

  test("a short file, a missing file and a folder reject reads until something is there", async () => {
    const id = m.backend.allocate(64);
    const fails = async (path: string, at: number, why: RegExp) => {
      m.backend.load(id, 0, path, at, 64);
      await expect(m.backend.read(id, 0, 4)).rejects.toMatchObject({
        failure: { op: "load", site: 0, message: expect.stringMatching(why) },
      });
    };
    await fails(file, content.length - 63, /ends at byte 5242880; bytes 5242817 to 5242881 are wanted/);
    await fails(join(folder, "none"), 0, /cannot open .*No such file/);
    await fails(folder, 0, /not a regular file/);
    await fails("/dev/zero", 0, /not a regular file/);
    m.backend.load(id, 0, file, 0, 64);
    expect((await m.backend.read(id, 0, 64)).length).toBe(64);
    m.backend.free(id);
  });
});

describe("devices", () => {
  test("closing runs what is queued, then refuses", async () => {
    const other = new Machine({ threads: 2 });
    const counter = other.from([0], [1], "i32");
    const x = other.from(noise(1 << 20), [1 << 20]);
    busy(other, x, 10);
    for (let i = 0; i < 100; i++) other.run("advance", [counter], [1]);
    const read = other.ints(counter);
    const closed = other.backend.close();
    expect(() => other.backend.allocate(4)).toThrow(/closed/);
    expect(await read).toEqual([100]);
    await closed;
    await other.backend.close();
    expect(() => other.backend.read(counter.buffer, 0, 4)).toThrow(/closed/);
  });

  test("several devices do not disturb each other", async () => {
    const others = [1, 2, 3].map((threads) => new Machine({ threads }));
    const counters = others.map((o) => o.from([0], [1], "i32"));
    for (let i = 0; i < 50; i++) for (const [d, o] of others.entries()) o.run("advance", [counters[d]!], [d + 1]);
    expect(await Promise.all(others.map((o, d) => o.ints(counters[d]!)))).toEqual([[50], [100], [150]]);
    await Promise.all(others.map((o) => o.backend.close()));
  });

  test("options are checked", () => {
    expect(() => openNative({ isa: "sse9" })).toThrow(OptionError);
    expect(() => openNative({ isa: "sse9" })).toThrow(/usable here: portable/);
    expect(() => openNative({ threads: 0 })).toThrow(OptionError);
    expect(() => openNative({ thread: 1 } as object)).toThrow(/did you mean `threads`/);
    expect(() => openNative({ signatures: new Map([["add", "add: a -> b"]]) })).toThrow(DeviceError);
  });

  test("the event loop turns while kernels run", async () => {
    const p99 = await turnsDuring(async () => {
      busy(m, big, 200);
      await m.backend.read(big.buffer, 0, 4);
    });
    expect(p99).toBeLessThan(20);
  });

  test("a worker that ends with work in flight, and a process that exits so, do not crash", async () => {
    const code = `
      const addon = require(${JSON.stringify(ADDON)});
      const d = addon.open({ threads: 2 });
      const k = d.kernels().findIndex((kernel) => kernel.name === "activation");
      const n = 1 << 22, x = d.allocate(n * 4), H = 0x80000001 | 0;
      const w = Int32Array.from([k, 14, 0, H, x, 0, 0, n, H, x, 0, 0, n, 2]);
      for (let i = 0; i < 500; i++) d.submit(w, 14);
      d.read(x, 0, 4, 4).then(() => {});
    `;
    for (let i = 0; i < 3; i++) {
      const worker = new Worker(`${code}; require("worker_threads").parentPort.postMessage(1)`, { eval: true });
      await new Promise((resolve) => worker.once("message", resolve));
      expect(await worker.terminate()).toBe(1);
    }
    execFileSync(process.execPath, ["-e", `${code}; process.exit(0)`]);
    execFileSync(process.execPath, [
      "--expose-gc",
      "-e",
      `{${code.replace(/d\.read.*\n/, "\n")}}; setTimeout(() => gc(), 5)`,
    ]);
  });

  test("profile counts calls and time per op", async () => {
    m.backend.profile(true);
    busy(m, big, 3);
    await m.backend.read(big.buffer, 0, 4);
    m.backend.profile(false);
    const [entry] = m.backend.profileReport();
    expect(entry).toMatchObject({ op: "activation", calls: 3, isa: expect.stringMatching(/^\w+$/) });
    expect(entry!.ns).toBeGreaterThan(1000);
  });
});
