// octavo bench: the speed of a model in one or several storages, beside the limits of the machine. A child process measures
// each storage, so that peak memory is per storage.

import { type ChildProcess, fork } from "node:child_process";
import { rmSync } from "node:fs";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { loadavg, tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { Command, Option } from "commander";
import { AbortError, NotFoundError, OctavoError, OptionError } from "../core/errors.js";
import { benchModel, crowded, FULL_PLAN, type ModelSpeed, QUICK_PLAN } from "../eval/bench.js";
import { writeRandomCheckpoint } from "../eval/checkpoint.js";
import { type MachineLimits, measureMachine } from "../eval/machine.js";
import { shapeConfig } from "../eval/shapes.js";
import { TASK_SHAPES } from "../eval/tasks.js";
import { unitOf } from "../eval/units.js";
import { VARIANTS, variantNames } from "../eval/variants.js";
import { AutoModelForCausalLM } from "../generate/auto.js";
import { chooseDevice, requestDevice } from "../load/device.js";
import { NODE } from "../load/node.js";
import { SOURCE } from "../load/options.js";
import { fillRandomly } from "../load/random.js";
import { surveyModel } from "../load/survey.js";
import { buildModel } from "../models/index.js";
import { type CacheDType, cacheName } from "../nn/cache.js";
import { BitsAndBytesConfig } from "../quant/config.js";
import { headScheme, schemeOf } from "../quant/index.js";
import {
  A_MODEL,
  deviceOption,
  flagOf,
  jsonOption,
  KV_CACHES,
  type KVCacheName,
  kvCacheOption,
  optionsOf,
  positive,
  sourceOptions,
  threadsOption,
} from "./arguments.js";
import { benchChartText, benchPanels, benchTable, type VariantReport } from "./bench-report.js";
import { svgChart } from "./chart-svg.js";
import { columnsOf, textChart } from "./chart-text.js";
import { die, type ErrorReport, errorReport, onInterrupt, PrintedError } from "./failures.js";
import { colourful, note, print, printJson, warner } from "./output.js";
import { PROGRAM } from "./version.js";

export interface BenchFlags {
  shape?: string;
  compare?: string;
  loadIn8bit?: boolean;
  loadIn4bit?: boolean;
  fromFile?: boolean;
  kernels?: boolean;
  table?: "announcement";
  attention?: boolean;
  contexts?: number[];
  kvCache?: KVCacheName;
  quick?: boolean;
  chart?: boolean;
  svg?: string;
  device?: string;
  threads?: number;
  json?: boolean;
  quiet?: boolean;
  /** Set in the child processes, which measure one storage each. */
  child?: boolean;
}

const DEFAULT_STORAGES = "f32,bf16,int8,nf4,nf4-int8";

export function benchCommand(): Command {
  const command = new Command("bench")
    .argument("[model]", `${A_MODEL}; or give --shape`)
    .option(
      "--shape <name>",
      "a model with random weights: XS, S (0.3 billion parameters), M (TinyLlama-1.1B), T5-large, T5-3B, BERT-base or MoE",
    )
    .option("--compare <list>", `storages: ${Object.keys(VARIANTS).join(", ")} (default: ${DEFAULT_STORAGES})`)
    .addOption(new Option("--load-in-8bit", "int8 alone").conflicts(["loadIn4bit", "compare"]))
    .addOption(new Option("--load-in-4bit", "nf4-int8 alone, as octavo generate loads it on CPUs").conflicts("compare"))
    .option("--from-file", "write the shape as a bf16 checkpoint first and load from that, to time loading")
    .addOption(kvCacheOption())
    .addOption(
      new Option(
        "--kernels",
        "measure single kernels instead of a model, in the sizes of --shape (default: M)",
      ).conflicts(["compare", "loadIn8bit", "loadIn4bit", "fromFile", "kvCache", "chart", "svg"]),
    )
    .addOption(
      new Option(
        "--table <name>",
        "announcement: milliseconds per token of the shapes M and T5-3B at batch 1, 8 and 32, in bf16, int8 and nf4",
      )
        .choices(["announcement"])
        .conflicts(["shape", "loadIn8bit", "loadIn4bit", "fromFile", "kvCache", "chart", "svg", "kernels"]),
    )
    .addOption(
      new Option(
        "--attention",
        "attention layers of Falcon-7b and Llama-7b, flash beside eager, forward and training; attention alone; padding",
      ).conflicts(["shape", "compare", "loadIn8bit", "loadIn4bit", "fromFile", "kvCache", "kernels", "table"]),
    )
    .addOption(
      new Option(
        "--contexts <list>",
        "tokens of the layers of --attention (default: 4096; 512 with --quick)",
      ).argParser(contexts),
    )
    .option("--quick", "fewer sizes and fewer runs")
    .option("--chart", "draw speeds as bars")
    .option("--svg <file>", "write a chart of the speeds to a file")
    .addOption(deviceOption())
    .addOption(threadsOption());
  sourceOptions(command).addOption(jsonOption()).option("-q, --quiet", "no progress on stderr");
  return command.addOption(command.createOption("--child").hideHelp()).action(bench);
}

/** @throws InvalidArgumentError */
function contexts(text: string): number[] {
  return text.split(",").map((one) => positive(one.trim()));
}

async function bench(model: string | undefined, given: BenchFlags): Promise<void> {
  const [strange] = model === undefined ? placeFlags(given) : [];
  if (strange !== undefined) throw new OptionError(`${strange} is of a model, and none is read`);
  if (given.contexts && !given.attention) throw new OptionError("--contexts is for --attention");
  if (given.kernels) {
    if (model !== undefined) throw new OptionError("kernels are measured with random weights: no model is read");
    const flags = await settled(given);
    return (await import("./bench-kernels.js")).benchKernels(flags);
  }
  if (given.table) {
    if (model !== undefined) throw new OptionError("the table is of models with random weights: no model is read");
    return (await import("./bench-announcement.js")).benchAnnouncement(await settled(given));
  }
  if (given.attention) {
    if (model !== undefined) throw new OptionError("attention is measured with random weights: no model is read");
    const { svg } = given;
    if (svg !== undefined) await checkFolder(svg);
    const flags = await settled(given);
    return (await import("./bench-attention.js")).benchAttention(flags, (chart) => writeChart(svg!, chart));
  }
  if ((model === undefined) === (given.shape === undefined)) {
    throw new OptionError("bench needs a model or a --shape, and not both", { hint: "octavo bench --shape S" });
  }
  if (given.fromFile && given.shape === undefined) {
    throw new OptionError("--from-file writes a --shape as a checkpoint; a model is already on disk");
  }
  if (given.shape !== undefined && Object.hasOwn(TASK_SHAPES, given.shape.toUpperCase())) {
    refuseForTasks(given);
    return (await import("./bench-tasks.js")).benchTasks({ ...(await settled(given)), shape: given.shape });
  }
  if (given.shape !== undefined) shapeConfig(given.shape, Object.keys(TASK_SHAPES));
  const names = variantNames(
    given.loadIn8bit ? "int8" : given.loadIn4bit ? "nf4-int8" : (given.compare ?? DEFAULT_STORAGES),
  );
  if (given.child) {
    try {
      const warnings: string[] = [];
      const report = await measure(names[0]!, model, given, (message) => warnings.push(message));
      process.send!({ report, warnings } satisfies Told);
    } catch (error) {
      process.send!({ error: errorReport(error) } satisfies Told);
      throw error;
    }
    return;
  }
  if (given.svg !== undefined) await checkFolder(given.svg);
  const warn = warner(given.quiet);
  if (model !== undefined) await checkModel(model, given, warn);
  const flags = await settled(given);
  const leftovers = new Leftovers();
  try {
    const folder = flags.fromFile ? await leftovers.folder() : undefined;
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
    for (const name of names) reports.push(await inChild(name, folder ?? model, flags, leftovers, warn));
    await show(model, flags, { ...limits, load }, reports);
  } finally {
    await leftovers.clear();
  }
}

async function show(
  model: string | undefined,
  flags: BenchFlags,
  limits: { machine: string; limits: MachineLimits; load: number },
  reports: readonly VariantReport[],
): Promise<void> {
  const title = flags.shape === undefined ? model! : `shape ${flags.shape.toUpperCase()}`;
  if (flags.json) printJson({ model: flags.shape ?? model, ...limits, storages: reports });
  else {
    print(benchTable(title, limits, reports));
    if (flags.chart) {
      const { stdout, env } = process;
      print(textChart(benchPanels(reports), { width: columnsOf(stdout, env), colour: colourful(stdout, env) }));
    }
  }
  if (flags.svg !== undefined)
    await writeChart(flags.svg, svgChart(benchPanels(reports), benchChartText(title, limits, reports)));
}

/** What a child process sends: its report with the warnings of the load, or its error. */
interface Told {
  readonly report?: VariantReport;
  readonly warnings?: readonly string[];
  readonly error?: ErrorReport;
}

/** Cleans up the child process and the checkpoint when the command ends, also by a signal. */
class Leftovers {
  child: ChildProcess | undefined;
  #folder: string | undefined;

  constructor() {
    onInterrupt(() => {
      this.child?.kill("SIGKILL");
      if (this.#folder !== undefined) rmSync(this.#folder, { recursive: true, force: true, maxRetries: 3 });
      die(new AbortError("the benchmark was interrupted"));
    });
  }

  async folder(): Promise<string> {
    this.#folder = await mkdtemp(join(tmpdir(), "octavo-bench-"));
    return this.#folder;
  }

  async clear(): Promise<void> {
    if (this.#folder !== undefined) await rm(this.#folder, { recursive: true, force: true });
  }
}

/** The flags with "auto" resolved, so that all storages are measured on one device, beside its limits. */
async function settled(flags: BenchFlags): Promise<BenchFlags> {
  if (flags.device !== "auto") return flags;
  const { name, reason } = await chooseDevice();
  if (!flags.quiet) note(`device auto: ${name} (${reason})`);
  return { ...flags, device: name, threads: name.startsWith("webgpu") ? undefined : flags.threads };
}

/** @throws OptionError for options that only plain decoders have */
function refuseForTasks({ shape, ...flags }: BenchFlags): void {
  for (const [name, given] of [
    ["--from-file", flags.fromFile],
    ["--kv-cache", flags.kvCache],
    ["--chart", flags.chart],
    ["--svg", flags.svg],
    ["--load-in-8bit", flags.loadIn8bit],
    ["--load-in-4bit", flags.loadIn4bit],
  ] as const) {
    if (given) throw new OptionError(`${name} is for decoders; the shape ${shape} takes --compare, --quick and --json`);
  }
}

/** Where the model is, as the flags of a command: each flag, and its value behind it. */
function placeFlags(flags: BenchFlags): string[] {
  const given = optionsOf("bench", SOURCE, flags);
  return Object.entries(SOURCE).flatMap(([name, entry]) => {
    const value = given[name as keyof typeof given];
    return value === undefined ? [] : [flagOf(name, entry).long!, String(value)];
  });
}

/** Checks before measuring that the model can be loaded. */
async function checkModel(model: string, flags: BenchFlags, warn: (message: string) => void): Promise<void> {
  const source = await NODE.source(model, { ...optionsOf("bench", SOURCE, flags), warn });
  try {
    await surveyModel(source, { task: "causal-lm", weights: "required" }); // a load tells its warnings
  } finally {
    await source.close();
  }
}

/** Checks before measuring, which takes minutes, that the chart can be written. @throws NotFoundError */
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

/** Runs this command for one storage in a child process. */
async function inChild(
  name: string,
  model: string | undefined,
  flags: BenchFlags,
  leftovers: Leftovers,
  warn: (message: string) => void,
): Promise<VariantReport> {
  const args = ["bench", "--child", "--compare", name];
  if (flags.device !== undefined) args.push("--device", flags.device);
  if (model !== undefined) args.push(model, ...placeFlags(flags));
  else args.push("--shape", flags.shape!);
  if (flags.quick) args.push("--quick");
  if (flags.kvCache) args.push("--kv-cache", flags.kvCache);
  if (flags.quiet) args.push("--quiet");
  if (flags.threads !== undefined) args.push("--threads", String(flags.threads));
  const child = fork(PROGRAM, args, { stdio: ["ignore", "ignore", "inherit", "ipc"] });
  leftovers.child = child;
  return new Promise((resolve, reject) => {
    let told: Told = {};
    child.on("message", (message) => {
      told = message as Told;
    });
    child.on("error", reject);
    child.on("exit", (code, signal) => {
      leftovers.child = undefined;
      told.warnings?.forEach(warn);
      if (told.report && code === 0) resolve(told.report);
      else if (code) reject(new PrintedError(`measuring ${name} failed`, code, told.error));
      else reject(new OctavoError("ERR_BENCH", `measuring ${name} ended with ${signal ?? "no result"}`));
    });
  });
}

async function measure(
  name: string,
  model: string | undefined,
  flags: BenchFlags,
  warn: (message: string) => void,
): Promise<VariantReport> {
  const { kernel, dtype, quantization, compute, head, cache } = VARIANTS[name]!;
  const progress = flags.quiet ? undefined : (what: string): void => note(`${name}: ${what}`);
  const plan = flags.quick ? QUICK_PLAN : FULL_PLAN;
  const cache_dtype = flags.kvCache ? KV_CACHES[flags.kvCache] : (cache ?? (dtype === "float32" ? "f32" : "bf16"));
  await using device = await requestDevice(flags.device, { threads: flags.threads });
  const options = { cache_dtype, unit: unitOf(device, kernel), progress };
  progress?.("loading");
  const start = performance.now();
  if (model !== undefined) {
    await using loaded = await AutoModelForCausalLM.from_pretrained(model, {
      ...optionsOf("bench", SOURCE, flags),
      device,
      dtype,
      quantization_config: quantization,
      compute_dtype: compute,
      head_dtype: head,
    });
    const load_s = (performance.now() - start) / 1000;
    loaded.warnings.forEach(warn);
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
  const tree = await buildModel(config, "causal-lm");
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
