// Law: a number that is none stays visible. A NaN or an infinity in a weight reaches the logits in every storage, on every
// backend: a file that was damaged must not look like a poor model.

import { cpSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parseSafetensorsHeader } from "../../src/checkpoints/safetensors-header.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { ALL_DEVICES, requestTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";

const WEIGHT = "model.layers.0.mlp.down_proj.weight";
const HEAD = "lm_head.weight";

/** The folder of a llama one of whose weights holds `value` at its fourth place, or at all places. */
function spoilt(name: string, value: number, all = false): string {
  const folder = mkdtempSync(join(tmpdir(), "octavo-broken-"));
  cpSync(join(FIXTURES, "models", "llama"), folder, { recursive: true });
  const file = join(folder, "model.safetensors");
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE());
  const { tensors } = parseSafetensorsHeader(bytes.subarray(8, 8 + length), bytes.length, file);
  const { dtype, offset, bytes: size } = tensors.get(name)!;
  expect(dtype).toBe("F32");
  for (let at = all ? 0 : 12; at < (all ? size : 16); at += 4) bytes.writeFloatLE(value, offset + at);
  writeFileSync(file, bytes);
  return folder;
}

const four = (more: object): FromPretrainedOptions => ({ quantization_config: { load_in_4bit: true, ...more } });
const STORAGES: readonly (readonly [name: string, weight: string, options: FromPretrainedOptions])[] = [
  ["dense", WEIGHT, {}],
  ["int8", WEIGHT, { load_in_8bit: true }],
  ["nf4", WEIGHT, four({ bnb_4bit_quant_type: "nf4" })],
  ["nf4 twice", WEIGHT, four({ bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true })],
  ["nf4, int8 products", WEIGHT, four({ bnb_4bit_quant_type: "nf4", bnb_4bit_compute_dtype: "int8" })],
  ["fp4", WEIGHT, four({ bnb_4bit_quant_type: "fp4" })],
  ["an int8 head", HEAD, { head_dtype: "int8" }],
];

const DTYPES = ["float32", "bfloat16", "float16"] as const;

describe.each([Number.NaN, Number.POSITIVE_INFINITY])("%d in a weight", (value) => {
  const folders: Record<string, string> = { [WEIGHT]: spoilt(WEIGHT, value), [HEAD]: spoilt(HEAD, value) };

  test.each(ALL_DEVICES)("shows in the logits on %s", { timeout: 120_000 }, async (name) => {
    const device = await requestTestDevice(name);
    const silent: string[] = [];
    for (const [d, dtype] of DTYPES.entries()) {
      for (const [s, [storage, weight, options]] of STORAGES.entries()) {
        // Kernels for each dtype are slow to build on a GPU in software; the quantizers' own cases have them all.
        if (name === "webgpu" && s % DTYPES.length !== d) continue;
        const model = await AutoModelForCausalLM.from_pretrained(folders[weight]!, { device, dtype, ...options });
        const { logits } = model.forward({ input_ids: [[5, 9, 3, 7, 11]] });
        const numbers = await logits.read();
        if (numbers.every(Number.isFinite)) silent.push(`${storage}, ${dtype}`);
        logits.dispose();
        model.dispose();
      }
    }
    expect(silent).toEqual([]);
    await device.close();
  });
});

describe("numbers whose squares overflow", () => {
  const folder = spoilt("model.embed_tokens.weight", 1e30, true);

  // The reference computes in f64, where nothing overflows.
  test.each(ALL_DEVICES.filter((name) => name !== "reference"))("do not become zeros on %s", async (name) => {
    const device = await requestTestDevice(name);
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device, dtype: "float32" });
    await expect(model.generate({ input_ids: [[5, 9]], max_new_tokens: 2, do_sample: false })).rejects.toThrow(
      "logits hold NaN",
    );
    model.dispose();
    await device.close();
  });
});
