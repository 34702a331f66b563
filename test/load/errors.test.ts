// What from_pretrained refuses, end to end: each refusal is a typed error with a code, says what was wanted and what
// came, gives a hint where there is something to try, and leaves no memory on the device.

import { chmodSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { OctavoError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { copyOf, editHeader, editJson } from "../support/checkpoints.js";
import { expectNoLeaks } from "../support/devices.js";

const device = openDevice("reference");
afterAll(() => device.close());

interface Refusal {
  readonly name: string;
  readonly from?: readonly string[];
  readonly spoil?: (folder: string) => void;
  readonly options?: FromPretrainedOptions | Record<string, unknown>;
  readonly code: string;
  readonly message: RegExp;
  readonly hint?: RegExp;
  readonly details?: Record<string, unknown>;
}

const weights = (folder: string): string => join(folder, "model.safetensors");
const config = (folder: string): string => join(folder, "config.json");
const index = (folder: string): string => join(folder, "model.safetensors.index.json");
const SHARDED = ["checkpoints", "llama", "safetensors-sharded"];
const Q = "model.layers.0.self_attn.q_proj.weight";

/** Points one tensor of the index at another file. */
function misdirect(folder: string, shard: string): void {
  const before = JSON.parse(readFileSync(index(folder), "utf8")) as { weight_map: Record<string, string> };
  editJson(index(folder), { weight_map: { ...before.weight_map, [Q]: shard } });
}

const REFUSALS: readonly Refusal[] = [
  {
    name: "a truncated file",
    spoil: (f) => truncateSync(weights(f), 200_000),
    code: "ERR_FORMAT",
    message: /model\.safetensors/,
    hint: /download/,
  },
  {
    name: "a file cut inside its header",
    spoil: (f) => truncateSync(weights(f), 100),
    code: "ERR_FORMAT",
    message: /header/,
  },
  {
    name: "an empty file",
    spoil: (f) => truncateSync(weights(f), 0),
    code: "ERR_FORMAT",
    message: /model\.safetensors/,
  },
  {
    name: "a zip archive in its place",
    spoil: (f) => writeFileSync(weights(f), Buffer.concat([Buffer.from("PK\x03\x04"), Buffer.alloc(500)])),
    code: "ERR_FORMAT",
    message: /zip archive/,
    hint: /pytorch_model.bin/,
  },
  {
    name: "a git-lfs pointer in its place",
    spoil: (f) => writeFileSync(weights(f), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"),
    code: "ERR_FORMAT",
    message: /git-lfs pointer/,
    hint: /git lfs pull/,
  },
  {
    name: "an HTML page in its place",
    spoil: (f) => writeFileSync(weights(f), `<!DOCTYPE html><html>${"x".repeat(600)}</html>`),
    code: "ERR_FORMAT",
    message: /HTML/,
    hint: /download/,
  },
  {
    name: "a header that is too long",
    spoil: (f) => {
      const bytes = readFileSync(weights(f));
      bytes.writeBigUInt64LE(2n ** 40n, 0);
      writeFileSync(weights(f), bytes);
    },
    code: "ERR_FORMAT",
    message: /header/,
  },
  {
    name: "overlapping tensors",
    spoil: (f) =>
      editHeader(weights(f), (header) => {
        const [first, second] = Object.values(header).filter((entry) => entry.data_offsets);
        const size = second!.data_offsets[1] - second!.data_offsets[0];
        second!.data_offsets = [first!.data_offsets[0], first!.data_offsets[0] + size];
      }),
    code: "ERR_FORMAT",
    message: /overlap|offset|begin/i,
  },
  {
    name: "a tensor of another shape",
    spoil: (f) => editJson(config(f), { intermediate_size: 128 }),
    code: "ERR_CHECKPOINT",
    message:
      /expected shape \[128, 64\] for model\.layers\.0\.mlp\.\w+_proj\.weight, got \[112, 64\]|expected shape \[64, 128\]/,
    hint: /config\.json/,
    details: { got: expect.arrayContaining([112]), expected: expect.arrayContaining([128]) },
  },
  {
    name: "a missing tensor",
    spoil: (f) => editHeader(weights(f), (header) => Object.assign(header, rename(header, Q, "model.other"))),
    code: "ERR_CHECKPOINT",
    message: new RegExp(`lacks 1 of \\d+ tensors of the model: ${Q.replaceAll(".", "\\.")}`),
    hint: /model\.other/,
    details: { missing: [Q] },
  },
  {
    name: "a missing shard",
    from: SHARDED,
    spoil: (f) => rmSync(join(f, "model-00002-of-00003.safetensors")),
    code: "ERR_NOT_FOUND",
    message: /model-00002-of-00003\.safetensors/,
    hint: /./,
  },
  {
    name: "a folder without weights",
    spoil: (f) => rmSync(weights(f)),
    code: "ERR_NOT_FOUND",
    message: /no weights found/,
    hint: /./,
  },
  {
    name: "an index that leads out of its folder",
    from: SHARDED,
    spoil: (f) => misdirect(f, "../../etc/model.safetensors"),
    code: "ERR_FORMAT",
    message: /"\.\."/,
    details: { key: Q },
  },
  {
    name: "an index with an absolute path",
    from: SHARDED,
    spoil: (f) => misdirect(f, "/etc/model.safetensors"),
    code: "ERR_FORMAT",
    message: /absolute path/,
  },
  {
    name: "an unknown architecture",
    spoil: (f) => editJson(config(f), { model_type: "lama" }),
    code: "ERR_UNSUPPORTED_MODEL",
    message: /architecture "lama" is not supported; did you mean "llama"\?/,
    hint: /^\d+ kinds are supported, such as bert, .*llama, .* t5 and whisper; .* details\.supported/,
    details: { model_type: "lama" },
  },
  {
    name: "a config.json without model_type",
    spoil: (f) => writeFileSync(config(f), "{}"),
    code: "ERR_CONFIG",
    message: /no "model_type"/,
    hint: /transformers model/,
  },
  {
    name: "a config.json that is no JSON",
    spoil: (f) => writeFileSync(config(f), '{"model_type": "llama",'),
    code: "ERR_FORMAT",
    message: /config\.json/,
  },
  {
    name: "a config.json that is no object",
    spoil: (f) => writeFileSync(config(f), "[1, 2]"),
    code: "ERR_FORMAT",
    message: /config\.json/,
  },
  { name: "no config.json", spoil: (f) => rmSync(config(f)), code: "ERR_NOT_FOUND", message: /config\.json/ },
  {
    name: "a config.json with a field of another type",
    spoil: (f) => editJson(config(f), { hidden_size: "64" }),
    code: "ERR_CONFIG",
    message: /hidden_size.*"64"/,
    details: { fields: ["hidden_size"] },
  },
  {
    name: "a config.json with an absurd size",
    spoil: (f) => editJson(config(f), { num_hidden_layers: 1_000_000 }),
    code: "ERR_CONFIG",
    message: /num_hidden_layers/,
  },
  {
    name: "heads that do not divide the hidden size",
    spoil: (f) => editJson(config(f), { num_attention_heads: 7 }),
    code: "ERR_CONFIG",
    message: /7/,
  },
  {
    name: "a checkpoint that is said to be quantized, and is not",
    spoil: (f) => editJson(config(f), { quantization_config: { quant_method: "bitsandbytes", load_in_8bit: true } }),
    code: "ERR_CHECKPOINT",
    message: /config.json says llm_int8, but no tensor is quantized that way/,
    hint: /load_in_8bit/,
  },
  {
    name: "a checkpoint that is quantized by a method that is not read",
    spoil: (f) => editJson(config(f), { quantization_config: { quant_method: "hqq", bits: 4 } }),
    code: "ERR_UNSUPPORTED_MODEL",
    message: /quantized with "hqq"/,
    hint: /load_in_8bit/,
  },
  {
    name: "a generation_config.json that is no JSON",
    spoil: (f) => writeFileSync(join(f, "generation_config.json"), "{"),
    code: "ERR_FORMAT",
    message: /generation_config\.json/,
  },
  {
    name: "an unknown option",
    options: { load_in_8bits: true },
    code: "ERR_OPTION",
    message: /unknown option `load_in_8bits`; did you mean `load_in_8bit`\?/,
    details: { option: "load_in_8bits", suggestion: "load_in_8bit" },
  },
  {
    name: "8 and 4 bits at once",
    options: { load_in_8bit: true, load_in_4bit: true },
    code: "ERR_OPTION",
    message: /only one can be used at the same time/,
  },
  {
    name: "a width beside a quantization_config",
    options: { load_in_8bit: true, quantization_config: { load_in_4bit: true } },
    code: "ERR_OPTION",
    message: /cannot be passed together with quantization_config/,
    hint: /inside quantization_config/,
  },
  {
    name: "a misspelt field of quantization_config",
    options: { quantization_config: { load_in_4bit: true, bnb_4bit_quanttype: "nf4" } },
    code: "ERR_OPTION",
    message: /did you mean `bnb_4bit_quant_type`\?/,
  },
  {
    name: "a width as dtype",
    options: { dtype: "int8" },
    code: "ERR_OPTION",
    message: /dtype must be "auto" or one of/,
    hint: /load_in_8bit/,
  },
];

function rename<T>(header: Record<string, T>, from: string, to: string): Record<string, T> {
  const entry = header[from]!;
  delete header[from];
  return { [to]: entry };
}

async function refusal(folder: string, options: Record<string, unknown>): Promise<OctavoError> {
  try {
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device, ...options });
    model.dispose();
  } catch (error) {
    if (error instanceof OctavoError) return error;
    throw error;
  }
  throw new Error("it was loaded");
}

describe("from_pretrained refuses", () => {
  test.each(REFUSALS)("$name", async ({ from = ["models", "llama"], spoil, options, code, message, hint, details }) => {
    const folder = copyOf(...from);
    spoil?.(folder);
    const error = await refusal(folder, { ...options });
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
    if (hint) expect(error.hint).toMatch(hint);
    if (details) expect(error.details).toMatchObject(details);
    expectNoLeaks(device);
    if (code === "ERR_CONFIG") expect(error.hint).toBeDefined();
    // An error of a file names it, and says what to try.
    if (code === "ERR_FORMAT" || code === "ERR_NOT_FOUND") {
      expect(String(error.details.file)).toContain(folder);
      expect(error.hint).toBeDefined();
    }
  });

  test("a file that may not be read", async ({ skip }) => {
    if (process.getuid?.() === 0) skip("root may read everything");
    const folder = copyOf("models", "llama");
    chmodSync(weights(folder), 0o000);
    expect((await refusal(folder, {})).code).toBe("ERR_NOT_FOUND");
  });

  test("a folder that is not there", async () => {
    const error = await refusal("./no-such-model", {});
    expect(error.code).toBe("ERR_NOT_FOUND");
    expect(error.hint).toBeDefined();
  });

  test("tensors that the model does not know are a warning, not an error", async () => {
    const folder = copyOf("models", "llama");
    editHeader(weights(folder), (header) => {
      const end = Math.max(...Object.values(header).flatMap((entry) => entry.data_offsets ?? []));
      header["model.extra"] = { dtype: "F32", shape: [0], data_offsets: [end, end] };
    });
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device });
    expect(model.warnings.join()).toContain("1 tensors of the checkpoint were not used, such as model.extra");
    model.dispose();
    expectNoLeaks(device);
  });
});
