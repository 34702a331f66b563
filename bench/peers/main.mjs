// npm run bench:peers: Octavo beside llama.cpp, ONNX Runtime and (given a Python that has it) PyTorch, on models of the
// same shape with random weights. Every variant runs in a process of its own; rounds go over all of them forwards and
// backwards in turn, so that a busy minute of the machine hits all alike. Progress goes to stderr, one table to stdout.

import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { checkpointFolder } from "./checkpoint.mjs";
import { ggufFile } from "./gguf.mjs";
import { install } from "./install.mjs";
import { machineLimits } from "./limits.mjs";
import { onnxFile } from "./onnx-llama.mjs";
import { PEERS, planOf, SHAPES } from "./shapes.mjs";
import { medians, ratios, ratioTable, speeds } from "./table.mjs";

const HELP = `node bench/peers/main.mjs [options]
  --shape S|M|tiny    shape of the model (M)
  --only a,b          peers or peer:variant, such as octavo,llama.cpp:Q8_0,onnx:int8-shared
  --isa a,b           measure octavo:int8 also with these instruction sets as the highest
  --threads n         threads of every peer (2)
  --rounds n          times that all variants are run in turn (3; 1 with --quick)
  --quick             fewer and shorter runs
  --python PATH       a Python with torch and transformers; adds PyTorch
  --json FILE         write everything that was measured
  --dir FOLDER        where peers and models are kept (bench/peers/.work, or OCTAVO_PEERS_DIR)`;

const here = dirname(fileURLToPath(import.meta.url));
const say = (text) => process.stderr.write(`${text}\n`);

/** @param {string} text */
function fail(text) {
  say(`bench:peers: ${text}\n\n${HELP}`);
  process.exit(2);
}

function options() {
  try {
    const { values } = parseArgs({
      options: {
        shape: { type: "string", default: "M" },
        only: { type: "string" },
        isa: { type: "string" },
        threads: { type: "string", default: "2" },
        rounds: { type: "string" },
        quick: { type: "boolean", default: false },
        python: { type: "string" },
        json: { type: "string" },
        dir: { type: "string", default: process.env.OCTAVO_PEERS_DIR ?? join(here, ".work") },
        help: { type: "boolean", default: false },
      },
    });
    return values;
  } catch (error) {
    return fail(error.message);
  }
}

/**
 * The variants to run, such that those that are compared are neighbours.
 * @param {ReturnType<typeof options>} chosen
 * @returns {{ name: string, peer: string, variant: string, isa?: string }[]}
 */
function jobsOf({ only, isa, python }) {
  const named = only?.split(",").map((name) => name.trim());
  const known = Object.entries(PEERS).flatMap(([peer, { by, also }]) => [
    peer,
    ...[...by, ...also].map((v) => `${peer}:${v}`),
  ]);
  for (const name of named ?? []) if (!known.includes(name)) fail(`unknown peer "${name}"; known: ${known.join(" ")}`);
  const lists = Object.entries(PEERS).map(([peer, { by, also }]) => {
    const variants = [...by, ...also].filter((variant) => {
      const name = `${peer}:${variant}`;
      return named ? named.includes(name) || (named.includes(peer) && by.includes(variant)) : by.includes(variant);
    });
    if (peer === "torch" && !python) {
      if (named?.some((name) => name.startsWith("torch"))) fail("torch needs --python PATH");
      say("PyTorch is skipped: no --python PATH was given");
      return [];
    }
    return variants.map((variant) => ({ name: `${peer}:${variant}`, peer, variant }));
  });
  const jobs = [];
  for (let i = 0; lists.some((list) => i < list.length); i++) jobs.push(...lists.flatMap((list) => list[i] ?? []));
  for (const level of isa?.split(",") ?? []) {
    jobs.unshift({ name: `octavo:int8 (${level})`, peer: "octavo", variant: "int8", isa: level });
  }
  return jobs;
}

/** The model file or folder of a job. @param {string} models @param {any} shape @param {{ peer: string, variant: string }} job */
function fileOf(models, shape, { peer, variant }) {
  if (peer === "llama.cpp") return ggufFile(models, shape, variant);
  if (peer === "onnx") return onnxFile(models, shape, variant.replace("-shared", ""));
  return checkpointFolder(models, shape);
}

/** What of the CPU decides about the speed of matrix products. */
function features() {
  try {
    const flags = /^flags\s*:(.*)$/m.exec(readFileSync("/proc/cpuinfo", "utf8"))?.[1].trim().split(/\s+/) ?? [];
    return flags.filter((flag) => /^(avx2|avx_vnni|avx512f|avx512_vnni|avx512_bf16|avx512_fp16|amx_.*)$/.test(flag));
  } catch {
    return [];
  }
}

/** Programs that ran on average in the last minute: others' before we start, ours and others' later. */
const busy = () => Number(loadavg()[0].toFixed(2));

/** Runs a command; gives the last line of its stdout as JSON. @param {string} command @param {string[]} args */
function child(command, args, env = {}) {
  return new Promise((accept, reject) => {
    const run = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"], env: { ...process.env, ...env } });
    let out = "";
    let tail = "";
    run.stdout.on("data", (data) => (out += data));
    run.stderr.on("data", (data) => {
      process.stderr.write(data);
      tail = (tail + data).slice(-4000);
    });
    run.on("error", reject);
    run.on("close", (code, signal) => {
      const line = out.trim().split("\n").at(-1) ?? "";
      if (code === 0 && line.startsWith("{")) return accept(JSON.parse(line));
      const reason = tail.match(/^.*Error: .*$/gm)?.at(-1) ?? tail.trim().split("\n").at(-1);
      reject(new Error(signal ? `killed by ${signal}` : reason || `exit code ${code}`));
    });
  });
}

const chosen = options();
if (chosen.help) {
  process.stdout.write(`${HELP}\n`);
  process.exit(0);
}
const shape = SHAPES[chosen.shape] ?? fail(`unknown shape "${chosen.shape}"`);
const threads = Number(chosen.threads);
const rounds = Number(chosen.rounds ?? (chosen.quick ? 1 : 3));
if (!Number.isInteger(threads) || threads < 1) fail("--threads must be a whole number from 1");
if (!Number.isInteger(rounds) || rounds < 1) fail("--rounds must be a whole number from 1");
const jobs = jobsOf(chosen);
const dir = resolve(chosen.dir);
const modules = install(join(dir, "packages"), [...new Set(jobs.map(({ peer }) => peer))], say);

/** @type {Map<string, import("./table.mjs").Result>} */
const results = new Map();
const loads = [busy()];
if (loads[0] > 0.5) {
  say(`the machine is busy (load ${loads[0]}): the figures will be noise, llama.cpp's most, as its threads spin`);
}
const limits = await machineLimits(threads, say);
const files = new Map();
for (const job of jobs) {
  say(`model of ${job.name}`);
  files.set(job, fileOf(join(dir, "models"), shape, job));
  results.set(job.name, { name: job.name, samples: {}, load_ms: [], peak_rss: 0 });
}
for (let round = 0; round < rounds; round++) {
  if (round) loads.push(busy());
  for (const job of round % 2 ? [...jobs].reverse() : jobs) {
    const result = results.get(job.name);
    if (result.error !== undefined) continue;
    say(`[round ${round + 1}/${rounds}] ${job.name}, shape ${shape.name}, ${threads} threads`);
    const argument = { ...job, file: files.get(job), modules, shape: shape.name, threads, quick: chosen.quick };
    try {
      const one =
        job.peer === "torch"
          ? await child(chosen.python, [
              join(here, "torch_peer.py"),
              JSON.stringify({ ...argument, plan: planOf(shape.name, chosen.quick) }),
            ])
          : await child(process.execPath, [join(here, "child.mjs"), JSON.stringify(argument)]);
      result.info = one.info;
      result.load_ms.push(one.load_ms);
      result.peak_rss = Math.max(result.peak_rss, one.peak_rss);
      result.peak_rss_loaded = Math.max(result.peak_rss_loaded ?? 0, one.peak_rss_loaded ?? 0);
      for (const [name, rates] of Object.entries(one.rates)) (result.samples[name] ??= []).push(...rates);
    } catch (error) {
      result.error = error.message;
      say(`  ${job.name} failed: ${error.message}`);
    }
  }
}

const all = [...results.values()];
const compared = ratios(all, shape.name === "M");
const lines = [
  `shape ${shape.name}, ${threads} threads, ${rounds} rounds${chosen.quick ? ", quick" : ""}, medians; ${cpus()[0]?.model.trim()} ${features().join(" ")}; load ${loads.join(", ")}`,
  ...(limits ? [limits.text] : []),
  "",
  speeds(all, shape, limits?.values.read_gb_per_s),
  "",
  ratioTable(compared),
  "",
  ...all.filter(({ info }) => info).map(({ name, info }) => `${name}: ${info}`),
];
process.stdout.write(`${lines.join("\n").replace(/\n{3,}/g, "\n\n")}\n`);
if (chosen.json) {
  const report = {
    shape,
    threads,
    rounds,
    quick: chosen.quick,
    date: new Date().toISOString(),
    cpu: cpus()[0]?.model,
    features: features(),
    load_average: loads,
    node: process.version,
    limits: limits?.values,
    results: all.map((result) => ({ ...result, medians: medians(result) })),
    ratios: compared,
  };
  writeFileSync(chosen.json, `${JSON.stringify(report, null, 2)}\n`);
}
if (all.some(({ error }) => error !== undefined)) process.exitCode = 1;
