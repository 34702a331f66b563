// The WASM device beyond what conformance and model suites say of every device: its memory, how it fails, and that it
// writes the text that the CPU writes.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, test, vi } from "vitest";
import { openWasm } from "../../src/backends/wasm/index.js";
import { findWasm, openWasmFile } from "../../src/backends/wasm/node.js";
import type { BufferId } from "../../src/core/backend.js";
import { Device } from "../../src/core/device.js";
import { DeviceError, KernelError, OutOfMemoryError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { add } from "../../src/ops/add.js";
import { OPS, signatures } from "../../src/ops/index.js";
import { ropeTable } from "../../src/ops/rope.js";
import { expectNoLeaks, openWasmForm, WASM_FORMS, whyNoWasm } from "../support/devices.js";
import { STORYTELLER } from "../support/models.js";

afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
});

test("nothing of Node's is imported on the way to openWasm", () => {
  const seen = new Set<string>();
  const visit = (file: string): void => {
    if (seen.has(file)) return;
    seen.add(file);
    for (const [, target] of readFileSync(file, "utf8").matchAll(/(?:from|import)\s*\(?\s*"([^"]+)"/g)) {
      expect(target, file).not.toMatch(/^node:/);
      if (target!.startsWith(".")) visit(join(dirname(file), target!.replace(/\.js$/, ".ts")));
    }
  };
  visit(join(import.meta.dirname, "..", "..", "src", "backends", "wasm", "index.ts"));
  expect(seen.size).toBeGreaterThan(3);
});

test("a module that is not built, or is none, is said so", () => {
  vi.stubEnv("OCTAVO_WASM", join(import.meta.dirname, "no such file.wasm"));
  expect(() => openDevice("wasm")).toThrow(DeviceError);
  expect(() => openDevice("wasm")).toThrow("the WASM module is not built");
  vi.stubEnv("OCTAVO_WASM", import.meta.filename);
  expect(() => openDevice("wasm")).toThrow("cannot be loaded");
  expect(() => openWasm({ bytes: new Uint8Array(8) })).toThrow("wasm: the module cannot be used");
});

describe.skipIf(whyNoWasm)(whyNoWasm ? `wasm (${whyNoWasm})` : "wasm", () => {
  test("opens from bytes, and has a kernel for every op with the library's signature", async () => {
    const backend = openWasm({ bytes: readFileSync(findWasm()!), signatures: signatures() });
    const offered = new Map(backend.kernels.map(({ name, signature }) => [name, signature]));
    for (const op of OPS) expect(offered.get(op.name)).toBe(op.signature.text);
    await backend.close();
    const other = new Map([["add", "add: a[..]:f32 -> y[..]:f32"]]);
    expect(() => openWasmFile({ signatures: other })).toThrow("another signature for add");
  });

  test.each(Object.keys(WASM_FORMS))("%s: memory that is given back is used again, whole", async (form) => {
    const backend = openWasmFile(WASM_FORMS[form]);
    const kept = backend.allocate(4);
    const rounds: number[] = [];
    for (let round = 0; round < 4; round++) {
      const ids: BufferId[] = [];
      for (let i = 0; i < 200; i++) ids.push(backend.allocate(1 + ((i * 7919) % 100_000)));
      for (const [i, id] of ids.entries()) backend.write(id, 0, Uint8Array.of(i & 255));
      for (const [i, id] of ids.entries()) expect([...(await backend.read(id, 0, 1))]).toEqual([i & 255]);
      // In an order that leaves holes between.
      for (const [i, id] of ids.entries()) if (i % 3 === 0) backend.free(id);
      for (const [i, id] of ids.entries()) if (i % 3 !== 0) backend.free(id);
      // What was given back is there when the queue has run.
      await backend.read(kept, 0, 4);
      rounds.push(Math.max(...ids));
    }
    expect(new Set(rounds).size).toBe(1);
    await expect(backend.read(rounds[0]!, 0, 1)).rejects.toThrow("do not exist");
    expect(() => backend.write(-1, 0, Uint8Array.of(1))).toThrow(DeviceError);
    await backend.close();
  });

  test.each(Object.keys(WASM_FORMS))("%s: runs out of memory with a typed error, and goes on", async (form) => {
    const backend = openWasmFile(WASM_FORMS[form]);
    expect(() => backend.allocate(2 ** 32)).toThrow(OutOfMemoryError);
    const ids: BufferId[] = [];
    expect(() => {
      for (;;) ids.push(backend.allocate(2 ** 29));
    }).toThrow(OutOfMemoryError);
    expect(ids.length).toBeGreaterThanOrEqual(5);
    // Beyond 2 GB addresses are negative to JavaScript.
    const last = ids.at(-1)!;
    backend.write(last, 2 ** 29 - 4, Uint8Array.of(1, 2, 3, 4));
    expect([...(await backend.read(last, 2 ** 29 - 4, 4))]).toEqual([1, 2, 3, 4]);
    for (const id of ids) backend.free(id);
    // What was free in pieces is one piece again.
    const large = backend.allocate(2 ** 31);
    backend.free(large);
    await backend.close();

    const device = new Device(openWasmFile({ ...WASM_FORMS[form], budget: 1 << 20 }));
    const kept = Tensor.empty(device, [1000], "f32", "weight");
    expect(() => Tensor.empty(device, [1 << 20], "f32")).toThrow(/weight/);
    kept.dispose();
    await device.close();
  });

  test.each(Object.keys(WASM_FORMS))("%s: malformed commands are refused, others run", async (form) => {
    const backend = openWasmFile(WASM_FORMS[form]);
    const buffer = backend.allocate(64);
    const refusals: [number[], RegExp][] = [
      [[0], /longer than what was submitted/],
      [[0, 2, 0], /longer than what was submitted/],
      [[0, 100, 7], /longer than what was submitted/],
      [[999, 3, 7], /no kernel 999/],
      [[-1, 3, 7], /no kernel -1/],
      [[backend.kernels.findIndex(({ name }) => name === "add"), 3, 7], /too short/],
      [[backend.kernels.findIndex(({ name }) => name === "add"), 4, 7, 0x7fffffff], /bad header \(0x7fffffff\)/],
    ];
    for (const [words, message] of refusals) {
      backend.submit(Int32Array.from(words), words.length);
      await expect(backend.read(buffer, 0, 4), String(words)).rejects.toThrow(message);
      await expect(backend.read(buffer, 0, 4)).resolves.toHaveLength(4);
    }
    await backend.close();
  });

  test("a kernel that ends the module loses the device", async () => {
    vi.spyOn(Math, "cos").mockImplementation(() => {
      throw new RangeError("no cosine today");
    });
    const device = openWasmForm("wasm");
    const x = Tensor.from(device, [1, 2], [2]);
    const positions = Tensor.from(device, Int32Array.of(1), [1, 1]);
    const y = ropeTable(positions, x, 1);
    const error = await y.read().then(
      () => undefined,
      (e: unknown) => e,
    );
    expect(error).toBeInstanceOf(KernelError);
    expect((error as Error).message).toMatch(/^rope_table: .*no cosine today/);
    expect(device.backend.lost).toBe(true);
    const z = add(x, x);
    await expect(z.read()).rejects.toThrow("the device is lost");
    for (const tensor of [x, positions, y, z]) tensor.dispose();
    await device.close();
  });

  test("the storyteller writes what it writes on the CPU", { timeout: 120_000 }, async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
    const tell = async (name: string): Promise<string[]> => {
      const device = openDevice(name, name === "cpu" ? { threads: 2 } : {});
      const model = await AutoModelForCausalLM.from_pretrained(STORYTELLER, { device, dtype: "float32" });
      const texts: string[] = [];
      for (const prompt of ["Once upon a time", "The king looked at his daughter and said", "In the dark forest"]) {
        const inputs = tokenizer(prompt);
        const [row] = await model.generate({ ...inputs, max_new_tokens: 60, do_sample: false });
        expect(row!.length).toBeGreaterThan(30);
        texts.push(tokenizer.decode(row!));
      }
      model.dispose();
      expectNoLeaks(device);
      await device.close();
      return texts;
    };
    const [cpu, wasm] = [await tell("cpu"), await tell("wasm")];
    expect(wasm).toEqual(cpu);
  });
});
