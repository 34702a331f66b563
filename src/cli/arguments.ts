// Flags: those of the library's options, made from their tables, and those shared by several commands.

import { availableParallelism } from "node:os";
import { type Command, InvalidArgumentError, Option } from "commander";
import { type Entry, type Options, readOptions, type Table } from "../core/options.js";
import * as z from "../core/schema.js";
import { FROM_PRETRAINED } from "../generate/loading-options.js";
import { checkDeviceName, DEVICE_NAMES } from "../load/device.js";
import { DEVICE, SOURCE } from "../load/options.js";
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

/** The flag of an option of the library, by its entry in the option's table. The library checks the value. */
export function flagOf(
  name: string,
  { flag = name.replaceAll("_", "-"), value = "<value>", ...entry }: Entry<unknown>,
): Option {
  const { schema, help } = entry;
  if (schema instanceof z.BooleanSchema) return new Option(`--${flag}`, help);
  const option = new Option(`--${flag} ${value}`, help);
  if (schema instanceof z.LiteralSchema) return option.choices([...schema.values].map(String));
  return schema instanceof z.NumberSchema ? option.argParser(schema.isInt ? whole : real) : option;
}

/** Adds a flag for each option of a table that has help, and returns the flags by option name. */
export function addFlags<T extends Table>(command: Command, table: T): { readonly [Name in keyof T]: Option } {
  const flags = Object.entries(table)
    .filter(([, { help }]) => help !== undefined)
    .map(([name, entry]) => [name, flagOf(name, entry)] as const);
  for (const [name, flag] of flags) {
    command.addOption(flag);
    const { help_off } = table[name]!;
    if (help_off !== undefined) command.addOption(new Option(flag.long!.replace("--", "--no-"), help_off));
  }
  return Object.fromEntries(flags) as { readonly [Name in keyof T]: Option };
}

/** The options of a table that were given as flags. @throws OptionError for a value that the library rejects */
export function optionsOf<T extends Table>(command: string, table: T, flags: object): Options<T> {
  const given: Record<string, unknown> = {};
  for (const [name, entry] of Object.entries(table)) {
    if (entry.help === undefined) continue;
    given[name] = (flags as Record<string, unknown>)[flagOf(name, entry).attributeName()];
  }
  return readOptions(command, table, given);
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
/** Most threads per processor: each thread costs a stack, and all of them wait for one another. */
const MOST_THREADS = 4;

export const deterministicOption = (): Option => flagOf("deterministic", DEVICE.deterministic);

export const threadsOption = (): Option => flagOf("threads", DEVICE.threads).argParser(threads);

function threads(text: string): number {
  const wanted = positive(text);
  const processors = availableParallelism();
  const most = MOST_THREADS * processors;
  if (wanted <= most) return wanted;
  note(`warning: --threads ${wanted} is far above the ${plural(processors, "processor")} here; using ${most}`);
  return most;
}

/** What a command takes for a model. */
export const A_MODEL = "folder, id of a model on the hub, or address";

/** The flags that find a model: --revision, --cache-dir, --subfolder. */
export const sourceOptions = (command: Command): Command => {
  addFlags(command, SOURCE);
  return command;
};
export const schemePlanOption = (): Option =>
  new Option("--plan <file>", "a scheme for each linear by its path: a JSON file with the fields of a SelectiveConfig");
export const dtypeOption = (): Option => flagOf("dtype", FROM_PRETRAINED.dtype).default("auto");

/** Values of `--kv-cache`, and their dtypes. */
export const KV_CACHES = { f32: "f32", bf16: "bf16", int8: "i8" } as const satisfies Record<string, CacheDType>;
export type KVCacheName = keyof typeof KV_CACHES;
export const kvCacheOption = (): Option =>
  new Option("--kv-cache <type>", "type of keys and values (default: f32 for f32 models, else bf16)").choices(
    Object.keys(KV_CACHES),
  );
export const jsonOption = (): Option => new Option("--json", "one JSON object on stdout instead of text");
