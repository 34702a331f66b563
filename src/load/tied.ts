// A file that stores an output head of its own although config.json says that it shares the embedding. Merged adapters and
// fine-tunes of the head leave such files. As in transformers 5, equal tensors are one matrix, and others are not. And files of T5's family
// without a head, whose config.json says that there is one.

import type { Checkpoint } from "../checkpoints/checkpoint.js";
import type { StoredTensor } from "../checkpoints/stored.js";
import type { Architecture } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { type SourceFile, withFile } from "../sources/source.js";
import { isStored, tensorsOf } from "./plan.js";
import { type StorageOptions, sharedWithHead } from "./storage.js";

/** Bytes compared at a time. */
const PIECE = 1 << 22;

/**
 * The name of the head's tensor if the model shares its output embeddings, and the file stores both, with other values.
 * @throws CheckpointError for a head of a shape that the model has no room for; what reading throws
 */
export async function ownHead(
  model: Model,
  architecture: Architecture,
  checkpoint: Checkpoint,
  storage: StorageOptions,
): Promise<string | undefined> {
  const shared = sharedWithHead(model);
  if (!shared) return undefined;
  const name = `${model.output_embeddings()!.path}.weight`;
  const [head, embedding] = tensorsOf([name, shared], model, architecture, checkpoint, storage);
  if (!head || !embedding || head === embedding) return undefined;
  return (await equal(checkpoint, head, embedding)) ? undefined : name;
}

/** Output embeddings of their own that a file does not have share a matrix, if the model says which. */
export function shareMissingHead(
  model: Model,
  architecture: Architecture,
  checkpoint: Checkpoint,
  storage: StorageOptions,
): void {
  const matrix = model.matrix_without_head();
  const head = model.output_embeddings();
  if (!matrix || !head || head.weight === matrix) return;
  if (!isStored(`${head.path}.weight`, model, architecture, checkpoint, storage)) head.tie(matrix);
}

/** Whether two tensors hold the same bytes of the same dtype. Reads up to the first difference. */
async function equal({ source }: Checkpoint, one: StoredTensor, other: StoredTensor): Promise<boolean> {
  if (one.dtype !== other.dtype || one.bytes !== other.bytes) return false;
  if (String(one.strides) !== String(other.strides)) return false;
  if (one.file === other.file && one.offset === other.offset) return true;
  const compare = async (a: SourceFile, b: SourceFile): Promise<boolean> => {
    for (let at = 0; at < one.bytes; at += PIECE) {
      const count = Math.min(PIECE, one.bytes - at);
      const x = await a.read(one.offset + at, count);
      const y = await b.read(other.offset + at, count);
      for (let i = 0; i < count; i++) if (x[i] !== y[i]) return false;
    }
    return true;
  };
  const open = <T>(path: string, use: (file: SourceFile) => Promise<T>) => withFile(source, path, "checkpoint", use);
  return open(one.file, (a) => (one.file === other.file ? compare(a, a) : open(other.file, (b) => compare(a, b))));
}
