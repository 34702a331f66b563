// BitsAndBytesConfig: fields, defaults, and everything that it refuses.

import { describe, expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "../../src/quant/config.js";
import { schemeOf } from "../../src/quant/index.js";

test("defaults are those of transformers", () => {
  expect(new BitsAndBytesConfig().to_dict()).toEqual({
    quant_method: "bitsandbytes",
    load_in_8bit: false,
    load_in_4bit: false,
    llm_int8_threshold: 6,
    llm_int8_skip_modules: null,
    bnb_4bit_quant_type: "fp4",
    bnb_4bit_use_double_quant: false,
    bnb_4bit_compute_dtype: "float32",
    bnb_4bit_blocksize: 64,
    bnb_4bit_scale_search: false,
  });
});

test.each<[BitsAndBytesOptions, string | undefined]>([
  [{}, undefined],
  [{ load_in_8bit: true }, "llm_int8"],
  [{ load_in_4bit: true }, "fp4"],
  [{ load_in_4bit: true, bnb_4bit_quant_type: "nf4" }, "nf4"],
  [{ load_in_8bit: false, load_in_4bit: false }, undefined],
])("%o asks for %s", (options, method) => {
  const config = new BitsAndBytesConfig(options);
  expect(config.quantization_method()).toBe(method);
  expect(schemeOf(config)?.name).toBe(method);
});

describe("refused", () => {
  const wrong = (options: object): BitsAndBytesOptions => options as BitsAndBytesOptions;
  test.each<[string, object, string]>([
    ["both widths", { load_in_8bit: true, load_in_4bit: true }, "only one can be used at the same time"],
    ["a width that is no boolean", { load_in_8bit: 1 }, "load_in_8bit must be true or false, got 1"],
    ["a width as a string", { load_in_4bit: "true" }, "load_in_4bit must be true or false"],
    ["a threshold that is no number", { llm_int8_threshold: "6" }, "llm_int8_threshold must be a number"],
    ["a negative threshold", { llm_int8_threshold: -1 }, "at least 0, got -1"],
    ["an infinite threshold", { llm_int8_threshold: Number.POSITIVE_INFINITY }, "llm_int8_threshold"],
    ["NaN as threshold", { llm_int8_threshold: Number.NaN }, "llm_int8_threshold"],
    ["one module name instead of a list", { llm_int8_skip_modules: "lm_head" }, "must be a list of module names"],
    ["a list of other things", { llm_int8_skip_modules: [1] }, "must be a list of module names"],
    ["another quant type", { bnb_4bit_quant_type: "nf8" }, 'got "nf8"; did you mean "nf4"?'],
    ["a quant type in capitals", { bnb_4bit_quant_type: "NF4" }, "bnb_4bit_quant_type"],
    ["a compute dtype that is no dtype", { bnb_4bit_compute_dtype: "float8" }, "bnb_4bit_compute_dtype"],
    ["a compute dtype that is no string", { bnb_4bit_compute_dtype: 16 }, "bnb_4bit_compute_dtype"],
    ["double quantization that is no boolean", { bnb_4bit_use_double_quant: "yes" }, "bnb_4bit_use_double_quant"],
    ["an unknown field", { load_in_8bits: true }, "did you mean `load_in_8bit`?"],
    ["an old name", { int8_threshold: 6 }, "`int8_threshold` is called `llm_int8_threshold`"],
    ["another old name", { load_in_8bit_skip_modules: [] }, "is called `llm_int8_skip_modules`"],
  ])("%s", (_, options, message) => {
    expect(() => new BitsAndBytesConfig(wrong(options))).toThrow(OptionError);
    expect(() => new BitsAndBytesConfig(wrong(options))).toThrow(message);
  });

  test("a block size that the format does not have", () => {
    const options = wrong({ load_in_4bit: true, bnb_4bit_blocksize: 48 });
    expect(() => new BitsAndBytesConfig(options)).toThrow("blocksize must be one of 32, 64");
  });
});

test.each([0, 0.5, 6, 100])("threshold %f is taken", (llm_int8_threshold) => {
  expect(new BitsAndBytesConfig({ load_in_8bit: true, llm_int8_threshold }).llm_int8_threshold).toBe(
    llm_int8_threshold,
  );
});

test.each(["float32", "torch.bfloat16", "fp16", "bf16"])("compute dtype %s is taken", (name) => {
  // The spellings with "torch." are not in the type; configs have them.
  const config = new BitsAndBytesConfig({ load_in_4bit: true, bnb_4bit_compute_dtype: name as "float32" });
  expect(["f32", "bf16", "f16"]).toContain(config.bnb_4bit_compute_dtype);
});

test("8-bit products are ours, and keep their name", () => {
  const config = new BitsAndBytesConfig({ load_in_4bit: true, bnb_4bit_compute_dtype: "int8" });
  expect(config.bnb_4bit_compute_dtype).toBe("int8");
  expect(config.to_dict().bnb_4bit_compute_dtype).toBe("int8");
});
