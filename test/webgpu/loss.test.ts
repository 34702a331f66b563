// A device is lost during work: running calls end with a typed error, everything can still be disposed, and the next call
// gets a working device. In Node and in a Worker.

import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { openWebGPU } from "../../src/backends/webgpu/index.js";
import { WorkerHost } from "../../src/browser/client.js";
import { type Port, serve } from "../../src/browser/worker.js";
import { Device } from "../../src/core/device.js";
import { DeviceError } from "../../src/core/errors.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { STORYTELLER } from "../support/models.js";
import { FileServer } from "../support/server.js";
import { describeGPU, watched } from "../support/webgpu.js";

/** Software adapters build pipelines slowly. */
const SLOW = 240_000;

describeGPU("a lost device", () => {
  let raw: GPUDevice | undefined;
  const breakable = (): GPU =>
    watched((seen) => {
      raw = seen;
    });

  test.each([
    ["dispose", 60],
    // A cache above 64 MB is freed at once when the session ends.
    ["asyncDispose", 60_000],
  ] as const)("ends a generation; the model goes by %s (%d tokens)", { timeout: SLOW }, async (how, max_new_tokens) => {
    const device = new Device(await openWebGPU(breakable()));
    const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device });
    let seen = 0;
    const run = async (): Promise<void> => {
      const options = { input_ids: [[1, 2]], max_new_tokens, do_sample: false, eos_token_id: null };
      for await (const _step of model.stream(options)) if (++seen === 3) raw!.destroy();
    };
    await expect(run()).rejects.toThrow(DeviceError);
    expect(seen).toBeLessThan(60);
    await expect(model.generate({ input_ids: [[1]], max_new_tokens: 1 })).rejects.toThrow(/the device was lost/);
    if (how === "dispose") model.dispose();
    else await model[Symbol.asyncDispose]();
    expect(device.memory.live).toBe(0);
    await device.close();
  });
});

describeGPU("a Worker's lost device", () => {
  let server: FileServer;
  let raw: GPUDevice | undefined;
  const navigator = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  beforeAll(async () => {
    server = await new FileServer(STORYTELLER).start();
    const value = {
      gpu: watched((seen) => {
        raw = seen;
      }),
    };
    Object.defineProperty(globalThis, "navigator", { value, configurable: true });
  });
  afterAll(async () => {
    await server?.stop();
    if (navigator) Object.defineProperty(globalThis, "navigator", navigator);
    else Reflect.deleteProperty(globalThis, "navigator");
  });
  afterEach(() => {
    raw = undefined;
  });

  test("ends what runs; the next load gets a new one", { timeout: SLOW }, async () => {
    const listeners: ((event: { data: unknown }) => void)[] = [];
    const port: Port = {
      onmessage: null,
      postMessage(message) {
        const data: unknown = structuredClone(message);
        setTimeout(() => {
          for (const listener of listeners) listener({ data });
        });
      },
    };
    serve(port);
    const host = new WorkerHost({
      postMessage(message: unknown) {
        const data: unknown = structuredClone(message);
        setTimeout(() => port.onmessage!({ data }));
      },
      addEventListener(type: string, listener: (event: never) => void) {
        if (type === "message") listeners.push(listener as (event: { data: unknown }) => void);
      },
      terminate() {},
    });
    const options = { device: "webgpu", cache: false } as const;
    const prompt = { prompt: "Once", max_new_tokens: 12, do_sample: false };
    await host.load(`${server.address}/`, options);
    const { text } = await host.generate(prompt);
    let seen = 0;
    const broken = host.generate({
      ...prompt,
      step: () => {
        if (++seen === 3) raw!.destroy();
      },
    });
    await expect(broken).rejects.toThrow(DeviceError);
    await host.load(`${server.address}/`, options);
    expect((await host.generate(prompt)).text).toBe(text);
    await host.dispose();
  });
});
