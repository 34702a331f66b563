// Writes adapters as PEFT does: adapter_config.json and adapter_model.safetensors, of "default" into the folder itself, of others into
// folders of their names.

import type { FolderWriter, TensorToWrite } from "../checkpoints/folder.js";
import { OctavoError, throwIfAborted } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import { partOf } from "../load/published.js";
import { sizeOf } from "../load/save.js";
import { StateTensor } from "../nn/state.js";
import { contiguous } from "../ops/copy.js";
import type { Adapter } from "./adapter.js";
import { PREFIX } from "./read.js";

/** Modules that PEFT saves beside an adapter over them. */
const EMBEDDINGS = /(^|\.)(embed_tokens|lm_head)$/;

/** The tensors of an adapter by their names in its file. */
function partsOf({ config, places, replaced, biases }: Adapter): Map<string, () => Tensor> {
  const parts = new Map<string, () => Tensor>();
  const add = (key: string, tensor: () => Tensor): void => void parts.set(PREFIX + key, tensor);
  for (const { path, role, layer, matrix, transposed } of places) {
    if (layer.kind === "whole") {
      const { weight } = layer.matrix;
      add(path, () => (transposed ? scope(() => contiguous(weight.dense("f32").permute(1, 0))) : weight.dense("f32")));
      continue;
    }
    const { a, b, magnitude } = layer;
    if (role === "product") {
      add(`${path}.lora_A.weight`, () => a.value.alias());
      add(`${path}.lora_B.weight`, () => b.value.alias());
    } else {
      add(`${path}.lora_embedding_A`, () => scope(() => contiguous(a.value.permute(1, 0))));
      add(`${path}.lora_embedding_B`, () => b.value.alias());
    }
    if (magnitude) add(`${path}.lora_magnitude_vector`, () => magnitude.value.alias());
    if (EMBEDDINGS.test(path)) add(`${path}.base_layer.weight`, () => matrix.inner!.dense("f32"));
  }
  for (const { name, own } of replaced) add(name, () => own.value.alias());
  const adapted = new Set(places.map(({ path }) => `${path}.bias`));
  for (const { name, own } of biases) {
    const wrapped = adapted.has(name) && config.fields.bias !== "none";
    add(wrapped ? name.replace(/\.bias$/, ".base_layer.bias") : name, () => own.value.alias());
  }
  return new Map([...parts].sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** The tensors of an adapter, by their names in its file; each is read from the device when it is asked for. */
export function adapterState(adapter: Adapter): Map<string, StateTensor> {
  return new Map([...partsOf(adapter)].map(([name, make]) => [name, new StateTensor(partOf(name, make))]));
}

/**
 * Writes adapters into a folder, which changes as a whole.
 * @returns names of the files, and bytes of the tensors
 * @throws OctavoError in a page; FileError, AbortError, OptionError
 */
export async function writeAdapters(
  adapters: readonly Adapter[],
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
    for (const adapter of adapters) {
      const place = adapter.name === "default" ? "" : `${adapter.name}/`;
      const parts = [...partsOf(adapter)].map(([name, make]) => partOf(name, make));
      bytes += sizeOf(parts);
      const tensors: TensorToWrite[] = parts.map(({ bytes: read, ...part }) => ({
        ...part,
        data: () => {
          throwIfAborted(signal, "saving");
          return read();
        },
      }));
      const config = adapter.config.with({ inference_mode: true });
      await out.tensors(`${place}adapter_model.safetensors`, tensors, { format: "pt" });
      await out.bytes(`${place}adapter_config.json`, new TextEncoder().encode(config.to_json_string()));
      files.push(`${place}adapter_model.safetensors`, `${place}adapter_config.json`);
    }
  });
  return { files, bytes };
}
