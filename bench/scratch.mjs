// How much memory a prompt takes beside weights and cache, read from outside: a child process loads a model with random
// weights and takes the prompt in; this one reads the child's resident memory from /proc. Linux only.
// node bench/scratch.mjs [--shape M | --config config.json] [--tokens 2000] [--bits 8|4|16]: prints one line of JSON.

import { fork } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    child: { type: "string" },
    shape: { type: "string", default: "M" },
    config: { type: "string" },
    tokens: { type: "string", default: "2000" },
    bits: { type: "string", default: "8" },
  },
});

/** The built library, which the child runs too. */
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);

async function child(folder) {
  const { AutoModelForCausalLM } = await library("index.js");
  const { bits, tokens } = values;
  const how = { 4: { load_in_4bit: true }, 8: { load_in_8bit: true }, 16: {} }[bits];
  const model = await AutoModelForCausalLM.from_pretrained(folder, { device: "cpu", dtype: "bfloat16", ...how });
  const input_ids = [Array.from({ length: Number(tokens) }, (_, i) => (i * 7919 + 13) % 997)];
  const options = { input_ids, max_new_tokens: 4, eos_token_id: [] };
  const { memory } = model.device;
  const say = (message) => new Promise((resolve) => process.send(message, resolve));
  await say({ weights: model.weight_bytes, cache: model.cache_footprint(options).bytes, live: memory.live });
  await new Promise((resolve) => process.once("message", resolve));
  const start = performance.now();
  await model.generate(options);
  const { kept, peak } = model.device.memory;
  await say({ kept, peak, ms: performance.now() - start });
  await new Promise((resolve) => process.once("message", resolve));
  await model[Symbol.asyncDispose]();
  process.disconnect();
}

/** Bytes that the kernel counts for a process, now and at most. */
function resident(pid) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const bytes = (field) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)[1]) * 1024;
  return { now: bytes("VmRSS"), most: bytes("VmHWM") };
}

async function main() {
  const folder = mkdtempSync(join(tmpdir(), "octavo-scratch-"));
  try {
    const { writeRandomCheckpoint } = await library("eval/checkpoint.js");
    const { shapeConfig } = await library("eval/shapes.js");
    const config = values.config ? JSON.parse(readFileSync(values.config, "utf8")) : shapeConfig(values.shape);
    await writeRandomCheckpoint(folder, config);
    const args = ["--child", folder, "--tokens", values.tokens, "--bits", values.bits];
    const process_ = fork(fileURLToPath(import.meta.url), args);
    const failed = new Promise((_, reject) => {
      process_.once("exit", (code) => reject(new Error(`the child ended with ${code}`)));
    });
    failed.catch(() => {});
    const heard = () => Promise.race([failed, new Promise((resolve) => process_.once("message", resolve))]);
    const loaded = await heard();
    const before = resident(process_.pid);
    writeFileSync(`/proc/${process_.pid}/clear_refs`, "5"); // VmHWM begins anew
    const ended = heard();
    process_.send("go");
    const { kept, peak, ms } = await ended;
    const after = resident(process_.pid);
    const { weights, cache, live } = loaded;
    process_.send("end");
    await new Promise((resolve) => process_.once("exit", resolve));
    // `growth`: what the process took at most while it generated, beside what it held before and the cache.
    const growth = after.most - before.now - cache;
    console.log(JSON.stringify({ weights, cache, scratch: peak - live - cache, kept, growth, rss: after.now, ms }));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

await (values.child === undefined ? main() : child(values.child));
