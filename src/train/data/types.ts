// What a trainer reads: examples, where they come from, and what makes batches of them.

/** One example, as a tokenizer or a dataset gives it: `{ input_ids: number[], labels?: number[], ... }`. */
export type Feature = Readonly<Record<string, unknown>>;

/** Arguments of a model's `forward` by name: `{ input_ids, attention_mask, labels }`, a row for each example. */
export type Batch = Readonly<Record<string, unknown>>;

/** Examples by number. */
export interface MapDataset {
  readonly length: number;
  /** Example `index`, from 0. Each call with one number gives the same example. */
  at(index: number): Feature | Promise<Feature>;
}

/** Examples by number, or a list of them, or a stream, which can be walked from its beginning once in each epoch. */
export type Dataset = MapDataset | readonly Feature[] | AsyncIterable<Feature>;

/** Makes a batch of examples. It must not depend on anything but them: a resumed run calls it anew. */
export type DataCollator = (features: Feature[]) => Batch | Promise<Batch>;
