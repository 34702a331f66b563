// Options of save_pretrained; what they do is in save.ts, which most programs never load.

import { A_VARIANT, isVariant } from "../checkpoints/checkpoint.js";
import { OptionError } from "../core/errors.js";
import { type Options, option, signal, such } from "../core/options.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import { bytesOf } from "./sizes.js";

/** Options of `save_pretrained`. */
export const SAVE = {
  /** Most bytes of a file of weights: a number, or a text such as "5GB" (default: "50GB", as in Python). */
  max_shard_size: such<number | string>((value) => bytesOf(value) !== undefined, 'bytes, or a text such as "5GB"', {
    value: "<size>",
    help: "most bytes of a file of weights (default: 2GB)",
  }),
  /** Only true: a .bin file is a program, which Python runs to read it. */
  safe_serialization: option<true>(z.literal(true), "true", { hint: "weights are written as safetensors alone" }),
  /** Put into the names of the weights' files: "fp16" gives model.fp16.safetensors. */
  variant: such<string>(isVariant, A_VARIANT, {
    value: "<word>",
    help: 'put into the names of the weights\' files, such as "fp16"',
  }),
  signal: signal(),
};

export interface SaveOptions extends Options<typeof SAVE> {}

/** A folder as callers name it. @throws OptionError */
export function folderName(folder: unknown, what: string): string {
  if (typeof folder === "string" && folder !== "" && !folder.includes("\0")) return folder;
  throw new OptionError(`${what}: expected the path of a folder, got ${show(folder)}`);
}
