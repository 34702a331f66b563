// What guides for Python let people type, in TypeScript: each line runs as it is pasted, or is refused with one sentence that
// says what is so here. The models are small ones of the same architectures.

import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import { OctavoError, OptionError, OutOfMemoryError } from "../../src/core/errors.js";
import * as octavo from "../../src/index.js";
import { BitsAndBytesConfig, torch } from "../../src/index.js";
import { FIXTURES } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";
import { temporary } from "../support/temporary.js";

const EXPORTS = { ...octavo };

type Model = octavo.PreTrainedModel;
type Options = octavo.FromPretrainedOptions;

/** The device that is there in any case. */
const HERE = nativeAvailable() ? "cpu" : "reference";

const load = (name: string, options: Options = {}): Promise<Model> =>
  octavo.AutoModelForCausalLM.from_pretrained(`${FIXTURES}/models/${name}`, options);

async function refusal(call: () => unknown): Promise<OctavoError> {
  const error = await Promise.resolve()
    .then(call)
    .then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
  expect(error).toBeInstanceOf(OctavoError);
  return error as OctavoError;
}

describe("from_pretrained takes", () => {
  test.each<[string, Options, string | undefined]>([
    ["8 bits where there is room", { device_map: "auto", load_in_8bit: true }, "llm_int8"],
    ["4 bits where there is room", { device_map: "auto", load_in_4bit: true }, "fp4"],
    ["balanced", { device_map: "balanced" }, undefined],
    ["a device for all", { device_map: { "": HERE } }, undefined],
    ["modules on one device", { device_map: { transformer: HERE, lm_head: HERE }, load_in_8bit: true }, "llm_int8"],
    ["no map", { device_map: null, device: HERE }, undefined],
    ["flash attention", { torch_dtype: torch.bfloat16, use_flash_attention_2: true, device: HERE }, undefined],
    ["flash attention in 8 bits", { load_in_8bit: true, use_flash_attention_2: true, device: HERE }, "llm_int8"],
    [
      "flash attention in 4 bits",
      { load_in_4bit: true, attn_implementation: "flash_attention_2", device: HERE },
      "fp4",
    ],
    ["what is always so", { low_cpu_mem_usage: true, use_cache: true, use_safetensors: true, device: HERE }, undefined],
    ["no code", { trust_remote_code: false, offload_folder: "offload", device: HERE }, undefined],
    [
      "fields of a BitsAndBytesConfig",
      {
        load_in_8bit: true,
        llm_int8_threshold: 0,
        llm_int8_enable_fp32_cpu_offload: true,
        llm_int8_has_fp16_weight: false,
        bnb_4bit_quant_storage: "uint8",
        device: HERE,
      },
      "llm_int8",
    ],
    ["fields for 4 bits", { load_in_4bit: true, bnb_4bit_quant_type: "nf4", device: HERE }, "nf4"],
    [
      "a config in torch's words",
      {
        quantization_config: new BitsAndBytesConfig({ load_in_4bit: true, bnb_4bit_compute_dtype: torch.float16 }),
        device: HERE,
      },
      "fp4",
    ],
    ["room", { max_memory: { 0: "1GB", 1: "2GB" }, device_map: HERE, load_in_8bit: true }, "llm_int8"],
  ])("%s", async (_, options, scheme) => {
    await using model = await load("bloom", options);
    expect(model.hf_device_map).toEqual({ "": model.device.name });
    const schemes = new Set([...String(model).matchAll(/Linear\(.*weight=(\w+)\)/g)].map(([, name]) => name));
    if (scheme) expect(schemes).toContain(scheme);
    else for (const stored of schemes) expect(stored).toMatch(/^(f32|bf16|f16)$/);
    expect(await model.generate([[5, 6]], { max_new_tokens: 2, use_cache: true })).toHaveLength(1);
  });

  test("torch's names of dtypes", async () => {
    for (const [name, dtype] of Object.entries(torch)) {
      if (typeof dtype !== "string") continue;
      await using model = await load("opt", { torch_dtype: dtype, device: HERE });
      expect(model.dtype, name).toBe({ float16: "f16", bfloat16: "bf16", float32: "f32" }[dtype]);
    }
  });
});

test("BetterTransformer and FlashAttention over 4 bits", async () => {
  const quantization_config = new BitsAndBytesConfig({
    load_in_4bit: true,
    bnb_4bit_compute_dtype: torch.float16,
  });
  let model = await load("opt", { quantization_config, device: HERE });
  // enable BetterTransformer
  model = model.to_bettertransformer();
  const inputs = { input_ids: [[5, 6, 7]], attention_mask: [[1, 1, 1]] };
  // enable FlashAttention
  const outputs = await torch.backends.cuda.sdp_kernel(
    { enable_flash: true, enable_math: false, enable_mem_efficient: false },
    () => model.generate({ ...inputs, max_new_tokens: 3 }),
  );
  expect(outputs[0]).toHaveLength(6);
  model.reverse_bettertransformer();
  await model.save_pretrained(temporary("saved_model"));
  await model[Symbol.asyncDispose]();
});

describe("from_pretrained refuses", () => {
  test.each<[string, object, RegExp]>([
    [
      "a map of other modules",
      { device_map: { a: "cpu", b: "cuda:1" } },
      /does not give any device for the following parameters/,
    ],
    ["a disk", { device_map: { "": "disk" } }, /device_map names "disk", where no model can run/],
    ["an empty map", { device_map: {} }, /device_map names no device/],
    ["a map and a device", { device_map: "auto", device: "cpu" }, /device and device_map are both given/],
    ["an unknown device", { device_map: "cup" }, /unknown device "cup"; did you mean "cpu"\?/],
    [
      "code",
      { trust_remote_code: true },
      /trust_remote_code must be false, got true\n.*nothing in a model's files is executed/,
    ],
    [
      "pickles",
      { use_safetensors: false },
      /use_safetensors is false, but there is no pytorch_model.bin, only model.saf/,
    ],
    ["a variant that is not there", { variant: "fp16" }, /model\.fp16\.safetensors.*\n.*leave `variant` out/],
    ["a subfolder that leads up", { subfolder: "../x" }, /subfolder must be the name of a folder inside the model/],
    [
      "an attention of its own",
      { attn_implementation: "xformers" },
      /one of "sdpa", "eager", "flash_attention_2", got "xformers"/,
    ],
    [
      "weights in 16 bits beside codes",
      { load_in_8bit: true, llm_int8_has_fp16_weight: true },
      /llm_int8_has_fp16_weight must be false/,
    ],
    [
      "a field without bits",
      { llm_int8_threshold: 5 },
      /llm_int8_threshold is for quantized linears\n.*add load_in_8bit/,
    ],
    [
      "a field beside a config",
      { quantization_config: { load_in_8bit: true }, bnb_4bit_quant_type: "nf4" },
      /bnb_4bit_quant_type cannot be passed together/,
    ],
    ["memory without a size", { max_memory: { 0: "much" } }, /max_memory: "0" may not take "much"/],
    ["memory of nothing", { max_memory: { cpu: 0 } }, /max_memory: "cpu" may not take 0/],
    ["memory of no device", { max_memory: { tpu: "1GB" } }, /max_memory: "tpu" may not take "1GB"/],
    ["memory elsewhere", { device: HERE, max_memory: { 3: "1GB" } }, /max_memory has no bound for/],
  ])("%s", async (_, options, words) => {
    const error = await refusal(() => load("bloom", options));
    expect(error.message).toMatch(words);
    expect(error.message.length).toBeLessThan(300);
  });

  test("a model that is larger than max_memory, and frees what it had taken", async () => {
    for (const bound of [{ 0: "600B" }, { cpu: "600B", 0: "1GB" }]) {
      const error = await refusal(() => load("bloom", { device_map: HERE, max_memory: bound }));
      expect(error).toBeInstanceOf(OutOfMemoryError);
      expect(error.message).toMatch(/ of 0.0 MB are in use/);
    }
    // The bound is the model's: others share nothing with it.
    await using model = await load("bloom", { device: HERE });
    expect(model.device.memory.budget).toBeGreaterThan(1e6);
  });

  test("max_memory of a device that is open, which has its own", async () => {
    await using device = octavo.openDevice("reference");
    const error = await refusal(() => load("bloom", { device, max_memory: { 0: "1GB" } }));
    expect(error.message).toMatch(/max_memory cannot be chosen for a device that is already open/);
  });
});

describe("names of GPUs lead to WebGPU", () => {
  test.each(["gpu", "cuda", "cuda:0", "mps", "0"])("%s", (name) => {
    expect(() => octavo.openDevice(name)).toThrow('device "webgpu" cannot be opened without waiting');
  });
  test.each([1, "1", "cuda:1"])("%s is the second one", (name) => {
    expect(() => octavo.openDevice(name)).toThrow('device "webgpu:1" cannot be opened without waiting');
  });
  test.each([-1, 1.5, Number.NaN, 1e9])("%s is none", (name) => {
    expect(() => octavo.openDevice(name)).toThrow(octavo.DeviceError);
  });
});

describe("with a model and a tokenizer", () => {
  let model: Model;
  let tokenizer: octavo.PreTrainedTokenizer;
  beforeAll(async () => {
    model = await octavo.AutoModelForCausalLM.from_pretrained(STORYTELLER, { load_in_8bit: true, device: HERE });
    tokenizer = await octavo.AutoTokenizer.from_pretrained(STORYTELLER, { use_fast: true, trust_remote_code: false });
  });
  afterAll(() => model.dispose());

  test("inputs move, that is, they stay", async () => {
    const inputs = tokenizer("Once upon a time", { return_tensors: "pt" }).to("cuda");
    expect(Object.keys(inputs)).toEqual(["input_ids", "attention_mask"]);
    expect(structuredClone(inputs)).toEqual({ ...inputs });
    const one = await model.generate({ ...inputs, max_new_tokens: 3, do_sample: false });
    const moved = tokenizer(["Once upon a time"]).to(model.device).to(0);
    const two = await model.generate(moved, { max_new_tokens: 3, temperature: 0, return_dict_in_generate: false });
    expect(two).toEqual(one);
    expect(tokenizer.decode(one[0]!, { skip_special_tokens: true })).toMatch(/^Once upon a time/);
  });

  test("a model moves to where it is", async () => {
    for (const where of [model.device, HERE, "cpu", "auto"]) expect(model.to(where)).toBe(model);
    expect(model.to("cpu", "bfloat16")).toBe(model);
    expect(model.cpu().eval().train(false)).toBe(model);
  });

  test.each<[string, () => unknown, RegExp]>([
    [
      "to a GPU",
      () => model.to("cuda"),
      /got "webgpu"\n {2}hint: model\.to\(await requestDevice\("webgpu"\)\).*\{ device: "webgpu" \}/,
    ],
    ["cuda()", () => model.cuda(), /a device is opened before it moves/],
    ["to 1", () => model.to(1), /got "webgpu:1"/],
    [
      "to another dtype",
      () => model.to(torch.float16),
      /You cannot cast a bitsandbytes model in a new `dtype`.*\n.*dtype: "float16"/,
    ],
    ["to nowhere", () => model.to({} as never), /got \{\}/],
    ["no cache", () => model.generate([[1]], { use_cache: false as never }), /use_cache must be true, got false/],
    ["calling with a text", () => model.generate("Hello" as never), /takes token ids, got the text "Hello"/],
  ])("%s is refused", async (_, call, words) => {
    const error = await refusal(call);
    expect(error.message).toMatch(words);
    expect(error).toBeInstanceOf(error.code === "ERR_OPTION" ? OptionError : OctavoError);
  });
});

test.each(["BloomForCausalLM", "LlamaForCausalLM", "OPTForCausalLM", "T5ForConditionalGeneration"] as const)(
  "%s is not here yet, however it is used, and says what is",
  async (name) => {
    const Later = EXPORTS[name];
    for (const use of [() => Later("x"), () => new Later(64, 64), () => Later.from_pretrained("x")]) {
      const error = await refusal(use);
      expect(error.code).toBe("ERR_UNSUPPORTED");
      expect(error.message).toMatch(new RegExp(`^${name} is not in Octavo: .{20,}`));
    }
  },
);
