// Load speed of pytorch_model.bin beside the same tensors in safetensors: writes a model of some 2 GB in bf16 three times
// (safetensors, and both containers of torch.save), loads them in turn and prints medians, and the ratio of each round. Then of the
// model as it is saved in int8, beside the rate at which a device reads the same file into new memory and does nothing with it.
//
//     node bench/bin.mjs [folder, default below the system's temporary one] [rounds]
//
// The page cache should hold all three files: the first round, which fills it, is not counted.

import { closeSync, mkdirSync, openSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openCheckpoint } from "../dist/checkpoints/checkpoint.js";
import { AutoModelForCausalLM, openDevice, Tensor } from "../dist/index.js";
import { Disk } from "../dist/sources/disk.js";

const root = process.argv[2] || join(tmpdir(), "octavo-bench-bin");
const rounds = Number(process.argv[3] ?? 5);

const HIDDEN = 2048;
const FFN = 5632;
const VOCAB = 32000;
const LAYERS = 18;
const CONFIG = {
  ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: VOCAB, hidden_size: HIDDEN },
  ...{ intermediate_size: FFN, num_hidden_layers: LAYERS, num_attention_heads: 32, num_key_value_heads: 32 },
  ...{ hidden_act: "silu", max_position_embeddings: 2048, rms_norm_eps: 1e-5, rope_theta: 10000 },
  ...{ tie_word_embeddings: false, torch_dtype: "bfloat16", bos_token_id: 1, eos_token_id: 2 },
};

/** @type {[name: string, shape: number[]][]} */
const tensors = [["model.embed_tokens.weight", [VOCAB, HIDDEN]]];
for (let layer = 0; layer < LAYERS; layer++) {
  const path = `model.layers.${layer}`;
  for (const name of ["q", "k", "v", "o"]) tensors.push([`${path}.self_attn.${name}_proj.weight`, [HIDDEN, HIDDEN]]);
  for (const name of ["gate", "up"]) tensors.push([`${path}.mlp.${name}_proj.weight`, [FFN, HIDDEN]]);
  tensors.push([`${path}.mlp.down_proj.weight`, [HIDDEN, FFN]]);
  for (const name of ["input", "post_attention"]) tensors.push([`${path}.${name}_layernorm.weight`, [HIDDEN]]);
}
tensors.push(["model.norm.weight", [HIDDEN]], ["lm_head.weight", [VOCAB, HIDDEN]]);
const bytesOf = (/** @type {number[]} */ shape) => 2 * shape.reduce((n, d) => n * d, 1);
const total = tensors.reduce((sum, [, shape]) => sum + bytesOf(shape), 0);

const u32 = (/** @type {number} */ value) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
};
const text = (/** @type {string} */ words) => Buffer.concat([Buffer.from("X"), u32(words.length), Buffer.from(words)]);
const int = (/** @type {number} */ value) => Buffer.concat([Buffer.from("J"), u32(value)]);

/** The state dict as a pickle. @param {boolean} legacy */
function pickle(legacy) {
  const parts = [Buffer.from([0x80, 2]), Buffer.from("}(")];
  for (const [i, [name, shape]] of tensors.entries()) {
    const strides = shape.map((_, d) => shape.slice(d + 1).reduce((n, size) => n * size, 1));
    const tuple = (/** @type {number[]} */ list) => [Buffer.from("("), ...list.map(int), Buffer.from("t")];
    parts.push(text(name), Buffer.from("ctorch._utils\n_rebuild_tensor_v2\n(("), text("storage"));
    parts.push(Buffer.from("ctorch\nBFloat16Storage\n"), text(String(i)), text("cpu"), int(bytesOf(shape) / 2));
    parts.push(Buffer.from(legacy ? "NtQ" : "tQ"), int(0), ...tuple(shape), ...tuple(strides));
    parts.push(Buffer.from([0x89]), Buffer.from("ccollections\nOrderedDict\n)RtR"));
  }
  return Buffer.concat([...parts, Buffer.from("u.")]);
}

/** Bits of floats between -1 and 1, any part of which may be a tensor. */
const PATTERN = Buffer.alloc(bytesOf([VOCAB, HIDDEN]));
for (let at = 0; at < PATTERN.length; at += 2) PATTERN.writeUInt16LE(0x3c00 + ((at * 2654435761) % 0x300), at);

/** Writes the parts of a file. @param {string} file @param {Iterable<Uint8Array>} parts */
function write(file, parts) {
  const handle = openSync(file, "w");
  for (const part of parts) for (let at = 0; at < part.length; ) at += writeSync(handle, part, at);
  closeSync(handle);
}

function* safetensors() {
  let at = 0;
  const entries = tensors.map(([name, shape]) => {
    const begin = at;
    at += bytesOf(shape);
    return [name, { dtype: "BF16", shape, data_offsets: [begin, at] }];
  });
  const json = JSON.stringify(Object.fromEntries(entries));
  const header = Buffer.from(json.padEnd(Math.ceil(json.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  yield length;
  yield header;
  for (const [, shape] of tensors) yield PATTERN.subarray(0, bytesOf(shape));
}

/** An archive without checksums, as torch.serialization.set_crc32_options(False) makes them. */
function* zip() {
  let at = 0;
  /** @type {Buffer[]} */
  const directory = [];
  const records = [
    ["data.pkl", pickle(false)],
    ...tensors.map(([, shape], i) => [`data/${i}`, PATTERN.subarray(0, bytesOf(shape))]),
    ["version", Buffer.from("3\n")],
  ];
  for (const [name, data] of /** @type {[string, Buffer][]} */ (records)) {
    const path = Buffer.from(`archive/${name}`);
    const extra = 4 + ((64 - ((at + 34 + path.length) % 64)) % 64);
    const local = Buffer.alloc(30 + path.length + extra);
    local.writeUInt32LE(0x04034b50);
    local.writeUInt16LE(0x808, 6);
    local.writeUInt16LE(path.length, 26);
    local.writeUInt16LE(extra, 28);
    path.copy(local, 30);
    const entry = Buffer.alloc(46 + path.length);
    entry.writeUInt32LE(0x02014b50);
    entry.writeUInt16LE(0x808, 8);
    entry.writeUInt32LE(data.length, 20);
    entry.writeUInt32LE(data.length, 24);
    entry.writeUInt16LE(path.length, 28);
    entry.writeUInt32LE(at, 42);
    path.copy(entry, 46);
    directory.push(entry);
    yield local;
    yield data;
    yield Buffer.concat([Buffer.from("PK\x07\x08"), u32(0), u32(data.length), u32(data.length)]);
    at += local.length + data.length + 16;
  }
  const all = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50);
  end.writeUInt16LE(directory.length, 8);
  end.writeUInt16LE(directory.length, 10);
  end.writeUInt32LE(all.length, 12);
  end.writeUInt32LE(at, 16);
  yield all;
  yield end;
}

function* legacy() {
  yield Buffer.from("80028a0a6cfc9c46f9206aa850192e", "hex"); // the magic number
  yield Buffer.from("80024de9032e", "hex"); // 1001
  yield Buffer.concat([
    Buffer.from([0x80, 2]),
    Buffer.from("}("),
    text("protocol_version"),
    int(1001),
    text("little_endian"),
    Buffer.from([0x88]),
    Buffer.from("u."),
  ]);
  yield pickle(true);
  yield Buffer.concat([
    Buffer.from([0x80, 2]),
    Buffer.from("]("),
    ...tensors.map((_, i) => text(String(i))),
    Buffer.from("e."),
  ]);
  for (const [, shape] of tensors) {
    const count = Buffer.alloc(8);
    count.writeBigInt64LE(BigInt(bytesOf(shape) / 2));
    yield count;
    yield PATTERN.subarray(0, bytesOf(shape));
  }
}

const FORMATS = /** @type {const} */ ([
  ["safetensors", "model.safetensors", safetensors],
  ["zip", "pytorch_model.bin", zip],
  ["legacy", "pytorch_model.bin", legacy],
]);

for (const [name, file, parts] of FORMATS) {
  mkdirSync(join(root, name), { recursive: true });
  writeFileSync(join(root, name, "config.json"), JSON.stringify(CONFIG));
  write(join(root, name, file), parts());
}
console.log(`${tensors.length} tensors, ${(total / 1e9).toFixed(2)} GB in bf16`);

/** @type {Map<string, { load: number[], open: number[], cpu: number[] }>} */
const times = new Map(FORMATS.map(([name]) => [name, { load: [], open: [], cpu: [] }]));
for (let round = 0; round <= rounds; round++) {
  for (const [name] of FORMATS) {
    const folder = join(root, name);
    const start = performance.now();
    await openCheckpoint(new Disk(folder));
    const opened = performance.now();
    const before = process.cpuUsage();
    const model = await AutoModelForCausalLM.from_pretrained(folder, { device: "cpu" });
    const loaded = performance.now();
    const { user, system } = process.cpuUsage(before);
    model.dispose();
    if (round === 0) continue;
    times.get(name)?.open.push(opened - start);
    times.get(name)?.load.push(loaded - opened);
    times.get(name)?.cpu.push((user + system) / 1000);
  }
}

const saved = join(root, "int8");
{
  const load_in_8bit = { device: "cpu", quantization_config: { load_in_8bit: true } };
  const model = await AutoModelForCausalLM.from_pretrained(join(root, "safetensors"), load_in_8bit);
  await model.save_pretrained(saved, { max_shard_size: "100GB" });
  model.dispose();
}
/** Reads a file into memory of a device. @param {string} file */
async function readAll(file) {
  const { size } = statSync(file);
  const device = openDevice("cpu");
  const start = performance.now();
  const into = Tensor.empty(device, [size], "u8");
  device.load(into, file, 0);
  await device.synchronize();
  const ms = performance.now() - start;
  into.dispose();
  await device.close();
  return { size, ms };
}
/** @type {{ rate: number[], read: number[], share: number[] }} GB/s, and the share of the first of the second */
const int8 = { rate: [], read: [], share: [] };
for (let round = 0; round <= rounds; round++) {
  const { size, ms } = await readAll(join(saved, "model.safetensors"));
  const start = performance.now();
  const model = await AutoModelForCausalLM.from_pretrained(saved, { device: "cpu" });
  const loaded = performance.now() - start;
  model.dispose();
  if (round === 0) continue;
  int8.rate.push(size / loaded / 1e6);
  int8.read.push(size / ms / 1e6);
  int8.share.push(ms / loaded);
}
const median = (/** @type {number[]} */ list) => [...list].sort((a, b) => a - b)[list.length >> 1] ?? 0;
const reference = times.get("safetensors")?.load ?? [];
const work = median(times.get("safetensors")?.cpu ?? []);
for (const [name, { load, open, cpu }] of times) {
  const ms = median(load);
  const spread = `${Math.min(...load).toFixed(0)} to ${Math.max(...load).toFixed(0)}`;
  const ratio = median(load.map((time, i) => time / (reference[i] ?? time)));
  const best = Math.min(...load) / Math.min(...reference);
  console.log(
    `${name.padEnd(12)} loaded in ${ms.toFixed(0)} ms (${spread}), ${(total / ms / 1e6).toFixed(2)} GB/s; of safetensors in ` +
      `the same round ${ratio.toFixed(2)} x, best of all rounds ${best.toFixed(2)} x, processor time ` +
      `${median(cpu).toFixed(0)} ms, ${(median(cpu) / work).toFixed(2)} x; headers in ${median(open).toFixed(1)} ms`,
  );
}
const [rate, read, share] = [int8.rate, int8.read, int8.share].map(median);
console.log(
  `int8 as saved: ${rate?.toFixed(2)} GB/s, ${((share ?? 0) * 100).toFixed(0)} % of ${read?.toFixed(2)} GB/s, at which a device reads the file`,
);
rmSync(root, { recursive: true, force: true });
