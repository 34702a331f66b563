// `shaders()` lists every variant that models use, and each becomes a pipeline. This runs on Dawn's null backend, which
// checks shaders, bindings and limits as any other, has every feature, and computes nothing.

import { join } from "node:path";
import { expect, test } from "vitest";
import { openWebGPU, type WebGPUOptions } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { FIXTURES } from "../support/fixtures.js";
import { describeGPU, everything, idle } from "../support/webgpu.js";

const KINDS: readonly [name: string, options: WebGPUOptions][] = [
  ["all there is", {}],
  ["no subgroups", { subgroups: false }],
  ["no subgroups, no dot4", { subgroups: false, dot4: false }],
  ["no f16", { f16: false }],
  ["default limits", { limits: "default", dot4: false }],
  ["default limits, dot4", { limits: "default" }],
];

/**
 * Of each family the variants in which two values of its options meet that have not met before: every pair is compiled, every
 * combination is not (attention has 1,300). OCTAVO_SHADERS=all compiles all.
 */
function everyPair<T extends { readonly key: string }>(shaders: readonly T[]): T[] {
  if (process.env.OCTAVO_SHADERS === "all") return [...shaders];
  const met = new Set<string>();
  return shaders.filter(({ key }) => {
    const [family = "", ...values] = key.split(" ");
    const pairs = values.flatMap((a, i) => values.slice(i).map((b) => `${family} ${a} ${b}`));
    const fresh = values.length === 0 ? [family] : pairs.filter((pair) => !met.has(pair));
    for (const pair of fresh) met.add(pair);
    return fresh.length > 0;
  });
}

describeGPU("WGSL variants", () => {
  /** Shaders that are pipelines already, with the limits they had: kinds share most of theirs. */
  const built = new Set<string>();
  test.each(KINDS)("all become pipelines: %s", { timeout: 180_000 }, async (_, options) => {
    const backend = await openWebGPU(await everything(), options);
    try {
      const shaders = backend.shaders();
      expect(shaders.length).toBeGreaterThan(500);
      const failures: string[] = [];
      const chosen = everyPair(shaders);
      console.log(`${chosen.length} of ${shaders.length} variants`);
      for (const shader of chosen) {
        const known = `${options.limits} ${shader.code}`;
        if (built.has(known)) continue;
        built.add(known);
        await backend.compile(shader, "pipeline").catch((error: Error) => {
          failures.push(`${shader.key}: ${error.message}`.slice(0, 400));
        });
      }
      expect(failures).toEqual([]);
    } finally {
      await backend.close();
    }
  });

  const STORAGES: readonly FromPretrainedOptions[] = [
    { dtype: "float32" },
    { dtype: "bfloat16" },
    { load_in_8bit: true },
    { dtype: "bfloat16", head_dtype: "int8", quantization_config: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } },
    { quantization_config: { load_in_4bit: true, bnb_4bit_use_double_quant: true, bnb_4bit_compute_dtype: "int8" } },
    { quantization_config: { load_in_4bit: true, bnb_4bit_compute_dtype: "bfloat16" } },
  ];

  test.each(
    KINDS.filter(([kind]) => kind !== "no subgroups").flatMap(([kind, options]) =>
      ["llama", "gpt2", "opt", "bloom"].map((name) => [name, kind, options] as const),
    ),
  )("the shaders of %s are listed (%s)", { timeout: 180_000 }, async (name, _, options) => {
    const backend = await openWebGPU(await idle(), options);
    const device = new Device(backend);
    try {
      for (const storage of STORAGES) {
        const model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", name), {
          device,
          ...storage,
        });
        const common = { eos_token_id: null, max_new_tokens: 3 };
        const padded = {
          input_ids: [
            [5, 6, 7],
            [0, 0, 9],
          ],
          attention_mask: [
            [1, 1, 1],
            [0, 0, 1],
          ],
        };
        // Nothing is computed; only the shaders that the calls use matter.
        await model.generate({ input_ids: [[5, 6, 7]], ...common, do_sample: true, top_k: 5, top_p: 0.9 });
        await model.generate({ ...padded, ...common, repetition_penalty: 1.2 });
        await model.generate({ ...padded, ...common, cache_implementation: "quantized" });
        await model.generate({ input_ids: [[5, 6, 5, 6, 5]], ...common, prompt_lookup_num_tokens: 2 });
        model.forward({ input_ids: [[5, 6, 7, 8]] }).logits.dispose();
        model.forward({ input_ids: [[5, 6, 7, 8]], position_ids: [[0, 1, 0, 1]] }).logits.dispose();
        await device.synchronize();
        model.dispose();
      }
      const listed = new Set(backend.shaders().map(({ key }) => key));
      expect(backend.used.size).toBeGreaterThan(20);
      expect([...backend.used].filter((key) => !listed.has(key))).toEqual([]);
    } finally {
      await device.close();
    }
  });
});
