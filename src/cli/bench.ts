// octavo bench: how fast a model runs here, in one or several storages, beside what the machine can do. Each storage is
// measured in a process of its own, so that its peak memory is its own.

import { fork } from "node:child_process";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { loadavg, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Command } from "commander";
import { NotFoundError, OctavoError, OptionError } from "../core/errors.js";
import { benchModel, crowded, FULL_PLAN, type ModelSpeed, QUICK_PLAN } from "../eval/bench.js";
import { writeRandomCheckpoint } from "../eval/checkpoint.js";
import { type MachineLimits, measureMachine } from "../eval/machine.js";
import { shapeConfig } from "../eval/shapes.js";
import { VARIANTS, variantNames } from "../eval/variants.js";
import { AutoModelForCausalLM } from "../generate/auto.js";
import { requestDevice } from "../load/device.js";
import { fillRandomly } from "../load/random.js";
import { architectureOf } from "../models/index.js";
import { type CacheDType, cacheName } from "../nn/cache.js";
import { BitsAndBytesConfig } from "../quant/config.js";
import { headScheme, schemeOf } from "../quant/index.js";
import { deviceOption, jsonOption, KV_CACHES, type KVCacheName, kvCacheOption, threadsOption } from "./arguments.js";
import { benchChartText, benchPanels, benchTable, kernelTable, type VariantReport } from "./bench-report.js";
import { svgChart } from "./chart-svg.js";
import { colourful, columnsOf, textChart } from "./chart-text.js";
import { note, print, printJson } from "./output.js";

export interface BenchFlags {
  shape?: string;
  compare?: string;
  loadIn8bit?: boolean;
  loadIn4bit?: boolean;
  fromFile?: boolean;
  kernels?: boolean;
  kvCache?: KVCacheName;
  quick?: boolean;
  chart?: boolean;
  svg?: string;
  device?: string;
  threads?: number;
  json?: boolean;
  quiet?: boolean;
  /** Set in the processes that measure one storage. */
  child?: boolean;
}

export function benchCommand(): Command {
  const command = new Command("bench")
    .description("measure speed and memory beside what this machine can do")
    .argument("[model]", "folder or cached id; or give --shape")
    .option("--shape <name>", "a model with random weights: XS, S (0.3 billion parameters) or M (TinyLlama-1.1B)")
    .option("--compare <list>", `storages: ${Object.keys(VARIANTS).join(", ")} (default: f32,bf16,int8,nf4)`)
    .option("--load-in-8bit", "int8 alone")
    .option("--load-in-4bit", "nf4 alone")
    .option("--from-file", "write the shape as a bf16 checkpoint first and load from that, to time loading")
    .addOption(kvCacheOption())
    .option("--kernels", "measure single kernels instead of a model, in the sizes of --shape (default: M)")
    .option("--quick", "fewer sizes and fewer runs")
    .option("--chart", "draw speeds as bars")
    .option("--svg <file>", "write a chart of the speeds to a file")
    .addOption(deviceOption())
    .addOption(threadsOption())
    .addOption(jsonOption())
    .option("-q, --quiet", "no progress on stderr");
  return command.addOption(command.createOption("--child").hideHelp()).action(bench);
}

async function bench(model: string | undefined, flags: BenchFlags): Promise<void> {
  if (flags.kernels) {
    if (flags.svg !== undefined || flags.chart) throw new OptionError("charts are of models, not of kernels");
    if (model !== undefined) throw new OptionError("kernels are measured with random weights: no model is read");
    return benchKernels(flags);
  }
  if ((model === undefined) === (flags.shape === undefined)) {
    throw new OptionError("bench needs a model or a --shape, and not both", { hint: "octavo bench --shape S" });
  }
  if (flags.shape !== undefined) shapeConfig(flags.shape);
  const title = flags.shape === undefined ? model! : `shape ${flags.shape.toUpperCase()}`;
  const names = variantNames(
    flags.loadIn8bit ? "int8" : flags.loadIn4bit ? "nf4" : (flags.compare ?? "f32,bf16,int8,nf4"),
  );
  if (flags.child) {
    process.send!(await measure(names[0]!, model, flags));
    return;
  }
  if (flags.svg !== undefined) await checkFolder(flags.svg);
  const folder =
    flags.fromFile && flags.shape !== undefined ? await mkdtemp(join(tmpdir(), "octavo-bench-")) : undefined;
  try {
    if (folder !== undefined) {
      if (!flags.quiet) note(`writing shape ${flags.shape} as a checkpoint`);
      await writeRandomCheckpoint(folder, shapeConfig(flags.shape!));
    }
    if (!flags.quiet) note("measuring the machine");
    const limits = await measureLimits(flags);
    const load = loadavg()[0]!;
    if (crowded(load) && !flags.quiet)
      note(`warning: the machine is busy (load ${load.toFixed(1)}); timings will be poor`);
    const reports: VariantReport[] = [];
    for (const name of names) reports.push(await inChild(name, folder ?? model, flags));
    if (flags.json) printJson({ model: flags.shape ?? model, ...limits, load, storages: reports });
    else {
      print(benchTable(title, limits, reports));
      if (flags.chart) {
        const { stdout, env } = process;
        print(textChart(benchPanels(reports), { width: columnsOf(stdout, env), colour: colourful(stdout, env) }));
      }
    }
    if (flags.svg !== undefined)
      await writeChart(flags.svg, svgChart(benchPanels(reports), benchChartText(title, limits)));
  } finally {
    if (folder !== undefined) await rm(folder, { recursive: true, force: true });
  }
}

/** Measuring takes minutes: a chart that cannot be written is refused before. @throws NotFoundError */
async function checkFolder(file: string): Promise<void> {
  const folder = dirname(resolve(file));
  const found = await stat(folder).catch(() => undefined);
  if (!found?.isDirectory()) throw new NotFoundError(`cannot write ${file}: there is no folder ${folder}`);
}

async function writeChart(file: string, svg: string): Promise<void> {
  try {
    await writeFile(file, svg);
  } catch (error) {
    throw new OctavoError("ERR_WRITE", `cannot write ${file}: ${(error as Error).message}`, { cause: error });
  }
}

async function measureLimits(flags: BenchFlags): Promise<{ machine: string; limits: MachineLimits }> {
  await using device = await requestDevice(flags.device, { threads: flags.threads });
  return { machine: device.backend.description, limits: await measureMachine(device) };
}

/** Runs this very command for one storage in a process of its own. */
async function inChild(name: string, model: string | undefined, flags: BenchFlags): Promise<VariantReport> {
  const main = fileURLToPath(new URL("./main.js", import.meta.url));
  const args = ["bench", "--child", "--compare", name];
  if (flags.device !== undefined) args.push("--device", flags.device);
  if (model !== undefined) args.push(model);
  else args.push("--shape", flags.shape!);
  if (flags.quick) args.push("--quick");
  if (flags.kvCache) args.push("--kv-cache", flags.kvCache);
  if (flags.quiet) args.push("--quiet");
  if (flags.threads !== undefined) args.push("--threads", String(flags.threads));
  const child = fork(main, args, { stdio: ["ignore", "ignore", "inherit", "ipc"] });
  return new Promise((resolve, reject) => {
    let report: VariantReport | undefined;
    child.on("message", (message) => {
      report = message as VariantReport;
    });
    child.on("error", reject);
    child.on("exit", (code) => {
      if (report && code === 0) resolve(report);
      else reject(new OctavoError("ERR_BENCH", `measuring ${name} failed with exit code ${code}`));
    });
  });
}

async function measure(name: string, model: string | undefined, flags: BenchFlags): Promise<VariantReport> {
  const { dtype, quantization, compute, head, cache } = VARIANTS[name]!;
  const progress = flags.quiet ? undefined : (what: string): void => note(`${name}: ${what}`);
  const plan = flags.quick ? QUICK_PLAN : FULL_PLAN;
  const cache_dtype = flags.kvCache ? KV_CACHES[flags.kvCache] : (cache ?? (dtype === "float32" ? "f32" : "bf16"));
  const options = { cache_dtype, progress };
  await using device = await requestDevice(flags.device, { threads: flags.threads });
  progress?.("loading");
  const start = performance.now();
  if (model !== undefined) {
    await using loaded = await AutoModelForCausalLM.from_pretrained(model, {
      device,
      dtype,
      quantization_config: quantization,
      compute_dtype: compute,
      head_dtype: head,
    });
    const load_s = (performance.now() - start) / 1000;
    const load_peak_rss = process.resourceUsage().maxRSS * 1024;
    const speed = await benchModel(device, loaded.module, plan, options);
    const read = loaded.checkpoint_bytes;
    return report(name, cache_dtype, loaded.weight_bytes, speed, {
      load_s,
      load_peak_rss,
      load_gb_per_s: read / load_s / 1e9,
    });
  }
  const config = shapeConfig(flags.shape!);
  const tree = (await architectureOf(config)).build(config);
  const scheme = schemeOf(quantization && new BitsAndBytesConfig(quantization));
  const dense = dtype === "float32" ? "f32" : "bf16";
  await fillRandomly(device, tree, { dtype: dense, scheme, compute, head: headScheme(head) });
  const weight_bytes = [...tree.parameters()].reduce((sum, parameter) => sum + parameter.nbytes, 0);
  const speed = await benchModel(device, tree, plan, options);
  tree.dispose();
  return report(name, cache_dtype, weight_bytes, speed, undefined);
}

function report(
  storage: string,
  cache: CacheDType,
  weight_bytes: number,
  speed: ModelSpeed,
  load: VariantReport["load"],
): VariantReport {
  return {
    storage,
    weight_bytes,
    kv_cache: cacheName(cache),
    ...speed,
    load,
    peak_rss: process.resourceUsage().maxRSS * 1024,
  };
}

async function benchKernels(flags: BenchFlags): Promise<void> {
  const shape = shapeConfig(flags.shape ?? "M");
  const { attentionSpeed, KERNEL_SCHEMES, linearSpeed } = await import("../eval/kernels.js");
  await using device = await requestDevice(flags.device, { threads: flags.threads });
  if (!flags.quiet) note("measuring the machine");
  const limits = await measureMachine(device);
  const rows = [];
  const { hidden_size: hidden, intermediate_size: ffn, vocab_size: vocab } = shape;
  const steps: [rows: number, inputs: number, outputs: number][] = [
    [1, hidden, ffn],
    [1, ffn, hidden],
    [1, hidden, vocab],
    [8, hidden, ffn],
  ];
  const sizes = [...(flags.quick ? steps.slice(0, 1) : steps), [512, hidden, ffn] as const];
  for (const name of Object.keys(KERNEL_SCHEMES)) {
    if (!flags.quiet) note(`${name}: linear`);
    for (const [m, k, n] of sizes) rows.push(await linearSpeed(device, name, m, k, n));
  }
  const { num_attention_heads: heads, num_key_value_heads: groups } = shape;
  const layout = { heads, groups, head_dim: hidden / heads, batch: 1 };
  for (const dtype of ["f32", "bf16", "i8"] as const) {
    if (!flags.quiet) note(`attention ${dtype}`);
    rows.push(await attentionSpeed(device, { ...layout, steps: 1, context: 2048, dtype }));
    rows.push(await attentionSpeed(device, { ...layout, steps: 512, context: 0, dtype }));
  }
  if (flags.json) printJson({ machine: device.backend.description, limits, kernels: rows });
  else print(kernelTable(device.backend.description, limits, rows));
}
