// Writes adapters as PEFT does: adapter_config.json and adapter_model.safetensors, of "default" into the folder itself, of others into
// folders of their names.

import type { FolderWriter, TensorToWrite } from "../checkpoints/folder.js";
import { OctavoError, OptionError, throwIfAborted } from "../core/errors.js";
import { listed } from "../core/show.js";
import { scope, type Tensor } from "../core/tensor.js";
import { partOf } from "../load/published.js";
import { sizeOf } from "../load/save.js";
import type { Matrix } from "../nn/module.js";
import { StateTensor } from "../nn/state.js";
import { contiguous } from "../ops/copy.js";
import { scale } from "../ops/scale.js";
import type { Adapter } from "./adapter.js";
import type { AnyLoraConfig } from "./config.js";
import { side } from "./matrices.js";
import { PREFIX } from "./read.js";
import type { Adapters } from "./set.js";
import { type LoraLayer, merged, type Role } from "./weight.js";

/** Modules that PEFT saves beside an adapter over them. */
const EMBEDDINGS = /(^|\.)(embed_tokens|lm_head)$/;

/** PEFT leaves them out where the adapter has rows of its own. */
function withTables({ fields }: AnyLoraConfig): boolean {
  return fields.trainable_token_indices === null;
}

/** An adapter to be written. */
export interface ToWrite {
  readonly adapter: Adapter;
  /** With what it began, if it is written as one over the whole weights: the difference of both, of twice the rank. */
  readonly initial?: Adapter | undefined;
}

/** The tensors of an adapter by their names in its file. */
function partsOf({ adapter, initial }: ToWrite): Map<string, () => Tensor> {
  const { config, places, replaced, biases } = adapter;
  const began = new Map(
    initial?.places.flatMap(({ path, layer }) => (layer.kind === "lora" ? [[path, layer] as const] : [])),
  );
  const parts = new Map<string, () => Tensor>();
  const add = (key: string, tensor: () => Tensor): void => void parts.set(PREFIX + key, tensor);
  for (const { path, role, layer, matrix, transposed, tied } of places) {
    if (tied) continue;
    if (layer.kind === "whole") {
      const { weight } = layer.matrix;
      add(path, () => (transposed ? scope(() => contiguous(weight.dense("f32").permute(1, 0))) : weight.dense("f32")));
      continue;
    }
    if (layer.kind === "tokens") {
      add(`${path}.token_adapter.trainable_tokens_delta`, () => layer.rows.value.alias());
      continue;
    }
    if (layer.kind === "stack") {
      add(`${path}.lora_A.weight`, () => layer.a.value.alias());
      add(`${path}.lora_B.weight`, () => layer.b.value.alias());
      continue;
    }
    const first = began.get(path);
    const { magnitude } = layer;
    const { a, b } = first
      ? difference(layer, first, role)
      : { a: () => layer.a.value.alias(), b: () => layer.b.value.alias() };
    if (role === "product") {
      add(`${path}.lora_A.weight`, a);
      add(`${path}.lora_B.weight`, b);
    } else {
      add(`${path}.lora_embedding_A`, () => scope(() => contiguous(a().permute(1, 0))));
      add(`${path}.lora_embedding_B`, b);
    }
    if (magnitude) add(`${path}.lora_magnitude_vector`, () => magnitude.value.alias());
    if (withTables(config) && EMBEDDINGS.test(path))
      add(`${path}.base_layer.weight`, () => baseOf(matrix, first, role));
  }
  for (const { name, own } of replaced) add(name, () => own.value.alias());
  const adapted = new Set(places.map(({ path }) => `${path}.bias`));
  for (const { name, own } of biases) {
    const wrapped = adapted.has(name) && config.fields.bias !== "none";
    add(wrapped ? name.replace(/\.bias$/, ".base_layer.bias") : name, () => own.value.alias());
  }
  return new Map([...parts].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/**
 * Checks that the matrices which an adapter's file holds are the model's own.
 * @throws OptionError while adapters are merged into one of them
 */
export function checkTables(adapters: Adapters, { name, config, places }: Adapter): void {
  if (!withTables(config)) return;
  const held = new Set(
    places.flatMap(({ path, matrix, layer }) => (EMBEDDINGS.test(path) && layer.kind === "lora" ? [matrix] : [])),
  );
  const inside = [...adapters.choice.merged].filter((other) =>
    adapters.get(other).places.some(({ matrix, layer }) => layer.kind === "lora" && held.has(matrix)),
  );
  if (inside.length === 0) return;
  throw new OptionError(`the file of ${name} holds an embedding or a head, into which ${listed(inside)} are merged`, {
    hint: "unmerge_adapter() first",
  });
}

/** A and B of twice the rank: what a layer adds to the whole weights, which lack what it began with. */
function difference({ a, b }: LoraLayer, first: LoraLayer, role: Role) {
  return {
    a: () => side([a.value, first.a.value], role === "product" ? 0 : 1),
    b: () => scope(() => side([b.value, scale(first.b.value, -1)], 1)),
  };
}

/** The matrix under a layer, f32[N,K]: the whole one, where the file is for that. */
function baseOf(matrix: Matrix, first: LoraLayer | undefined, role: Role): Tensor {
  return scope(() => {
    const rows = matrix.inner!.dense("f32");
    return first ? merged(rows, { ...first, magnitude: undefined }, role) : rows;
  });
}

/** The config of an adapter that is written. */
function writtenConfig({ adapter: { config }, initial }: ToWrite): AnyLoraConfig {
  if (!initial) return config.with({ inference_mode: true });
  const { r, lora_alpha, use_rslora, rank_pattern, alpha_pattern } = config.fields;
  const doubled = (one: Readonly<Record<string, number>>) =>
    Object.fromEntries(Object.entries(one).map(([key, value]) => [key, 2 * value]));
  return config.with({
    inference_mode: true,
    init_lora_weights: true,
    r: 2 * r,
    lora_alpha: lora_alpha * (use_rslora ? Math.SQRT2 : 2),
    rank_pattern: doubled(rank_pattern),
    alpha_pattern: doubled(alpha_pattern),
  });
}

/** The tensors of an adapter, by their names in its file; each is read from the device when it is asked for. */
export function adapterState(adapter: Adapter): Map<string, StateTensor> {
  return new Map([...partsOf({ adapter })].map(([name, make]) => [name, new StateTensor(partOf(name, make))]));
}

/**
 * Writes adapters into a folder, which changes as a whole.
 * @returns names of the files, and bytes of the tensors
 * @throws OctavoError in a page; FileError, AbortError, OptionError
 */
export async function writeAdapters(
  adapters: readonly ToWrite[],
  folders: FolderWriter | undefined,
  folder: string,
  signal: AbortSignal | undefined,
): Promise<{ readonly files: string[]; readonly bytes: number }> {
  if (!folders) {
    throw new OctavoError("ERR_UNSUPPORTED", "save_pretrained writes a folder, which a page cannot do", {
      hint: "get_adapter_state_dict() gives the tensors, to be sent or stored where the page likes",
    });
  }
  const files: string[] = [];
  let bytes = 0;
  const old = (name: string): boolean => /^adapter_model\.(safetensors|bin)$/.test(name);
  await folders.replace(folder, old, async (out) => {
    for (const one of adapters) {
      const { adapter } = one;
      const place = adapter.name === "default" ? "" : `${adapter.name}/`;
      const parts = [...partsOf(one)].map(([name, make]) => partOf(name, make));
      bytes += sizeOf(parts);
      const tensors: TensorToWrite[] = parts.map(({ bytes: read, ...part }) => ({
        ...part,
        data: () => {
          throwIfAborted(signal, "saving");
          return read();
        },
      }));
      const config = writtenConfig(one);
      await out.tensors(`${place}adapter_model.safetensors`, tensors, { format: "pt" });
      await out.bytes(`${place}adapter_config.json`, new TextEncoder().encode(config.to_json_string()));
      files.push(`${place}adapter_model.safetensors`, `${place}adapter_config.json`);
    }
  });
  return { files, bytes };
}
