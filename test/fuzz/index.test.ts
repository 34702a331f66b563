// Mutants of model.safetensors.index.json, beside two shards.

import { fuzz } from "./support/fuzz.js";
import { mutateJson, texts, type Words } from "./support/json.js";
import { device, type Folder, left, load, tinyOf } from "./support/models.js";
import { json, layOut, safetensors, TINY, type TinyTensor, tinyTensors } from "./support/tiny.js";

const SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] as const;
const INDEX = "model.safetensors.index.json";

const at = tinyOf("llama");
const tensors = await tinyTensors(device, at);
const { config, task } = TINY[at]!;
const shardOf = (tensor: TinyTensor): number => (tensors.indexOf(tensor) < tensors.length / 2 ? 0 : 1);
const file = (shard: number): Buffer => {
  const { header, data } = layOut(tensors.filter((tensor) => shardOf(tensor) === shard));
  return safetensors(json(header), data);
};
const files = { "config.json": json(config), [SHARDS[0]]: file(0), [SHARDS[1]]: file(1) };
const index = {
  metadata: { total_size: tensors.reduce((sum, { bytes }) => sum + bytes.length, 0) },
  weight_map: Object.fromEntries(tensors.map((tensor) => [tensor.name, SHARDS[shardOf(tensor)]])),
};

const WORDS: Words = {
  values: texts(
    ...SHARDS,
    ...["..", ".", "", "/", "../model.safetensors", "x/../../y.safetensors", "./model-00001-of-00002.safetensors"],
    ...["/etc/passwd", "/etc/x.safetensors", "C:\\x.safetensors", "\\\\host\\x.safetensors", "..\\x.safetensors"],
    ...["x\0.safetensors", "http://127.0.0.1:1/x.safetensors", "file:///x.safetensors", "%2e%2e/x.safetensors"],
    ...["sub/x.safetensors", "model.safetensors", "pytorch_model.bin", "MODEL-00001-OF-00002.safetensors"],
    ...["x .safetensors", "x./y.safetensors", "~/x.safetensors", "\u202e.safetensors", "\u001b[2J.safetensors"],
    `${"y".repeat(300)}.safetensors`,
    `${"é".repeat(150)}.safetensors`,
    "y".repeat(5000),
  ),
  keys: texts("weight_map", "metadata", "total_size", "format", ...tensors.slice(0, 4).map(({ name }) => name)),
};

fuzz<Folder>({
  name: "index",
  make: (chance) => ({ files: { ...files, [INDEX]: mutateJson(chance, index, WORDS) }, task }),
  read: (folder, chance) => load(folder, chance),
  left,
});
