// Reading arguments: numbers and words as commander hands them over, and the options that several commands have.

import { availableParallelism } from "node:os";
import { InvalidArgumentError, Option } from "commander";
import { checkDeviceName, DEVICE_NAMES } from "../load/device.js";
import type { CacheDType } from "../nn/cache.js";
import { note, plural } from "./output.js";

/** @throws InvalidArgumentError, which commander reports with the option's name */
export function whole(text: string): number {
  if (!/^[+-]?\d+$/.test(text) || !Number.isSafeInteger(Number(text))) {
    throw new InvalidArgumentError("It must be a whole number.");
  }
  return Number(text);
}

export function positive(text: string): number {
  const value = whole(text);
  if (value < 1) throw new InvalidArgumentError("It must be a whole number above 0.");
  return value;
}

export function real(text: string): number {
  if (text.trim() === "" || !Number.isFinite(Number(text))) throw new InvalidArgumentError("It must be a number.");
  return Number(text);
}

export const deviceOption = (): Option =>
  new Option(
    "--device <name>",
    `where to run: ${DEVICE_NAMES.join(", ")}, webgpu:1 (the second GPU), ... (default: cpu, or wasm where no native add-on is built)`,
  ).argParser(deviceName);

function deviceName(text: string): string {
  try {
    checkDeviceName(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message.replace(/\n\s*hint: /, "; "));
  }
  return text;
}
/** Threads per processor above which nobody means it: each costs a stack, and all of them wait for one another. */
const MOST_THREADS = 4;

export const threadsOption = (): Option =>
  new Option("--threads <n>", "threads of the cpu or wasm device (default: one per physical core)").argParser(threads);

function threads(text: string): number {
  const wanted = positive(text);
  const processors = availableParallelism();
  const most = MOST_THREADS * processors;
  if (wanted <= most) return wanted;
  note(`warning: --threads ${wanted} is far above the ${plural(processors, "processor")} here; ${most} are used`);
  return most;
}
export const revisionOption = (): Option =>
  new Option("--revision <name>", "branch, tag or commit of a model in the cache (default: main)");
export const cacheOption = (): Option =>
  new Option("--cache-dir <folder>", "Hugging Face cache to look in (default: as Python has it)");
export const dtypeOption = (): Option =>
  new Option("--dtype <name>", "dtype of what is not quantized: auto, float32, bfloat16, float16").default("auto");
/** What `--kv-cache` takes, and the dtypes that it means. */
export const KV_CACHES = { f32: "f32", bf16: "bf16", int8: "i8" } as const satisfies Record<string, CacheDType>;
export type KVCacheName = keyof typeof KV_CACHES;
export const kvCacheOption = (): Option =>
  new Option("--kv-cache <type>", "keep keys and values in this (default: f32 for f32 models, else bf16)").choices(
    Object.keys(KV_CACHES),
  );
export const jsonOption = (): Option => new Option("--json", "one JSON object on stdout instead of text");
