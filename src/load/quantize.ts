// Quantizes a checkpoint from one folder into another without ever holding the model: a file of weights is filled on the device,
// written and freed, then the next. The peak is one file of weights and the largest tensor.

import type { FolderWriter } from "../checkpoints/folder.js";
import type { Device } from "../core/device.js";
import { OptionError, throwIfAborted } from "../core/errors.js";
import { architectureOf, taskFor } from "../models/index.js";
import type { WeightPart } from "../nn/weight.js";
import type { Quantization } from "../quant/index.js";
import type { Source } from "../sources/source.js";
import { fill, type ProgressEvent } from "./fill.js";
import { prepareModel } from "./index.js";
import type { WeightsOptions } from "./options.js";
import { itemBytes } from "./plan.js";
import { publishedParameters, storedParts } from "./published.js";
import {
  configOf,
  filesBeside,
  groupsOf,
  indexJson,
  type Saved,
  shardNames,
  sizeOf,
  weightsOf,
  writeRest,
  writeShard,
} from "./save.js";
import type { SaveOptions } from "./save-options.js";
import { bytesOf } from "./sizes.js";
import { storedBytes } from "./survey.js";

export interface QuantizeOptions extends Pick<SaveOptions, "max_shard_size" | "variant" | "signal"> {
  readonly device: Device;
  /** The model's name in progress reports. */
  readonly name: string;
  /** Of what is not quantized: "auto" (the checkpoint's own) or a float dtype. */
  readonly dtype: string;
  readonly quantization: Quantization;
  /** Which weight files are read. */
  readonly weights?: WeightsOptions;
  readonly progress_callback?: ((event: ProgressEvent) => void) | undefined;
}

/** Bytes of a file of weights, if the caller does not say: so much is on the device at once. */
const SHARD = "2GB";

/**
 * Writes the checkpoint of `source`, quantized, into `folder`, with the files beside it.
 * @throws OptionError for a checkpoint that is quantized already; what loading throws; FileError
 */
export async function quantizeCheckpoint(
  source: Source,
  folder: string,
  writer: FolderWriter,
  options: QuantizeOptions,
): Promise<Saved> {
  const { device, name, quantization, signal, variant } = options;
  const prepared = await prepareModel(source, async (config) => taskFor(config, await architectureOf(config)), options);
  const { model, architecture, planned, dtype, config, config_text, warnings } = prepared;
  if (prepared.stored) {
    throw new OptionError(`${source.location} is quantized already: ${prepared.stored.quantization_method()}`, {
      hint: "quantize the original checkpoint; this one loads as it is",
    });
  }
  const beside = await filesBeside(source);
  const most = bytesOf(options.max_shard_size ?? SHARD)!;
  const groups = groupsOf(planned.items, (item) => storedBytes(item, dtype), most);
  const { files, index } = shardNames(groups.length, variant);
  const published = new Map(publishedParameters(model, architecture, false).map((one) => [one.parameter, one]));
  const shards: Omit<WeightPart, "bytes">[][] = [];
  const written: string[] = [];
  const progress = progressOver(planned.bytes, options);
  try {
    await writer.replace(folder, weightsOf(variant), async (out) => {
      for (const [i, items] of groups.entries()) {
        throwIfAborted(signal, "quantizing");
        const bytes = items.reduce((sum, item) => sum + itemBytes(item), 0);
        const part = { ...planned, items, bytes };
        await fill(device, part, { name, dtype, signal, progress_callback: progress.from(bytes) });
        const parts: WeightPart[] = [];
        for (const { parameter } of items) parts.push(...(await storedParts(model, published.get(parameter)!, dtype)));
        await writeShard(out, files[i]!, parts, signal);
        shards.push(parts.map(({ name, dtype, shape }) => ({ name, dtype, shape })));
        for (const { parameter } of items) parameter.dispose();
      }
      written.push(...files);
      if (groups.length > 1) {
        await out.bytes(index, new TextEncoder().encode(indexJson(shards, files)));
        written.push(index);
      }
      const json = configOf({ model, config, config_text, dtype, quantization }, true);
      written.push(...(await writeRest(out, json, beside.contents)));
    });
  } finally {
    model.dispose();
  }
  return { files: written, bytes: sizeOf(shards.flat()), warnings: [...warnings, ...beside.warnings] };
}

/** Reports the progress of several loads as that of one. */
function progressOver(total: number, { progress_callback }: Pick<QuantizeOptions, "progress_callback">) {
  const begin = performance.now();
  let before = 0;
  return {
    /** @param bytes of the next load */
    from(bytes: number): ((event: ProgressEvent) => void) | undefined {
      const done = before;
      before += bytes;
      if (!progress_callback) return undefined;
      return (event) => {
        const loaded = done + event.loaded;
        const whole = { loaded, total, progress: (100 * loaded) / (total || 1) };
        const bytes_per_second = loaded / Math.max(1e-3, (performance.now() - begin) / 1000);
        const last = event.status === "done" && loaded < total;
        progress_callback({ ...event, ...whole, bytes_per_second, status: last ? "progress" : event.status });
      };
    },
  };
}
