// ALBERT's layers run several times, wherever their weights are.

import { join } from "node:path";
import { expect, test } from "vitest";
import { nativeAvailable } from "../../src/backends/native/addon.js";
import { AutoModelForMaskedLM, type FromPretrainedOptions } from "../../src/generate/auto.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const FOLDER = join(FIXTURES, "models", "albert");
const { single } = readJson<{ inputs: { single: { input_ids: number[][] } } }>(
  "models",
  "albert",
  "expected.json",
).inputs;

async function logits(options: FromPretrainedOptions): Promise<Float32Array> {
  const model = await AutoModelForMaskedLM.from_pretrained(FOLDER, options);
  const { logits } = model.forward(single);
  const values = await logits.readFloats();
  logits.dispose();
  await model.dispose();
  return values;
}

// Only the native add-on has logical devices.
test.skipIf(!nativeAvailable()).each([
  ["another device", "cpu:1", {}],
  ["the disk", "disk", { offload_folder: temporary("albert") }],
] as const)("weights on %s", async (_, place, more) => {
  const layers = [0, 1].flatMap((group) => [0, 1].map((layer) => [group, layer] as const));
  const places = layers.map(([group, layer]): [string, string] => [
    `albert.encoder.albert_layer_groups.${group}.albert_layers.${layer}`,
    layer === 1 ? place : "cpu:0",
  ]);
  const device_map = {
    "albert.embeddings": "cpu:0",
    "albert.encoder.embedding_hidden_mapping_in": "cpu:0",
    predictions: "cpu:0",
    ...Object.fromEntries(places),
  };
  expect(await logits({ device_map, ...more } as FromPretrainedOptions)).toEqual(await logits({ device: "cpu:0" }));
});
