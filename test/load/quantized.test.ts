// Checkpoints that bitsandbytes has quantized: recognised by their config.json, restored code by code, and given back as
// the tensors that they came from.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openCheckpoint } from "../../src/checkpoints/checkpoint.js";
import { type TensorToWrite, writeSafetensors } from "../../src/checkpoints/safetensors-write.js";
import type { Device } from "../../src/core/device.js";
import { FormatError, OptionError, UnsupportedModelError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { surveyModel } from "../../src/load/survey.js";
import { Matrix } from "../../src/nn/module.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../../src/quant/config.js";
import { Disk } from "../../src/sources/disk.js";
import { copyOf, editJson } from "../support/checkpoints.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, readArrays, readJson } from "../support/fixtures.js";

interface Inputs {
  input_ids: number[][];
}
interface Model {
  inputs: { single: Inputs };
  quantized: { int8_t6: { suggested_tolerance: { single: { max: number; mean: number } } } };
}
interface Expected {
  tolerance: number;
}

describe.each(ALL_DEVICES)("on %s", (deviceName) => {
  let device: Device;
  beforeAll(async () => {
    device = await requestTestDevice(deviceName);
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  const load = (folder: string, options: FromPretrainedOptions = {}): Promise<PreTrainedModel> =>
    AutoModelForCausalLM.from_pretrained(folder, { device, ...options });
  const logitsOf = async (model: PreTrainedModel, inputs: Inputs): Promise<Float32Array> => {
    const { logits } = model.forward(inputs);
    try {
      return await logits.readFloats();
    } finally {
      logits.dispose();
    }
  };
  const quantized = (model: PreTrainedModel): [string, Matrix][] =>
    [...model.module.named_parameters()].filter(
      (entry): entry is [string, Matrix] => entry[1] instanceof Matrix && entry[1].weight.scheme !== "dense",
    );
  describe.each(["llama", "bloom"])("%s", (name) => {
    const { inputs, quantized: known } = readJson<Model>("models", name, "expected.json");
    const at = (format: string): string => join(FIXTURES, "checkpoints", name, format);

    test("8 bits", async () => {
      const golden = readArrays("checkpoints", name, "bnb-int8", "expected.safetensors").get("single.logits")!;
      const model = await load(at("bnb-int8"));
      expect(quantized(model).map(([, { weight }]) => weight.scheme)).toContain("llm_int8");
      const apart = difference(await logitsOf(model, inputs.single), golden.values);
      const tolerance = known.int8_t6.suggested_tolerance.single;
      expect(apart.max).toBeLessThan(tolerance.max);
      expect(apart.mean).toBeLessThan(tolerance.mean);
      model.dispose();
    });

    test.each([
      ["bnb-nf4-double", "bf16"],
      ["bnb-fp4", "f16"],
    ] as const)("%s", async (format, dtype) => {
      const { tolerance } = readJson<Expected>("checkpoints", name, format, "expected.json");
      const golden = readArrays("checkpoints", name, format, "expected.safetensors");
      // The file's own bnb_4bit_compute_dtype lets products round; float32 does not.
      const model = await load(at(format), { dtype: "float32" });
      // Decoded values are those of the file, bit for bit.
      for (const [key, want] of golden) {
        if (!key.startsWith("decoded.")) continue;
        const matrix = quantized(model).find(([path]) => path === key.slice("decoded.".length))![1];
        const dense = matrix.weight.dense(dtype);
        expect(await dense.readFloats()).toEqual(Float32Array.from(want.values));
        dense.dispose();
      }
      const want = golden.get("single.logits")!.values;
      expect(difference(await logitsOf(model, inputs.single), want).max).toBeLessThan(tolerance);
      model.dispose();
    });

    test.each(["bnb-int8", "bnb-nf4-double", "bnb-fp4"])(
      "%s gives back the tensors that it was read from",
      async (format) => {
        const model = await load(at(format));
        const { tensors } = await openCheckpoint(new Disk(at(format)));
        const source = new Disk(at(format));
        let compared = 0;
        for (const [path, { weight }] of quantized(model)) {
          const stored = path.startsWith("transformer.") || tensors.has(path) ? path : path.replace(/^model\./, "");
          for (const part of await weight.parts(stored)) {
            const from = tensors.get(part.name);
            expect(from, part.name).toBeDefined();
            expect([part.dtype, part.shape]).toEqual([from!.dtype, from!.shape]);
            const file = await source.open(from!.file, "checkpoint");
            const bytes = await file.read(from!.offset, from!.bytes);
            expect(Buffer.compare(Buffer.from(await part.bytes()), Buffer.from(bytes)), part.name).toBe(0);
            await file.close();
            compared++;
          }
        }
        const belongs = /\.SCB$|weight_format$|absmax$|quant_map$|quant_state/;
        expect(compared).toBe(quantized(model).length + [...tensors.keys()].filter((key) => belongs.test(key)).length);
        model.dispose();
      },
    );
  });
});

describe("what config.json and options say", () => {
  const device = requestTestDevice("reference");
  afterAll(async () => {
    expectNoLeaks(await device);
    await (await device).close();
  });
  const nf4 = join(FIXTURES, "checkpoints", "llama", "bnb-nf4-double");
  const int8 = join(FIXTURES, "checkpoints", "llama", "bnb-int8");
  const open = async (folder: string, options: FromPretrainedOptions = {}): Promise<void> => {
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device: await device, ...options });
    model.dispose();
  };

  test.each<[string, string, FromPretrainedOptions]>([
    ["8 bits of a 4-bit file", nf4, { load_in_8bit: true }],
    ["4 bits of an 8-bit file", int8, { load_in_4bit: true }],
    ["another kind", nf4, { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "fp4" } }],
    ["no double quantization", nf4, { quantization_config: { load_in_4bit: true, bnb_4bit_use_double_quant: false } }],
  ])("%s is refused, and the message says what wins in Python", async (_, folder, options) => {
    const error = await open(folder, options).catch((refused: unknown) => refused);
    expect(error).toBeInstanceOf(OptionError);
    expect((error as OptionError).hint).toMatch(
      /in Python the checkpoint's own quantization_config wins; leave .* out/,
    );
  });

  test("what only says how products are computed may be chosen", async () => {
    await open(nf4, { load_in_4bit: true });
    await open(int8, { quantization_config: { load_in_8bit: true, llm_int8_threshold: 0 } });
  });

  test("the layout of older files, and files of other methods", async () => {
    const folder = copyOf("checkpoints", "llama", "bnb-int8");
    const config = (quantization_config: unknown): void =>
      editJson(join(folder, "config.json"), { quantization_config });
    config({ load_in_8bit: true, llm_int8_threshold: 6, llm_int8_skip_modules: ["lm_head"] });
    await open(folder);
    config({ _load_in_8bit: true, quant_method: "bitsandbytes" });
    await open(folder);
    config({ quant_method: "hqq", bits: 4 });
    await expect(open(folder)).rejects.toThrow(UnsupportedModelError);
    config({ load_in_8bit: true, llm_int8_threshold: "six" });
    await expect(open(folder)).rejects.toThrow(/config.json: quantization_config: llm_int8_threshold/);
  });

  test("a survey knows what is in the files", async () => {
    const { sizes } = await surveyModel(new Disk(nf4));
    expect(sizes.map(({ name }) => name)).toEqual(["nf4"]);
  });

  /** The checkpoint with one of its tensors changed. */
  const changed = async (
    folder: string,
    name: string,
    change: (bytes: Uint8Array) => { bytes?: Uint8Array; dtype?: "U8" | "F32"; shape?: number[] } | undefined,
  ): Promise<string> => {
    const copy = copyOf(...folder.slice(FIXTURES.length + 1).split("/"));
    const source = new Disk(copy);
    const { tensors } = await openCheckpoint(source);
    const list: TensorToWrite[] = [];
    for (const [key, { dtype, shape, file, offset, bytes }] of tensors) {
      const opened = await source.open(file, "checkpoint");
      const data = new Uint8Array(await opened.read(offset, bytes));
      await opened.close();
      const next = key === name ? change(data) : {};
      if (next === undefined) continue;
      list.push({ name: key, dtype: next.dtype ?? dtype, shape: next.shape ?? shape, data: next.bytes ?? data });
    }
    await writeSafetensors(join(copy, "model.safetensors"), list);
    return copy;
  };

  test("what cannot be restored is refused", async () => {
    const module = "model.layers.1.mlp.up_proj";
    const state = `${module}.weight.quant_state.bitsandbytes__nf4`;
    const edit = (fields: Record<string, unknown>) => (bytes: Uint8Array) => {
      const json = { ...(JSON.parse(new TextDecoder().decode(bytes)) as object), ...fields };
      const text = new TextEncoder().encode(JSON.stringify(json));
      return { bytes: text, shape: [text.length] };
    };
    const cases: [string, Promise<string>, RegExp][] = [
      ["layout of a GPU", changed(int8, `${module}.weight_format`, () => ({ bytes: Uint8Array.of(2) })), /col_turing/],
      [
        "short scales",
        changed(int8, `${module}.SCB`, (b) => ({ bytes: b.slice(4), shape: [b.length / 4 - 1] })),
        /scales/,
      ],
      ["blocksize", changed(nf4, state, edit({ blocksize: 48 })), /blocksize/],
      ["kind", changed(nf4, state, edit({ quant_type: "fp4" })), /quant_type/],
      ["shape", changed(nf4, state, edit({ shape: [112, 32] })), /shape/],
      ["nested", changed(nf4, state, edit({ nested_blocksize: 128 })), /nested_blocksize/],
      ["no JSON", changed(nf4, state, (b) => ({ bytes: b.slice(0, 30), shape: [30] })), /JSON/],
      ["table", changed(nf4, `${module}.weight.quant_map`, (b) => ({ bytes: b.map((x) => x ^ 1) })), /quant_map/],
      ["no absmax", changed(nf4, `${module}.weight.absmax`, () => undefined), /absmax/],
    ];
    for (const [what, folder, message] of cases) {
      const error = await open(await folder).catch((refused: unknown) => refused);
      expect(error, what).toBeInstanceOf(FormatError);
      expect((error as FormatError).message, what).toMatch(message);
    }
  });

  test.each<FromPretrainedOptions>([
    { load_in_8bit: true },
    { quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true } },
    { load_in_4bit: true },
  ])("what was quantized here is stored as bitsandbytes would, and read again: %o", async (options) => {
    const folder = copyOf("models", "llama");
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device: await device, ...options });
    const inputs = { input_ids: [[5, 17, 99, 3, 42]] };
    const run = async (of: PreTrainedModel): Promise<Float32Array> => {
      const { logits } = of.forward(inputs);
      const values = await logits.readFloats();
      logits.dispose();
      return values;
    };
    const tensors: TensorToWrite[] = [];
    for (const [name, parameter] of model.module.named_parameters()) {
      if (parameter instanceof Matrix) {
        for (const { bytes, ...part } of await parameter.weight.parts(name)) tensors.push({ ...part, data: bytes });
      } else {
        const data = new Uint8Array((await parameter.value.readFloats()).slice().buffer);
        tensors.push({ name, dtype: "F32", shape: parameter.shape, data });
      }
    }
    await writeSafetensors(join(folder, "model.safetensors"), tensors);
    const { quantization_config = options } = options;
    editJson(join(folder, "config.json"), {
      quantization_config: new BitsAndBytesConfig(quantization_config as BitsAndBytesOptions).to_dict(),
    });
    const again = await AutoModelForCausalLM.from_pretrained(folder, { device: await device });
    expect(await run(again)).toEqual(await run(model));
    model.dispose();
    again.dispose();
  });

  test("a missing weight_format means rows", async () => {
    await open(await changed(int8, "model.layers.1.mlp.up_proj.weight_format", () => undefined));
  });
});
