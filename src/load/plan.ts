// The plan: which tensors of a checkpoint go into which parameter, and how it will be stored. Pure; reads no weights and
// allocates nothing, so that every mismatch is reported before any work is done.

import type { Checkpoint } from "../checkpoints/checkpoint.js";
import { elementsOf, STORED_BITS, type StoredTensor } from "../checkpoints/stored.js";
import { CheckpointError } from "../core/errors.js";
import { listed } from "../core/show.js";
import { type Architecture, isSpare, placeOf } from "../nn/architecture.js";
import type { Model } from "../nn/model.js";
import { Matrix, NormedParameter, type Parameter } from "../nn/module.js";
import { computeFor, PANEL_ROWS, rowsOfExpert, type Scheme, type StoredWeight } from "../nn/weight.js";
import { codesScheme } from "../quant/four-bit.js";
import { codesConfig } from "../quant/index.js";
import { isCodes, type SelectiveConfig } from "../quant/selective.js";
import type { Source } from "../sources/source.js";
import { choicesOf } from "./linears.js";
import { type StorageOptions, schemesOf } from "./storage.js";

/** The source of some rows of a parameter; for a plain parameter, rows are slices of its first dim. */
export interface Part {
  readonly from: StoredTensor;
  /** The parameter's rows that it fills. */
  readonly at: number;
  readonly rows: number;
  /** Elements of a row. */
  readonly columns: number;
  /** The first of these rows in the stored tensor. */
  readonly first: number;
  /** "transposed": stored as [inputs, outputs]. "flat": in another shape, with the same elements in the same order. */
  readonly view?: "transposed" | "flat" | undefined;
  /** The other tensors of a quantized matrix in the checkpoint; `from` holds the codes. */
  readonly stored?: StoredWeight | undefined;
}

/** One parameter to be filled. */
export interface PlanItem {
  /** Name in the tree (the first one, if it is tied). */
  readonly name: string;
  readonly parameter: Parameter | Matrix;
  /** In the order of their rows, which they cover completely. */
  readonly parts: readonly Part[];
  /** The magnitudes of a normalised weight whose directions `parts` hold. */
  readonly magnitudes?: StoredTensor | undefined;
  /** How a matrix is stored; undefined for plain parameters. */
  readonly scheme: Scheme | undefined;
}

export interface Plan {
  readonly source: Source;
  readonly items: readonly PlanItem[];
  /** Tensors of the checkpoint that no parameter uses. */
  readonly unexpected: readonly string[];
  /** Bytes to read. */
  readonly bytes: number;
}

/** A stored tensor that holds rows of a parameter. */
interface Candidate {
  readonly from: StoredTensor;
  readonly expert: number | undefined;
  /** Which part of a normalised weight it is. */
  readonly part: "magnitude" | "direction" | undefined;
  readonly transposed: boolean;
  /** The parameters whose rows it holds, one below the other, and which of them this is. */
  readonly fused: readonly (Parameter | Matrix)[];
  readonly index: number;
  readonly stored: StoredWeight | undefined;
}

/**
 * Matches a checkpoint to a model.
 * @throws CheckpointError naming missing tensors, or a tensor of the wrong shape with expected and got
 */
export function plan(model: Model, architecture: Architecture, checkpoint: Checkpoint, storage: StorageOptions): Plan {
  const schemes = schemesOf(model, storage);
  const parameters = new Map(model.named_parameters());
  const { candidates, unexpected } = matchNames(parameters, architecture, checkpoint, storage.stored ?? []);
  const head = storage.shared && `${model.output_embeddings()!.path}.weight`;

  const items = new Map<Parameter | Matrix, PlanItem>();
  const missing = new Map<Parameter | Matrix, string>();
  for (const [name, parameter] of parameters) {
    if (items.has(parameter)) continue; // tied, and the file stores it under both names
    const found = candidates.get(name) ?? (head === name ? candidates.get(storage.shared!) : undefined);
    const lacking = found ? (lackingExpert(parameter, found) ?? lackingPart(found)) : "";
    if (!found && parameter.optional) continue;
    if (!found || lacking !== undefined) {
      if (!missing.has(parameter)) missing.set(parameter, name + lacking);
      continue;
    }
    missing.delete(parameter);
    const parts = partsOf(name, parameter, found);
    const magnitudes = magnitudesOf(name, parameter, found);
    const scheme =
      parameter instanceof Matrix
        ? (parts[0]?.stored?.scheme ?? codesOf(parameter, parts, storage) ?? schemes.get(parameter))
        : undefined;
    items.set(parameter, { name, parameter, parts, magnitudes, scheme });
  }
  if (missing.size > 0) {
    const names = [...missing.values()];
    throw new CheckpointError(
      `${checkpoint.source.location} lacks ${names.length} of ${parameters.size} tensors of the model: ` +
        listed(names, 4),
      {
        details: { file: checkpoint.source.location, missing: names.slice(0, 50) },
        hint: unexpected.length
          ? `the checkpoint has ${unexpected.length} tensors that the model does not know, such as ${listed(unexpected.slice(0, 1))}`
          : "is the download complete?",
      },
    );
  }
  const list = [...items.values()];
  // In file order, so that reading is sequential.
  const place = ({ parts: [part] }: PlanItem): StoredTensor | undefined => part?.from;
  list.sort((a, b) => {
    const [one, other] = [place(a), place(b)];
    if (!one || !other) return 0;
    return one.file.localeCompare(other.file) || one.offset - other.offset;
  });
  const bytes = list.reduce((sum, item) => sum + itemBytes(item), 0);
  return { source: checkpoint.source, items: list, unexpected, bytes };
}

/**
 * Checks that a file holds each linear in the scheme that its config says.
 * @throws CheckpointError
 */
export function checkStored(model: Model, config: SelectiveConfig, { items }: Plan): void {
  const planned = new Map(items.map((item) => [item.parameter, item]));
  for (const { path, linear, scheme } of choicesOf(model, config)) {
    const [part] = planned.get(linear.weight)?.parts ?? [];
    if (!part) continue;
    const wanted = isCodes(scheme) ? codesConfig(config, scheme) : undefined;
    const double = part.stored?.tensors.has("nested_absmax") ?? false;
    const floats = part.stored !== undefined || /^B?F\d/.test(part.from.dtype);
    const kept = floats && part.stored?.scheme.name === wanted?.quantization_method();
    if (kept && double === (wanted?.bnb_4bit_use_double_quant ?? false)) continue;
    const is = part.stored ? `${part.stored.scheme.name}${double ? " with double quantization" : ""}` : part.from.dtype;
    throw new CheckpointError(
      `tensor ${part.from.name}: config.json says ${scheme} for ${path}, the file holds ${is}`,
      {
        details: { tensor: part.from.name, file: part.from.file, expected: scheme, got: is },
        hint: "config.json does not belong to these weights, or was changed",
      },
    );
  }
}

/**
 * The tensors that a checkpoint holds for parameters of these names, each whole and as it is; undefined for others.
 * @throws CheckpointError for a shape that does not fit
 */
export function tensorsOf(
  names: readonly string[],
  model: Model,
  architecture: Architecture,
  checkpoint: Checkpoint,
  { stored }: StorageOptions,
): (StoredTensor | undefined)[] {
  const parameters = new Map(model.named_parameters());
  const { candidates } = matchNames(parameters, architecture, checkpoint, stored ?? []);
  return names.map((name) => {
    const found = candidates.get(name);
    const parts = found ? partsOf(name, parameters.get(name)!, found) : [];
    const [part] = parts;
    return parts.length === 1 && !part!.stored && !part!.view ? part!.from : undefined;
  });
}

/** True if a checkpoint stores a parameter, in whatever form. */
export function isStored(
  name: string,
  model: Model,
  architecture: Architecture,
  checkpoint: Checkpoint,
  { stored }: StorageOptions,
): boolean {
  return matchNames(new Map(model.named_parameters()), architecture, checkpoint, stored ?? []).candidates.has(name);
}

/** The scheme that keeps a packed matrix in its 4 bits, if nothing else was asked for. */
function codesOf(
  { product }: Matrix,
  [part, ...more]: readonly Part[],
  { scheme, selective, head, dtype, compute }: StorageOptions,
): Scheme | undefined {
  const codes = part?.from.packed?.codes;
  if (!codes || !product || scheme || selective || head) return undefined;
  const { kind, blocksize } = codes;
  const parts = [part, ...more];
  const alike = parts.every(
    ({ from: { packed } }) => packed?.codes?.kind === kind && packed.codes.blocksize === blocksize,
  );
  // Panels of rows are filled as a whole.
  const whole = parts.every((one) => one.rows === rowsIn(one) && one.at % PANEL_ROWS === 0);
  if (!alike || !whole) return undefined;
  const zero_points = parts.some(({ from }) => from.packed!.codes!.zero_points);
  return codesScheme({ kind, blocksize, compute: compute ?? computeFor(dtype), zero_points });
}

/** Rows of a stored matrix, or of all matrices of a stack. */
function rowsIn({ from }: Part): number {
  return elementsOf(from.shape.slice(0, -1));
}

/** Bytes of the files that a parameter is read from. */
export function itemBytes({ parts, magnitudes }: PlanItem): number {
  return parts.reduce((sum, part) => sum + partBytes(part), magnitudes?.bytes ?? 0);
}

/** Bytes of the files that a part is read from. */
export function partBytes({ from, rows, columns, stored }: Part): number {
  if (stored) return [...stored.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  const all = elementsOf(from.shape);
  return all === 0 ? 0 : Math.round((from.bytes * rows * columns) / all);
}

/** Which stored tensors hold rows of which parameter; `unexpected` are those that no parameter uses. */
function matchNames(
  parameters: ReadonlyMap<string, Parameter | Matrix>,
  architecture: Architecture,
  checkpoint: Checkpoint,
  schemes: readonly Scheme[],
): { candidates: Map<string, Candidate[]>; unexpected: string[] } {
  const { tensors } = checkpoint;
  const has = (name: string): boolean => tensors.has(name);
  const claims = new Map<string, StoredWeight>();
  const claimed = new Set<string>();
  for (const name of schemes.length > 0 ? tensors.keys() : []) {
    for (const scheme of schemes) {
      const names = scheme.claims?.(name, has);
      if (!names) continue;
      const own = new Map([...names.names].map(([role, one]) => [role, tensors.get(one)!]));
      claims.set(name, { scheme: names.scheme, tensors: own, notes: names.notes });
      for (const one of names.names.values()) if (one !== name) claimed.add(one);
      break;
    }
  }
  const candidates = new Map<string, Candidate[]>();
  const unexpected: string[] = [];
  for (const [name, from] of tensors) {
    if (claimed.has(name)) continue;
    const place = placeOf(name, architecture.names);
    if (!place) continue;
    const known = place.targets.map((names) => names.find((one) => parameters.has(one)));
    if (known.includes(undefined)) {
      if (!isSpare(name, architecture.names)) unexpected.push(name);
      continue;
    }
    const stored = claims.get(name);
    const fused = known.map((one) => parameters.get(one!)!);
    known.forEach((one, index) => {
      const list = candidates.get(one!) ?? [];
      // The first one wins: a file may hold a tensor under two names.
      if (list.some(({ expert, part }) => expert === place.expert && part === place.part)) return;
      const { expert, transposed, part } = place;
      // Quantized matrices were transposed before quantization.
      const turned = transposed && !stored && !from.packed;
      list.push({ from, expert, part, transposed: turned, fused, index, stored });
      candidates.set(one!, list);
    });
  }
  return { candidates, unexpected };
}

/** The missing parts of a stack, to be appended to its name; undefined if it is complete. */
function lackingExpert(parameter: Parameter | Matrix, found: readonly Candidate[]): string | undefined {
  if (found.some(({ expert }) => expert === undefined)) return undefined;
  const experts = stackOf(parameter);
  for (let e = 0; e < experts; e++) if (!found.some(({ expert }) => expert === e)) return ` (of expert ${e})`;
  return undefined;
}

/** The missing half of a normalised weight, to be appended to its name; undefined if it is whole. */
function lackingPart(found: readonly Candidate[]): string | undefined {
  const parts = found.map(({ part }) => part);
  if (parts.includes(undefined)) return undefined;
  return (["magnitude", "direction"] as const)
    .filter((part) => !parts.includes(part))
    .map((part) => ` (its ${part})`)[0];
}

/**
 * The magnitudes of a weight that the file holds in two parts; undefined if it holds the whole.
 * @throws CheckpointError for a shape that does not fit, and for a parameter that is not normalised
 */
function magnitudesOf(
  name: string,
  parameter: Parameter | Matrix,
  found: readonly Candidate[],
): StoredTensor | undefined {
  if (found.some(({ part }) => part === undefined)) return undefined;
  const one = found.find(({ part }) => part === "magnitude")!;
  const shape = parameter instanceof NormedParameter ? parameter.magnitudes : [];
  checkShape(name, shape, one);
  return one.from;
}

/** Experts of a parameter: a stack of matrices, or of vectors that belong to one. */
function stackOf(parameter: Parameter | Matrix): number {
  return parameter instanceof Matrix ? parameter.experts : parameter.shape[0]!;
}

/** The rows of a parameter, one after the other. @throws CheckpointError for a shape that does not fit */
function partsOf(name: string, parameter: Parameter | Matrix, found: readonly Candidate[]): Part[] {
  const candidates = found.some(({ part }) => part === undefined) ? found.filter(({ part }) => !part) : found;
  const whole = candidates.find(({ expert, part }) => expert === undefined && part !== "magnitude");
  const { shape } = parameter;
  const columns = elementsOf(shape.slice(1));
  if (!whole) {
    const experts = stackOf(parameter);
    const rows = rowsOfExpert([shape[0]!, columns], experts);
    const inner = parameter instanceof Matrix ? [rows, columns] : shape.slice(1);
    return Array.from({ length: experts }, (_, e) => {
      const one = found.find(({ expert }) => expert === e)!;
      const view = checkShape(name, inner, one);
      return { from: one.from, at: e * rows, rows, columns, first: 0, view, stored: one.stored };
    });
  }
  const { from, fused, index, stored } = whole;
  if (fused.length === 1) {
    const experts = parameter instanceof Matrix ? parameter.experts : 1;
    if (whole.transposed && experts > 1) {
      const rows = shape[0]! / experts;
      return slicesOf(name, [experts, columns, rows], from).map((one, e) => {
        return { from: one, at: e * rows, rows, columns, first: 0, view: "transposed" };
      });
    }
    const view = checkShape(name, shape, whole);
    return [{ from, at: 0, rows: shape[0] ?? 1, columns, first: 0, view, stored }];
  }
  if (stored) {
    throw new CheckpointError(`tensor ${from.name}: quantized rows of several parameters cannot be split`, {
      details: { tensor: from.name, file: from.file },
    });
  }
  // Rows of all parameters, for each expert of a stack.
  const experts = parameter instanceof Matrix ? parameter.experts : 1;
  const heights = fused.map((one) => one.shape[0]! / experts);
  const total = heights.reduce((sum, rows) => sum + rows, 0);
  const before = heights.slice(0, index).reduce((sum, rows) => sum + rows, 0);
  const rows = heights[index]!;
  const expected = [total * experts, ...shape.slice(1)];
  const view = checkShape(name, expected, whole);
  return Array.from({ length: experts }, (_, e) => ({
    from,
    at: e * rows,
    rows,
    columns,
    first: e * total + before,
    view,
  }));
}

/**
 * How a stored tensor of another shape maps to `expected`.
 * @throws CheckpointError if it does not
 */
function checkShape(name: string, expected: readonly number[], { from, transposed, stored }: Candidate): Part["view"] {
  if (stored) return undefined; // codes may have any shape: the scheme checks them
  const { shape } = from;
  const wanted = transposed ? [...expected].reverse() : expected;
  if (shape.length === wanted.length && shape.every((size, d) => size === wanted[d])) {
    return transposed ? "transposed" : undefined;
  }
  // Matrices of a stack as [E,N,K], kernels of a convolution as [N,C,H,W].
  const [rows, columns] = expected;
  const joined = expected.length === 2 && shape.length > 2 && (shape[0] === rows || shape.at(-1) === columns);
  if (!transposed && joined && elementsOf(shape) === elementsOf(expected)) return "flat";
  throw misshapen(name, wanted, from);
}

function misshapen(
  name: string,
  wanted: readonly number[],
  { name: tensor, shape, file }: StoredTensor,
): CheckpointError {
  return new CheckpointError(
    `tensor ${tensor}: expected shape [${wanted.join(", ")}] for ${name}, got [${shape.join(", ")}]`,
    {
      details: { tensor, file, expected: wanted, got: shape },
      hint: "does config.json belong to this checkpoint?",
    },
  );
}

/** The slices of a stored tensor along its first dim, each as a tensor of its own. @throws CheckpointError for another shape */
function slicesOf(name: string, wanted: readonly number[], from: StoredTensor): StoredTensor[] {
  const { shape, strides, offset } = from;
  if (shape.length !== wanted.length || shape.some((size, d) => size !== wanted[d]))
    throw misshapen(name, wanted, from);
  const [count = 0, ...inner] = shape;
  const width = STORED_BITS.get(from.dtype)! / 8;
  const step = (strides?.[0] ?? elementsOf(inner)) * width;
  const own = strides?.slice(1);
  const last = own ? inner.reduce((far, size, d) => far + (size - 1) * own[d]!, 0) : elementsOf(inner) - 1;
  return Array.from({ length: count }, (_, i) => {
    const place = { shape: inner, offset: offset + i * step, bytes: (last + 1) * width };
    return { ...from, ...place, ...(own && { strides: own }) };
  });
}
