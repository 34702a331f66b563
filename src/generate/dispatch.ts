// accelerate's way to load: a model that was declared without weights, filled from a checkpoint and spread over devices.

import { torchName } from "../core/dtype.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { checkedLater, flag, type Options, readOptions, text } from "../core/options.js";
import { listed, show } from "../core/show.js";
import { ATTN_IMPLEMENTATIONS } from "../load/attn-implementation.js";
import { readDeviceMap } from "../load/device-map/index.js";
import { readClasses } from "../load/device-map/memory.js";
import { MetaModel } from "../load/meta.js";
import { deviceName, isOn } from "../load/names.js";
import { Offloaded } from "../load/offloaded.js";
import type { Platform } from "../load/platform.js";
import { folderName } from "../load/save-options.js";
import type { Task } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { LoadedModel, rearrange } from "./base.js";
import { FROM_PRETRAINED, type FromPretrainedOptions } from "./loading-options.js";
import { loadPretrained, nameOf, type TaskHolders } from "./pretrained.js";
import { PYTHON } from "./python.js";

/** Options of load_checkpoint_and_dispatch. */
export const DISPATCH = {
  ...{ device_map: PYTHON.device_map, max_memory: PYTHON.max_memory, offload_folder: PYTHON.offload_folder },
  /** Of everything that is not quantized; default: the declared model's. */
  dtype: FROM_PRETRAINED.dtype,
  /** Classes that stay whole: blocks do anyway, and no other module is split. */
  no_split_module_classes: checkedLater<string | Iterable<string>>(),
  /** No effect: constants are where they are used. */
  offload_buffers: flag(),
  /** No effect: weights are read to where they belong. */
  offload_state_dict: flag(),
  /** Only true: a checkpoint that lacks a tensor, or has one of another shape, is refused. */
  strict: flag(),
  ...{ progress_callback: FROM_PRETRAINED.progress_callback, signal: FROM_PRETRAINED.signal },
  /** No effect, as in accelerate without hooks. */
  main_device: text(),
};

export type DispatchOptions = Options<typeof DISPATCH>;

const OFFLOAD = {
  /** Where the model runs; its own device, which it stays on. */
  execution_device: FROM_PRETRAINED.device,
  /** No effect: constants are where they are used. */
  offload_buffers: flag(),
};

export type OffloadOptions = Options<typeof OFFLOAD>;

export interface Dispatch {
  /**
   * Fills a declared model from a checkpoint, a folder or the id of a model, and spreads it as `from_pretrained` does; config.json of the
   * checkpoint is not read. The declared model stays as it is, and the loaded one is returned.
   * @throws OptionError; what from_pretrained throws
   */
  load_checkpoint_and_dispatch<T extends Task>(
    model: MetaModel<T>,
    checkpoint: string | URL,
    options?: DispatchOptions,
  ): Promise<TaskHolders[T]>;
  /**
   * Takes the blocks of a loaded model into the computer's memory, as they are stored; each pass brings them back, one after the other.
   * A model that computes on the CPU is there already. Returns the model itself.
   * @throws OptionError, OutOfMemoryError; OctavoError for a model that is spread, has adapters, or is in use. The model then stays as it was
   */
  cpu_offload<M extends LoadedModel<Model>>(model: M, options?: OffloadOptions): Promise<M>;
  /**
   * Takes the blocks of a loaded model to a file in `offload_dir`, which is deleted with the model.
   * @throws as cpu_offload; FileError
   */
  disk_offload<M extends LoadedModel<Model>>(model: M, offload_dir: string, options?: OffloadOptions): Promise<M>;
}

export function dispatchFunctions(platform: Platform): Dispatch {
  return {
    async load_checkpoint_and_dispatch(model, checkpoint, given = {}) {
      if (!isMeta(model)) {
        throw new OptionError(`load_checkpoint_and_dispatch: expected a declared model, got ${show(model)}`, {
          hint: "await AutoModelForCausalLM.from_config(await AutoConfig.from_pretrained(name)) declares one",
        });
      }
      const name = nameOf(checkpoint);
      const options = readOptions("load_checkpoint_and_dispatch", DISPATCH, given);
      readClasses(options.no_split_module_classes);
      if (options.strict === false) {
        throw new OptionError("strict: false is not in Octavo: every tensor of the model has to be in the checkpoint", {
          details: { option: "strict" },
        });
      }
      const { device_map, max_memory, offload_folder, progress_callback, signal } = options;
      const { config, quantization, task } = model;
      const loading: FromPretrainedOptions = {
        ...{ device_map, max_memory, offload_folder, progress_callback, signal },
        dtype: options.dtype ?? torchName(model.dtype),
        attn_implementation: ATTN_IMPLEMENTATIONS.find((one) => one === config.attn_implementation),
        // What a file says of its own codes comes with its config.
        quantization_config: config.quantization_config === undefined ? quantization : undefined,
      };
      return loadPretrained(platform, task, name, loading, config);
    },

    async cpu_offload(model, given = {}) {
      checkOffload("cpu_offload", model, given);
      const { device, module } = model;
      if (isOn(device.name, "cpu")) {
        model.checkUsable();
        return model;
      }
      await rearrange(model, "cpu_offload", () => Offloaded.onHost(platform, module, device));
      return model;
    },

    async disk_offload(model, offload_dir, given = {}) {
      checkOffload("disk_offload", model, given);
      const { device, module } = model;
      const folder = folderName(offload_dir, "disk_offload");
      if (!platform.offload)
        throw new OctavoError("ERR_UNSUPPORTED", "disk_offload: nothing can be kept on a disk here");
      await rearrange(model, "disk_offload", () => Offloaded.onDisk(platform, module, device, folder));
      return model;
    },
  };
}

/** @throws OptionError for what is no loaded model, unknown options, and another device */
function checkOffload(method: string, model: LoadedModel<Model>, given: OffloadOptions): void {
  checkLoaded(method, model);
  const { execution_device } = readOptions(method, OFFLOAD, given);
  if (execution_device === undefined || execution_device === model.device) return;
  const asked = deviceName(execution_device);
  if (isOn(model.device.name, asked)) return;
  throw new OptionError(
    `${method}: the model runs on ${model.device.name}, and stays there; asked for ${show(asked)}`,
    {
      details: { option: "execution_device" },
      hint: "from_pretrained(name, { device }) loads it elsewhere",
    },
  );
}

function checkLoaded(method: string, model: unknown): void {
  if (LoadedModel.is(model)) return;
  throw new OptionError(`${method}: expected a loaded model, got ${show(model)}`, {
    hint: "load_checkpoint_and_dispatch(model, folder, { device_map }) loads a declared one",
  });
}

function isMeta(value: unknown): value is MetaModel {
  try {
    return value instanceof MetaModel && Object.hasOwn(value, "module");
  } catch {
    return false; // a proxy
  }
}

/**
 * The model itself, if it is where the map says. Weights are placed while a model is loaded.
 * @throws OctavoError for another place; OptionError for what is no loaded model or no map
 */
export function dispatch_model<M extends LoadedModel<Model>>(
  model: M,
  device_map: Readonly<Record<string, string | number>>,
): M {
  checkLoaded("dispatch_model", model);
  const asked = readDeviceMap(device_map);
  const here = new Map(Object.entries(model.hf_device_map));
  const other = [...asked].filter(([name, place]) => String(here.get(name)) !== String(place)).map(([name]) => name);
  if (other.length === 0 && asked.size > 0) return model;
  throw new OctavoError("ERR_UNSUPPORTED", `dispatch_model: ${listed(other, 3)} would move, and a loaded model stays`, {
    hint: "from_pretrained(name, { device_map }) places it while it is read",
  });
}
