// octavo plan: where a model would go, before it is loaded: a table and bars for each device, and why it goes on elsewhere.
// octavo estimate-memory: how much it takes in each precision, as accelerate's command says it.

import { writeFileSync } from "node:fs";
import { Command, InvalidArgumentError, Option } from "commander";
import { listAdapters } from "../backends/webgpu/node.js";
import { torchName } from "../core/dtype.js";
import { OptionError } from "../core/errors.js";
import { omit } from "../core/options.js";
import { bytes as bytesText } from "../core/show.js";
import { FROM_PRETRAINED } from "../generate/loading-options.js";
import { ESTIMATED_DTYPES, type EstimatedDType, estimateMemory } from "../load/device-map/estimate.js";
import { STRATEGIES, type Strategy } from "../load/device-map/index.js";
import { type Memory, readMemory } from "../load/device-map/memory.js";
import { nodeMemory } from "../load/device-map/node.js";
import { type DevicePlan, type PlannedPlace, planDevices, USUAL_CONTEXT } from "../load/device-map/plan.js";
import { type MetaModel, metaFiles } from "../load/meta.js";
import { NODE } from "../load/node.js";
import { SOURCE, WEIGHTS } from "../load/options.js";
import { type SchemeShare, sharesOf } from "../load/survey.js";
import { architectureOf, taskFor } from "../models/index.js";
import type { Task } from "../nn/architecture.js";
import { cacheName } from "../nn/cache.js";
import { BITS_AND_BYTES, BitsAndBytesConfig } from "../quant/config.js";
import { SelectiveConfig } from "../quant/selective.js";
import {
  A_MODEL,
  addFlags,
  jsonOption,
  KV_CACHES,
  type KVCacheName,
  kvCacheOption,
  optionsOf,
  positive,
  schemePlanOption,
  sourceOptions,
} from "./arguments.js";
import { type Stack, svgStack, textStack } from "./chart-stack.js";
import { columnsOf } from "./chart-text.js";
import { codesOf, readPlan } from "./load-flags.js";
import { bytes, colourful, countOf, note, plural, print, printJson, sharesText, table, warner } from "./output.js";

interface PlanFlags {
  dtype: string;
  task?: Task;
  maxMemory?: Record<string, number | string>;
  deviceMap: Strategy;
  context?: number;
  batch: number;
  kvCache?: KVCacheName;
  plan?: string;
  svg?: string;
  json?: boolean;
}

const HOW = omit(FROM_PRETRAINED, [
  "threads",
  "cache_dir",
  "revision",
  "subfolder",
  "hub",
  "head_dtype",
  "compute_dtype",
]);

export function planCommand(): Command {
  const command = new Command("plan").argument("<model>", A_MODEL);
  const flags = addFlags(command, HOW);
  flags.load_in_8bit.conflicts(flags.load_in_4bit.attributeName());
  addFlags(command, BITS_AND_BYTES);
  command
    .addOption(schemePlanOption().conflicts(["loadIn8bit", "loadIn4bit"]))
    .addOption(
      new Option(
        "--max-memory <sizes>",
        "what each device may take, such as 0=1GB,1=2GB,cpu=4GB,disk (default: the free memory of this machine)",
      ).argParser(memory),
    )
    .addOption(
      new Option("--device-map <how>", "how the model is spread").choices([...STRATEGIES]).default("auto" as Strategy),
    )
    .option(
      "--context <tokens>",
      `tokens of a text (default: what the model was trained on, at most ${USUAL_CONTEXT})`,
      positive,
    )
    .option("--batch <texts>", "texts at once", positive, 1)
    .addOption(kvCacheOption())
    .option("--task <name>", "what the model is for, such as causal-lm (default: what config.json says)")
    .option("--svg <file>", "also write the picture to a file");
  return sourceOptions(command)
    .addOption(jsonOption())
    .addHelpText(
      "after",
      `
Numbers are GPUs if there are any, else logical devices of the CPU. "cpu" beside them, and "disk", hold blocks that device 0 runs.

Examples:
  octavo plan octavo/storyteller --max-memory 0=12MB,1=12MB
  octavo plan ./llama --plan plan.json
  octavo plan ./bloom --load-in-8bit --max-memory 0=1GB,cpu=4GB,disk --context 4096 --batch 8`,
    )
    .action(plan);
}

/** "0=1GB,cpu=4GB,disk": a device without a size may take anything. */
function memory(text: string): Record<string, number | string> {
  const sizes: Record<string, number | string> = {};
  for (const part of text.split(",")) {
    const [name = "", size = Number.MAX_SAFE_INTEGER, ...more] = part.trim().split("=");
    if (name === "" || more.length > 0) {
      throw new InvalidArgumentError("It must name devices and sizes, such as 0=1GB,cpu=4GB,disk.");
    }
    sizes[name] = size;
  }
  return sizes;
}

/** The model of a command line, declared. */
async function declared(
  command: string,
  model: string,
  flags: { dtype: string; task?: Task; plan?: string },
): Promise<MetaModel> {
  const { load_in_8bit, load_in_4bit } = optionsOf(command, HOW, flags);
  const codes = codesOf(command, flags, load_in_4bit === true);
  const bits =
    load_in_8bit || load_in_4bit
      ? new BitsAndBytesConfig({ bnb_4bit_quant_type: "nf4", ...codes, load_in_8bit, load_in_4bit })
      : undefined;
  const quantization = flags.plan === undefined ? bits : await readPlan(flags.plan);
  const warn = warner();
  const source = await NODE.source(model, { ...optionsOf(command, SOURCE, flags), warn, peek: true });
  try {
    const { model: made, warnings } = await metaFiles(
      source,
      async (config) => flags.task ?? taskFor(config, await architectureOf(config)),
      "if there",
      { dtype: flags.dtype, quantization, files: optionsOf(command, WEIGHTS, flags) },
    );
    warnings.forEach(warn);
    return made;
  } finally {
    await source.close();
  }
}

/** What the numbers of devices mean on this machine. */
async function meaningOf(memory: Memory): Promise<Map<number, string>> {
  const numbers = [...memory.keys()].filter((place) => typeof place === "number");
  if (numbers.length === 0) return new Map();
  let gpus: string[] = [];
  try {
    gpus = (await listAdapters())
      .filter(({ facts }) => !facts.software)
      .map(({ facts }, i) => `webgpu:${i}, ${facts.title}`);
  } catch {
    // no WebGPU here
  }
  return new Map(
    numbers.map((n) => [n, gpus.length > 0 ? (gpus[n] ?? "a GPU that is not here") : `cpu:${n}, a logical device`]),
  );
}

async function plan(model: string, flags: PlanFlags): Promise<void> {
  const memory = readMemory(flags.maxMemory ?? nodeMemory());
  const made = await declared("plan", model, flags);
  const planned = planDevices(made, {
    strategy: flags.deviceMap,
    memory,
    ours: flags.maxMemory === undefined,
    context: flags.context,
    batch: flags.batch,
    cache_dtype: flags.kvCache && KV_CACHES[flags.kvCache],
  });
  const meaning = await meaningOf(memory);
  const title = `${model} in ${made.quantization?.quantization_method() ?? torchName(made.dtype)}`;
  if (flags.svg !== undefined)
    writePicture(flags.svg, svgStack(stacksOf(planned, meaning), { title, notes: planned.reasons }));
  if (flags.json) printJson(toJson(model, made, planned, meaning));
  else print(toText(title, made, planned, meaning));
  if (flags.maxMemory === undefined) {
    note("this is for the free memory of the CPU: WebGPU does not tell that of a GPU, --max-memory 0=8GB does");
  }
}

function writePicture(file: string, svg: string): void {
  try {
    writeFileSync(file, svg);
  } catch (error) {
    throw new OptionError(`--svg: ${(error as Error).message}`, { details: { option: "svg" } });
  }
}

/** What a model that is quantized selectively stores in which scheme. */
function sharesIn({ module, quantization, dtype }: MetaModel): SchemeShare[] {
  return SelectiveConfig.is(quantization) ? sharesOf(module, quantization, dtype) : [];
}

function toJson(model: string, made: MetaModel, planned: DevicePlan, meaning: ReadonlyMap<number, string>): unknown {
  return {
    model,
    model_type: made.config.model_type,
    dtype: torchName(made.dtype),
    quantization: made.quantization?.quantization_method() ?? null,
    weight_bytes: made.weight_bytes,
    schemes: sharesIn(made),
    context: planned.context,
    batch: planned.batch,
    cache_dtype: cacheName(planned.cache_dtype),
    main: planned.main,
    places: planned.places.map(({ limit, ...place }) => ({
      ...place,
      limit: limit ?? null,
      device: typeof place.place === "number" ? meaning.get(place.place) : place.place,
    })),
    device_map: Object.fromEntries(planned.device_map),
    reasons: planned.reasons,
  };
}

/** "transformer.h.0 to 11". */
function rangeOf(blocks: readonly string[]): string {
  if (blocks.length === 0) return "";
  const [first, last] = [blocks[0]!, blocks.at(-1)!];
  return blocks.length === 1 ? first : `${first} to ${last.split(".").at(-1)}`;
}

function nameOf({ place }: PlannedPlace, meaning: ReadonlyMap<number, string>): string {
  return typeof place === "number" ? `${place} (${meaning.get(place)})` : place;
}

/** True for a limit that somebody set. */
const isLimit = (limit: number | undefined): limit is number => limit !== undefined && limit < Number.MAX_SAFE_INTEGER;

function toText(title: string, made: MetaModel, planned: DevicePlan, meaning: ReadonlyMap<number, string>): string {
  const { places, context, batch, cache_dtype, reasons } = planned;
  const head = ["device", "holds", "weights", "cache", "visiting", "work", "in all", "of"];
  const rows = places.map((one) => {
    const what = [
      one.main ? "all but the blocks" : "",
      one.blocks.length > 0 ? `${plural(one.blocks.length, "block")}: ${rangeOf(one.blocks)}` : "",
    ];
    const sizes = [one.weights, one.cache, one.visiting, one.work, one.total].map((size) =>
      size === 0 ? "-" : bytes(size),
    );
    return [
      nameOf(one, meaning),
      what.filter((text) => text).join(", ") || "nothing",
      ...sizes,
      isLimit(one.limit) ? bytes(one.limit) : "-",
    ];
  });
  const width = Math.min(columnsOf(process.stdout, process.env), 120);
  const full = reasons.length === 0 ? "" : `\nwhy\n${reasons.map((reason) => `  ${reason}\n`).join("")}`;
  const notes = [
    `cache: ${plural(batch, "text")} of ${plural(context, "token")} in ${cacheName(cache_dtype)}`,
    ...(places.some(({ visiting }) => visiting > 0)
      ? [`visiting: two blocks of the cpu or the disk at a time, which device ${planned.main} runs`]
      : []),
    "work: an estimate of what a pass takes besides",
    ...(places.some(({ place, weights }) => place === "disk" && weights > 0)
      ? ["the disk needs a folder: from_pretrained(name, { offload_folder })"]
      : []),
  ];
  return (
    `${title}: ${countOf(made.num_parameters())} parameters, ${bytes(made.weight_bytes)}\n${sharesText(sharesIn(made))}\n` +
    table([head, ...rows], [2, 3, 4, 5, 6, 7]) +
    `\n${textStack(stacksOf(planned, meaning), { width, colour: colourful(process.stdout, process.env) })}` +
    `${full}\n${notes.map((line) => `${line}\n`).join("")}`
  );
}

function stacksOf({ places }: DevicePlan, meaning: ReadonlyMap<number, string>): Stack[] {
  return places.map((one) => ({
    name: typeof one.place === "number" ? `${one.place} ${meaning.get(one.place)!.split(",")[0]}` : one.place,
    most: isLimit(one.limit) ? one.limit : undefined,
    parts: [
      ["weights", one.weights],
      ["cache", one.cache],
      ["visiting", one.visiting],
      ["work", one.work],
    ],
    text: `${bytesText(one.total)}${isLimit(one.limit) ? ` of ${bytesText(one.limit)}` : ""}`,
  }));
}

interface EstimateFlags {
  dtypes?: EstimatedDType[];
  task?: Task;
  json?: boolean;
}

export function estimateCommand(): Command {
  const command = new Command("estimate-memory")
    .argument("<model>", A_MODEL)
    .addOption(new Option("--dtypes <names...>", "precisions to show").choices([...ESTIMATED_DTYPES]))
    .option("--task <name>", "what the model is for, such as causal-lm (default: what config.json says)");
  return sourceOptions(command)
    .addOption(jsonOption())
    .addHelpText(
      "after",
      `
Sizes are those of float32 divided by 2, 4 and 8, as accelerate estimates them; "in Octavo" is what loading really takes.

Examples:
  octavo estimate-memory bigscience/bloom-560m
  octavo estimate-memory ./llama --dtypes float16 int8 --json`,
    )
    .action(estimate);
}

/** What loading takes in the precision that accelerate calls so. */
const LOADED: Readonly<Record<EstimatedDType, { dtype: string; quantization?: BitsAndBytesConfig }>> = {
  float32: { dtype: "float32" },
  float16: { dtype: "float16" },
  int8: { dtype: "float16", quantization: new BitsAndBytesConfig({ load_in_8bit: true }) },
  int4: { dtype: "float16", quantization: new BitsAndBytesConfig({ load_in_4bit: true, bnb_4bit_quant_type: "nf4" }) },
};

async function estimate(model: string, flags: EstimateFlags): Promise<void> {
  const warn = warner();
  const source = await NODE.source(model, { ...optionsOf("estimate-memory", SOURCE, flags), warn, peek: true });
  const taskOf = async (config: Parameters<typeof architectureOf>[0]): Promise<Task> =>
    flags.task ?? taskFor(config, await architectureOf(config));
  const dtypes = flags.dtypes ?? [...ESTIMATED_DTYPES];
  const real = new Map<EstimatedDType, number | undefined>();
  let full: MetaModel;
  try {
    const declared = await metaFiles(source, taskOf, "none", { dtype: "float32" });
    full = declared.model;
    declared.warnings.forEach(warn);
    // Codes in files stay what they are.
    for (const dtype of dtypes) {
      const own = full.quantization ? undefined : (await metaFiles(source, taskOf, "none", LOADED[dtype])).model;
      real.set(dtype, own?.weight_bytes);
    }
  } finally {
    await source.close();
  }
  const estimates = estimateMemory(full, dtypes);
  if (flags.json) {
    printJson({
      model,
      parameters: full.num_parameters(),
      estimates: estimates.map((one) => ({
        ...one,
        training: one.training ?? null,
        training_peak: one.training_peak ?? null,
        loaded: real.get(one.dtype) ?? null,
      })),
    });
    return;
  }
  const rows = estimates.map(({ dtype, largest_layer, total, training_peak }) => {
    const loaded = real.get(dtype);
    return [
      dtype,
      bytes(largest_layer),
      bytes(total),
      training_peak === undefined ? "N/A" : bytes(training_peak),
      loaded === undefined ? "-" : bytes(loaded),
    ];
  });
  const head = ["dtype", "largest layer", "total size", "training using Adam", "in Octavo"];
  print(`memory usage for loading ${model}\n\n${table([head, ...rows], [1, 2, 3, 4])}`);
}
