// Sentence embeddings: what modules.json and the pooling's config say, and what becomes of what is not done here.

import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { FormatError } from "../../src/core/errors.js";
import { AutoModel } from "../../src/generate/auto.js";
import { expectNoLeaks, openTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

const device = openTestDevice("reference");
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

const TYPE = "sentence_transformers.models.";
const POOLED = [
  { type: `${TYPE}Transformer`, path: "" },
  { type: `${TYPE}Pooling`, path: "1_Pooling" },
];
const inputs = {
  input_ids: [
    [20, 30, 40, 50],
    [60, 70, 0, 0],
  ],
  attention_mask: [
    [1, 1, 1, 1],
    [1, 1, 0, 0],
  ],
};

/** The hidden states and the embedding of a model with these files, and its warnings. */
async function embed(modules: unknown, pooling: unknown) {
  const folder = temporary("sentence");
  cpSync(join(FIXTURES, "models", "minilm-sentence"), folder, { recursive: true });
  mkdirSync(join(folder, "1_Pooling"), { recursive: true });
  writeFileSync(join(folder, "modules.json"), JSON.stringify(modules));
  writeFileSync(join(folder, "1_Pooling", "config.json"), JSON.stringify(pooling));
  const model = await AutoModel.from_pretrained(folder, { device });
  const { warnings } = model;
  const { last_hidden_state, sentence_embedding, pooler_output } = model.forward(inputs);
  const hidden = await last_hidden_state.readFloats();
  const embedding = await sentence_embedding?.readFloats();
  for (const tensor of [last_hidden_state, sentence_embedding, pooler_output]) tensor?.dispose();
  model.dispose();
  return { hidden, embedding, warnings, width: hidden.length / 8 };
}

/** Pooled by plain loops: row r, column k. */
const POOLINGS = {
  cls: (column: number[]) => column[0]!,
  max: (column: number[]) => Math.max(...column),
  mean: (column: number[]) => column.reduce((sum, one) => sum + one, 0) / column.length,
};
function pooled(hidden: Float32Array, width: number, kind: keyof typeof POOLINGS): number[] {
  return [0, 1].flatMap((row) =>
    Array.from({ length: width }, (_, k) => {
      const column = [0, 1, 2, 3]
        .filter((t) => inputs.attention_mask[row]![t])
        .map((t) => hidden[(row * 4 + t) * width + k]!);
      return POOLINGS[kind](column);
    }),
  );
}
const near = (got: ArrayLike<number>, want: readonly number[]): void => {
  expect(got.length).toBe(want.length);
  for (const [i, one] of want.entries()) expect(Math.abs(got[i]! - one)).toBeLessThan(1e-5);
};

describe("pooling", () => {
  test.each(["cls", "max", "mean"] as const)("%s, by its old flag and by its new name", async (kind) => {
    const flag = { cls: "pooling_mode_cls_token", max: "pooling_mode_max_tokens", mean: "pooling_mode_mean_tokens" }[
      kind
    ];
    for (const config of [{ [flag]: true, pooling_mode_mean_sqrt_len_tokens: false }, { pooling_mode: kind }]) {
      const { hidden, embedding, warnings, width } = await embed(POOLED, config);
      expect(warnings).toEqual([]);
      near(embedding!, pooled(hidden, width, kind));
    }
  });

  test("several lie behind each other, and a normalised one has length 1", async () => {
    const both = { pooling_mode_mean_tokens: true, pooling_mode_cls_token: true };
    const normalize = { type: `${TYPE}Normalize`, path: "2_Normalize" };
    const { hidden, embedding, width } = await embed([...POOLED, normalize], both);
    const [cls, mean] = [pooled(hidden, width, "cls"), pooled(hidden, width, "mean")];
    const want = [0, 1].flatMap((row) => {
      const own = [...cls.slice(row * width, (row + 1) * width), ...mean.slice(row * width, (row + 1) * width)];
      const length = Math.hypot(...own);
      return own.map((one) => one / length);
    });
    near(embedding!, want);
  });
});

test.each([
  [[...POOLED, { type: `${TYPE}Dense`, path: "2_Dense" }], {}, /names no pooling mode/],
  [[{ type: `${TYPE}Dense`, path: "2_Dense" }], {}, /"sentence_transformers.models.Dense" is not done here/],
  [POOLED, { pooling_mode_weightedmean_tokens: true }, /pooling_mode_weightedmean_tokens is not done here/],
  [POOLED, { pooling_mode: "weightedmean" }, /pooling_mode "weightedmean" is not done here/],
  [POOLED, {}, /names no pooling mode/],
  [[{ type: `${TYPE}Pooling`, path: "../elsewhere" }], {}, /"..\/elsewhere" is not the name/],
  [[{ type: `${TYPE}Pooling`, path: ".." }], {}, /".." is not the name of a folder of the model/],
  [[7, null], {}, /a module of type undefined/],
])("what is not done here gives a warning and no embedding: %j %j", async (modules, pooling, words) => {
  const { embedding, warnings } = await embed(modules, pooling);
  expect(embedding).toBeUndefined();
  expect(warnings.join()).toMatch(words);
});

test("a modules.json that holds no list", async () => {
  await expect(embed({ a: 1 }, {})).rejects.toThrow(FormatError);
  await expect(embed("text", {})).rejects.toThrow(/modules.json to hold a list, got a string/);
});
