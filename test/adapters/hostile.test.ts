// Adapter files that lie: each is refused with a typed error, and leaves the model, the device and its adapters as they were.

import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { PREFIX } from "../../src/adapters/read.js";
import type { Device } from "../../src/core/device.js";
import { OctavoError, OutOfMemoryError } from "../../src/core/errors.js";
import { AutoModelForCausalLM, LoraConfig, type PreTrainedModel } from "../../src/index.js";
import { openDevice } from "../../src/load/device.js";
import { expectNoLeaks } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const PLAIN = join(FIXTURES, "peft", "llama", "two_adapters");

interface Tensor {
  dtype: string;
  shape: number[];
  data: Uint8Array;
}
type Tensors = Map<string, Tensor>;

function readTensors(file: string): Tensors {
  const bytes = readFileSync(file);
  const length = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + length)) as Record<string, never>;
  const tensors: Tensors = new Map();
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets } = entry as { dtype: string; shape: number[]; data_offsets: [number, number] };
    const data = Uint8Array.from(bytes.subarray(8 + length + data_offsets[0], 8 + length + data_offsets[1]));
    tensors.set(name, { dtype, shape, data });
  }
  return tensors;
}

function writeTensors(file: string, tensors: Tensors): void {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let at = 0;
  for (const [name, { dtype, shape, data }] of tensors) {
    header[name] = { dtype, shape, data_offsets: [at, at + data.length] };
    at += data.length;
  }
  const text = Buffer.from(JSON.stringify(header));
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(file, Buffer.concat([size, text, ...[...tensors.values()].map(({ data }) => data)]));
}

const Q = "base_model.model.model.layers.0.self_attn.q_proj";
const floats = ({ data }: Tensor): Float32Array => new Float32Array(data.buffer);

type Change = (config: Record<string, unknown>, tensors: Tensors) => void;

/** A copy of an adapter with something changed. */
function changed(change: Change): string {
  const folder = temporary("hostile");
  mkdirSync(folder);
  cpSync(join(PLAIN, "adapter_model.safetensors"), join(folder, "adapter_model.safetensors"));
  const config = JSON.parse(readFileSync(join(PLAIN, "adapter_config.json"), "utf8")) as Record<string, unknown>;
  const tensors = readTensors(join(PLAIN, "adapter_model.safetensors"));
  change(config, tensors);
  writeFileSync(join(folder, "adapter_config.json"), JSON.stringify(config));
  writeTensors(join(folder, "adapter_model.safetensors"), tensors);
  return folder;
}

const field = (name: string, value: unknown): [string, Change] => [
  `${name}: ${JSON.stringify(value)?.slice(0, 60)}`,
  (config) => void (config[name] = value),
];
const reshaped =
  (name: string, shape: number[]): Change =>
  (_, tensors) => {
    const size = shape.reduce((n, one) => n * one, 4);
    tensors.set(name, { dtype: "F32", shape, data: new Uint8Array(size) });
  };

const CONFIGS: readonly [string, Change][] = [
  ...[0, -5, 1.5, true, "8", 1e9, null].map((r) => field("r", r)),
  ...["8", null, 1e300, true].map((alpha) => field("lora_alpha", alpha)),
  ...[[1, 2], {}, 7, "(", "((a+)+)+$", ".*".repeat(9), ["nowhere"], [], ["norm"]].map((modules) =>
    field("target_modules", modules),
  ),
  field("exclude_modules", ["q_proj", "v_proj"]),
  field("exclude_modules", "(("),
  field("modules_to_save", ["lm_head"]),
  field("modules_to_save", "lm_head"),
  field("layers_to_transform", [0]),
  field("layers_to_transform", [99]),
  field("layers_to_transform", -1),
  field("layers_pattern", "layers"),
  field("rank_pattern", { q_proj: 2 }),
  field("rank_pattern", { q_proj: 0 }),
  field("rank_pattern", [["q_proj", 2]]),
  field("alpha_pattern", { q_proj: "2" }),
  field("alpha_pattern", { "(": 2 }),
  field("use_dora", true),
  field("use_dora", "yes"),
  field("bias", "all_of_them"),
  field("lora_dropout", 1),
  field("init_lora_weights", "pissa_niter_x"),
  field("peft_type", "IA3"),
  field("peft_type", undefined),
  field("task_type", "NOTHING"),
  field("lora_bias", true),
  field("use_qalora", true),
  field("layer_replication", [[0, 2]]),
  field("trainable_token_indices", [1]),
  field("trainable_token_indices", [1, 1]),
  field("trainable_token_indices", [2 ** 31]),
  field("trainable_token_indices", { embed_tokens: "1" }),
  field("megatron_config", { a: 1 }),
  field("of_the_future", 3),
];

const FILES: readonly [string, Change][] = [
  ["no B", (_, tensors) => void tensors.delete(`${Q}.lora_B.weight`)],
  ["no A", (_, tensors) => void tensors.delete(`${Q}.lora_A.weight`)],
  ["nothing", (_, tensors) => tensors.clear()],
  ["another rank of A", reshaped(`${Q}.lora_A.weight`, [5, 64])],
  ["another rank of B", reshaped(`${Q}.lora_B.weight`, [64, 5])],
  ["other inputs", reshaped(`${Q}.lora_A.weight`, [4, 63])],
  ["other outputs", reshaped(`${Q}.lora_B.weight`, [65, 4])],
  ["one dim", reshaped(`${Q}.lora_A.weight`, [256])],
  ["no dim", reshaped(`${Q}.lora_A.weight`, [])],
  ["transposed", reshaped(`${Q}.lora_A.weight`, [64, 4])],
  [
    "codes",
    (_, tensors) =>
      void tensors.set(`${Q}.lora_A.weight`, { dtype: "F8_E4M3", shape: [4, 64], data: new Uint8Array(256) }),
  ],
  ["another layer", reshaped("base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight", [4, 64])],
  ["a weight of the model", reshaped("base_model.model.model.norm.weight", [64])],
  ["a place outside", reshaped("base_model.model.../../x", [4])],
  ["a name of objects", reshaped("__proto__", [4])],
  ["a magnitude", reshaped(`${Q}.lora_magnitude_vector`, [64])],
  [
    "the same name with and without its prefix",
    (_, tensors) => void tensors.set(`${Q}.lora_A.weight`.slice(PREFIX.length), tensors.get(`${Q}.lora_A.weight`)!),
  ],
  ["another embedding", reshaped(`${Q}.base_layer.weight`, [64, 64])],
  ["NaN", (_, tensors) => void floats(tensors.get(`${Q}.lora_B.weight`)!).fill(Number.NaN, 77, 78)],
  ["infinity", (_, tensors) => void floats(tensors.get(`${Q}.lora_A.weight`)!).fill(Number.NEGATIVE_INFINITY, 255)],
];

describe("an adapter's files are refused, and nothing changes:", () => {
  let device: Device;
  let model: PreTrainedModel;
  let before: { readonly bytes: number; readonly logits: Float32Array };
  const logitsOf = async (): Promise<Float32Array> => {
    const { logits } = model.forward([[5, 6, 7, 8]]);
    using _ = logits;
    return logits.readFloats();
  };
  beforeAll(async () => {
    device = openDevice("reference");
    model = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { device });
    before = { logits: await logitsOf(), bytes: device.memory.live };
  });
  afterAll(async () => {
    expect(await logitsOf()).toEqual(before.logits);
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  afterEach(() => void (model.adapters && model.unload()));

  const refused = async (folder: string): Promise<OctavoError> => {
    const error = await model.load_adapter(folder).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(OctavoError);
    expect(model.adapters).toBeUndefined();
    expect(device.memory.live).toBe(before.bytes);
    return error as OctavoError;
  };

  test.each(CONFIGS)("%s", async (_, change) => {
    const { code } = await refused(changed(change));
    expect(code).toMatch(/^ERR_(FORMAT|CHECKPOINT|UNSUPPORTED_MODEL)$/);
  });

  test.each(FILES)("tensors: %s", async (_, change) => {
    const { code } = await refused(changed(change));
    expect(code).toMatch(/^ERR_(FORMAT|CHECKPOINT)$/);
  });

  test("files that are missing, or none", async () => {
    const folder = changed(() => {});
    writeFileSync(join(folder, "adapter_model.safetensors"), "no tensors");
    expect((await refused(folder)).code).toBe("ERR_FORMAT");
    rmSync(join(folder, "adapter_model.safetensors"));
    expect((await refused(folder)).message).toMatch(/adapter_model\.safetensors or adapter_model\.bin/);
    writeFileSync(join(folder, "adapter_config.json"), "[]");
    expect((await refused(folder)).code).toBe("ERR_FORMAT");
    rmSync(join(folder, "adapter_config.json"));
    expect((await refused(folder)).message).toMatch(/there is no adapter_config\.json/);
    expect((await refused(join(folder, "..", "nowhere"))).code).toBe("ERR_NOT_FOUND");
  });

  test("an adapter too large for the device is refused before anything is made", () => {
    device.limit(before.bytes + 1e6);
    expect(() => model.add_adapter({ r: 2 ** 30, target_modules: "all-linear" })).toThrow(/adapter/);
    device.limit(Number.MAX_SAFE_INTEGER);
    expect(device.memory.live).toBe(before.bytes);
  });

  test("memory that runs out while an adapter is made is all given back", async () => {
    const options = { device, dtype: "bfloat16" } as const;
    await using small = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), options);
    // The adapter has a copy of lm_head in f32, and for a moment there is another one.
    const config = { r: 1, target_modules: ["q_proj"], modules_to_save: ["lm_head"] };
    const bytes = device.memory.live;
    small.add_adapter(config);
    const size = device.memory.live - bytes;
    small.unload();
    device.arena.trim(); // blocks that are kept would be used again
    device.limit(bytes + size + 100);
    expect(() => small.add_adapter(config)).toThrow(OutOfMemoryError);
    device.limit(Number.MAX_SAFE_INTEGER);
    expect(device.memory.live).toBe(bytes);
  });

  test("a model that is disposed meanwhile", async () => {
    const other = await AutoModelForCausalLM.from_pretrained(join(FIXTURES, "models", "llama"), { device });
    const loading = other.load_adapter(PLAIN);
    other.dispose();
    await expect(loading).rejects.toMatchObject({ code: "ERR_DISPOSED" });
    expect(device.memory.live).toBe(before.bytes);
  });

  test("an error names the pattern that it is of", () => {
    expect(() => model.add_adapter({ rank_pattern: { "(": 1 } })).toThrow(/^rank_pattern/);
    expect(() => model.add_adapter({ alpha_pattern: { "[": 1 } })).toThrow(/^alpha_pattern/);
  });

  test("what a config says of its model is not looked for", async () => {
    for (const base of ["/etc/passwd", "https://localhost:1/model", "../../x", null]) {
      await model.load_adapter(changed((config) => void (config.base_model_name_or_path = base)));
      expect(model.peft_config.default!.fields.base_model_name_or_path).toBe(base);
      model.unload();
    }
  });

  test("a config that says nothing of something newer is read", async () => {
    await model.load_adapter(
      changed((config) => Object.assign(config, { of_the_future: null, empty: {}, runtime_config: { a: 1 } })),
    );
    model.unload();
  });
});

test("a LoraConfig refuses what PEFT refuses", () => {
  const none = { target_modules: "x", layers_to_transform: [1] };
  expect(() => new LoraConfig(none)).toThrow(/layers_to_transform cannot be used/);
  expect(() => new LoraConfig({ layers_pattern: "h" })).toThrow(/needs layers_to_transform/);
  expect(() => new LoraConfig({ r: 0 })).toThrow(/r must be a whole number above 0/);
  expect(() => new LoraConfig({ init_lora_weights: "eva" as never })).toThrow(/EVA is not supported/);
  expect(() => new LoraConfig({ use_qalora: true } as never)).toThrow(/QALoRA is not supported/);
  expect(() => new LoraConfig({ target_module: [] } as never)).toThrow(/did you mean `target_modules`/);
});
