// Models bigger than the memory, measured from outside. Each model runs in a child process; Linux only.
//
//     node bench/offload.mjs disk       shape M with half of its layers on the disk: steps/s beside what the disk's rate allows, and memory
//     node bench/offload.mjs parallel   shape M over cpu:0 and cpu:1, by layers and by tensor parallelism, beside one device
//     node bench/offload.mjs large      12 GB in bf16, loaded and run in 8 bits within 8 GB, and in nf4 within 4.5 GB
//     ... [--folder <folder>] [--tokens 16] [--shape M]
//
// `disk` and `large` need a memory controller of cgroups that may be written to: the child is killed if it, its page cache included,
// needs more than its limit. The file of offloaded weights is larger than what the limit leaves to the page cache, so steps read the disk.
// Checkpoints are written into `folder` (default: below the system's temporary one) and deleted at the end. Prints lines of JSON.

import { execFileSync, fork } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statfsSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    child: { type: "string" },
    folder: { type: "string", default: tmpdir() },
    tokens: { type: "string", default: "16" },
    shape: { type: "string", default: "M" },
  },
});
const part = positionals[0] ?? "disk";
const TOKENS = Number(values.tokens);
const MEMORY = "/sys/fs/cgroup/memory";

/** The built library, which the children run too. */
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);

const HOW = {
  int8: { load_in_8bit: true },
  nf4: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" },
};

/** Loads and decodes: one text, then eight; the child's side. */
async function child({ model: name, options, batches }) {
  const { AutoModelForCausalLM } = await library("index.js");
  const begin = performance.now();
  const model = await AutoModelForCausalLM.from_pretrained(name, options);
  const loaded = performance.now() - begin;
  const memory = model.memory();
  const runs = [];
  for (const batch of batches) {
    const input_ids = Array.from({ length: batch }, (_, row) =>
      Array.from({ length: 8 }, (_, i) => (i * 31 + row) % 997),
    );
    const times = [];
    const tokens = [];
    for await (const step of model.stream({
      input_ids,
      max_new_tokens: TOKENS + 2,
      do_sample: false,
      eos_token_id: [],
    })) {
      times.push(performance.now());
      tokens.push(step);
    }
    const steps = times.length > TOKENS * batch ? times.filter((_, i) => i % batch === batch - 1) : times;
    runs.push({ batch, ms: (steps.at(-1) - steps[1]) / (steps.length - 2), steps: steps.length });
  }
  const { logits } = model.forward({ input_ids: [[3, 1, 4, 1, 5, 9, 2, 6]] });
  const bits = createHash("sha256")
    .update(new Uint8Array((await logits.readFloats()).buffer))
    .digest("hex")
    .slice(0, 16);
  const sent = new Promise((resolve) =>
    process.send({ loaded, runs, bits, disk: memory.disk, memory: String(memory) }, resolve),
  );
  await sent;
  await new Promise((resolve) => process.once("message", resolve));
  await model[Symbol.asyncDispose]();
  process.disconnect();
}

/** A child's results and the most memory that it had, alone and with its page cache. */
async function run(task, limit) {
  const args = ["--child", JSON.stringify(task), "--tokens", values.tokens];
  const group = limit && join(MEMORY, `octavo-bench-${process.pid}`);
  if (group) {
    mkdirSync(group);
    writeFileSync(join(group, "memory.limit_in_bytes"), String(limit));
  }
  try {
    const started = fork(fileURLToPath(import.meta.url), args, { execArgv: [] });
    if (group) writeFileSync(join(group, "cgroup.procs"), String(started.pid));
    const result = await new Promise((resolve, reject) => {
      started.once("message", resolve);
      started.once("exit", (code, signal) => reject(new Error(`the child ended with ${signal ?? code}`)));
    });
    const status = readFileSync(`/proc/${started.pid}/status`, "utf8");
    const rss = Number(/^VmHWM:\s+(\d+) kB/m.exec(status)[1]) * 1024;
    const ended = new Promise((resolve) => started.once("exit", resolve));
    started.send("end");
    await ended;
    return { ...result, rss };
  } finally {
    if (group) rmdirSync(group);
  }
}

/** Bytes per second of reading a file from its beginning to its end without the page cache (O_DIRECT); the best of three. */
function rateOf(file, bytes) {
  let best = 0;
  for (let i = 0; i < 3; i++) {
    const begin = performance.now();
    execFileSync("dd", [`if=${file}`, "of=/dev/null", "bs=8M", "iflag=direct"], { stdio: "ignore" });
    best = Math.max(best, bytes / ((performance.now() - begin) / 1000));
  }
  return best;
}

const print = (row) => console.log(JSON.stringify(row));
const round = (x, digits = 3) => Number(x.toPrecision(digits));
const MB = (bytes) => Math.round(bytes / 1e6);

/** A limit needs a controller that this process may write to. */
function checkLimits() {
  if (existsSync(join(MEMORY, "memory.limit_in_bytes"))) return;
  throw new Error(`no memory controller of cgroups at ${MEMORY}`);
}

async function disk(folder) {
  checkLimits();
  const config = await checkpoint(folder, (await library("eval/shapes.js")).shapeConfig(values.shape));
  const layers = config.num_hidden_layers;
  const device_map = { "": "cpu:0" };
  for (let i = 0; i < layers; i += 2) device_map[`model.layers.${i}`] = "disk";
  for (const [name, how] of Object.entries(HOW)) {
    // Resident layers, embedding and head, and two layers on their way; caches and scratch.
    const layer =
      (4 * config.hidden_size ** 2 + 3 * config.hidden_size * config.intermediate_size) * (name === "int8" ? 1 : 0.57);
    const max = Math.ceil(4 * config.vocab_size * config.hidden_size + layer * (Math.floor(layers / 2) + 2) + 100e6);
    const options = { device_map, max_memory: { "cpu:0": max }, offload_folder: join(folder, "offload"), ...how };
    const { rss, disk, runs, loaded } = await run({ model: folder, options, batches: [1, 8] }, max + 200e6);
    // The same bytes in the same folder, read as fast as the disk gives them.
    const file = join(folder, "rate.bin");
    execFileSync("dd", ["if=/dev/urandom", `of=${file}`, "bs=1M", `count=${MB(disk)}`, "conv=fsync"], {
      stdio: "ignore",
    });
    const rate = rateOf(file, MB(disk) * 2 ** 20);
    rmSync(file);
    const allowed = rate / disk;
    print({
      ...{ part: "disk", how: name, disk_MB: MB(disk), rate_MB_s: MB(rate), steps_per_s_allowed: round(allowed) },
      ...{ steps_per_s: round(1000 / runs[0].ms), share: round(1000 / runs[0].ms / allowed) },
      ...{
        steps_per_s_batch_8: round(1000 / runs[1].ms),
        max_memory_MB: MB(max),
        peak_rss_MB: MB(rss),
        load_s: round(loaded / 1000),
      },
    });
  }
}

async function parallel(folder) {
  const config = await checkpoint(folder, (await library("eval/shapes.js")).shapeConfig(values.shape));
  const layers = config.num_hidden_layers;
  const halves = { "": "cpu:0" };
  for (let i = layers >> 1; i < layers; i++) halves[`model.layers.${i}`] = "cpu:1";
  const ways = {
    "one device": { device: "cpu" },
    "by layers": { device_map: halves },
    "tensor parallel": { tp_plan: "auto", tp_size: 2 },
  };
  const seen = {};
  for (let round_ = 0; round_ < 3; round_++) {
    for (const [way, options] of Object.entries(ways)) {
      const { runs, bits } = await run({ model: folder, options: { ...options, ...HOW.int8 }, batches: [1, 8] });
      (seen[way] ??= []).push({ ms: runs.map(({ ms }) => ms), bits });
    }
  }
  const best = (way, i) => Math.min(...seen[way].map(({ ms }) => ms[i]));
  for (const way of Object.keys(ways)) {
    const same = seen[way].every(({ bits }) => bits === seen["one device"][0].bits);
    const ratio = (i) => round(best(way, i) / best("one device", i));
    print({
      ...{ part: "parallel", way, ms_per_token: round(best(way, 0)), ms_per_step_batch_8: round(best(way, 1)) },
      ...{ beside_one_device: [ratio(0), ratio(1)], same_bits: same },
    });
  }
}

async function large(folder) {
  checkLimits();
  const { bavail, bsize } = statfsSync(folder);
  if (bavail * bsize < 30e9) throw new Error(`${folder}: 30 GB of free space are needed`);
  const { shapeConfig } = await library("eval/shapes.js");
  const sizes = { hidden_size: 4096, intermediate_size: 11008, num_hidden_layers: 28, num_attention_heads: 32 };
  await checkpoint(folder, { ...shapeConfig("M"), ...sizes, num_key_value_heads: 32 });
  for (const [name, how] of Object.entries(HOW)) {
    const limit = name === "int8" ? 8e9 : 4.5e9;
    const { rss, runs, loaded, memory } = await run(
      { model: folder, options: { device: "cpu", ...how }, batches: [1] },
      limit,
    );
    print({
      ...{ part: "large", how: name, limit_MB: MB(limit), peak_rss_MB: MB(rss), load_s: round(loaded / 1000) },
      ...{ ms_per_token: round(runs[0].ms), memory },
    });
  }
}

async function checkpoint(folder, config) {
  const { writeRandomCheckpoint } = await library("eval/checkpoint.js");
  const bytes = await writeRandomCheckpoint(folder, config);
  print({ checkpoint_MB: MB(bytes), files: readdirSync(folder).length });
  return config;
}

if (values.child !== undefined) await child(JSON.parse(values.child));
else {
  const work = { disk, parallel, large }[part];
  if (!work) throw new Error(`the parts are disk, parallel and large, got ${part}`);
  const folder = mkdtempSync(join(values.folder, "octavo-offload-"));
  try {
    await work(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
