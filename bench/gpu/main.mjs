// Octavo on a GPU through WebGPU, beside PyTorch on the same card: one table and one JSON file. run.sh calls this; nothing
// here waits longer than its share of the time that was given, and what was measured until then is reported.

import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { shapeConfig } from "../../dist/eval/shapes.js";
import { variantNames } from "../../dist/eval/variants.js";

const HELP = `bench/gpu/run.sh [options]
  --shape XS|S|M     shape of the model (M, TinyLlama-1.1B)
  --storages a,b     what Octavo is measured in (bf16,f16,int8,nf4)
  --seconds n        time for everything (540)
  --steps n          timed decode steps (48; 4 for XS)
  --no-kernels       no single kernels
  --no-torch         no PyTorch
  --python PATH      the Python to look for torch in (python3)
  --torch-device D   cuda, or cpu to try it without a GPU (cuda)
  --json FILE        where the numbers go (gpu-bench.json)`;

/**
 * Ends this process for wrong usage, with one line.
 * @param {string} message
 * @returns {never}
 */
function refuse(message) {
  process.stderr.write(`error: ${message.split("\n")[0]}\n`);
  process.exit(2);
}

/**
 * What `read` gives; what it throws is wrong usage.
 * @template T
 * @param {() => T} read
 */
function asked(read) {
  try {
    return read();
  } catch (error) {
    return refuse(error.message);
  }
}

const OPTIONS = {
  options: {
    shape: { type: "string", default: "M" },
    storages: { type: "string", default: "bf16,f16,int8,nf4" },
    seconds: { type: "string", default: "540" },
    steps: { type: "string" },
    "no-kernels": { type: "boolean", default: false },
    "no-torch": { type: "boolean", default: false },
    python: { type: "string", default: "python3" },
    "torch-device": { type: "string", default: "cuda" },
    json: { type: "string", default: "gpu-bench.json" },
    help: { type: "boolean", default: false },
  },
};
const { values: options } = asked(() => parseArgs(OPTIONS));
if (options.help) {
  console.log(HELP);
  process.exit(0);
}

/** @param {"seconds" | "steps"} name */
function positive(name) {
  const value = Number(options[name]);
  return value > 0 && Number.isFinite(value)
    ? value
    : refuse(`--${name} must be a number above 0, got ${options[name]}`);
}
const config = asked(() => shapeConfig(options.shape));
const storages = asked(() => variantNames(options.storages));
const allowed = positive("seconds");
if (options.steps !== undefined) positive("steps");

const here = dirname(fileURLToPath(import.meta.url));
const began = Date.now();
const spent = () => (Date.now() - began) / 1000;
const left = () => allowed - spent();
/** @param {string} text */
const say = (text) => process.stderr.write(`[${spent().toFixed(0)} s] ${text}\n`);

// XS is for proofs on an adapter in software, where a step takes most of a second.
const tiny = options.shape.toUpperCase() === "XS";
const plan = {
  batches: tiny ? [1, 2] : [1, 8, 32],
  prompts: tiny ? [32] : [512, 2048],
  steps: Number(options.steps ?? (tiny ? 4 : 48)),
  runs: tiny ? 1 : 3,
  sessions: tiny ? 1 : 9,
};
const products = tiny
  ? { rows: [1, 32], inputs: 256, outputs: 704, past: 1 }
  : { rows: [1, 8, 512], inputs: 2048, outputs: 5632, past: 1 << 28 };

/**
 * Runs a child and gathers its lines.
 * @param {string} program
 * @param {readonly string[]} args
 * @param {number} seconds
 */
function run(program, args, seconds) {
  return new Promise((resolve) => {
    const lines = [];
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"] });
    const timer = setTimeout(() => {
      lines.push({ cut: `stopped after ${seconds.toFixed(0)} s` });
      child.kill("SIGKILL");
    }, seconds * 1000);
    let text = "";
    const take = (line) => {
      try {
        if (line.startsWith("{")) lines.push(JSON.parse(line));
      } catch {} // half a line of a child that was stopped
    };
    child.stdout.on("data", (part) => {
      const parts = (text + part).split("\n");
      text = parts.pop();
      parts.forEach(take);
    });
    const end = (problem) => {
      clearTimeout(timer);
      take(text);
      if (problem && !lines.some(({ done, missing, cut }) => done || missing || cut)) lines.push({ failed: problem });
      resolve(lines);
    };
    child.on("error", (error) => end(error.message));
    child.on("close", (code, signal) => end(`ended with ${signal ?? `code ${code}`}`));
  });
}

/** The lines of one job as one object. */
function gather(engine, storage, lines) {
  const all = (key) => lines.flatMap((line) => (line[key] === undefined ? [] : [line[key]]));
  return {
    engine,
    storage,
    adapter: all("adapter")[0],
    machine: all("machine")[0],
    weight_bytes: all("weight_bytes")[0],
    decode: all("decode"),
    prefill: all("prefill"),
    kernels: all("kernel"),
    step: all("step")[0],
    problem: all("missing")[0] ?? all("cut")[0] ?? all("failed")[0],
  };
}

// A CPU has no half precision to speak of.
const half = options["torch-device"] === "cpu" ? "fp32" : "fp16";
const torch = options["no-torch"] ? [] : [half, "bnb-int8", "bnb-nf4"];
const results = [];
const jobs = [
  { engine: "octavo", storage: "machine", share: 0.6 },
  ...storages.map((storage) => ({ engine: "octavo", storage, share: 1 })),
  ...torch.map((storage) => ({ engine: "torch", storage, share: 0.8 })),
  ...(options["no-kernels"] ? [] : [{ engine: "octavo", storage: "kernels", share: 0.6 }]),
];
for (const [i, { engine, storage, share }] of jobs.entries()) {
  // What earlier jobs left over goes to the later ones; a few seconds are for ending.
  const rest = jobs.slice(i).reduce((sum, job) => sum + job.share, 0);
  const seconds = ((left() - 5) * share) / rest;
  if (seconds < 2) {
    results.push({ engine, storage, decode: [], prefill: [], kernels: [], problem: "no time left" });
    continue;
  }
  say(`${engine} ${storage} (at most ${seconds.toFixed(0)} s)`);
  const model = { storage, shape: options.shape, config, device: options["torch-device"], ...plan };
  const job = { machine: { machine: true }, kernels: { kernels: products } }[storage] ?? model;
  const lines =
    engine === "octavo"
      ? await run(process.execPath, [join(here, "child.mjs"), JSON.stringify(job)], seconds)
      : await run(options.python, [join(here, "torch_child.py"), JSON.stringify(job)], seconds);
  const result = gather(engine, storage, lines);
  if (result.problem) say(`  ${engine} ${storage}: ${result.problem}`);
  results.push(result);
  writeFileSync(options.json, JSON.stringify({ shape: options.shape, seconds: spent(), results }, null, 2));
}

const limits = results.find(({ machine }) => machine)?.machine;
const cell = (value, digits) => (value === undefined ? "-" : value.toFixed(digits));
const head = ["", ...plan.batches.map((b) => `b${b} ms/token`), "of read at b1"];
head.push(...plan.prompts.map((n) => `prefill ${n}`), "dispatches", "JS ms");
const rows = results
  .filter(({ storage }) => storage !== "kernels" && storage !== "machine")
  .map(({ engine, storage, decode, prefill, step, problem }) => {
    const one = decode.find(({ batch }) => batch === 1);
    const share = one?.gb_per_s && limits?.read ? `${((100 * one.gb_per_s) / limits.read).toFixed(0)} %` : "-";
    const found = plan.batches.map((b) => decode.find(({ batch }) => batch === b));
    return [
      `${engine} ${storage}`,
      ...found.map((at) => cell(at && at.ms / at.batch, 3)),
      share,
      ...plan.prompts.map((n) => cell(prefill.find(({ tokens }) => tokens === n)?.tokens_per_s, 0)),
      cell(step?.dispatches, 0),
      cell(step?.replay_ms, 2),
      problem ?? "",
    ];
  });
const table = (lines) => {
  const widths = lines[0].map((_, c) => Math.max(...lines.map((line) => (line[c] ?? "").length)));
  return lines.map((line) => line.map((text, c) => text.padStart(widths[c] ?? 0)).join("  ")).join("\n");
};
console.log(`\nshape ${options.shape}; prefill in tokens/s\n`);
for (const { adapter } of results.filter((result, i) => result.adapter && (i === 0 || result.storage === torch[0]))) {
  console.log(adapter.description);
}
if (limits) {
  const { read, copy, f32, f16, int8 } = limits;
  console.log(
    `reads ${cell(read, 0)} GB/s, copies ${cell(copy, 0)} GB/s, f32 ${cell(f32, 0)} GFLOP/s, f16 ${cell(f16, 0)} GFLOP/s, int8 ${cell(int8, 0)} GOP/s`,
  );
}
console.log(`\n${table([[...head, ""], ...rows])}`);
const kernels = results.flatMap((result) => result.kernels);
if (kernels.length > 0) {
  const lines = kernels.map(({ kernel, shape, microseconds, bandwidth, operations, limit, most, share }) => [
    kernel,
    shape,
    cell(microseconds, 0),
    cell(bandwidth, 0),
    cell(operations, 0),
    most > 0 ? `${(100 * share).toFixed(0)} %` : "-",
    most > 0 ? `${most.toFixed(0)} ${limit}` : "-",
  ]);
  console.log(`\n${table([["kernel", "rows x K x N", "µs", "GB/s", "GOP/s", "share", "of"], ...lines])}`);
}
console.log(`\n${spent().toFixed(0)} s; numbers in ${options.json}`);
const failed = results.filter(
  ({ engine, machine, decode, kernels: own }) => engine === "octavo" && !machine && !decode.length && !own.length,
);
process.exitCode = failed.length > 0 ? 1 : 0;
