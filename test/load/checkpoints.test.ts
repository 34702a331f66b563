// Checkpoints in other dtypes, in shards, under other names: all load to the same model. And how loading behaves: what
// it holds in memory, that it can be stopped, what it reports.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { AbortError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { openDevice } from "../../src/load/device.js";
import type { ProgressEvent } from "../../src/load/fill.js";
import { tokenLogprobs } from "../../src/ops/token-logprobs.js";
import { copyOf, editJson, withoutPrefix, writeTensors } from "../support/checkpoints.js";
import { ALL_DEVICES, expectNoLeaks } from "../support/devices.js";
import { difference, FIXTURES, readArrays, readJson } from "../support/fixtures.js";
import { onDevice } from "../support/suites.js";

interface Inputs {
  input_ids: number[][];
  attention_mask?: number[][];
}
interface Expected {
  inputs: { single: Inputs; text: Inputs };
  tolerance_fp32: number;
}

describe.each(ALL_DEVICES)("on %s", (deviceName) => {
  let device: Device;
  onDevice(deviceName, (opened) => (device = opened));

  const logits = async (folder: string, inputs: Inputs, options: FromPretrainedOptions = {}): Promise<Float32Array> => {
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device, ...options });
    try {
      const { logits: tensor } = model.forward(inputs);
      const values = await tensor.readFloats();
      tensor.dispose();
      return values;
    } finally {
      model.dispose();
    }
  };

  describe.each(["llama", "bloom"])("%s", (name) => {
    const { inputs, tolerance_fp32 } = readJson<Expected>("models", name, "expected.json");

    test.each(["bf16", "fp16"])("%s weights, computed in f32", async (format) => {
      const golden = readArrays("checkpoints", name, format, "expected.safetensors");
      const folder = join(FIXTURES, "checkpoints", name, format);
      const got = await logits(folder, inputs.single, { dtype: "float32" });
      expect(difference(got, golden.get("single.logits")!.values).max).toBeLessThan(tolerance_fp32);
      // Kept in half precision they are the same numbers, and activations stay f32: the same result.
      const half = await logits(folder, inputs.single, { compute_dtype: "float32" });
      expect(difference(half, golden.get("single.logits")!.values).max).toBeLessThan(tolerance_fp32);

      const model = await AutoModelForCausalLM.from_pretrained(folder, { device, compute_dtype: "float32" });
      expect(model.dtype).toBe(format === "bf16" ? "bf16" : "f16");
      const { logits: tensor } = model.forward(inputs.text);
      const [, steps = 0, vocab = 0] = tensor.shape;
      const rows = tensor.view(steps, vocab);
      const targets = Tensor.from(device, Int32Array.from([...inputs.text.input_ids[0]!.slice(1), 0]), [steps]);
      const logprobs = tokenLogprobs(rows, targets);
      const values = (await logprobs.readFloats()).subarray(0, steps - 1);
      expect(difference(values, golden.get("text.token_logprobs")!.values).max).toBeLessThan(tolerance_fp32);
      for (const one of [tensor, rows, targets, logprobs]) one.dispose();
      model.dispose();
    });

    test("three shards are one file", async () => {
      const one = await logits(join(FIXTURES, "models", name), inputs.single);
      const shards = await logits(join(FIXTURES, "checkpoints", name, "safetensors-sharded"), inputs.single);
      expect(shards).toEqual(one);
    });
  });

  test.each(["bloom", "gpt2"])("%s without the prefix of its names is the same model", async (name) => {
    const folder =
      name === "bloom" ? withoutPrefix("transformer.", "models", name) : join(FIXTURES, "models", `${name}_noprefix`);
    const { inputs } = readJson<Expected>("models", name, "expected.json");
    const one = await logits(join(FIXTURES, "models", name), inputs.single);
    const bare = await logits(folder, inputs.single);
    expect(bare).toEqual(one);
    const quantized = { load_in_8bit: true };
    expect(await logits(folder, inputs.single, quantized)).toEqual(
      await logits(join(FIXTURES, "models", name), inputs.single, quantized),
    );
  });

  test.each(["llama-rope-llama3", "gemma3_text"])(
    "%s: config.json in the layout of transformers 5 says the same",
    async (name) => {
      const { inputs } = readJson<Expected>("models", name, "expected.json");
      const folder = copyOf("models", name);
      const old = await logits(folder, inputs.single);
      writeFileSync(join(folder, "config.json"), JSON.stringify(readJson("models", name, "config_v5.json")));
      expect(await logits(folder, inputs.single)).toEqual(old);
    },
  );

  test("a dtype asked for wins over the checkpoint's", async () => {
    const folder = join(FIXTURES, "models", "llama");
    for (const [dtype, want] of [
      ["bfloat16", "bf16"],
      ["float16", "f16"],
      ["auto", "f32"],
    ] as const) {
      const model = await AutoModelForCausalLM.from_pretrained(folder, { device, torch_dtype: dtype });
      expect(model.dtype).toBe(want);
      model.dispose();
    }
  });
});

/** A llama whose matrices are several pieces long: 74 MB of f32. */
function largeModel(): string {
  const folder = copyOf("models", "llama");
  const [hidden, ffn, vocab] = [256, 16_384, 6000] as const;
  editJson(join(folder, "config.json"), {
    hidden_size: hidden,
    intermediate_size: ffn,
    vocab_size: vocab,
    num_hidden_layers: 1,
    num_attention_heads: 4,
    num_key_value_heads: 4,
  });
  const layer = "model.layers.0";
  writeTensors(
    join(folder, "model.safetensors"),
    new Map<string, readonly number[]>([
      ["model.embed_tokens.weight", [vocab, hidden]],
      ...["q", "k", "v", "o"].map(
        (p) => [`${layer}.self_attn.${p}_proj.weight`, [hidden, hidden]] as [string, readonly number[]],
      ),
      [`${layer}.mlp.gate_proj.weight`, [ffn, hidden]],
      [`${layer}.mlp.up_proj.weight`, [ffn, hidden]],
      [`${layer}.mlp.down_proj.weight`, [hidden, ffn]],
      [`${layer}.input_layernorm.weight`, [hidden]],
      [`${layer}.post_attention_layernorm.weight`, [hidden]],
      ["model.norm.weight", [hidden]],
      ["lm_head.weight", [vocab, hidden]],
    ]),
  );
  return folder;
}

describe("loading a large model", () => {
  const folder = largeModel();
  const device = openDevice("cpu", { threads: 2 });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });
  const load = (options: FromPretrainedOptions = {}): Promise<PreTrainedModel> =>
    AutoModelForCausalLM.from_pretrained(folder, { device, ...options });

  test.each<[string, FromPretrainedOptions]>([
    ["as it is", {}],
    ["in bf16", { dtype: "bfloat16" }],
    ["in 8 bits", { load_in_8bit: true }],
    ["in 4 bits", { quantization_config: { load_in_4bit: true, bnb_4bit_use_double_quant: true } }],
  ])("%s holds the finished weights and a few pieces, no more", async (_, options) => {
    device.arena.trim();
    device.arena.resetPeak();
    const model = await load(options);
    // Device memory at its peak: all weights, and what one piece of 8 MiB needs while it is converted: its bytes, and
    // its rows in the stored dtype. Never a whole matrix (16.8 MB) beside the finished one.
    expect(device.memory.peak).toBeLessThan(model.weight_bytes + 2 * (8 << 20));
    expect(model.checkpoint_bytes).toBeGreaterThan(50e6);
    model.dispose();
    expectNoLeaks(device);
  });

  test("progress runs from nothing to everything", async () => {
    const events: ProgressEvent[] = [];
    const model = await load({ load_in_8bit: true, progress_callback: (event) => events.push(event) });
    expect(events[0]).toMatchObject({ status: "initiate", loaded: 0 });
    expect(events.at(-1)).toMatchObject({ status: "done", loaded: model.checkpoint_bytes, progress: 100 });
    for (const [i, { loaded }] of events.entries()) expect(loaded).toBeGreaterThanOrEqual(events[i - 1]?.loaded ?? 0);
    model.dispose();
  });

  test.each(["before it begins", "while it runs"])("stopped %s, it leaves nothing", async (when) => {
    const controller = new AbortController();
    if (when === "before it begins") controller.abort(new Error("no longer wanted"));
    const loading = load({
      load_in_8bit: true,
      signal: controller.signal,
      progress_callback: ({ status }) => status === "initiate" && controller.abort(new Error("no longer wanted")),
    });
    const error = await loading.catch((e: unknown) => e);
    expect(error).toBeInstanceOf(AbortError);
    expect((error as AbortError).code).toBe("ERR_ABORTED");
    expect((error as AbortError).cause).toMatchObject({ message: "no longer wanted" });
    expectNoLeaks(device);
  });

  test("a callback that throws stops it, and leaves nothing", async () => {
    const loading = load({
      progress_callback: ({ status }) => {
        if (status === "done") throw new Error("mine");
      },
    });
    await expect(loading).rejects.toThrow("mine");
    expectNoLeaks(device);
  });
});
