// octavo quantize: writes a checkpoint in 8 or 4 bits, as transformers and bitsandbytes store it, one file of weights at a time.

import { readdir, writeFile } from "node:fs/promises";
import { Command, InvalidArgumentError, Option } from "commander";
import { FOLDERS } from "../checkpoints/folder-write.js";
import { OptionError } from "../core/errors.js";
import { omit } from "../core/options.js";
import { FROM_PRETRAINED } from "../generate/loading-options.js";
import { type ChooseOptions, type ChosenPlan, choosePlan } from "../load/choose.js";
import { requestDevice } from "../load/device.js";
import { NODE } from "../load/node.js";
import { SOURCE } from "../load/options.js";
import { quantizeCheckpoint } from "../load/quantize.js";
import { SAVE } from "../load/save-options.js";
import { bytesOf } from "../load/sizes.js";
import { BITS_AND_BYTES, BitsAndBytesConfig } from "../quant/config.js";
import type { Quantization } from "../quant/index.js";
import type { Source } from "../sources/source.js";
import {
  A_MODEL,
  addFlags,
  deviceOption,
  jsonOption,
  optionsOf,
  schemePlanOption,
  sourceOptions,
  threadsOption,
} from "./arguments.js";
import { EXIT, onInterrupt } from "./failures.js";
import { codesOf, readPlan } from "./load-flags.js";
import { bytes, isInteractive, print, printJson, table, warner } from "./output.js";
import { LoadingBar, PercentBar } from "./progress.js";

interface QuantizeFlags {
  plan?: string;
  targetBytes?: number;
  writePlan?: string;
  device?: string;
  threads?: number;
  force?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** Options of reading; `--variant` is that of the files that are written. */
const HOW = omit(FROM_PRETRAINED, [
  ...(["threads", "cache_dir", "revision", "subfolder", "hub", "head_dtype", "compute_dtype", "variant"] as const),
]);

export function quantizeCommand(): Command {
  const command = new Command("quantize").argument("<model>", A_MODEL).argument("<folder>", "the new folder");
  const flags = addFlags(command, HOW);
  flags.load_in_8bit.conflicts(flags.load_in_4bit.attributeName());
  addFlags(command, BITS_AND_BYTES);
  const bits = ["loadIn8bit", "loadIn4bit"];
  command
    .addOption(schemePlanOption().conflicts([...bits, "targetBytes"]))
    .addOption(
      new Option(
        "--target-bytes <size>",
        "choose a scheme for each linear by measured error, so that the weights take at most this in memory, such as 700MB",
      )
        .argParser(size)
        .conflicts(bits),
    )
    .addOption(new Option("--write-plan <file>", "write the plan that --target-bytes chose"));
  addFlags(command, SAVE);
  command.option("--force", "replace a folder that holds files").addOption(deviceOption()).addOption(threadsOption());
  return sourceOptions(command)
    .addOption(jsonOption())
    .option("-q, --quiet", "no progress and no summary on stderr")
    .addHelpText(
      "after",
      `
Examples:
  octavo quantize bigscience/bloom-560m bloom-int8 --load-in-8bit
  octavo quantize ./llama ./llama-nf4 --load-in-4bit --double-quant --max-shard-size 2GB
  octavo quantize ./llama ./llama-mixed --plan plan.json
  octavo quantize ./llama ./llama-700 --target-bytes 700MB --write-plan plan.json

A plan is { "modules": { "self_attn": "int8", "mlp": "nf4", "lm_head": "bfloat16" } }: the first pattern that matches a linear's path
counts. Octavo alone reads such a model; each matrix is stored as bitsandbytes stores its scheme. --target-bytes takes, again and
again, the step to a smaller scheme with the least relative error |W - W'|^2 / |W|^2 per byte saved.`,
    )
    .action(quantize);
}

/** @throws InvalidArgumentError */
function size(text: string): number {
  const bytes = bytesOf(/^\d+$/.test(text) ? Number(text) : text);
  if (bytes === undefined) throw new InvalidArgumentError("It must be bytes, or a size such as 700MB or 4GiB.");
  return bytes;
}

/** What the flags say; undefined where it is to be chosen. @throws OptionError */
async function asked(flags: QuantizeFlags): Promise<Quantization | undefined> {
  const { load_in_8bit, load_in_4bit } = optionsOf("quantize", HOW, flags);
  const codes = codesOf("quantize", flags, load_in_4bit === true);
  if (flags.writePlan !== undefined && flags.targetBytes === undefined) {
    throw new OptionError("--write-plan needs --target-bytes");
  }
  if (flags.plan !== undefined) return readPlan(flags.plan);
  if (load_in_8bit) return new BitsAndBytesConfig({ load_in_8bit });
  if (load_in_4bit) return new BitsAndBytesConfig({ bnb_4bit_quant_type: "nf4", ...codes, load_in_4bit });
  if (flags.targetBytes !== undefined) return undefined;
  throw new OptionError("quantize needs --load-in-8bit or --load-in-4bit, --plan or --target-bytes");
}

async function quantize(model: string, folder: string, flags: QuantizeFlags): Promise<void> {
  const { dtype = "auto", use_safetensors } = optionsOf("quantize", HOW, flags);
  const { max_shard_size, variant } = optionsOf("quantize", SAVE, flags);
  const sources = optionsOf("quantize", SOURCE, flags);
  const given = await asked(flags);
  const there = await readdir(folder).catch(() => []);
  if (there.length > 0 && !flags.force) {
    throw new OptionError(`${folder} holds files already`, {
      details: { file: folder },
      hint: "name another folder, or pass --force to replace the model in it",
    });
  }
  const abort = new AbortController();
  onInterrupt(() => {
    if (abort.signal.aborted) process.exit(EXIT.interrupted);
    abort.abort(new Error("interrupted"));
  });
  const begin = performance.now();
  const warn = warner(flags.quiet);
  const source = await NODE.source(model, { ...sources, warn, signal: abort.signal });
  const bar = !flags.quiet && isInteractive() ? new LoadingBar() : undefined;
  try {
    const device = await requestDevice(flags.device, { threads: flags.threads });
    try {
      const weights = { use_safetensors };
      const chosen = given ? undefined : await choose(flags, source, { dtype, weights, device, signal: abort.signal });
      const quantization = given ?? chosen!.config;
      const saved = await quantizeCheckpoint(source, folder, FOLDERS, {
        ...{ device, name: model, dtype, quantization, max_shard_size, variant, weights },
        signal: abort.signal,
        progress_callback: bar && ((event) => bar.hear(event)),
      });
      bar?.stop();
      const seconds = (performance.now() - begin) / 1000;
      saved.warnings.forEach(warn);
      const plan = chosen && { weight_bytes: chosen.bytes, plan: chosen.config.to_dict(), linears: chosen.linears };
      if (flags.json) {
        printJson({ model, folder, ...saved, seconds, ...plan });
        return;
      }
      if (chosen) print(chosenText(chosen));
      print(`${folder}: ${saved.files.length} files, ${bytes(saved.bytes)} of weights, ${seconds.toFixed(1)} s\n`);
    } finally {
      await device.close();
    }
  } finally {
    bar?.stop();
    await source.close();
  }
}

/** Chooses a plan, with a bar, and writes it if it is asked for. */
async function choose(flags: QuantizeFlags, source: Source, options: Omit<ChooseOptions, "target_bytes">) {
  const bar = !flags.quiet && isInteractive() ? new PercentBar("measuring errors") : undefined;
  try {
    const target_bytes = flags.targetBytes!;
    const chosen = await choosePlan(source, { ...options, target_bytes, progress: (done) => bar?.update(done) });
    if (flags.writePlan !== undefined) {
      await writeFile(flags.writePlan, `${JSON.stringify(chosen.config.to_dict(), undefined, 2)}\n`).catch((error) => {
        throw new OptionError(`--write-plan: ${(error as Error).message}`, { details: { option: "write-plan" } });
      });
    }
    return chosen;
  } finally {
    bar?.stop();
  }
}

/** The chosen schemes, with the root mean square of their matrices' relative errors. */
function chosenText({ linears, bytes: size }: ChosenPlan): string {
  const rows = [...new Set(linears.map(({ scheme }) => scheme))].map((scheme) => {
    const own = linears.filter((one) => one.scheme === scheme);
    const mean = own.reduce((sum, { error }) => sum + error, 0) / own.length;
    return [
      scheme === "auto" ? "as they are" : scheme,
      String(own.length),
      bytes(own.reduce((sum, one) => sum + one.bytes, 0)),
      `${(100 * Math.sqrt(mean)).toFixed(2)} %`,
    ];
  });
  return `${table([["scheme", "linears", "size", "error"], ...rows], [1, 2, 3])}weights in memory: ${bytes(size)}\n`;
}
