// What must be the same on every system, printed as JSON: run by Node here, and by Node for Windows in wine (windows.test.ts).
//
//   node test/native/both-systems.mjs FOLDER LEVELS
//
// FOLDER is empty, and written into; LEVELS are instruction sets, such as portable,avx2.

import { createHash } from "node:crypto";
import { closeSync, ftruncateSync, mkdirSync, openSync, readdirSync, rmSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));
const { AutoModelForCausalLM, AutoTokenizer } = await import(pathToFileURL(join(root, "dist", "index.js")).href);
const { addon } = await import(pathToFileURL(join(root, "dist", "backends", "native", "addon.js")).href);
const [, , folder, levels] = process.argv;
const storyteller = join(root, "models", "storyteller");
const found = {};

async function tokens(options, name = storyteller) {
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const model = await AutoModelForCausalLM.from_pretrained(name, options);
  try {
    const { input_ids } = tokenizer("<|endoftext|>The Princess and the Dragon\n\n");
    return await model.generate({ input_ids, max_new_tokens: 10, do_sample: true, seed: 4, temperature: 0.7 });
  } finally {
    await model.dispose();
  }
}

/** The bits of the logits of a long text, and the loss: sines, exponentials and logarithms are in them. */
async function bits(options) {
  const model = await AutoModelForCausalLM.from_pretrained(storyteller, options);
  try {
    const input_ids = [Array.from({ length: 400 }, (_, i) => (i * 7919 + 13) % 4000)];
    const { logits, loss } = model.forward({ input_ids, labels: input_ids });
    const values = Float32Array.from(await logits.readFloats());
    const sum = createHash("sha256").update(new Uint8Array(values.buffer)).digest("hex");
    return [sum, ...(await loss.readFloats())];
  } finally {
    await model.dispose();
  }
}

for (const level of levels.split(",")) {
  process.env.OCTAVO_ISA = level;
  for (const how of [{}, { load_in_8bit: true }, { load_in_4bit: true }]) {
    const options = { device: "cpu:1", ...how };
    found[`${level} ${JSON.stringify(how)}`] = [await tokens(options), await bits(options)];
  }
}
found.address = await tokens({ device: "cpu" }, pathToFileURL(storyteller).href);

// A path that is neither short nor of the letters of any one code page.
const deep = join(folder, "Märchen 物語", ...Array.from({ length: 6 }, () => "x".repeat(50)));
mkdirSync(deep, { recursive: true });
const device_map = { "": "cpu", "model.layers.2": "disk", "model.layers.4": "disk" };
found.offloaded = await tokens({ device_map, offload_folder: deep });
found.left = readdirSync(deep).length;

// Over itself, while its files are in use.
const saved = join(deep, "saved");
const model = await AutoModelForCausalLM.from_pretrained(storyteller, { load_in_8bit: true, device: "cpu" });
await model.save_pretrained(saved);
const again = await AutoModelForCausalLM.from_pretrained(saved, { device: "cpu" });
await again.save_pretrained(saved);
await again.dispose();
await model.dispose();
const tokenizer = await AutoTokenizer.from_pretrained(storyteller);
await tokenizer.save_pretrained(saved);
found.saved = readdirSync(saved).sort();
found.reloaded = await tokens({ device: "cpu" }, saved);

// Ranges of files, read by the queue: beyond four gigabytes of one that is mostly a hole, and those that are refused.
const big = join(folder, "big");
const far = 5_368_709_124;
const made = openSync(big, "w");
ftruncateSync(made, 6e9);
writeSync(made, "far away", far);
writeSync(made, "cut to 32 bits", far % 2 ** 32);
closeSync(made);
const device = addon().open({ threads: 2 });
const buffer = device.allocate(8);
const { ino, mtimeNs } = statSync(big, { bigint: true });
async function loaded(file, position, ahead, ...stamp) {
  device.load(buffer, 0, file, position, 8, ahead, 0, ...stamp);
  try {
    return Buffer.from(await device.read(buffer, 0, 8, 8)).toString();
  } catch (error) {
    return error.message.replaceAll(folder, "");
  }
}
found.ranges = [
  await loaded(big, far, false, ino, mtimeNs),
  await loaded(big, far, true, ino, mtimeNs),
  await loaded(big, far, false, ino, mtimeNs + 1n),
  await loaded(big, 6e9 - 4, false),
  await loaded(folder, 0, false),
  await loaded(join(folder, "none"), 0, false),
].map((line) => line.replaceAll("\\", "/"));
await device.close();
rmSync(big);

writeSync(1, `${JSON.stringify(found, undefined, 1)}\n`);
