// O4 from loading to saving and back: what config.json says, what the files hold, and what is refused.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { replace_with_bnb_linear } from "../../src/bnb/replace.js";
import { openCheckpoint } from "../../src/checkpoints/checkpoint.js";
import { FormatError, OptionError } from "../../src/core/errors.js";
import type { Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { surveyModel } from "../../src/load/survey.js";
import type { Linear } from "../../src/nn/module.js";
import { BitsAndBytesConfig } from "../../src/quant/config.js";
import { Disk } from "../../src/sources/disk.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const device = openDevice("cpu", { threads: 2 });
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

const folder = (name: string): string => join(FIXTURES, "models", name);
const O4 = { load_in_4bit: true, bnb_4bit_quant_type: "o4" } as const;

async function logits(model: {
  forward(inputs: { input_ids: number[][] }): { logits: Tensor };
}): Promise<Float32Array> {
  using out = model.forward({ input_ids: [[5, 9, 3, 20, 7]] }).logits;
  return out.readFloats();
}

describe.each(["llama", "gpt2", "mixtral"])("%s", (name) => {
  test("saved and loaded again it is the same, in 8-bit products too", async () => {
    for (const bnb_4bit_compute_dtype of ["float32", "int8"] as const) {
      const into = temporary("o4");
      const quantization_config = new BitsAndBytesConfig({ ...O4, bnb_4bit_compute_dtype });
      await using model = await AutoModelForCausalLM.from_pretrained(folder(name), { device, quantization_config });
      const before = await logits(model);
      expect(before.every(Number.isFinite)).toBe(true);
      await model.save_pretrained(into);
      const { quantization_config: block } = JSON.parse(readFileSync(join(into, "config.json"), "utf8"));
      // Not what transformers would take for bitsandbytes' own: it has no load_in_4bit.
      expect(block).toEqual({
        quant_method: "octavo",
        bnb_4bit_quant_type: "o4",
        bnb_4bit_compute_dtype,
        llm_int8_skip_modules: null,
      });
      await using again = await AutoModelForCausalLM.from_pretrained(into, { device });
      expect(await logits(again)).toEqual(before);
      expect(again.warnings).toEqual([]);
      const second = temporary("o4");
      await again.save_pretrained(second);
      for (const file of ["model.safetensors", "config.json"]) {
        expect(readFileSync(join(second, file)).equals(readFileSync(join(into, file)))).toBe(true);
      }
      const { sizes } = await surveyModel(new Disk(into));
      expect(sizes.map((one) => one.name)).toEqual(["o4"]);
    }
  });
});

describe("a checkpoint in O4", () => {
  const saved = (async () => {
    const into = temporary("o4");
    await using model = await AutoModelForCausalLM.from_pretrained(folder("llama"), { device, ...O4 });
    await model.save_pretrained(into);
    return into;
  })();

  test("holds codes, scales of blocks and rows, and a table for each matrix", async () => {
    const { tensors } = await openCheckpoint(new Disk(await saved));
    const matrix = "model.layers.0.mlp.up_proj.weight"; // 112 x 64
    const shapes = ["", ".o4_scales", ".o4_group_scales", ".o4_table"].map((role) => {
      const { dtype, shape } = tensors.get(matrix + role)!;
      return [dtype, ...shape];
    });
    expect(shapes).toEqual([
      ["U8", (112 * 64) / 2, 1],
      ["I8", 112 * 2],
      ["F32", 112],
      ["F32", 16],
    ]);
  });

  test("is loaded as it is: asking for it again changes nothing, asking for another is refused", async () => {
    const load = async (options: object) => AutoModelForCausalLM.from_pretrained(await saved, { device, ...options });
    await using plain = await load({});
    await using again = await load(O4);
    expect(await logits(again)).toEqual(await logits(plain));
    await using other = await load({ quantization_config: { ...O4, bnb_4bit_compute_dtype: "int8" } });
    const linear = other.module.get_submodule("model.layers.0.mlp.up_proj") as Linear;
    expect([linear.weight.stored, linear.weight.weight.compute]).toEqual(["o4", "int8"]);
    await expect(load({ load_in_4bit: true, bnb_4bit_quant_type: "nf4" })).rejects.toBeInstanceOf(OptionError);
    await expect(load({ load_in_8bit: true })).rejects.toBeInstanceOf(OptionError);
  });

  test("with a table or scales that cannot be its own is refused", async () => {
    const from = await saved;
    const file = readFileSync(join(from, "model.safetensors"));
    const length = Number(file.readBigUInt64LE(0));
    const header = JSON.parse(file.subarray(8, 8 + length).toString());
    const broken = temporary("o4");
    mkdirSync(broken);
    writeFileSync(join(broken, "config.json"), readFileSync(join(from, "config.json")));
    const at = 8 + length + header["model.layers.0.mlp.up_proj.weight.o4_table"].data_offsets[0];
    for (const [index, value, why] of [
      [3, Number.NaN, /multiples of 1\/127/],
      [15, 1.5, /multiples of 1\/127/],
      [4, 0.3, /multiples of 1\/127/],
      [2, 1, /ascending/],
    ] as const) {
      const bytes = Buffer.from(file);
      bytes.writeFloatLE(value, at + 4 * index);
      writeFileSync(join(broken, "model.safetensors"), bytes);
      const failure = AutoModelForCausalLM.from_pretrained(broken, { device });
      await expect(failure).rejects.toBeInstanceOf(FormatError);
      await expect(failure).rejects.toThrow(why);
    }
  });
});

test("what O4 has always cannot be asked for otherwise", () => {
  for (const fields of [
    { bnb_4bit_blocksize: 64 },
    { bnb_4bit_scale_search: false },
    { bnb_4bit_use_double_quant: true },
  ] as const) {
    expect(() => new BitsAndBytesConfig({ ...O4, ...fields })).toThrow(OptionError);
  }
  const config = new BitsAndBytesConfig({ ...O4, bnb_4bit_blocksize: 32, bnb_4bit_scale_search: true });
  expect(config).toMatchObject({ bnb_4bit_blocksize: 32, bnb_4bit_scale_search: true });
  expect(config.quantization_method()).toBe("o4");
  const { quant_method: _, ...fields } = config.to_dict();
  expect(new BitsAndBytesConfig(fields).quantization_method()).toBe("o4");
});

test("bitsandbytes has no linears in O4", async () => {
  await using model = await AutoModelForCausalLM.from_pretrained(folder("llama"), { device });
  for (const quantization_config of [O4, { modules: { mlp: "o4" } }] as const) {
    expect(() => replace_with_bnb_linear(model, { quantization_config })).toThrow(/no linears in o4/);
  }
});
