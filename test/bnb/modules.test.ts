// bitsandbytes' modules against its own results (test/fixtures/quant), and what they do where it fails: see the register of its
// defects in the names of the tests.

import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { dequantize_4bit } from "../../src/bnb/functional-4bit.js";
import { load_and_quantize_model } from "../../src/bnb/load-and-quantize.js";
import {
  Embedding8bit,
  EmbeddingFP4,
  EmbeddingNF4,
  Linear4bit,
  Linear8bitLt,
  LinearFP4,
  LinearNF4,
  StableEmbedding,
} from "../../src/bnb/modules.js";
import type { Device } from "../../src/core/device.js";
import { narrow, widen } from "../../src/core/dtype.js";
import { CheckpointError, OptionError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import * as nn from "../../src/nn.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { type Golden, readArrays, readJson } from "../support/fixtures.js";
import { normals } from "../support/random.js";
import { temporary } from "../support/temporary.js";

interface Int8Case {
  readonly name: string;
  readonly K: number;
  readonly N: number;
  readonly bias: boolean;
  readonly threshold: number;
  readonly max_abs: number;
}
interface FourBitCase {
  readonly case: number;
  readonly K: number;
  readonly N: number;
  readonly quant_type: "nf4" | "fp4";
  readonly double_quant: boolean;
  readonly bias: boolean;
}

const tensorOf = (device: Device, { values, shape }: Golden): Tensor => Tensor.from(device, values, shape);
const largest = (values: ArrayLike<number>): number =>
  Array.from(values).reduce((most, value) => Math.max(most, Math.abs(value)), 0);

function expectNear(got: ArrayLike<number>, want: ArrayLike<number>, tolerance: number): void {
  expect(got.length).toBe(want.length);
  expect(largest(Array.from(got, (value, i) => value - want[i]!))).toBeLessThanOrEqual(tolerance);
}

describe.each(ALL_DEVICES)("%s", (name) => {
  let device: Device;
  beforeAll(async () => {
    device = await requestTestDevice(name);
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  /** A module with the weights of a fixture, on the device. */
  async function filled<M extends nn.Module>(module: M, arrays: Record<string, Golden | undefined>): Promise<M> {
    const state: Record<string, Tensor> = {};
    for (const [key, golden] of Object.entries(arrays)) if (golden) state[key] = tensorOf(device, golden);
    await module.load_state_dict(state);
    for (const tensor of Object.values(state)) tensor.dispose();
    return module.to(device);
  }

  test("Linear8bitLt is what bitsandbytes computes, outliers row by row", async () => {
    const { cases } = readJson<{ cases: Int8Case[] }>("quant", "int8_linear.json");
    const arrays = readArrays("quant", "int8_linear.safetensors");
    for (const { name: key, K, N, bias, threshold, max_abs } of cases.filter(({ K }) => K > 0)) {
      // bitsandbytes rounds weights to f16 before it quantizes them, and does nothing else differently.
      const weight = arrays.get(`${key}.weight`)!;
      const halves = { ...weight, values: widen("f16", narrow("f16", weight.values as Float32Array)) };
      const module = new Linear8bitLt(K, N, { bias, threshold, has_fp16_weights: false });
      using layer = await filled(module, { weight: halves, bias: arrays.get(`${key}.bias`) });
      using codes = layer.weight.CB!;
      expect([...(await codes.read())]).toEqual([...arrays.get(`${key}.CB`)!.values]);
      using scales = layer.weight.SCB!;
      expect([...(await scales.read())]).toEqual([...arrays.get(`${key}.SCB`)!.values]);
      using x = tensorOf(device, arrays.get(`${key}.x`)!);
      using y = layer.forward(x);
      expectNear(await y.readFloats(), arrays.get(`${key}.y_per_token`)!.values, 2e-6 * max_abs + 1e-6);
    }
  });

  test("Linear4bit and its gradient, in sizes that no block divides (D2, D4)", async () => {
    const { cases, tolerance } = readJson<{ cases: FourBitCase[]; tolerance: number }>("quant", "linear4bit.json");
    const arrays = readArrays("quant", "linear4bit.safetensors");
    for (const { case: i, K, N, bias, quant_type, double_quant: compress_statistics } of cases) {
      const get = (key: string): Golden => arrays.get(`${i}.${key}`)!;
      const layer = new Linear4bit(K, N, { bias, quant_type, compress_statistics });
      using filledLayer = await filled(layer, { weight: get("weight"), bias: bias ? get("bias") : undefined });
      using x = tensorOf(device, get("x")).requires_grad_();
      using y = filledLayer.forward(x);
      const close = (key: string): number => tolerance * Math.max(1, largest(get(key).values));
      expectNear(await y.readFloats(), get("y").values, close("y"));
      using dy = tensorOf(device, get("grad_y"));
      y.backward(dy);
      expectNear(await x.grad!.readFloats(), get("grad_x").values, close("grad_x"));
    }
  });

  test("embeddings in 8 and 4 bits", async () => {
    const { cases } = readJson<{ cases: { case: number; vocab: number; dim: number }[] }>("quant", "embedding.json");
    const arrays = readArrays("quant", "embedding.safetensors");
    for (const { case: i, vocab, dim } of cases) {
      const weight = arrays.get(`${i}.weight`);
      using ids = Tensor.from(device, Int32Array.from(arrays.get(`${i}.ids`)!.values), arrays.get(`${i}.ids`)!.shape);
      const step = largest(arrays.get(`${i}.int8_SCB`)!.values) / 127;
      const kinds = [
        ["int8", Embedding8bit, 1.01 * step],
        ["nf4", EmbeddingNF4, 1e-6],
        ["fp4", EmbeddingFP4, 1e-6],
      ] as const;
      for (const [kind, Table, tolerance] of kinds) {
        using table = await filled(new Table(vocab, dim), { weight });
        using rows = table.forward(ids);
        expectNear(await rows.readFloats(), arrays.get(`${i}.${kind}_lookup`)!.values, tolerance);
      }
    }
  });

  test("floats that are multiplied in 8 bits have the gradient of the float product (D5)", async () => {
    nn.manual_seed(4);
    using layer = new Linear8bitLt(24, 10, { threshold: 6 }).to(device);
    using plain = new nn.Linear(24, 10).to(device);
    await plain.load_state_dict(await layer.state_dict());
    using x = Tensor.from(device, normals(8, 72), [3, 24]);
    using dy = Tensor.from(device, normals(9, 30), [3, 10]);
    for (const one of [layer, plain]) {
      one.requires_grad_();
      using y = one.forward(x);
      y.backward(dy);
    }
    for (const key of ["weight", "bias"] as const) {
      const [got, want] = [await layer[key]!.grad!.readFloats(), await plain[key]!.grad!.readFloats()];
      expectNear(got, want, 1e-4 * largest(want));
    }
    using y = nn.no_grad(() => layer.forward(x));
    using z = nn.no_grad(() => plain.forward(x));
    expectNear(await y.readFloats(), await z.readFloats(), 0.03); // 8 bits
    expect(await y.readFloats()).not.toEqual(await z.readFloats());
  });
});

describe("on the CPU", () => {
  let device: Device;
  let other: Device;
  beforeAll(() => {
    device = openDevice("cpu", { threads: 2 });
    other = openDevice("reference");
  });
  afterAll(async () => {
    for (const one of [device, other]) {
      expectNoLeaks(one);
      await one.close();
    }
  });

  const KINDS: Readonly<Record<string, () => nn.Module & { forward(x: Tensor): Tensor }>> = {
    Linear8bitLt: () => new Linear8bitLt(40, 24, { has_fp16_weights: false, threshold: 6 }),
    "Linear8bitLt in f16": () => new Linear8bitLt(40, 24, { has_fp16_weights: false, dtype: "float16" }),
    LinearNF4: () => new LinearNF4(128, 32),
    "LinearFP4 without bias, its scales not quantized": () =>
      new LinearFP4(100, 33, { bias: false, compress_statistics: false }),
    Embedding8bit: () => new Embedding8bit(30, 48),
    EmbeddingNF4: () => new EmbeddingNF4(30, 48, { dtype: "bfloat16" }),
    StableEmbedding: () => new StableEmbedding(30, 48),
  };

  /** What a module makes of some input. */
  async function outputOf(module: nn.Module & { forward(x: Tensor): Tensor }): Promise<number[]> {
    const on = module.device!;
    const table = "num_embeddings" in module;
    const width = (module as unknown as { in_features: number }).in_features;
    using x = table
      ? Tensor.from(on, Int32Array.of(3, 0, 29), [3])
      : Tensor.from(on, normals(6, 2 * width), [2, width]);
    using y = module.forward(x);
    return [...(await y.readFloats())];
  }

  const bytesOf = async (module: nn.Module): Promise<Record<string, string>> =>
    Object.fromEntries(
      await Promise.all(
        [...(await module.state_dict())].map(async ([key, tensor]) => [
          key,
          `${tensor.dtype} [${tensor.shape}] ${Buffer.from(await tensor.bytes()).toString("base64")}`,
        ]),
      ),
    );

  test.each(Object.entries(KINDS))(
    "%s is quantized once, moves, saves and loads bit for bit (D3, D17)",
    async (_, make) => {
      nn.manual_seed(5);
      using module = make().to(device);
      const before = await bytesOf(module);
      const output = await outputOf(module);
      expect(await bytesOf(module)).toEqual(before); // a pass changes nothing
      module.to(other).to(device);
      expect(await bytesOf(module)).toEqual(before);
      expect(await outputOf(module)).toEqual(output);
      module.to("float32");
      expect(Object.keys(await bytesOf(module))).toEqual(Object.keys(before));
      module.to(device);
      const file = `${temporary("module")}.safetensors`;
      using same = make().to(device);
      await nn.save(await same.state_dict(), file);
      const original = await bytesOf(same);
      using waiting = make();
      await waiting.load_state_dict(await nn.load(file));
      expect(await bytesOf(waiting)).toEqual(original); // codes that wait for a device
      waiting.to(device);
      using placed = make().to(device);
      await placed.load_state_dict(await nn.load(file));
      for (const one of [waiting, placed]) {
        expect(await bytesOf(one)).toEqual(original);
        // Decoded 4-bit values are rounded to the dtype that a file names.
        expectNear(await outputOf(one), await outputOf(same), 1e-2);
      }
    },
  );

  test("floats for a module that holds codes are quantized, codes of another kind refused", async () => {
    using layer = new Linear8bitLt(8, 4, { has_fp16_weights: false, bias: false }).to(device);
    using weight = Tensor.from(device, normals(3, 32), [4, 8]);
    await layer.load_state_dict({ weight });
    using wanted = new Linear8bitLt(8, 4, { has_fp16_weights: false, bias: false });
    await wanted.load_state_dict({ weight });
    wanted.to(device);
    expect(await bytesOf(layer)).toEqual(await bytesOf(wanted));
    const state = await layer.state_dict();
    using four = new LinearNF4(8, 4, { bias: false }).to(device);
    await expect(four.load_state_dict(state)).rejects.toThrow(CheckpointError);
    using plain = new nn.Linear(8, 4, { bias: false }).to(device);
    await expect(plain.load_state_dict(state, { strict: false })).rejects.toThrow(/holds I8/);
  });

  test("threshold 0 has no outliers; a row does not depend on its mates (D8); train computes as eval (D10); any rank (D9)", async () => {
    nn.manual_seed(2);
    const made = new Linear8bitLt(32, 16, { has_fp16_weights: false, threshold: 6 });
    const state = await made.state_dict();
    using layer = made.to(device);
    using simple = new Linear8bitLt(32, 16, { has_fp16_weights: false });
    await simple.load_state_dict(state);
    simple.to(device);
    const mates = normals(7, 64);
    const quiet = mates.slice(0, 32);
    mates[40] = 30;
    mates[63] = -25;
    const run = async (one: nn.Layer, values: Float32Array, shape: number[]): Promise<number[]> => {
      using x = Tensor.from(device, values, shape);
      using y = one.forward(x);
      expect(y.shape).toEqual([...shape.slice(0, -1), 16]);
      return [...(await y.readFloats())];
    };
    const alone = await run(layer, quiet, [32]);
    expect((await run(layer, mates, [2, 32])).slice(0, 16)).toEqual(alone);
    expect(await run(layer, quiet, [1, 1, 1, 32])).toEqual(alone);
    layer.eval();
    expect(await run(layer, quiet, [32])).toEqual(alone);
    expect(await run(simple, quiet, [32])).toEqual(alone);
    const [split, whole] = [await run(layer, mates, [2, 32]), await run(simple, mates, [2, 32])];
    using decoded = layer.weight.dequantize();
    const matrix = await decoded.readFloats();
    const bias = await layer.bias!.value.readFloats();
    const exact = Array.from({ length: 16 }, (_, n) =>
      mates.slice(32).reduce((sum, value, k) => sum + value * matrix[32 * n + k]!, bias[n]!),
    );
    const off = (got: number[]): number => largest(exact.map((value, n) => value - got[16 + n]!));
    // The step of the scale is that of the largest other value, not of 30.
    expect(off(split)).toBeLessThan(0.25 * off(whole));
    expect(layer.weight.weight.trainable).toEqual([]);
  });

  test("quant_state decodes the codes", async () => {
    nn.manual_seed(6);
    using layer = new LinearNF4(64, 8, { compress_statistics: false }).to(device);
    using state = layer.weight.quant_state!;
    const { absmax, code } = state;
    expect(String(state)).toBe("QuantState(nf4, blocksize 64, of [8, 64] f32)");
    using codes = layer.weight.codes!;
    using decoded = layer.weight.dequantize();
    const [packed, scales, table] = [await codes.readBytes(), await absmax.readFloats(), await code.readFloats()];
    const values = Array.from({ length: 512 }, (_, i) => {
      const nibble = i % 2 === 0 ? packed[i >> 1]! >> 4 : packed[i >> 1]! & 15;
      return Math.fround(table[nibble]! * scales[i >> 6]!);
    });
    expect([...(await decoded.readFloats())]).toEqual(values);
    using twice = new LinearFP4(64, 8).to(device);
    using nested = twice.weight.quant_state!;
    expect(nested.state2!.code.shape).toEqual([256]);
    using flat = twice.weight.codes!;
    const packed4 = flat.reinterpret("u8", 256, 1);
    using back = dequantize_4bit(packed4, nested);
    using same = twice.weight.dequantize();
    expect([...(await back.readFloats())]).toEqual([...(await same.readFloats())]);
    packed4.dispose();
    expect(new LinearNF4(64, 8).weight.quant_state).toBeUndefined();
    expect(() => layer.weight.data).toThrow(/dequantize/);
  });

  test("load_and_quantize_model fills a declared model from a file", async () => {
    const file = `${temporary("weights")}.safetensors`;
    const declared = () =>
      Object.assign(new nn.Sequential(new nn.Linear(64, 32), new nn.ReLU(), new nn.Linear(32, 4)), {});
    nn.manual_seed(8);
    using floats = declared().to(device);
    await nn.save(await floats.state_dict(), file);
    using small = await load_and_quantize_model(declared(), {
      weights_location: file,
      device,
      quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" },
      skip_modules: ["2"],
    });
    expect([...small.children()].map(([, { class_name }]) => class_name)).toEqual(["Linear4bit", "ReLU", "Linear"]);
    using x = Tensor.from(device, normals(1, 64), [64]);
    const [a, b] = scope(() => [small.forward(x), floats.forward(x)] as const);
    expectNear(await a.readFloats(), await b.readFloats(), 0.15); // 4 bits of values of about one
    for (const tensor of [a, b]) tensor.dispose();
    await expect(load_and_quantize_model(declared(), { device, weights_location: "none.safetensors" })).rejects.toThrow(
      /none/,
    );
    await expect(load_and_quantize_model(declared(), {} as never)).rejects.toThrow(OptionError);
    await expect(load_and_quantize_model({} as never, { device })).rejects.toThrow(OptionError);
  });
});

test("the announcement's walkthrough runs", () => {
  const root = join(import.meta.dirname, "..", "..");
  const said = execFileSync(process.execPath, [join(root, "examples", "announcement.mjs")], { encoding: "utf8" });
  expect(said).toMatch(/before the move: Linear8bitLt\(.*to be\)\nafter it: {8}Linear8bitLt\(.*llm_int8\)\n/);
  const codes = [...said.matchAll(/^(?:codes: tensor\(\[| {7})\[+(.*)\]/gm)];
  expect(codes.length).toBeGreaterThan(0);
  expect(Number(/largest difference: (\S+)/.exec(said)?.[1])).toBeLessThan(0.125 / 254 + 1e-4); // half a step
  expect(Number(/at most (\S+) from/.exec(said)?.[1])).toBeLessThan(0.02);
  expect(said).toContain("left on the device: 0 bytes");
});
