// Puts the floats of a saved model into the parameters of a model that is there already, in place: what a training run goes on with.

import { openCheckpoint } from "../checkpoints/checkpoint.js";
import type { StoredTensor } from "../checkpoints/stored.js";
import { convertBytes } from "../checkpoints/values.js";
import { CheckpointError } from "../core/errors.js";
import { shapeText } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Architecture } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { Matrix, NormedParameter } from "../nn/module.js";
import type { FloatDType } from "../nn/weight.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { pack } from "../ops/pack.js";
import { taping } from "../ops/tape.js";
import type { Source } from "../sources/source.js";
import { type Published, publishedParameters, storedShape, turned } from "./published.js";
import { bytesInOrder } from "./read.js";

/**
 * Reads the parameters that ask for gradients from a folder that saveModel wrote. Others did not change since they were loaded.
 * @throws NotFoundError, FormatError; CheckpointError for a model of another form
 */
export async function restoreModel(model: Model, architecture: Architecture, source: Source): Promise<void> {
  const { tensors } = await openCheckpoint(source);
  const trained = publishedParameters(model, architecture).filter(({ parameter }) => parameter.requires_grad);
  const found = trained.map((one) => [one, storedOf(one, tensors, source)] as const);
  for (const [{ parameter, transposed }, parts] of found) {
    const into = parameter instanceof Matrix ? parameter.data : parameter.own!;
    const [N = 1, ...inner] = into.shape;
    const rows = N / parts.length;
    for (const [i, stored] of parts.entries()) {
      const bytes = convertBytes(
        stored.dtype,
        await bytesInOrder(source, stored),
        into.dtype as FloatDType,
        stored.name,
      );
      taping(undefined, () =>
        scope(() => {
          const read = Tensor.empty(into.device, stored.shape, into.dtype, stored.name);
          read.writeBytes(bytes);
          const values = (transposed ? contiguous(turned(read)) : read).view(rows, ...inner);
          if (into.panels) pack(values, into, i * rows);
          else copyInto(values, parts.length === 1 ? into : into.narrow(0, i * rows, rows));
        }),
      );
    }
  }
}

/** The tensors of a parameter in a checkpoint. */
function storedOf(
  published: Published,
  tensors: ReadonlyMap<string, StoredTensor>,
  source: Source,
): readonly StoredTensor[] {
  const { names, parameter, stack } = published;
  const stored = (parameter instanceof Matrix ? parameter.stored_shape : undefined) ?? storedShape(published);
  const keys = parameter instanceof NormedParameter ? [`${names[0]}_v`] : stack === undefined ? names : [stack];
  return keys.map((key) => {
    const tensor = tensors.get(key);
    if (tensor && shapeText(tensor.shape) === shapeText(stored)) return tensor;
    const what = tensor ? `has shape ${shapeText(tensor.shape)}, expected ${shapeText(stored)}` : "is missing";
    throw new CheckpointError(`${source.location}: ${key} ${what}`, {
      details: { file: source.location, tensor: key },
      hint: "is it a checkpoint of another model?",
    });
  });
}
