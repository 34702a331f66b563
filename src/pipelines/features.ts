// Hidden states and embeddings of texts and images, and how near texts are to each other.

import { listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { choice, flag, type Options } from "../core/options.js";
import { scope, Tensor } from "../core/tensor.js";
import { embedding, lastOf, type PreTrainedEncoder } from "../generate/encoder-model.js";
import type { PreTrainedFeatureModel } from "../generate/feature-model.js";
import type { Features } from "../nn/features.js";
import { unitLength } from "../ops/pool.js";
import { imagesOf } from "./classify.js";
import {
  asText,
  inBatches,
  isText,
  kind,
  listed,
  type Parts,
  type Passed,
  passedOn,
  TOKENIZER_CALL,
  tokenizing,
  valuesOf,
} from "./kinds.js";

const { truncation, max_length } = TOKENIZER_CALL;
const FEATURES = {
  /** One vector for each text: the mean of its tokens, its first token, or its last; by default a vector for each token. */
  pooling: choice(["none", "mean", "cls", "last"]),
  /** Vectors of length one. */
  normalize: flag(),
  truncation,
  max_length,
  /** More options of the tokenizer's call. */
  tokenize_kwargs: tokenizing(),
};
export interface FeatureExtractionOptions extends Options<typeof FEATURES> {}

const IMAGE_FEATURES = {
  /** The model's pooled vector instead of one for each patch. */
  pool: flag(),
};
export interface ImageFeatureOptions extends Options<typeof IMAGE_FEATURES> {}

const SIMILARITY = { truncation, max_length };
export interface SentenceSimilarityOptions extends Options<typeof SIMILARITY> {}

/** A text, and those that it is compared with. */
export interface SimilarityInput {
  readonly source_sentence: string;
  readonly sentences: readonly string[];
}

/** What a model makes of texts. */
type Outputs = ReturnType<PreTrainedEncoder<"base">["forward"]>;

/**
 * A tensor [B,..] of each batch's outputs, which `choose` records on the device, as a row for each text.
 * @param choose also gets the mask of real tokens, which are at the left
 */
async function rowsOf(
  { model, tokenizer, batch_size }: Parts<PreTrainedEncoder<"base">>,
  texts: readonly string[],
  how: Omit<Passed, "padding">,
  choose: (outputs: Outputs, mask: readonly (readonly number[])[]) => Tensor,
): Promise<{ values: Float32Array; tokens: number }[]> {
  return inBatches(
    texts,
    batch_size,
    (text) => text.length,
    async (batch) => {
      const encoded = tokenizer([...batch], { padding: true, padding_side: "right", ...how });
      const { input_ids, attention_mask = [], token_type_ids } = encoded;
      const outputs = model.forward({ input_ids, attention_mask, token_type_ids });
      let chosen: Tensor;
      try {
        chosen = scope(() => choose(outputs, attention_mask));
      } finally {
        for (const tensor of Object.values(outputs).flat()) tensor.dispose();
      }
      const { chosen: read } = await valuesOf({ chosen }, "chosen");
      const each = read.values.length / batch.length;
      return batch.map((_, row) => ({
        values: read.values.subarray(row * each, (row + 1) * each),
        tokens: attention_mask[row]!.reduce((sum, one) => sum + one, 0),
      }));
    },
  );
}

/** One vector for each text, [B,hidden]. */
function pooled(hidden: Tensor, mask: readonly (readonly number[])[], kind: "mean" | "cls" | "last"): Tensor {
  const [rows = 0, steps = 0] = hidden.shape;
  const real = Uint8Array.from(mask.flat());
  const hides = Tensor.from(hidden.device, real, [rows, steps], "u8");
  const pooling = [kind === "last" ? ("lasttoken" as const) : kind];
  return embedding(hidden, hides, { pooling, normalize: false }, lastOf({ rows, steps, mask: real }));
}

export const featureExtraction = kind({
  models: ["base"],
  needs: ["tokenizer"],
  calls: FEATURES,
  async run(parts: Parts<PreTrainedEncoder<"base">>, inputs, { pooling = "none", normalize = false, ...given }) {
    const { items, many } = listed(inputs, asText, "a text");
    const { tokenize_kwargs, ...how } = given;
    const texts = await rowsOf(
      parts,
      items,
      { ...how, ...passedOn("tokenize_kwargs", tokenize_kwargs) },
      ({ last_hidden_state: hidden }, mask) => {
        const chosen = pooling === "none" ? hidden : pooled(hidden, mask, pooling);
        return normalize ? unitLength(chosen) : chosen.alias();
      },
    );
    const found = texts.map(({ values, tokens }) =>
      pooling === "none" ? [vectorsOf(values, tokens, parts)] : [...values],
    );
    return many ? found : found[0];
  },
});

/** The vectors of a text's tokens. */
function vectorsOf(values: Float32Array, tokens: number, { model }: Parts<PreTrainedEncoder<"base">>): number[][] {
  const { hidden } = model.module.geometry;
  return Array.from({ length: tokens }, (_, t) => [...values.subarray(t * hidden, (t + 1) * hidden)]);
}

function asComparison(value: unknown): SimilarityInput | undefined {
  const { source_sentence, sentences } = value as Partial<SimilarityInput>;
  const others = listOf(sentences, isText);
  return isText(source_sentence) && others && others.length > 0 ? { source_sentence, sentences: others } : undefined;
}

export const sentenceSimilarity = kind({
  models: ["base"],
  needs: ["tokenizer"],
  calls: SIMILARITY,
  async run(parts: Parts<PreTrainedEncoder<"base">>, inputs, how) {
    const { items, many } = listed(inputs, asComparison, "{ source_sentence, sentences }");
    const found: number[][] = [];
    for (const { source_sentence, sentences } of items) {
      const all = [source_sentence, ...sentences];
      const [source, ...others] = await rowsOf(parts, all, { truncation: true, ...how }, (outputs, mask) =>
        unitLength(outputs.sentence_embedding ?? pooled(outputs.last_hidden_state, mask, "mean")),
      );
      found.push(others.map(({ values }) => values.reduce((sum, value, i) => sum + value * source!.values[i]!, 0)));
    }
    return many ? found : found[0];
  },
});

export const imageFeatureExtraction = kind({
  models: ["base"],
  needs: ["image_processor"],
  calls: IMAGE_FEATURES,
  async run({ model, image_processor, batch_size }: Parts<PreTrainedFeatureModel<Features>>, inputs, { pool = false }) {
    const { items, many } = imagesOf(inputs);
    const found = await inBatches(
      items,
      batch_size,
      () => 0,
      async (batch) => {
        const pixels = await image_processor.run(batch, {});
        const outputs = model.forward(pixels);
        if (pool && !outputs.pooler_output) {
          for (const tensor of Object.values(outputs).flat()) tensor?.dispose();
          throw new OptionError("this model has no pooled vector", { details: { option: "pool" } });
        }
        const name = pool ? "pooler_output" : "last_hidden_state";
        const { [name]: states } = await valuesOf<typeof name>(outputs, name);
        const [rows = 1, ...rest] = states!.shape;
        const width = rest.at(-1)!;
        const each = states!.values.length / rows;
        return batch.map((_, row) => {
          const own = states!.values.subarray(row * each, (row + 1) * each);
          const vectors = Array.from({ length: each / width }, (_, t) => [...own.subarray(t * width, (t + 1) * width)]);
          return pool ? vectors[0]! : [vectors];
        });
      },
    );
    return many ? found : found[0];
  },
});
