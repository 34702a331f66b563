// What config.json files of encoders can say: what is not done here is refused by name; parameters of published sizes.

import { describe, expect, test } from "vitest";
import { ConfigError, UnsupportedModelError } from "../../src/core/errors.js";
import { buildModel } from "../../src/models/index.js";
import type { Task } from "../../src/nn/architecture.js";
import { readJson } from "../support/fixtures.js";

type Fields = Readonly<Record<string, unknown>>;

const REFUSED: readonly [fixture: string, fields: Fields, message: RegExp][] = [
  ["mpnet", { relative_attention_num_buckets: 31 }, /relative_attention_num_buckets.*got 31/],
  ["mpnet", { max_position_embeddings: 2 }, /positions count from 2, and 2 are too few/],
  ["mpnet", { num_attention_heads: 5 }, /36 is not a multiple of 5 attention heads/],
  ["electra", { is_decoder: true }, /is_decoder/],
  ["electra", { position_embedding_type: "relative_key" }, /position_embedding_type/],
  ["albert", { num_hidden_groups: 4 }, /num_hidden_layers 3 leaves some of num_hidden_groups 4 unused/],
  ["albert", { num_attention_heads: 5 }, /36 is not a multiple of 5 attention heads/],
  ["deberta-v2", { pos_att_type: "p2c|p2p" }, /pos_att_type "p2p" is not supported \(known: c2p, p2c\)/],
  ["deberta-v2", { embedding_size: 20 }, /embedding_size other than 36 is not supported \(got 20\)/],
  ["deberta-v2", { pooler_hidden_size: 20 }, /pooler_hidden_size other than 36 is not supported/],
  ["deberta-v2", { attention_head_size: 16 }, /attention_head_size other than 12 is not supported/],
  ["deberta-v2", { conv_kernel_size: 4 }, /conv_kernel_size must be odd, got 4/],
  ["deberta-v2", { conv_groups: 5 }, /conv_groups 5 do not divide 36 channels/],
  ["deberta-v2", { conv_act: "mish" }, /conv_act: unknown activation "mish"/],
  ["deberta-v2", { position_buckets: 3 }, /position_buckets 3 do not fit max_relative_positions 64/],
  ["deberta-v2", { position_buckets: 126 }, /position_buckets 126 do not fit max_relative_positions 64/],
  ["electra", { embedding_size: 0 }, /embedding_size/],
];

test.each(REFUSED)("%s with %j is refused", async (name, fields, message) => {
  const config = { ...readJson<Fields>("models", name, "config.json"), ...fields };
  for (const task of ["base", "masked-lm"] as const) {
    await expect(buildModel(config, task)).rejects.toThrow(ConfigError);
    await expect(buildModel(config, task)).rejects.toThrow(message);
  }
});

test("ELECTRA's discriminator has no scores for words", async () => {
  const config = { ...readJson<Fields>("models", "electra", "config.json"), architectures: ["ElectraForPreTraining"] };
  const build = buildModel(config, "masked-lm");
  await expect(build).rejects.toThrow(UnsupportedModelError);
  await expect(build).rejects.toThrow(/"ElectraForPreTraining".*head is not supported/);
  expect((await buildModel(config, "sequence-classification")).class_name).toBe("ElectraForSequenceClassification");
});

/** Parameters of published models, as transformers counts them on the meta device; test/cli/inspect.test.ts has those of their own classes. */
const PARAMETERS: readonly [name: string, task: Task, parameters: number][] = [
  ["all-mpnet-base-v2", "base", 109_486_464],
  ["electra-base-discriminator", "base", 108_891_648],
  ["albert-base-v2", "base", 11_683_584],
  ["deberta-v3-base", "base", 183_831_552],
  ["deberta-v2-xlarge", "base", 884_593_152],
  ["umt5-small", "base", 150_153_216],
];

describe("parameters", () => {
  const published = readJson<Record<string, { config: Fields }>>("published_configs.json");
  test.each(PARAMETERS)("%s: %s", async (name, task, parameters) => {
    const model = await buildModel(published[name]!.config, task);
    const shared = new Set([...model.named_parameters()].map(([, parameter]) => parameter));
    expect([...shared].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)).toBe(parameters);
  });
});
