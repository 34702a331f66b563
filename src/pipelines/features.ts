// Hidden states and embeddings of texts and images, and how near texts are to each other.

import { listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import { choice, flag, type Options } from "../core/options.js";
import type { PreTrainedEncoder } from "../generate/encoder-model.js";
import type { PreTrainedFeatureModel } from "../generate/feature-model.js";
import type { Features } from "../nn/features.js";
import { imagesOf } from "./classify.js";
import { asText, inBatches, isText, kind, listed, type Parts, TOKENIZER_CALL, valuesOf } from "./kinds.js";

const { truncation, max_length } = TOKENIZER_CALL;
const FEATURES = {
  /** One vector for each text: the mean of its tokens, its first token, or its last; by default a vector for each token. */
  pooling: choice(["none", "mean", "cls", "last"]),
  /** Vectors of length one. */
  normalize: flag(),
  truncation,
  max_length,
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

function normalized(vector: number[]): number[] {
  const length = Math.hypot(...vector);
  return length > 0 ? vector.map((value) => value / length) : vector;
}

/** One vector of a text's. */
function pooled(rows: readonly Float32Array[], how: "mean" | "cls" | "last"): number[] {
  if (how === "cls") return [...rows[0]!];
  if (how === "last") return [...rows.at(-1)!];
  const sum = new Float64Array(rows[0]!.length);
  for (const row of rows) for (let i = 0; i < sum.length; i++) sum[i] = sum[i]! + row[i]!;
  return [...sum.map((value) => value / rows.length)];
}

/** What a model makes of texts: the vectors of each one's tokens, and its embedding where the files say how to make it. */
async function embedded(
  { model, tokenizer, batch_size }: Parts<PreTrainedEncoder<"base">>,
  texts: readonly string[],
  how: Options<typeof SIMILARITY>,
): Promise<{ rows: Float32Array[]; sentence: Float32Array | undefined }[]> {
  return inBatches(
    texts,
    batch_size,
    (text) => text.length,
    async (batch) => {
      const { input_ids, attention_mask, token_type_ids } = tokenizer([...batch], { padding: true, ...how });
      const outputs = model.forward({ input_ids, attention_mask, token_type_ids });
      const whole = "sentence_embedding" in outputs;
      const names = whole ? (["last_hidden_state", "sentence_embedding"] as const) : (["last_hidden_state"] as const);
      const { last_hidden_state: states, sentence_embedding: own } = await valuesOf<
        "last_hidden_state" | "sentence_embedding"
      >(outputs, ...names);
      const [, steps = 0, width = 0] = states.shape;
      return batch.map((_, row) => ({
        rows: Array.from({ length: steps }, (_, t) => t)
          .filter((t) => attention_mask![row]![t] === 1)
          .map((t) => states.values.subarray((row * steps + t) * width, (row * steps + t + 1) * width)),
        sentence: own?.values.subarray(
          (row * own.values.length) / batch.length,
          ((row + 1) * own.values.length) / batch.length,
        ),
      }));
    },
  );
}

export const featureExtraction = kind({
  models: ["base"],
  needs: ["tokenizer"],
  calls: FEATURES,
  async run(parts: Parts<PreTrainedEncoder<"base">>, inputs, { pooling = "none", normalize = false, ...how }) {
    const { items, many } = listed(inputs, asText, "a text");
    const texts = await embedded(parts, items, how);
    const finish = (vector: number[]): number[] => (normalize ? normalized(vector) : vector);
    const found = texts.map(({ rows }) =>
      pooling === "none" ? [rows.map((row) => finish([...row]))] : finish(pooled(rows, pooling)),
    );
    return many ? found : found[0];
  },
});

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
      const texts = await embedded(parts, [source_sentence, ...sentences], { truncation: true, ...how });
      const [source, ...others] = texts.map(({ rows, sentence }) =>
        normalized(sentence ? [...sentence] : pooled(rows, "mean")),
      );
      found.push(others.map((one) => one.reduce((sum, value, i) => sum + value * source![i]!, 0)));
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
