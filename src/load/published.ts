// The tensors in which a checkpoint stores a model: the inverse of the plan. Names are those of the tree, which are the names
// that transformers writes; `NameRule`s say where a file holds something else than the tree does.

import type { StoredDType } from "../checkpoints/stored.js";
import { elementsOf } from "../checkpoints/stored.js";
import { narrow } from "../core/dtype.js";
import { scope, type Tensor } from "../core/tensor.js";
import { type Architecture, endingOf } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { Matrix, NormedParameter, type Parameter } from "../nn/module.js";
import { ofExpert } from "../nn/state.js";
import { type FloatDType, rowsOfExpert, type WeightPart } from "../nn/weight.js";
import { contiguous } from "../ops/copy.js";
import { fourBitOperands } from "../quant/_four-bit-weight.js";
import { MXFP4_BLOCK, mxfp4Parts } from "../quant/_mxfp4-files.js";

/** A parameter with what its tensors in a checkpoint are called. */
export interface Published {
  /** Its first name in the tree. */
  readonly name: string;
  readonly parameter: Parameter | Matrix;
  /** Names of its matrices or vectors: one, or one for each expert of a stack. */
  readonly names: readonly string[];
  /** A dense matrix is stored as [inputs, outputs]. */
  readonly transposed: boolean;
  /** The name of the one tensor that holds all matrices of a dense stack. */
  readonly stack?: string | undefined;
}

const FLOATS = { f32: "F32", f16: "F16", bf16: "BF16" } as const satisfies Record<FloatDType, StoredDType>;

/**
 * Every parameter of a model once, in the order of the tree, with its names in checkpoints. Of tied parameters the first name
 * counts, as in transformers. Optional parts that are not there are left out.
 */
export function publishedParameters(model: Model, architecture: Architecture, filled = true): Published[] {
  const seen = new Set<Parameter | Matrix>();
  const found: Published[] = [];
  for (const [name, parameter] of model.named_parameters()) {
    if (seen.has(parameter) || (filled && !parameter.filled)) continue;
    seen.add(parameter);
    const ending = endingOf(name, architecture.names);
    const listed = architecture.names.some((rule) => "transposed" in rule && rule.transposed.test(name));
    const experts = parameter instanceof Matrix ? parameter.experts : 1;
    const stored = ending?.name ?? name;
    const names = experts === 1 ? [stored] : Array.from({ length: experts }, (_, e) => ofExpert(name, e));
    const transposed = (listed || ending?.transposed === true) && parameter instanceof Matrix;
    found.push({ name, parameter, names, transposed, ...(experts > 1 && { stack: ending?.name }) });
  }
  return found;
}

/** A matrix, or each matrix of a stack, transposed. */
export function turned(matrices: Tensor): Tensor {
  return matrices.shape.length === 3 ? matrices.permute(0, 2, 1) : matrices.permute(1, 0);
}

/** The shape of a dense matrix in its file, of all matrices of a stack that one tensor holds. */
export function storedShape({ parameter, names, transposed, stack }: Published): readonly number[] {
  const [outputs = 1, ...inner] = parameter.shape;
  const rows = [outputs / names.length, ...inner];
  const one = transposed ? rows.reverse() : rows;
  return stack === undefined ? one : [names.length, ...one];
}

/** The tensors that store a parameter of a model, wherever they lie: they are brought to their device while they are read. */
export async function storedParts(
  { placement }: Pick<Model, "placement">,
  published: Published,
  dtype: FloatDType,
): Promise<WeightPart[]> {
  const { tensors } = published.parameter;
  if (!placement?.visit) return partsHere(published, dtype);
  const parts = await placement.visit(tensors, () => partsHere(published, dtype));
  return parts.map((part) => ({ ...part, bytes: () => placement.visit!(tensors, part.bytes) }));
}

/**
 * The tensors that store a parameter which is on its device.
 * @param dtype of the model: that of 4-bit values once they are decoded, where nothing else was read from a file
 */
async function partsHere(published: Published, dtype: FloatDType): Promise<WeightPart[]> {
  const { parameter, names, transposed, stack } = published;
  const [name = published.name] = names;
  if (parameter instanceof NormedParameter) return normedParts(name, parameter);
  if (!(parameter instanceof Matrix))
    return [partOf(name, () => (parameter.own ?? parameter.value).alias(), parameter.shape)];
  const { weight, stored_shape, experts } = parameter;
  const each = rowsOfExpert(parameter.shape, experts);
  if (weight.scheme === "dense" && (transposed || stack !== undefined)) {
    const dtype = weight.tensors[0]!.dtype as FloatDType;
    const rows = (): Tensor => {
      const plain = weight.dense(dtype);
      const matrices = stack === undefined ? plain : plain.view(experts, each, -1);
      return transposed ? contiguous(turned(matrices)) : matrices;
    };
    return [partOf(stack ?? name, () => scope(rows), storedShape(published), dtype)];
  }
  const operands = weight.scheme === "e2m1" ? fourBitOperands(weight) : undefined;
  if (operands?.blocksize === MXFP4_BLOCK) return mxfp4Parts(stack ?? name, operands, parameter.shape, experts);
  const lists = await Promise.all(names.map((name, e) => weight.parts(name, e * each, each, dtype)));
  if (stored_shape === undefined || weight.scheme !== "dense") return lists.flat();
  return lists.flat().map((part) => ({ ...part, shape: stored_shape }));
}

/** What `partOf` says of a tensor before it is made. */
type Known = Pick<WeightPart, "dtype" | "shape">;

/** A tensor that `make` gives; the caller of `bytes` needs it for that long. By default it is written in its own shape. */
export function partOf(name: string, make: () => Tensor, shape?: readonly number[], dtype?: FloatDType): WeightPart {
  const known = (): Known => {
    using now = make();
    return { dtype: FLOATS[now.dtype as FloatDType], shape: shape ?? now.shape };
  };
  return {
    name,
    ...(shape && dtype ? { dtype: FLOATS[dtype], shape } : known()),
    async bytes() {
      const tensor = make();
      try {
        return await tensor.readBytes();
      } finally {
        tensor.dispose();
      }
    },
  };
}

/**
 * A normalised weight as torch.nn.utils.weight_norm names its halves. The weight itself is the direction: its norms are the
 * magnitudes, so the product is the weight up to the last bit of a norm.
 */
async function normedParts(name: string, parameter: NormedParameter): Promise<WeightPart[]> {
  const direction = partOf(`${name}_v`, () => parameter.value.alias(), parameter.shape);
  const floats = await parameter.value.readFloats();
  const { dim, shape, magnitudes } = parameter;
  const inner = elementsOf(shape.slice(dim + 1));
  const sums = new Float64Array(shape[dim]!);
  for (let i = 0; i < floats.length; i++) sums[Math.floor(i / inner) % sums.length]! += floats[i]! ** 2;
  const bytes = narrow(parameter.value.dtype as FloatDType, Float32Array.from(sums, Math.sqrt));
  return [{ name: `${name}_g`, dtype: direction.dtype, shape: magnitudes, bytes: async () => bytes }, direction];
}
