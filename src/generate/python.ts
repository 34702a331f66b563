// Options of from_pretrained that Python has for machines with several devices, and for choices that are made once for all
// here. What changes no result is taken and has no effect.

import { listOf } from "../core/checks.js";
import { Device } from "../core/device.js";
import { choice, flag, type Options, option, such, text, whole } from "../core/options.js";
import * as z from "../core/schema.js";
import { ATTN_IMPLEMENTATIONS } from "../load/attn-implementation.js";
import { placeOf as placeKey } from "../load/device-map/memory.js";
import { deviceName } from "../load/names.js";
import type { DeviceAlias, DeviceName } from "../load/platform.js";

export type Place = DeviceName | DeviceAlias | Device;

export const isPlace = (value: unknown): boolean =>
  typeof value === "string" || deviceName(value) !== undefined || Device.is(value);

export const isObject = (value: unknown): value is object =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Names and numbers of devices in a list; undefined for anything else. */
export function placesOf(value: unknown): (string | number)[] | undefined {
  return listOf(value, (one): one is string | number => placeKey(one) !== undefined);
}

export const PYTHON = {
  /**
   * Where the model runs, instead of `device`: a device's name or number, or a map of modules to devices, "cpu" and "disk". Blocks stay
   * whole, and everything beside them is on the main device, that of the first module that has one. "auto" is the best device, or
   * with a `max_memory` of several devices a map that uses them alike, as "balanced" does; "balanced_low_0" puts as little as
   * possible on device 0, "sequential" fills one after the other. In a map over several, numbers are GPUs if there are any, else logical
   * devices of the CPU; "cpu" beside other devices, and "disk", hold blocks that the main device runs.
   */
  device_map: such<
    Place | "balanced" | "balanced_low_0" | "sequential" | Readonly<Record<string, string | number | Device>> | null
  >(
    (value) => value === null || isPlace(value) || isObject(value),
    'a device, "auto", or a map of modules to a device',
  ),
  /**
   * Most bytes that the model may use, by device: `{ 0: "1GB", 1: "2GB", cpu: "8GB", disk: "1TB" }`. On one device 0 is the first GPU, or
   * the CPU where the model runs there and has no bound of its own. More than that is an OutOfMemoryError.
   */
  max_memory: such<Readonly<Record<string | number, number | string | undefined>>>(
    isObject,
    'a map of devices to bytes or to texts such as "1GB"',
  ),
  /**
   * "auto" cuts the matrices of the blocks, and an untied head, by outputs over `tp_size` devices, which multiply at the same time.
   * Each output is summed on one device, so the results are those of one device, bit for bit, in every form of storage. The first
   * device is the main one: it has norms, attention, caches and embeddings, and while the model is read one whole matrix as well.
   */
  tp_plan: such<"auto" | null>((value) => value === "auto" || value === null, '"auto"', {
    hint: "a plan of one's own is not in Octavo: every linear of the blocks is cut by outputs",
  }),
  /** Number of devices for `tp_plan` (default: 2, or those of `device_mesh`): GPUs if there are any, else cpu:0, cpu:1, ... */
  tp_size: whole(1),
  /** The devices for `tp_plan` by name or number, the main one first. In `max_memory` a number is the device that it is here. */
  device_mesh: such<readonly (string | number)[]>(
    (value) => (placesOf(value)?.length ?? 0) > 0,
    'a list of devices, such as ["cpu:0", "cpu:1"]',
  ),
  /** No effect: a model is always filled as its files are read. */
  low_cpu_mem_usage: flag(),
  /** No effect: `generate` keeps keys and values, `forward` does not. */
  use_cache: flag(),
  /**
   * How attention is computed, by transformers' names. One fused kernel serves all of them: "flash_attention_2" demands a model in 16
   * bits, and `sdpa_kernel` holds for "sdpa", the default, alone. (One more difference: Falcon models with ALiBi add it once with
   * "sdpa" and twice with "eager", as in transformers, or if nothing is passed.)
   */
  attn_implementation: choice(ATTN_IMPLEMENTATIONS, {
    hint: "leave it out: attention is always computed in one fused kernel",
  }),
  /** True is `attn_implementation: "flash_attention_2"`, in transformers' older spelling. */
  use_flash_attention_2: flag(),
  /** Only false: nothing in a model's files is ever executed. */
  trust_remote_code: option<false>(z.literal(false), "false", {
    hint: "nothing in a model's files is executed here; leave it out",
  }),
  /** Folder for the weights of blocks that go to the disk, for as long as the model lives. */
  offload_folder: text(),
};

export interface PythonOptions extends Options<typeof PYTHON> {}
