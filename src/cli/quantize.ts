// octavo quantize: writes a checkpoint in 8 or 4 bits, as transformers and bitsandbytes store it, one file of weights at a time.

import { readdir } from "node:fs/promises";
import { Command } from "commander";
import { FOLDERS } from "../checkpoints/folder-write.js";
import { OptionError } from "../core/errors.js";
import { omit } from "../core/options.js";
import { FROM_PRETRAINED } from "../generate/options.js";
import { requestDevice } from "../load/device.js";
import { NODE } from "../load/node.js";
import { SOURCE } from "../load/options.js";
import { quantizeCheckpoint } from "../load/quantize.js";
import { SAVE } from "../load/save.js";
import { BITS_AND_BYTES, BitsAndBytesConfig, type BitsAndBytesOptions } from "../quant/config.js";
import { A_MODEL, addFlags, deviceOption, jsonOption, optionsOf, sourceOptions, threadsOption } from "./arguments.js";
import { EXIT, onInterrupt } from "./failures.js";
import { codesOf } from "./load-flags.js";
import { bytes, isInteractive, print, printJson, warner } from "./output.js";
import { LoadingBar } from "./progress.js";

interface QuantizeFlags {
  device?: string;
  threads?: number;
  force?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** Options of reading; `--variant` is that of the files that are written. */
const HOW = omit(FROM_PRETRAINED, [
  ...(["threads", "cache_dir", "revision", "subfolder", "head_dtype", "compute_dtype", "variant"] as const),
]);

export function quantizeCommand(): Command {
  const command = new Command("quantize")
    .description("write a model in 8 or 4 bits, as transformers and bitsandbytes store it")
    .argument("<model>", A_MODEL)
    .argument("<folder>", "the new folder");
  const flags = addFlags(command, HOW);
  flags.load_in_8bit.conflicts(flags.load_in_4bit.attributeName());
  addFlags(command, BITS_AND_BYTES);
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
  octavo quantize ./llama ./llama-nf4 --load-in-4bit --double-quant --max-shard-size 2GB`,
    )
    .action(quantize);
}

async function quantize(model: string, folder: string, flags: QuantizeFlags): Promise<void> {
  const { load_in_8bit, load_in_4bit, dtype = "auto", use_safetensors } = optionsOf("quantize", HOW, flags);
  const codes = codesOf("quantize", flags, load_in_4bit === true);
  const { max_shard_size, variant } = optionsOf("quantize", SAVE, flags);
  const sources = optionsOf("quantize", SOURCE, flags);
  if (!load_in_8bit && !load_in_4bit) {
    throw new OptionError("quantize needs --load-in-8bit or --load-in-4bit");
  }
  const there = await readdir(folder).catch(() => []);
  if (there.length > 0 && !flags.force) {
    throw new OptionError(`${folder} holds files already`, {
      details: { file: folder },
      hint: "name another folder, or pass --force to replace the model in it",
    });
  }
  const four: BitsAndBytesOptions = { bnb_4bit_quant_type: "nf4", ...codes, load_in_4bit: true };
  const quantization = new BitsAndBytesConfig(load_in_8bit ? { load_in_8bit } : four);

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
      const saved = await quantizeCheckpoint(source, folder, FOLDERS, {
        ...{ device, name: model, dtype, quantization, max_shard_size, variant, weights: { use_safetensors } },
        signal: abort.signal,
        progress_callback: bar && ((event) => bar.hear(event)),
      });
      bar?.stop();
      const seconds = (performance.now() - begin) / 1000;
      saved.warnings.forEach(warn);
      if (flags.json) printJson({ model, folder, ...saved, seconds });
      else print(`${folder}: ${saved.files.length} files, ${bytes(saved.bytes)} of weights, ${seconds.toFixed(1)} s\n`);
    } finally {
      await device.close();
    }
  } finally {
    bar?.stop();
    await source.close();
  }
}
