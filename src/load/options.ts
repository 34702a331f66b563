// The options of calls that find a model or open a device: their tables, and the check that a device takes an option.

import { isOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { flag, number, type Options, option, readOptions, such, text, whole } from "../core/options.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import { TOKEN } from "../sources/address.js";
import type { DownloadEvent } from "../sources/source.js";

export { WEIGHTS, type WeightsOptions } from "../checkpoints/options.js";

/** Where to look for a model. */
export const SOURCE = {
  /** Folder of the Hugging Face cache; Node only. */
  cache_dir: text({
    secret: true,
    value: "<folder>",
    help: "Hugging Face cache (default: the one that Python uses)",
  }),
  /** A branch, a tag or a full commit, for ids of a hub. */
  revision: text({
    secret: true,
    value: "<name>",
    help: "branch, tag or commit of a model on the hub (default: main)",
  }),
  /** Never contact a server; Node only. The variable HF_HUB_OFFLINE=1 does the same. */
  local_files_only: flag(),
  /** Download files that are in the cache as well; Node only. */
  force_download: flag(),
  /** Folder inside the model in which its files lie. */
  subfolder: text({ secret: true, value: "<name>", help: "folder inside the model in which its files lie" }),
  /**
   * Address of a hub whose files are read from there and not kept in Node's cache; browsers use Hugging Face's by default. In Node an id
   * without it comes through the cache, from the hub that HF_ENDPOINT names (default: Hugging Face's).
   */
  hub: text({
    secret: true,
    value: "<address>",
    help: "hub that ids are read from, of which nothing is kept (default: through the cache, from HF_ENDPOINT)",
  }),
  /**
   * Access token for private or gated models. By default Node takes that of this machine (HF_TOKEN, or the file that `hf auth login`
   * writes) for the hub; false sends none, true must find one.
   */
  token: such<string | boolean>(
    (value) => typeof value === "boolean" || (typeof value === "string" && TOKEN.test(value)),
    "text of visible ASCII characters, without spaces, or true or false",
    { secret: true },
  ),
  /**
   * Seconds (default: 30) for which a server may send nothing, or less than 100 bytes a second, before the load ends with a
   * NetworkError; also the longest wait that a busy server may ask for (Retry-After). What this program is too busy to
   * receive does not count.
   */
  timeout: number((value) => value > 0 && value <= 3600, "a number of seconds above 0, at most 3600"),
  /** Keep downloaded files in the browser's storage: the default in browsers. Node keeps nothing. */
  cache: flag(),
};

/** Where to look for a model, with callbacks. */
export interface SourceOptions extends Readonly<Options<typeof SOURCE>> {
  readonly signal?: AbortSignal;
  /** Receives problems that do not end the load. */
  readonly warn?: (message: string) => void;
  /** Hears of files that come into the cache; by default Node draws a bar where stderr is a terminal. */
  readonly download?: (event: DownloadEvent) => void;
  /** Look into large files where they lie, and bring none of them into the cache. */
  readonly peek?: boolean;
}

/** An address, or bytes. (A name for the union: written out in a declaration, its Uint8Array would need TypeScript 5.7.) */
export type WasmPlace = string | URL | Uint8Array | ArrayBuffer;

/** Options of opening a device. */
export const DEVICE = {
  /** Threads of the devices "cpu" and "wasm"; by default one per physical core (wasm: per processor, at most 8). */
  threads: whole(1, {
    value: "<n>",
    help: "threads of the cpu or wasm device (default: one per physical core)",
  }),
  /** Highest instruction set to use, for tests and comparisons: "portable", "avx2", "avx512", ... */
  isa: text(),
  /** Most bytes that the device "cpu", or a logical one, may allocate; by default most of the machine's memory. */
  memory: option(z.int().min(1), "a whole number of bytes"),
  /**
   * A row's results never depend on how many rows come with it. "wasm", "reference" and most CPUs guarantee this anyway. On
   * other CPUs it disables the matrix units (AMX); on WebGPU all products in floats and 4 bits of nine rows and more then use
   * the kernels for few rows, which makes prompts several times slower.
   */
  deterministic: flag({ help: "the results of a text never depend on the texts beside it (slower on some devices)" }),
  /** Browsers: the WebAssembly module's address or bytes; src/browser/wasm-file.ts gives the default locations. */
  wasm: such<WasmPlace>(
    (value) => typeof value === "string" || isOf(value, URL) || isOf(value, Uint8Array) || isOf(value, ArrayBuffer),
    "an address or the module's bytes",
  ),
};

export interface DeviceOptions extends Options<typeof DEVICE> {}

/** Of options that were given beside "auto", those that the chosen device takes: a GPU has no threads. */
export function optionsFor(chosen: string, options: DeviceOptions): DeviceOptions {
  return chosen.startsWith("webgpu") ? { deterministic: options.deterministic } : options;
}

/** For each option that a platform has, the devices that take it. */
export type DeviceOwners = { readonly [Name in keyof DeviceOptions]: readonly string[] };

/**
 * The options of a device, each checked and read once.
 * @throws OptionError for one that no device of this platform takes
 */
export function readDeviceOptions(options: DeviceOptions, owners: DeviceOwners): DeviceOptions {
  const here = Object.fromEntries(Object.entries(DEVICE).filter(([key]) => key in owners));
  return readOptions("device", here, options);
}

/**
 * The same for a device of that name.
 * @throws OptionError as well for one that this device does not take
 */
export function checkDeviceOptions(name: string, options: DeviceOptions, owners: DeviceOwners): DeviceOptions {
  const given = readDeviceOptions(options, owners);
  for (const [key, names] of Object.entries(owners)) {
    if (names.includes(name) || given[key as keyof DeviceOptions] === undefined) continue;
    throw new OptionError(`${key} cannot be chosen for device ${show(name)}, only for "${names.join('" and "')}"`, {
      details: { option: key },
      hint: `leave ${key} out, or use device "${names[0]}"`,
    });
  }
  return given;
}
