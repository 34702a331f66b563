// What outliers in activations cost: in a few channels of each norm of the storyteller its weight is multiplied by s, and the columns
// that read them are divided by it. Powers of two keep every product, so the model in f32 stays what it was; activations become
// those that LLM.int8() was made for. Prints perplexity and divergence from f32 in several storages, as a table.
// node bench/outliers.mjs [--scales 1,8,32,128] [--channels 4] [--tokens 4000]

import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    scales: { type: "string", default: "1,8,32,128" },
    channels: { type: "string", default: "4" },
    tokens: { type: "string", default: "4000" },
  },
});
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);
const STORYTELLER = fileURLToPath(new URL("../models/storyteller", import.meta.url));
const TEXT = fileURLToPath(new URL("../models/storyteller-eval.txt", import.meta.url));

const STORAGES = [
  ["int8, absmax of rows", { load_in_8bit: true, llm_int8_threshold: 0 }],
  ["LLM.int8()", { load_in_8bit: true }],
  ["nf4", { load_in_4bit: true, bnb_4bit_quant_type: "nf4" }],
  ["o4", { load_in_4bit: true, bnb_4bit_quant_type: "o4" }],
];

/** bf16 by a power of two: the exponent moves. */
function scaled(bits, shift) {
  const exponent = (bits >> 7) & 0xff;
  if (exponent === 0) return bits & 0x8000;
  if (exponent + shift <= 0 || exponent + shift >= 255) throw new Error(`2^${shift} leaves the range of bf16`);
  return bits + (shift << 7);
}

/** Writes the storyteller with planted outliers. */
function plant(folder, shift, count) {
  for (const name of readdirSync(STORYTELLER)) copyFileSync(join(STORYTELLER, name), join(folder, name));
  const file = readFileSync(join(STORYTELLER, "model.safetensors"));
  const size = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + size).toString());
  const body = 8 + size;
  const edit = (name, change) => {
    const { dtype, shape, data_offsets } = header[name];
    if (dtype !== "BF16") throw new Error(`${name} is ${dtype}`);
    const width = shape.at(-1);
    for (let at = data_offsets[0], i = 0; at < data_offsets[1]; at += 2, i++) {
      file.writeUInt16LE(change(file.readUInt16LE(body + at), i % width), body + at);
    }
  };
  const readers = {
    input_layernorm: ["q", "k", "v"].map((one) => `self_attn.${one}_proj`),
    post_attention_layernorm: ["mlp.gate_proj", "mlp.up_proj"],
  };
  for (let layer = 0; header[`model.layers.${layer}.input_layernorm.weight`]; layer++) {
    for (const [norm, linears] of Object.entries(readers)) {
      const planted = new Set(Array.from({ length: count }, (_, i) => (17 + 67 * i + 31 * layer) % 256));
      const change = (by) => (bits, column) => (planted.has(column) ? scaled(bits, by) : bits);
      edit(`model.layers.${layer}.${norm}.weight`, change(shift));
      for (const linear of linears) edit(`model.layers.${layer}.${linear}.weight`, change(-shift));
    }
  }
  writeFileSync(join(folder, "model.safetensors"), file);
}

const { AutoModelForCausalLM, AutoTokenizer } = await library("index.js");
const { divergence } = await library("eval/index.js");
const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
const text = tokenizer(readFileSync(TEXT, "utf8")).input_ids;
const ids = [tokenizer.bos_token_id, ...text].slice(0, Number(values.tokens) + 1);
console.log(
  "| outliers | storage | perplexity | against f32 | KL, nats | same token |\n| --- | --- | --- | --- | --- | --- |",
);
for (const scale of values.scales.split(",").map(Number)) {
  const folder = mkdtempSync(join(tmpdir(), "octavo-outliers-"));
  try {
    plant(folder, Math.log2(scale), Number(values.channels));
    const name = scale === 1 ? "none" : `${values.channels} channels × ${scale}`;
    const exact = await AutoModelForCausalLM.from_pretrained(folder, { device: "cpu", dtype: "float32" });
    for (const [storage, quantization_config] of STORAGES) {
      const model = await AutoModelForCausalLM.from_pretrained(folder, {
        device: "cpu",
        dtype: "float32",
        quantization_config,
      });
      const found = await divergence(model, exact, ids);
      const { kl, same_top, perplexity, reference_perplexity } = found;
      const change = 100 * (perplexity / reference_perplexity - 1);
      if (storage === STORAGES[0][0]) console.log(`| ${name} | f32 | ${reference_perplexity.toFixed(3)} | | | |`);
      console.log(
        `| | ${storage} | ${perplexity.toFixed(3)} | ${change >= 0 ? "+" : ""}${change.toFixed(2)} % | ${kl.toPrecision(3)} | ${(100 * same_top).toFixed(1)} % |`,
      );
      await model[Symbol.asyncDispose]();
    }
    await exact[Symbol.asyncDispose]();
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
