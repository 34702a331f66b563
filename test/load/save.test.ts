// What is loaded and saved is tensor by tensor, name by name what the real libraries wrote; and it loads again.

import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import type { Checkpoint } from "../../src/checkpoints/checkpoint.js";
import type { StoredTensor } from "../../src/checkpoints/stored.js";
import { widen } from "../../src/core/dtype.js";
import { AbortError, OptionError } from "../../src/core/errors.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { autoModel, type FromPretrainedOptions } from "../../src/generate/pretrained.js";
import { openDevice } from "../../src/load/device.js";
import { NODE } from "../../src/load/node.js";
import { architectureOf, taskFor } from "../../src/models/index.js";
import type { Matrix, Parameter } from "../../src/nn/module.js";
import { copyOf, editJson, withoutPrefix } from "../support/checkpoints.js";
import { expectNoLeaks } from "../support/devices.js";
import { difference, FIXTURES, largest } from "../support/fixtures.js";
import { openCheckpoint } from "../support/source-tools.js";
import { temporary } from "../support/temporary.js";

const device = openDevice("cpu", { threads: 2 });
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

/** Loads a model for what its config says it is for. */
async function load(folder: string, options: FromPretrainedOptions = {}) {
  const config = configOf(folder);
  const task = taskFor(config, await architectureOf(config));
  return autoModel(NODE, task).from_pretrained(folder, { device, ...options });
}

async function logits(model: Awaited<ReturnType<typeof load>>, input_ids: number[][]): Promise<Float32Array> {
  const output = (model as PreTrainedModel).forward({ input_ids });
  try {
    return await output.logits.readFloats();
  } finally {
    output.logits.dispose();
  }
}

/** Every tensor of a checkpoint as text: dtype, shape and bytes. */
function configOf(folder: string) {
  return JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
}

/** The bytes of a stored tensor. */
function bytesOf({ file, offset, bytes }: StoredTensor): Buffer {
  return readFileSync(file).subarray(offset, offset + bytes);
}

/** Names of tensors that are not the same in both. */
async function differing(one: string, other: string): Promise<string[]> {
  const [a, b] = [await tensorsOf(one), await tensorsOf(other)];
  return [...new Set([...a.keys(), ...b.keys()])].filter((name) => a.get(name) !== b.get(name));
}

async function tensorsOf(folder: string): Promise<Map<string, string>> {
  const { tensors } = await openCheckpoint(folder);
  const all = [...tensors].map(([name, tensor]) => {
    return [name, `${tensor.dtype} [${tensor.shape}] ${bytesOf(tensor).toString("base64")}`] as const;
  });
  return new Map(all.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Files with old names, or other ones than transformers writes: their names as it writes them; undefined for buffers. */
const RENAMED: Readonly<Record<string, (name: string) => string | undefined>> = {
  // Position ids are a buffer; a masked language model has neither pooler nor the head for the next sentence.
  bert_old: (name) =>
    /position_ids$|pooler|seq_relationship/.test(name)
      ? undefined
      : name.replace(/LayerNorm.gamma$/, "LayerNorm.weight").replace(/LayerNorm.beta$/, "LayerNorm.bias"),
  bloom_noprefix: (name) => `transformer.${name}`,
  gpt2_noprefix: (name) => (/\.attn\.(masked_)?bias$/.test(name) ? undefined : `transformer.${name}`),
};
const halves = (name: string): string =>
  name
    .replace(/\.parametrizations\.weight\.original0$/, ".weight_g")
    .replace(/\.parametrizations\.weight\.original1$/, ".weight_v");

describe("models of every architecture are saved as they were published", () => {
  const names = [...readdirSync(join(FIXTURES, "models")), "bloom_noprefix"];
  test.each(names)("%s", async (name) => {
    const derived = name === "bloom_noprefix";
    const folder = derived ? withoutPrefix("transformer.", "models", "bloom") : join(FIXTURES, "models", name);
    const copy = temporary(name);
    await using model = await load(folder);
    const { warnings, files } = await model.save_pretrained(copy);
    expect(warnings).toEqual([]);
    expect(files.at(-1)).toBe("config.json");
    const written = await tensorsOf(copy);
    const published = new Map<string, string>();
    for (const [stored, value] of await tensorsOf(folder)) {
      const now = (RENAMED[name] ?? halves)(stored);
      if (now !== undefined) published.set(now, value);
    }
    expect([...written.keys()].sort()).toEqual([...published.keys()].sort());
    // The halves of a normalised weight are made anew from their product.
    const other = [...published].filter(([key, value]) => written.get(key) !== value && !/\.weight_[gv]$/.test(key));
    expect(other.map(([key]) => key)).toEqual([]);
    expect(readFileSync(join(copy, "config.json"), "utf8")).toBe(readFileSync(join(folder, "config.json"), "utf8"));
  });

  test("a normalised weight is the same up to the last bits of its norms", async () => {
    const copy = temporary("normed");
    await using model = await load(join(FIXTURES, "models", "wav2vec2_parametrized"));
    await model.save_pretrained(copy);
    await using again = await load(copy);
    const name = "wav2vec2.encoder.pos_conv_embed.conv.weight";
    const weight = (from: typeof model) => new Map(from.module.named_parameters()).get(name) as Parameter;
    const [before, after] = [await weight(model).value.readFloats(), await weight(again).value.readFloats()];
    expect(largest(before)).toBeGreaterThan(0.01);
    expect(difference(after, before).max).toBeLessThanOrEqual(2 ** -22 * largest(before));
  });
});

describe("checkpoints of transformers and bitsandbytes", () => {
  const all = ["llama", "bloom"].flatMap((base) =>
    ["safetensors-sharded", "bf16", "fp16", "bnb-int8", "bnb-nf4-double", "bnb-fp4"].map((format) => [base, format]),
  );
  test.each(all)("%s %s: read and saved, they are what they were", async (base, format) => {
    const folder = join(FIXTURES, "checkpoints", base, format);
    const copy = temporary(format);
    await using model = await load(folder);
    await model.save_pretrained(copy);
    expect(await differing(copy, folder)).toEqual([]);
    expect(readFileSync(join(copy, "config.json"), "utf8")).toBe(readFileSync(join(folder, "config.json"), "utf8"));
    expect(readFileSync(join(copy, "generation_config.json"))).toEqual(
      readFileSync(join(folder, "generation_config.json")),
    );
  });

  const nf4 = { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true } as const;
  const made: [string, string, string, FromPretrainedOptions][] = ["llama", "bloom"].flatMap((base) => [
    [base, "bnb-int8", "fp16", { load_in_8bit: true }],
    [base, "bnb-nf4-double", "bf16", { quantization_config: { ...nf4, bnb_4bit_compute_dtype: "bfloat16" } }],
    [base, "bnb-fp4", "fp16", { quantization_config: { load_in_4bit: true, bnb_4bit_compute_dtype: "float16" } }],
  ]);
  test.each(made)(
    "%s %s: quantized here from %s, they are what bitsandbytes makes",
    async (base, format, source, options) => {
      const golden = join(FIXTURES, "checkpoints", base, format);
      const copy = temporary(format);
      await using model = await load(join(FIXTURES, "checkpoints", base, source), options);
      await model.save_pretrained(copy);
      const own = ({ dtype }: StoredTensor): boolean => format !== "bnb-int8" || !/F16|F32/.test(dtype);
      const [written, wanted] = [await openCheckpoint(copy), await openCheckpoint(golden)];
      expect([...written.tensors.keys()].sort()).toEqual([...wanted.tensors.keys()].sort());
      for (const [name, tensor] of wanted.tensors) {
        // That file was made from f32, but bitsandbytes quantizes to 8 bits by way of f16: all but its codes and scales is f32.
        if (!own(tensor) && !name.endsWith(".SCB")) continue;
        const [got, want] = [bytesOf(written.tensors.get(name)!), bytesOf(tensor)];
        expect(written.tensors.get(name)).toMatchObject({ dtype: tensor.dtype, shape: tensor.shape });
        if (got.equals(want)) continue;
        if (name.endsWith(".absmax")) {
          // On CPUs bitsandbytes looks codes up in a coarse table, and sometimes finds the one beside the nearest.
          const { map, exact } = await nearest(written, name, join(FIXTURES, "checkpoints", base, source));
          for (const [i, code] of want.entries()) {
            const [mine, its] = [got[i]!, code].map((one) => Math.abs(map[one]! - exact[i]!));
            expect(mine).toBeLessThanOrEqual(its!);
          }
        } else {
          // FP4 has two codes for zero, 0 and 8: the sign of values that round to zero is kept here.
          expect(format).toBe("bnb-fp4");
          const zeros = (byte: number): number[] => [byte >> 4, byte & 15].map((code) => (code === 8 ? 0 : code));
          for (const [i, byte] of want.entries()) expect(zeros(got[i]!)).toEqual(zeros(byte));
        }
      }
      const { quantization_config, ...config } = configOf(copy);
      const { octavo, ...block } = quantization_config;
      expect(config).toEqual(configOf(join(FIXTURES, "checkpoints", base, source)));
      expect(block).toEqual(configOf(golden).quantization_config);
      // Python asks for the type of this number.
      expect(readFileSync(join(copy, "config.json"), "utf8")).toContain('"llm_int8_threshold": 6.0,');
      // Values decoded here are not rounded, and after saving neither.
      expect(octavo).toEqual(format === "bnb-int8" ? undefined : { values: "float32" });
      await using again = await load(copy);
      const ids = [[5, 9, 2, 77, 31, 8]];
      expect(await logits(again, ids)).toEqual(await logits(model, ids));
    },
  );
});

/** The map of a doubly quantized absmax, and the values that its codes stand for. */
async function nearest({ tensors }: Checkpoint, absmax: string, source: string) {
  const floats = (name: string): Float32Array => widen("f32", new Uint8Array(bytesOf(tensors.get(name)!)));
  const weight = absmax.replace(/\.absmax$/, "");
  const state = JSON.parse(bytesOf(tensors.get(`${weight}.quant_state.bitsandbytes__nf4`)!).toString());
  const options = { load_in_4bit: true, bnb_4bit_quant_type: "nf4" } as const;
  await using once = await load(source, { quantization_config: options });
  const values = (await (await once.state_dict()).get(absmax)!.read()) as Float32Array;
  const scales = floats(`${weight}.nested_absmax`);
  const exact = values.map((value, i) => (value - state.nested_offset) / scales[Math.floor(i / 256)]!);
  return { map: floats(`${weight}.nested_quant_map`), exact };
}

const LLAMA = join(FIXTURES, "models", "llama");

describe("files", () => {
  test("shards of at most that size, with an index; a variant is in all names", async () => {
    const copy = temporary("shards");
    await using model = await load(LLAMA);
    const { files, bytes } = await model.save_pretrained(copy, { max_shard_size: "100KB", variant: "fp16" });
    const shards = files.filter((name) => name.endsWith(".safetensors"));
    expect(shards.length).toBeGreaterThan(3);
    expect(shards[1]).toBe(`model.fp16-00002-of-${String(shards.length).padStart(5, "0")}.safetensors`);
    for (const name of shards) expect(statSync(join(copy, name)).size).toBeLessThan(100_000 + 8_000);
    const index = JSON.parse(readFileSync(join(copy, "model.safetensors.index.fp16.json"), "utf8"));
    expect(index.metadata.total_size).toBe(bytes);
    const { tensors, warnings } = await openCheckpoint(copy, { variant: "fp16" });
    expect(warnings).toEqual([]);
    expect([...tensors.keys()].sort()).toEqual([...(await openCheckpoint(LLAMA)).tensors.keys()].sort());
    for (const [name, { file }] of tensors) expect(basename(file)).toBe(index.weight_map[name]);
  });

  test("into its own folder: other files stay, weights of another number of shards go", async () => {
    const folder = copyOf("checkpoints", "llama", "safetensors-sharded");
    mkdirSync(join(folder, "notes", "old"), { recursive: true });
    writeFileSync(join(folder, "notes", "old", "readme.md"), "mine");
    writeFileSync(join(folder, "tokenizer_config.json"), "{}");
    const before = await tensorsOf(folder);
    await using model = await load(folder);
    const { files } = await model.save_pretrained(folder);
    expect(files).toEqual(["model.safetensors", "generation_config.json", "tokenizer_config.json", "config.json"]);
    expect(readdirSync(folder).filter((name) => name.includes("safetensors"))).toEqual(["model.safetensors"]);
    expect(readFileSync(join(folder, "notes", "old", "readme.md"), "utf8")).toBe("mine");
    expect(await tensorsOf(folder)).toEqual(before);
    expect(readdirSync(join(folder, "..")).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("weights of other variants stay; an index and shards of the own one go, by either of their names", async () => {
    const folder = temporary("variants");
    const others = ["model.safetensors", "model.bf16.safetensors", "model-00001-of-00002.fp16x.safetensors"];
    const own = [
      ...["model.fp16-00001-of-00002.safetensors", "model-00002-of-00002.fp16.safetensors"],
      "model.safetensors.index.fp16.json",
    ];
    const plain = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"];
    mkdirSync(folder);
    for (const name of [...others, ...own, ...plain]) writeFileSync(join(folder, name), "old");
    await using model = await load(LLAMA);
    await model.save_pretrained(folder, { variant: "fp16" });
    const weights = (): string[] => readdirSync(folder).filter((name) => name.includes("safetensors"));
    expect(weights().sort()).toEqual([...others, ...plain, "model.fp16.safetensors"].sort());
    await model.save_pretrained(folder);
    expect(weights().sort()).toEqual([...others, "model.fp16.safetensors"].sort());
    expect(statSync(join(folder, "model.safetensors")).size).toBeGreaterThan(1000);
  });

  test("weights that config.json names get their usual name", async () => {
    const [folder, copy] = [copyOf("models", "llama"), temporary("named")];
    renameSync(join(folder, "model.safetensors"), join(folder, "own.safetensors"));
    editJson(join(folder, "config.json"), { transformers_weights: "own.safetensors" });
    await using model = await load(folder);
    await model.save_pretrained(copy);
    expect(configOf(copy).transformers_weights).toBeUndefined();
    expect((await tensorsOf(copy)).size).toBeGreaterThan(5);
  });

  test("files beside the weights: folders of templates and of modules, and none outside", async () => {
    const [folder, copy] = [copyOf("models", "llama"), temporary("beside")];
    const files = {
      "modules.json": JSON.stringify(["1_Pooling", "0_Other", "..", "../secret", "gone", ""].map((path) => ({ path }))),
      "1_Pooling/config.json": "{}",
      "0_Other/config.json": '{"a":1}',
      "2_Unnamed/config.json": "{}",
      "additional_chat_templates/rag.jinja": "R",
      "additional_chat_templates/notes.txt": "mine",
      "../secret/config.json": "{}",
    };
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, name)), { recursive: true });
      writeFileSync(join(folder, name), text);
    }
    await using model = await load(folder);
    const { files: written, warnings } = await model.save_pretrained(copy);
    const below = ["additional_chat_templates/rag.jinja", "1_Pooling/config.json", "0_Other/config.json"];
    expect(written.filter((name) => name.includes("/"))).toEqual(below);
    expect(Object.keys(contentOf(copy)).sort()).toEqual([...written].sort());
    expect(readFileSync(join(copy, "0_Other", "config.json"), "utf8")).toBe('{"a":1}');
    expect(warnings).toEqual(
      ["..", "../secret"].map((name) => expect.stringContaining(`"${name}" is not the name of a folder`)),
    );

    truncateSync(join(folder, "modules.json"), 1);
    expect((await model.save_pretrained(copy)).warnings).toEqual([expect.stringContaining("modules.json")]);
    writeFileSync(join(folder, "vocab.txt"), "");
    truncateSync(join(folder, "vocab.txt"), 2 ** 28 + 1);
    await expect(model.save_pretrained(copy)).rejects.toThrow(
      /vocab.txt: 268435457 bytes, at most 268435456 are saved/,
    );
  });

  test("a save that is refused or aborted leaves the folder as it was", async () => {
    const folder = copyOf("models", "llama");
    const before = contentOf(folder);
    await using model = await load(LLAMA);
    const at = new AbortController();
    const saving = model.save_pretrained(folder, { signal: at.signal, max_shard_size: "50KB" });
    at.abort();
    await expect(saving).rejects.toBeInstanceOf(AbortError);
    await expect(model.save_pretrained(join(folder, "config.json"))).rejects.toThrow(/got a file/);
    await expect(model.save_pretrained("")).rejects.toBeInstanceOf(OptionError);
    await expect(model.save_pretrained(folder, { safe_serialization: false as never })).rejects.toThrow(
      /safetensors alone/,
    );
    await expect(model.save_pretrained(folder, { max_shard_size: "5 cows" })).rejects.toThrow(/max_shard_size/);
    await expect(model.save_pretrained(folder, { variant: "../x" })).rejects.toThrow(/variant/);
    expect(contentOf(folder)).toEqual(before);
    expect(readdirSync(join(folder, "..")).filter((name) => name.endsWith(".tmp"))).toEqual([]);
  });

  test("a folder that has gone: the weights are saved, and a warning names what is not", async () => {
    const folder = copyOf("models", "llama");
    await using model = await load(folder);
    rmSync(folder, { recursive: true });
    const copy = temporary("gone");
    const { warnings } = await model.save_pretrained(copy);
    expect(warnings.join()).toMatch(/tokenizer.*not saved/);
    expect(await differing(copy, LLAMA)).toEqual([]);
  });

  test("in another dtype, config.json says so and keeps every other byte", async () => {
    const copy = temporary("half");
    await using model = await load(LLAMA, { dtype: "bfloat16" });
    await model.save_pretrained(copy);
    const before = readFileSync(join(LLAMA, "config.json"), "utf8");
    expect(readFileSync(join(copy, "config.json"), "utf8")).toBe(before.replace('"float32"', '"bfloat16"'));
    expect(before).toContain('"float32"');
    for (const { dtype } of (await openCheckpoint(copy)).tensors.values()) expect(dtype).toBe("BF16");
  });

  test("a head in 8 bits is refused: no quantization_config says it", async () => {
    await using model = await load(LLAMA, { load_in_8bit: true, head_dtype: "int8" });
    await expect(model.save_pretrained(temporary("head"))).rejects.toThrow(/lm_head.weight is stored as llm_int8/);
  });
});

describe("state_dict and dequantize", () => {
  test("the tensors that are saved, read on demand", async () => {
    await using model = await load(join(FIXTURES, "checkpoints", "llama", "bnb-int8"));
    const state = await model.state_dict();
    const { tensors } = await openCheckpoint(join(FIXTURES, "checkpoints", "llama", "bnb-int8"));
    expect([...state.keys()].sort()).toEqual([...tensors.keys()].sort());
    const codes = state.get("model.layers.0.mlp.up_proj.weight")!;
    expect(codes).toMatchObject({ dtype: "I8", shape: [112, 64], size: 7168 });
    expect(await codes.read()).toBeInstanceOf(Int8Array);
    expect(await state.get("model.norm.weight")!.read()).toBeInstanceOf(Float32Array);
  });

  test.each([
    ["bnb-int8", { dtype: "float32" }],
    ["bnb-nf4-double", {}],
  ] as const)("%s becomes floats of the model's dtype, which are saved as such", async (format, options) => {
    const copy = temporary("floats");
    await using model = await load(join(FIXTURES, "checkpoints", "llama", format), options);
    const path = "model.layers.0.self_attn.q_proj";
    const matrix = () => new Map(model.module.named_parameters()).get(`${path}.weight`) as Matrix;
    using values = matrix().weight.dense("f32");
    const before = await values.readFloats();
    expect(model.quantized_modules).toContain(path);
    expect(model.dequantize()).toBe(model);
    expect(model.quantized_modules).toEqual([]);
    await model.save_pretrained(copy);
    expect(configOf(copy).quantization_config).toBeUndefined();
    const stored = (await openCheckpoint(copy)).tensors.get(`${path}.weight`)!;
    expect(stored.dtype).toBe(format === "bnb-int8" ? "F32" : "BF16");
    await using again = await load(copy);
    const after = await (await again.state_dict()).get(`${path}.weight`)!.read();
    expect(difference(after, before).max).toBe(0);
  });

  test("dequantize waits for no one: a model in use refuses", async () => {
    await using model = await load(LLAMA, { load_in_8bit: true });
    model.hold();
    expect(() => model.dequantize()).toThrow(/is generating/);
    await model.release();
  });
});

/** Everything below a folder. */
function contentOf(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" });
  const files = names.filter((name) => statSync(join(folder, name)).isFile());
  return Object.fromEntries(files.map((name) => [name, readFileSync(join(folder, name)).toString("base64")]));
}
