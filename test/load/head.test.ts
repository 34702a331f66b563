// An output head in 8 bits, whatever the rest of the model is stored in: the same bits as where LLM.int8() is asked for by
// the names of modules, also for a head that shares its matrix with the embedding.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { Linear, type Matrix } from "../../src/nn/module.js";
import { copyOf, editJson, type Header } from "../support/checkpoints.js";
import { ALL_DEVICES } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { onDevice } from "../support/suites.js";

const EMBEDDING = { gpt2: "wte.weight", bloom: "word_embeddings.weight" } as const;
type Name = "llama" | "gpt2" | "bloom";
const NAMES: readonly Name[] = ["llama", "gpt2", "bloom"];

/** A copy of a model with a head of its own, which holds the embedding once more. */
function untied(name: "gpt2" | "bloom"): string {
  const folder = copyOf("models", name);
  const file = join(folder, "model.safetensors");
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Header;
  const [, { dtype, shape, data_offsets }] = Object.entries(header).find(([key]) => key.endsWith(EMBEDDING[name]))!;
  const data = bytes.subarray(8 + length);
  header["lm_head.weight"] = {
    dtype,
    shape,
    data_offsets: [data.length, data.length + data_offsets[1] - data_offsets[0]],
  };
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(file, Buffer.concat([size, text, data, data.subarray(...data_offsets)]));
  editJson(join(folder, "config.json"), { tie_word_embeddings: false });
  return folder;
}

describe.each(ALL_DEVICES)("on %s", (deviceName) => {
  let device: Device;
  onDevice(deviceName, (opened) => (device = opened));

  /** Loads, lets `look` see the model, and gives logits. */
  const logits = async (
    folder: string,
    name: Name,
    options: FromPretrainedOptions,
    look?: (model: PreTrainedModel) => void,
  ): Promise<Float32Array> => {
    const { inputs } = readJson<{ inputs: { single: { input_ids: number[][] } } }>("models", name, "expected.json");
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device, ...options });
    try {
      look?.(model);
      const { logits: tensor } = model.forward(inputs.single);
      const values = await tensor.readFloats();
      tensor.dispose();
      return values;
    } finally {
      model.dispose();
    }
  };
  const schemeOfHead = (model: PreTrainedModel): string => {
    const head = [...model.module.named_modules()].find(([path]) => path === "lm_head")?.[1];
    if (!(head instanceof Linear)) throw new Error("no head");
    return head.weight.weight.scheme;
  };

  test.each(NAMES)("%s: as if it were the only module quantized", async (name) => {
    const folder = join(FIXTURES, "models", name);
    const body = name === "llama" ? "model" : "transformer";
    const wanted = await logits(name === "llama" ? folder : untied(name), name, {
      quantization_config: { load_in_8bit: true, llm_int8_skip_modules: [body] },
    });
    const got = await logits(folder, name, { head_dtype: "int8" }, (model) => {
      expect(schemeOfHead(model)).toBe("llm_int8");
      expect(model.warnings).toEqual([]);
      for (const [path, parameter] of model.module.named_parameters()) {
        if ("product" in parameter && path !== "lm_head.weight") {
          expect((parameter as Matrix).weight.scheme).toBe("dense");
        }
      }
    });
    expect(got).toEqual(wanted);
    const plain = await logits(folder, name, { head_dtype: "auto" }, (model) => {
      expect(schemeOfHead(model)).toBe("dense");
    });
    expect(plain).not.toEqual(got);
  });

  test.each([
    ["8 bits", { load_in_8bit: true }],
    ["4 bits", { load_in_4bit: true }],
  ] as const)("beside a model in %s", async (_, quantization_config) => {
    const folder = join(FIXTURES, "models", "gpt2");
    const wanted = await logits(untied("gpt2"), "gpt2", { quantization_config, head_dtype: "int8" });
    const got = await logits(folder, "gpt2", { quantization_config, head_dtype: "int8" }, (model) => {
      expect(schemeOfHead(model)).toBe("llm_int8");
      const inner = [...model.module.named_parameters()].find(([path]) =>
        path.endsWith("c_attn.weight"),
      )?.[1] as Matrix;
      expect(inner.weight.scheme).toBe("load_in_8bit" in quantization_config ? "llm_int8" : "fp4");
    });
    expect(got).toEqual(wanted);
  });
});

test("a head dtype that is not known is refused before anything is read", async () => {
  const folder = join(FIXTURES, "models", "llama");
  const options = { head_dtype: "int4" } as unknown as FromPretrainedOptions;
  await expect(AutoModelForCausalLM.from_pretrained(folder, options)).rejects.toThrow(
    'head_dtype must be "auto" or "int8", got "int4"',
  );
});
