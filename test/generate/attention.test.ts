// How a loaded model computes attention, by the names of transformers, optimum and torch.

import { afterEach, describe, expect, test, vi } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import { type OctavoError, OptionError } from "../../src/core/errors.js";
import {
  AutoModel,
  AutoModelForCausalLM,
  AutoModelForMaskedLM,
  AutoModelForSeq2SeqLM,
  BetterTransformer,
  CLIPModel,
  type FromPretrainedOptions,
  type Kernels,
  type PreTrainedModel,
  pipeline,
  SDPBackend,
  sdp_kernel,
  sdpa_kernel,
  torch,
} from "../../src/index.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

/** The device that is there in any case. */
const HERE = nativeAvailable() ? "cpu" : "reference";
const fixture = (name: string): string => `${FIXTURES}/models/${name}`;
const load = (name: string, options: FromPretrainedOptions = {}): Promise<PreTrainedModel> =>
  AutoModelForCausalLM.from_pretrained(fixture(name), { device: HERE, ...options });

const PADDED = {
  input_ids: [
    [0, 0, 5, 6],
    [7, 8, 9, 10],
  ],
  attention_mask: [
    [0, 0, 1, 1],
    [1, 1, 1, 1],
  ],
};

afterEach(() => void vi.restoreAllMocks());

async function refusal(call: () => unknown): Promise<OctavoError> {
  const error: unknown = await Promise.resolve()
    .then(call)
    .then(
      () => new Error("it was not refused"),
      (thrown: unknown) => thrown,
    );
  return error as OctavoError;
}

describe("attn_implementation", () => {
  test.each<[string, FromPretrainedOptions, string]>([
    ["nothing", {}, "sdpa"],
    ["eager", { attn_implementation: "eager" }, "eager"],
    [
      "flash attention in 16 bits",
      { attn_implementation: "flash_attention_2", dtype: torch.float16 },
      "flash_attention_2",
    ],
    ["its older spelling", { use_flash_attention_2: true, torch_dtype: torch.bfloat16 }, "flash_attention_2"],
    [
      "both",
      { use_flash_attention_2: true, attn_implementation: "flash_attention_2", dtype: "bf16" },
      "flash_attention_2",
    ],
    ["neither", { use_flash_attention_2: false }, "sdpa"],
    ["flash attention in 8 bits", { use_flash_attention_2: true, load_in_8bit: true }, "flash_attention_2"],
  ])("%s", async (_, options, name) => {
    await using model = await load("bloom", options);
    expect(model.attn_implementation).toBe(name);
  });

  test.each<[string, FromPretrainedOptions, RegExp]>([
    [
      "flash attention in f32",
      { attn_implementation: "flash_attention_2", dtype: torch.float32 },
      /^Flash Attention 2 only supports torch\.float16 and torch\.bfloat16 dtypes, but the current dtype in BloomForCausalLM is torch\.float32: FlashAttention only support fp16 and bf16 data type/,
    ],
    [
      "flash attention in f32 and 4 bits",
      { use_flash_attention_2: true, load_in_4bit: true, dtype: "float32" },
      /only support fp16/,
    ],
    [
      "two answers",
      { attn_implementation: "eager", use_flash_attention_2: true, dtype: torch.float16 },
      /^Both attn_implementation="eager" and use_flash_attention_2=True were used/,
    ],
  ])("%s is refused", async (_, options, words) => {
    const error = await refusal(() => load("bloom", options));
    expect(error).toBeInstanceOf(OptionError);
    expect(error.message).toMatch(words);
  });

  test("it can be set, and numbers stay", async () => {
    await using model = await load("llama", { dtype: torch.bfloat16 });
    const logits = async (): Promise<Float32Array> => {
      const { logits } = model.forward({ input_ids: [[5, 6, 7]] });
      const values = await logits.readFloats();
      logits.dispose();
      return values;
    };
    const before = await logits();
    for (const name of ["eager", "flash_attention_2", "sdpa"] as const) {
      model.set_attn_implementation(name);
      expect(model.attn_implementation).toBe(name);
      expect(await logits()).toEqual(before);
    }
    expect(() => model.set_attn_implementation("xformers" as never)).toThrow(/one of "sdpa", "eager"/);
    await using single = await load("llama", { dtype: torch.float32 });
    expect(() => single.set_attn_implementation("flash_attention_2")).toThrow(/only support fp16 and bf16/);
    expect(single.attn_implementation).toBe("sdpa");
  });

  test("Falcon's ALiBi, which counts by it, keeps it", async () => {
    await using silent = await load("falcon-rw-sdpa");
    await using once = await load("falcon-rw-sdpa", { attn_implementation: "sdpa" });
    expect([silent.attn_implementation, once.attn_implementation]).toEqual(["eager", "sdpa"]);
    expect(() => silent.set_attn_implementation("sdpa")).toThrow(
      /was loaded with "eager"\n.*attn_implementation: "sdpa"/,
    );
    silent.set_attn_implementation("eager");
  });
});

describe("a choice of kernels", () => {
  const none = (body: () => unknown): unknown => sdpa_kernel(SDPBackend.CUDNN_ATTENTION, body);

  test("holds for generate, stream and forward, and says why no kernel is there", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    await using model = await load("opt");
    const want = await model.generate({ ...PADDED, max_new_tokens: 4 });
    for (const choice of [
      { enable_flash: true, enable_math: false, enable_mem_efficient: false },
      { enable_flash: false, enable_math: false, enable_mem_efficient: true },
      { enable_flash: false, enable_math: true, enable_mem_efficient: false },
    ]) {
      expect(await sdp_kernel(choice, () => model.generate({ ...PADDED, max_new_tokens: 4 }))).toEqual(want);
    }
    expect(warn).not.toHaveBeenCalled();
    for (const call of [
      () => model.generate({ ...PADDED, max_new_tokens: 2 }),
      () => model.generate({ ...PADDED, max_new_tokens: 2, num_beams: 2 }),
      () => model.stream({ ...PADDED, max_new_tokens: 2 }),
      () => model.forward(PADDED),
    ]) {
      const error = await refusal(() => none(call));
      expect(error.code).toBe("ERR_NO_KERNEL");
      expect(error.message).toMatch(/^No available kernel\. Aborting execution\./);
    }
    expect(warn.mock.calls.at(-1)).toEqual([
      "cuDNN attention kernel not used because: there is no cuDNN on this device.",
    ]);
    // As in torch, it is for models whose attention is "sdpa".
    model.set_attn_implementation("eager");
    expect(await none(() => model.generate({ ...PADDED, max_new_tokens: 4 }))).toEqual(want);
  });

  test("is not seen by what runs beside it, however calls interleave", async () => {
    vi.spyOn(console, "warn").mockImplementation(() => {});
    await using model = await load("opt", { dtype: torch.bfloat16 });
    const ids = [[5, 6, 7, 8]];
    const run = (): Promise<number[][]> => model.generate(ids, { max_new_tokens: 6 });
    const want = await run();
    const inside = async (kernels: Kernels): Promise<number[][]> => {
      const first = await run();
      expect(await kernels.run(run)).toEqual(first);
      return first;
    };
    const results = await Promise.allSettled([
      run(),
      sdpa_kernel(SDPBackend.MATH, inside),
      none(run),
      sdpa_kernel(SDPBackend.FLASH_ATTENTION, run),
      run(),
    ]);
    expect(results.map(({ status }) => status)).toEqual([
      "fulfilled",
      "fulfilled",
      "rejected",
      "fulfilled",
      "fulfilled",
    ]);
    for (const result of results) if (result.status === "fulfilled") expect(result.value).toEqual(want);
  });

  test("holds for encoders, towers and encoder-decoders", async () => {
    vi.spyOn(console, "warn").mockImplementation(() => {});
    await using bert = await AutoModelForMaskedLM.from_pretrained(fixture("bert"), { device: HERE });
    await using t5 = await AutoModelForSeq2SeqLM.from_pretrained(fixture("t5"), { device: HERE });
    await using vit = await AutoModel.from_pretrained(fixture("vit"), { device: HERE });
    await using clip = await CLIPModel.from_pretrained(fixture("clip"), { device: HERE });
    const texts = await t5.generate({ ...PADDED, max_new_tokens: 3 });
    for (const backend of [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]) {
      expect(await sdpa_kernel(backend, () => t5.generate({ ...PADDED, max_new_tokens: 3 }))).toEqual(texts);
      const { logits } = sdpa_kernel(backend, () => bert.forward(PADDED));
      expect((await logits.readFloats()).every(Number.isFinite)).toBe(true);
      logits.dispose();
    }
    const side = Number((vit.config as { image_size: number }).image_size);
    const pixel_values = { data: new Float32Array(3 * side * side), shape: [1, 3, side, side] };
    for (const call of [
      () => bert.forward(PADDED),
      () => t5.generate({ ...PADDED, max_new_tokens: 3 }),
      () => t5.generate({ ...PADDED, max_new_tokens: 3, num_beams: 2 }),
      () => t5.forward({ ...PADDED, decoder_input_ids: [[0], [0]] }),
      () => vit.forward({ pixel_values }),
      () => clip.get_text_features({ input_ids: [[5, 6]] }),
    ]) {
      expect((await refusal(() => none(call))).code).toBe("ERR_NO_KERNEL");
    }
  });

  test("does not reach into a pipeline, which says so", async () => {
    await using model = await AutoModelForMaskedLM.from_pretrained(fixture("bert"), { device: HERE });
    const { AutoTokenizer } = await import("../../src/index.js");
    const { STORYTELLER } = await import("../support/models.js");
    const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
    const pipe = await pipeline("fill-mask", model, { tokenizer });
    const error = await refusal(() => sdpa_kernel(SDPBackend.MATH, () => pipe("a")));
    expect(error.message).toMatch(/^pipeline: a choice of kernels.*does not reach into it\n.*pipe\.model/);
  });
});

describe("BetterTransformer", () => {
  test("is a state of a model, with the same numbers, which is not saved", async () => {
    await using model = await AutoModelForMaskedLM.from_pretrained(fixture("bert"), { device: HERE });
    const logits = async (): Promise<Float32Array> => {
      const output = model.forward(PADDED);
      const values = await output.logits.readFloats();
      output.logits.dispose();
      return values;
    };
    const before = await logits();
    expect(model.use_bettertransformer).toBe(false);
    expect(model.to_bettertransformer()).toBe(model);
    expect(model.use_bettertransformer).toBe(true);
    expect(await logits()).toEqual(before);
    const folder = temporary("better");
    for (const call of [() => model.save_pretrained(folder), () => model.push_to_hub("org/none")]) {
      const error = await refusal(call);
      expect(error.code).toBe("ERR_BETTER_TRANSFORMER");
      expect(error.message).toMatch(
        /^You are trying to save or push a model that has been converted with `BetterTransformer`\. Please revert/,
      );
    }
    expect((await refusal(() => model.to_bettertransformer())).message).toMatch(
      /^`BetterTransform\.transform\(\)` was called on a model already using Better Transformer modeling\./,
    );
    expect(() => model.forward({ ...PADDED, output_attentions: true })).toThrow(
      /^output_attentions=True can not be supported with BetterTransformer\./,
    );
    expect(() => model.set_attn_implementation("flash_attention_2")).toThrow(OptionError);
    expect(model.reverse_bettertransformer()).toBe(model);
    expect((await refusal(() => model.reverse_bettertransformer())).message).toMatch(
      /^The method BetterTransformer\.reverse\(\) should be used on a model already transformed/,
    );
    expect((await model.save_pretrained(folder)).files.length).toBeGreaterThan(0);
    expect(BetterTransformer.reverse(BetterTransformer.transform(model)).use_bettertransformer).toBe(false);
  });

  test("follows a choice of kernels, whatever attention the model was loaded with", async () => {
    vi.spyOn(console, "warn").mockImplementation(() => {});
    await using model = await load("opt", { attn_implementation: "eager" });
    const run = (): Promise<number[][]> => model.generate([[5, 6]], { max_new_tokens: 2 });
    const want = await sdpa_kernel(SDPBackend.CUDNN_ATTENTION, run);
    model.to_bettertransformer();
    expect((await refusal(() => sdpa_kernel(SDPBackend.CUDNN_ATTENTION, run))).code).toBe("ERR_NO_KERNEL");
    expect(await sdpa_kernel(SDPBackend.FLASH_ATTENTION, run)).toEqual(want);
  });

  test.each<[string, FromPretrainedOptions, RegExp]>([
    ["llama", {}, /^Transformers now supports natively BetterTransformer optimizations .* for the model type "llama"/],
    ["falcon-rw-sdpa", {}, /^Transformers now supports natively .* "falcon"/],
    [
      "opt",
      { attn_implementation: "sdpa" },
      /^This model already uses BetterTransformer optimizations from Transformers/,
    ],
    [
      "mistral",
      {},
      /^The model type "mistral" is not yet supported to be used with BetterTransformer\n.*convertible are: albert/,
    ],
  ])("is refused for %s with %o", async (name, options, words) => {
    await using model = await load(name, options);
    expect(() => model.to_bettertransformer()).toThrow(words);
    expect(model.use_bettertransformer).toBe(false);
  });

  test.each<[string, () => unknown]>([
    ["no model", () => BetterTransformer.transform({} as never)],
    ["nothing", () => BetterTransformer.reverse(undefined as never)],
  ])("takes %s for an error", (_, call) => {
    expect(call).toThrow(OptionError);
  });

  test("keeps no second copy", async () => {
    await using model = await load("opt");
    expect(() => BetterTransformer.transform(model, { keep_original_model: true as never })).toThrow(/must be false/);
  });
});
