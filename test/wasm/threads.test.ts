// Threads of the WASM device: results that do not show them, how threads end, and that they keep nothing alive.

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { beforeAll, describe, expect, test } from "vitest";
import { compile } from "../../src/backends/wasm/api.js";
import { openWasm, wasmFileName } from "../../src/backends/wasm/index.js";
import { findWasm, nodeWorkers } from "../../src/backends/wasm/node.js";
import type { StartThread } from "../../src/backends/wasm/threads.js";
import { Device } from "../../src/core/device.js";
import { DeviceError, KernelError, OptionError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { add } from "../../src/ops/add.js";
import { ropeTable } from "../../src/ops/rope.js";
import { fourBitScheme } from "../../src/quant/four-bit.js";
import { llmInt8Scheme } from "../../src/quant/llm-int8.js";
import { READY_TIMEOUT, ready } from "../support/cli.js";
import { expectNoLeaks, openWasmForm, WASM_FORMS, whyNoWasm } from "../support/devices.js";
import { logitsOf, randomModel } from "../support/models.js";

const SHAPE = {
  hidden_size: 96,
  num_hidden_layers: 2,
  intermediate_size: 160,
  num_attention_heads: 6,
  vocab_size: 211,
};
const SCHEMES = [
  ["f32", undefined],
  ["int8", llmInt8Scheme(6)],
  ["nf4", fourBitScheme({ kind: "nf4", blocksize: 64, double_quant: true, compute: "f32" })],
] as const;

test("the module for a runtime is the one with what it has", () => {
  expect(wasmFileName(false)).toBe("octavo.wasm");
  expect(wasmFileName(true)).toBe("octavo-relaxed.wasm");
});

describe.skipIf(whyNoWasm)(whyNoWasm ? `wasm (${whyNoWasm})` : "wasm", () => {
  const module = whyNoWasm ? {} : compile(readFileSync(findWasm(false)!));
  /** A device whose threads run what `edit` makes of the script. */
  const openEdited = (threads: number, host: "here" | "worker", edit: (source: string, thread: number) => string) => {
    const startThread: StartThread = (source, start, heard) => nodeWorkers(edit(source, start.thread), start, heard);
    return new Device(openWasm({ module, threads, host, startThread }));
  };

  test.each(SCHEMES)("%s: the same bits whatever the threads, and whichever of them calls", async (_, scheme) => {
    const texts = [Array.from({ length: 40 }, (_, i) => (i * 37) % 211)];
    for (const relaxed of new Set(Object.values(WASM_FORMS).map((form) => form.relaxed))) {
      const all: Float32Array[][] = [];
      for (const host of ["here", "worker"] as const) {
        for (const threads of [1, 2, 3]) {
          const device = openWasmForm("wasm", { relaxed, host, threads });
          const model = await randomModel(device, SHAPE, "f32", scheme);
          all.push(await logitsOf(device, model, texts, { parts: [37, 1, 1, 1] }));
          model.dispose();
          expectNoLeaks(device);
          await device.close();
        }
      }
      for (const one of all) expect(one).toEqual(all[0]);
    }
  });

  test("a number of threads that is none is refused", () => {
    for (const threads of [0, 1.5, 65, Number.NaN]) expect(() => openWasm({ module, threads })).toThrow(OptionError);
  });

  test("a thread that the runtime refuses is said so", () => {
    const startThread: StartThread = () => {
      throw new Error("no more threads");
    };
    expect(() => openWasm({ module, threads: 2, startThread })).toThrow(DeviceError);
    expect(() => openWasm({ module, threads: 2, startThread })).toThrow(/no more threads\n {2}hint: .*one thread/);
  });

  test("nobody waits for a helper that does not come", async () => {
    const device = openEdited(3, "worker", (source, thread) => (thread === 0 ? source : "setInterval(() => {}, 1e6)"));
    const model = await randomModel(device, SHAPE, "f32");
    await logitsOf(device, model, [[1, 2, 3]]);
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("a kernel that ends its thread loses the device: what waits is told which op it was", async () => {
    const device = openEdited(1, "worker", (source) =>
      source.replace(
        "math: Math",
        'math: { ...Object.fromEntries(["exp", "log", "sin"].map((f) => [f, Math[f]])), cos() { throw new RangeError("no cosine today"); } }',
      ),
    );
    const x = Tensor.from(device, [1, 2], [2]);
    const positions = Tensor.from(device, Int32Array.of(1), [1, 1]);
    const y = ropeTable(positions, x, 1);
    await expect(y.read()).rejects.toThrow(KernelError);
    await expect(y.read()).rejects.toThrow(/^rope_table: the device is lost: .*no cosine today/);
    expect(device.backend.lost).toBe(true);
    const z = add(x, x);
    await expect(z.read()).rejects.toThrow("the device is lost");
    for (const tensor of [x, positions, y, z]) tensor.dispose();
    await device.close();
  });

  test.each(["here", "worker"] as const)("a helper that ends loses the device (%s)", async (host) => {
    const owner = host === "worker" ? 0 : -1;
    const device = openEdited(2, host, (source, thread) => (thread === owner ? source : 'throw new Error("I go")'));
    const x = Tensor.from(device, [1, 2], [2]);
    for (let tries = 0; tries < 500 && !device.backend.lost; tries++) await new Promise((r) => setTimeout(r, 10));
    const y = add(x, x);
    await expect(y.read()).rejects.toThrow(/the device is lost: a thread ended: I go/);
    for (const tensor of [x, y]) tensor.dispose();
    await device.close();
  });

  test("closing lets the queue run, and ends twice as once", async () => {
    const device = openWasmForm("wasm", { host: "worker", threads: 2 });
    const x = Tensor.from(device, new Float32Array(1 << 20), [1 << 20]);
    const y = add(x, x);
    const read = y.read();
    const closing = device.close();
    expect((await read).length).toBe(1 << 20);
    await closing;
    await device.close();
    await expect(y.read()).rejects.toThrow("closed");
  });

  describe("a process", () => {
    beforeAll(ready, READY_TIMEOUT);
    const run = async (body: string, env: NodeJS.ProcessEnv = {}): Promise<{ stdout: string; stderr: string }> => {
      const dist = pathToFileURL(`${import.meta.dirname}/../../dist/index.js`);
      const text = `import { openDevice, Tensor } from "${dist}"; ${body}`;
      const args = ["--input-type=module", "-e", text];
      return await promisify(execFile)(process.execPath, args, { timeout: 20_000, env: { ...process.env, ...env } });
    };

    test("ends though a device is open, and waits for what it awaits", async () => {
      const open = 'const device = openDevice("wasm", { threads: 2 }); const x = Tensor.from(device, [1, 2], [2]);';
      const of = async (body: string): Promise<string> => (await run(`${open} ${body}`)).stdout;
      expect(await of('console.log("open");')).toBe("open\n");
      expect(await of("console.log([...(await x.read())].join()); await device.synchronize();")).toBe("1,2\n");
      expect(await of('await device.close(); console.log("closed");')).toBe("closed\n");
    });

    test("without an add-on gets this device unless it names another, and one line says so", async () => {
      const env = { OCTAVO_ADDON: "/nowhere/octavo.node" };
      const { stdout, stderr } = await run("console.log(openDevice().name, openDevice().name)", env);
      expect(stdout).toBe("wasm wasm\n");
      expect(stderr).toMatch(
        /^octavo: runs as WebAssembly, which is slower: .*octavo\.node.* \(to run natively: npm run build:native\)\n$/,
      );
      await expect(run('openDevice("cpu")', env)).rejects.toThrow("cannot be loaded");
      await expect(run("openDevice()", { ...env, OCTAVO_WASM: "/nowhere" })).rejects.toThrow(
        "hint: npm run build:native",
      );
      expect(await run("console.log(openDevice().name)")).toEqual({ stdout: "cpu\n", stderr: "" });
    });
  });
});
