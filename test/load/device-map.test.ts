// Plans of where models go: what accelerate makes of random trees and memories (fixtures/make_device_maps.py), and trees of this
// library's own, which are declared and never loaded.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { OctavoError, OptionError } from "../../src/core/errors.js";
import {
  AutoConfig,
  AutoModelForCausalLM,
  BitsAndBytesConfig,
  check_device_map,
  compute_module_sizes,
  convert_file_size_to_int,
  get_balanced_memory,
  get_max_memory,
  infer_auto_device_map,
  init_empty_weights,
} from "../../src/index.js";
import { type DevicePlan, planDevices } from "../../src/load/device-map/plan.js";
import { Linear, Module } from "../../src/nn/module.js";
import { FIXTURES } from "../support/fixtures.js";
import { uniforms } from "../support/random.js";

type Tensor = readonly [number: number, shape: readonly number[], dtype: string, saved?: boolean];
type Tree = readonly [string, Record<string, Tensor>, Record<string, Tensor>, Record<string, Tree>];
interface Case {
  readonly max_memory: Record<string, number>;
  readonly sizes: Record<string, number>;
  readonly dtype?: string;
  readonly special_dtypes?: Record<string, string>;
  readonly no_split_module_classes?: string[];
  readonly low_zero?: boolean;
  readonly balanced?: Record<string, number>;
  readonly device_map: Record<string, number | string>;
  readonly warned: boolean;
  readonly covered: boolean;
}

const { trees } = JSON.parse(readFileSync(join(FIXTURES, "device_maps.json"), "utf8")) as {
  trees: { tree: Tree; cases: Case[] }[];
};

/** A tree as callers make one: classes by their names, and fields. */
function built([name, parameters, constants, children]: Tree, made = new Map<number, object>()): object {
  const Class = { [name]: class {} }[name]!;
  const module = new Class() as Record<string, unknown>;
  const tensor = ([number, shape, dtype, saved]: Tensor, buffer: boolean): object => {
    const one = made.get(number) ?? { shape, dtype, buffer, persistent: saved !== false };
    made.set(number, one);
    return one;
  };
  for (const [key, one] of Object.entries(parameters)) module[key] = tensor(one, false);
  for (const [key, one] of Object.entries(constants)) module[key] = tensor(one, true);
  for (const [key, one] of Object.entries(children)) module[key] = built(one, made);
  return module;
}

describe("random trees are placed as accelerate places them", () => {
  test("sizes, memory, maps, warnings and checks", () => {
    let cases = 0;
    for (const [i, { tree, cases: list }] of trees.entries()) {
      for (const one of list) {
        const { sizes, max_memory, balanced, low_zero, device_map, warned, covered, ...options } = one;
        const { dtype, special_dtypes, no_split_module_classes } = options;
        const model = built(tree);
        const counting = { dtype, special_dtypes };
        const where = `tree ${i}, ${JSON.stringify(max_memory)}`;
        expect(compute_module_sizes(model, counting), where).toEqual(sizes);
        const planning = { ...counting, max_memory, no_split_module_classes };
        if (balanced) expect(get_balanced_memory(model, { ...planning, low_zero }), where).toEqual(balanced);
        const warnings: string[] = [];
        const warn = (message: string): void => void warnings.push(message);
        expect(infer_auto_device_map(model, { ...options, max_memory, warn }), where).toEqual(device_map);
        expect(warnings.length > 0, where).toBe(warned);
        const check = (): void => check_device_map(model, device_map, { warn });
        if (covered) check();
        else expect(check, where).toThrow(/does not give any device for the following parameters/);
        cases++;
      }
    }
    expect(cases).toBeGreaterThan(250);
  });
});

describe("sizes and memory", () => {
  test.each([
    ["0MB", 0],
    ["1GB", 1e9],
    ["1GiB", 2 ** 30],
    ["10gib", 10 * 2 ** 30],
    ["1.5GB", 1.5e9],
    ["1Gb", 125_000_000],
    ["7Mb", 875_000],
    ["3KiB", 3072],
    [123, 123],
  ])("%s", (text, bytes) => expect(convert_file_size_to_int(text)).toBe(bytes));

  test.each(["5MBB", "5k0MB", "-1GB", "GB", "", -1, 1.5, "1e400GB"])("%s is refused", (text) => {
    expect(() => convert_file_size_to_int(text)).toThrow(/is not in a valid format/);
  });

  test("devices are filled in the order of their numbers, then names, then cpu and disk", () => {
    const memory = get_max_memory(
      new Map<string | number, number | string>([
        ["disk", "1TB"],
        ["cpu", "4GiB"],
        ["cpu:1", 5],
        [1, "1GB"],
        [0, 0],
      ]),
    );
    expect(Object.entries(memory)).toEqual([
      ["0", 0],
      ["1", 1e9],
      ["cpu:1", 5],
      ["cpu", 2 ** 32],
      ["disk", 1e12],
    ]);
    expect(get_max_memory()).toEqual({ cpu: expect.any(Number) });
  });

  test.each([{ tpu: 5 }, { "-1": 5 }, { 0: "much" }, { 0: Number.NaN }, { cpu: -5 }, 5])("%o is refused", (memory) => {
    expect(() => get_max_memory(memory as never)).toThrow(OptionError);
  });
});

describe("declared models", () => {
  const FIELDS = {
    model_type: "bloom",
    vocab_size: 250_880,
    hidden_size: 14_336,
    n_layer: 70,
    n_head: 112,
    torch_dtype: "bfloat16",
  };

  test("bloom-176b has its published size, is not loaded, and goes to eight devices", async () => {
    const model = await init_empty_weights(() => AutoModelForCausalLM.from_config(FIELDS));
    expect(model.num_parameters()).toBe(176_247_271_424);
    expect(model.weight_bytes).toBe(2 * model.num_parameters());
    expect(model._no_split_modules).toEqual(["BloomBlock"]);
    expect([...model.named_parameters()].every(([, { device }]) => device === "meta")).toBe(true);
    const max_memory = Object.fromEntries(Array.from({ length: 8 }, (_, i) => [i, "51GB"]));
    const no_split_module_classes = model._no_split_modules;
    const map = infer_auto_device_map(model, { max_memory, no_split_module_classes });
    expect(map["transformer.word_embeddings"]).toBe(0);
    expect(map.lm_head).toBe(0);
    expect(new Set(Object.values(map)).size).toBe(8);
    check_device_map(model, map);
    expect(() => model.to("cpu")).toThrow(OctavoError);
    expect(model.to("meta").tie_weights()).toBe(model);
  });

  test("quantized matrices count as they will be stored, and a dtype counts as in accelerate", async () => {
    const config = await AutoConfig.from_pretrained(join(FIXTURES, "models", "llama"));
    const dense = await AutoModelForCausalLM.from_config(config, { dtype: "float32" });
    const int8 = await AutoModelForCausalLM.from_config(config, { dtype: "float32", load_in_8bit: true });
    const nf4 = await AutoModelForCausalLM.from_config(config, {
      dtype: "float32",
      quantization_config: new BitsAndBytesConfig({ load_in_4bit: true, bnb_4bit_quant_type: "nf4" }),
    });
    const name = "model.layers.0.mlp.down_proj.weight";
    const of = (model: unknown): number => compute_module_sizes(model)[name]!;
    const elements = of(dense) / 4;
    const [rows] = [...dense.named_parameters()].find(([one]) => one === name)![1].shape;
    expect(of(int8)).toBeGreaterThanOrEqual(elements + 4 * rows!);
    expect(of(int8)).toBeLessThan(2 * elements);
    expect(of(nf4)).toBeGreaterThan(elements / 2);
    expect(of(nf4)).toBeLessThan(elements);
    expect(compute_module_sizes(int8, { dtype: "int8" })[name]).toBe(elements);
    const head = "lm_head.weight";
    expect(compute_module_sizes(int8)[head]).toBe(compute_module_sizes(dense)[head]);
  });

  test("a loaded model is measured by what it holds", async () => {
    const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), {
      device: "reference",
      load_in_8bit: true,
    });
    const sizes = compute_module_sizes(model);
    const constants = compute_module_sizes(model, { buffers_only: true })[""] ?? 0;
    expect(sizes[""]).toBe(model.weight_bytes + constants);
    model.dispose();
  });

  test.each([
    [{}, /model_type/],
    ["bloom", /expected the fields of a config.json/],
    [{ model_type: "blom" }, /did you mean "bloom"/],
  ])("the config %o is refused", async (config, message) => {
    await expect(AutoModelForCausalLM.from_config(config as never)).rejects.toThrow(message);
  });

  describe("planDevices", () => {
    const small = {
      model_type: "llama",
      vocab_size: 300,
      hidden_size: 32,
      intermediate_size: 64,
      num_attention_heads: 2,
    };
    const made = AutoModelForCausalLM.from_config({ ...small, num_hidden_layers: 20 });
    const STRATEGIES = ["auto", "balanced", "balanced_low_0", "sequential"] as const;
    /** A plan, and what its error says otherwise. Blocks that are elsewhere find room. */
    const planned = async (request: Parameters<typeof planDevices>[1]): Promise<DevicePlan | string> => {
      const model = await made;
      try {
        const plan = planDevices(model, { context: 16, ...request });
        const where = JSON.stringify([request.strategy, ...request.memory]);
        for (const { total, limit } of plan.places)
          if (limit !== undefined) expect(total, where).toBeLessThanOrEqual(limit);
        expect(plan.device_map.size, where).toBeGreaterThan(20);
        return plan;
      } catch (error) {
        if (!(error instanceof OptionError)) throw error;
        return error.message;
      }
    };
    const sizes = async (): Promise<{ others: number; block: number; work: number }> => {
      const whole = (await planned({ strategy: "sequential", memory: new Map([["cpu", 1e12]]) })) as DevicePlan;
      const [{ weights, cache, work }] = whole.places as [DevicePlan["places"][0]];
      const block = compute_module_sizes(await made)["model.layers.0"]!;
      return { others: weights - 20 * block, block: block + cache / 20, work };
    };

    test("two devices that hold the main part, and not what visits it too", async () => {
      const { others, block, work } = await sizes();
      const memoryOf = (blocks: number) => Math.ceil(others + work + blocks * block);
      const of = (blocks: number) =>
        planned({
          strategy: "sequential",
          memory: new Map<string | number, number>([
            [0, memoryOf(blocks)],
            [1, memoryOf(blocks)],
            ["cpu", 1e9],
          ]),
        });
      expect(await of(1.5)).toMatch(
        /device 0 may take .* kB: everything but the blocks .*, and .* for blocks that visit it/,
      );
      expect(await of(4)).toMatchObject({ main: 0 });
    });

    test("any memory has a plan or an error", async () => {
      const { others, block, work } = await sizes();
      let plans = 0;
      const next = uniforms(5);
      for (let n = 0; n < 400; n++) {
        const devices = Array.from({ length: 1 + Math.floor(next() * 4) }, (_, i): [number | string, number] => [
          i,
          Math.floor(next() * (others + work) + next() * 12 * block),
        ]);
        const elsewhere: [string, number][] = [
          ["cpu", Math.floor(next() * 30 * block)],
          ["disk", 1e12],
        ];
        const memory = new Map<string | number, number>([...devices, ...elsewhere.slice(Math.floor(next() * 2))]);
        if (typeof (await planned({ strategy: STRATEGIES[n % 4]!, memory })) !== "string") plans++;
      }
      expect(plans).toBeGreaterThan(50);
      expect(plans).toBeLessThan(350);
    });
  });

  test("a list of modules is a module of its own", () => {
    class Two extends Module {
      layers = [new Linear(2, 3), new Linear(3, 2), new Linear(2, 3)];
    }
    const sizes = compute_module_sizes(new Two());
    expect(sizes).toEqual({
      "": 72,
      layers: 72,
      "layers.0": 24,
      "layers.0.weight": 24,
      "layers.1": 24,
      "layers.1.weight": 24,
      "layers.2": 24,
      "layers.2.weight": 24,
    });
    const map = infer_auto_device_map(new Two(), { max_memory: { 0: 71, 1: 100 } });
    expect(map).toEqual({ "layers.0": 0, "layers.1": 1, "layers.2": 1 });
  });
});

describe("maps are checked", () => {
  const model = { a: { weight: { shape: [2] } }, b: { weight: { shape: [2] }, table: { shape: [2], buffer: true } } };

  test("what has no device is named; constants that no file holds need none", () => {
    expect(() => check_device_map(model, { a: 0 })).toThrow("parameters: b.weight, b.table");
    check_device_map(model, { a: 0, b: "disk" });
    const made = { ...model, b: { ...model.b, table: { shape: [2], buffer: true, persistent: false } } };
    check_device_map(made, { a: 0, "b.weight": 1 });
  });

  test("names that are not in the model are told", () => {
    const told: string[] = [];
    check_device_map(model, { "": 0, c: 1 }, { warn: (message) => void told.push(message) });
    expect(told).toEqual(["the following keys of device_map do not match any module of the model: c"]);
  });

  test.each([{ a: "moon" }, { a: null }, { a: {} }])("%o is refused", (map) => {
    expect(() => check_device_map(model, map as never)).toThrow(/cannot go to/);
  });

  test("trees that cannot be read are refused", () => {
    const circle: Record<string, unknown> = {};
    circle.self = circle;
    expect(() => compute_module_sizes(circle)).toThrow(/contains itself/);
    expect(() => compute_module_sizes({ a: { shape: [-1] } })).toThrow(/has shape \[-1\]/);
    expect(() => compute_module_sizes({ a: { shape: [1], dtype: "float7" } })).toThrow(/unknown dtype/);
    expect(() => compute_module_sizes(5)).toThrow(/model must be a model or a tree/);
  });
});
