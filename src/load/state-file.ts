// States in files, in Node: what torch.save and torch.load are in Python, as safetensors.

import { stat } from "node:fs/promises";
import { basename, dirname, resolve } from "node:path";
import { openCheckpoint } from "../checkpoints/checkpoint.js";
import { SAVING } from "../checkpoints/folder-write.js";
import { readSafetensorsHeader } from "../checkpoints/safetensors.js";
import { writeSafetensors } from "../checkpoints/safetensors-write.js";
import type { StoredTensor } from "../checkpoints/stored.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { Tensor } from "../core/tensor.js";
import { type State, StateTensor, stateTensor } from "../nn/state.js";
import { Disk } from "../sources/disk.js";
import { writing } from "../sources/file-errors.js";
import { bytesInOrder } from "./read.js";

/** Ends of names that stand for pickles. */
const PICKLES = /\.(pt|pth|bin|ckpt|pkl)$/i;

function nameOf(call: string, file: unknown): string {
  if (typeof file === "string" && file !== "" && !file.includes("\0")) return file;
  throw new OptionError(`${call}: file must be a path, got ${show(file)}`);
}

/**
 * Writes a state as a safetensors file, which appears whole or not at all.
 * @throws OctavoError (ERR_UNSUPPORTED) for .pt and other pickles: they are programs that Python runs to read them; OptionError;
 * FileError
 */
export async function save(state: State, file: string): Promise<void> {
  const path = nameOf("save", file);
  if (PICKLES.test(path)) {
    throw new OctavoError(
      "ERR_UNSUPPORTED",
      `save: ${basename(path)} would be a pickle, which is a program that runs when it is read`,
      {
        hint: "name it .safetensors; in Python safetensors.torch.load_file reads it",
        details: { file: path },
      },
    );
  }
  let entries: [string, unknown][];
  try {
    entries = state instanceof Map ? [...state] : Object.entries(state);
  } catch (cause) {
    throw new OptionError(`save: a state is a Map or an object of tensors, got ${show(state)}`, { cause });
  }
  if (typeof state !== "object")
    throw new OptionError(`save: a state is a Map or an object of tensors, got ${show(state)}`);
  const tensors = entries.map(([name, value]) => {
    const tensor = Tensor.is(value) ? stateTensor(value) : value;
    if (typeof name !== "string" || !StateTensor.is(tensor)) {
      throw new OptionError(`save: ${show(name)} holds ${show(value)}, which is no tensor`);
    }
    return { name, dtype: tensor.dtype, shape: tensor.shape, data: () => tensor.bytes() };
  });
  await writing(path, SAVING, () => writeSafetensors(resolve(path), tensors, { format: "pt" }));
}

/**
 * The tensors of a safetensors file by name, of one of torch.save (.pt, .pth, .bin; nothing of it is run), or of a folder with a
 * checkpoint. Only headers are read now; a tensor's bytes are read when they are asked for.
 * @throws NotFoundError, FormatError, OptionError
 */
export async function load(file: string): Promise<Map<string, StateTensor>> {
  const path = resolve(nameOf("load", file));
  const source = new Disk(dirname(path));
  const folder = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  const read = PICKLES.test(path) ? (await import("../checkpoints/torch.js")).readTorchHeader : readSafetensorsHeader;
  const { tensors } = await (folder ? openCheckpoint(new Disk(path)) : read(source, path));
  return new Map([...tensors].map(([name, stored]) => [name, stateOf(source, stored)]));
}

function stateOf(source: Disk, stored: StoredTensor): StateTensor {
  const { dtype, shape } = stored;
  return new StateTensor({ dtype, shape, bytes: () => bytesInOrder(source, stored) });
}
