// Whatever is passed to what octavo/train has for data: it works, or it is refused with a typed error of a length that can be read.

import { expect, test } from "vitest";
import { AutoTokenizer } from "../../src/index.js";
import { LOAD_DATASET } from "../../src/train/data/load.js";
import { SFT } from "../../src/train/data/sft-options.js";
import * as train from "../../src/train.js";
import { STORYTELLER } from "../support/models.js";
import { all } from "../support/odd-calls.js";

const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
const { Dataset, IterableDataset, prepare_sft_dataset, load_dataset } = train;
const data = Dataset.from_dict({ n: [1, 2, 3] });
const stream = IterableDataset.from_generator(() => data);
const drained = async (examples: AsyncIterable<unknown>): Promise<number> => {
  let count = 0;
  for await (const _ of examples) count++;
  return count;
};
type Method = (...args: readonly unknown[]) => unknown;

test("data sets", async () => {
  await all("new Dataset", (odd) => new Dataset(odd as never));
  await all("from_dict", (odd) => Dataset.from_dict(odd as never));
  await all("from_dict({ a })", (odd) => Dataset.from_dict({ a: odd as never }));
  for (const name of ["map", "filter", "select", "take", "skip", "shuffle", "train_test_split", "shard"] as const) {
    await all(name, (odd) => (data[name] as Method)(odd));
  }
  for (const name of ["at", "column", "remove_columns", "select_columns", "rename_column"] as const) {
    await all(name, (odd) => (data[name] as Method)(odd));
  }
  for (const batched of [false, true]) {
    await all(`map gives it, ${batched}`, (odd) => data.map((() => odd) as never, { batched }));
    await all(`map of a stream gives it, ${batched}`, (odd) => drained(stream.map((() => odd) as never, { batched })));
  }
  for (const option of ["batched", "batch_size", "with_indices", "remove_columns"]) {
    await all(`map(f, { ${option} })`, (odd) => data.map(() => null, { [option]: odd } as never));
    await all(`stream.map(f, { ${option} })`, (odd) => drained(stream.map(() => null, { [option]: odd } as never)));
  }
  await all("new IterableDataset", (odd) => drained(new IterableDataset(odd as never)));
  await all("from_generator", (odd) => drained(IterableDataset.from_generator(odd as never)));
  await all("a generator gives it", (odd) => drained(IterableDataset.from_generator(() => [odd as never])));
  for (const name of ["map", "filter", "take", "skip", "shuffle", "pipe", "set_epoch"] as const) {
    await all(name, async (odd) => {
      const made = (stream[name] as Method)(odd);
      return made instanceof IterableDataset ? drained(made) : made;
    });
  }
});

test("load_dataset", async () => {
  await all("load_dataset", (odd) => load_dataset(odd as never));
  const bytes = new TextEncoder().encode('{"a":1}\n');
  for (const format of ["json", "csv", "text", "parquet"] as const) {
    for (const option of Object.keys(LOAD_DATASET)) {
      await all(`${format}, { ${option} }`, (odd) =>
        load_dataset(format, { data_files: bytes, [option]: odd } as never),
      );
    }
  }
  await all("data_files by name", (odd) => load_dataset("json", { data_files: { train: odd } } as never));
  await all("data_files in a list", (odd) => load_dataset("json", { data_files: [odd] } as never));
});

test("prepare_sft_dataset and SFTConfig", async () => {
  await all("the data", (odd) => prepare_sft_dataset(odd as never, tokenizer));
  await all("the tokenizer", (odd) => prepare_sft_dataset(data, odd as never));
  const rows = Dataset.from_list([{ text: "a" }]);
  for (const option of Object.keys(SFT)) {
    await all(`{ ${option} }`, (odd) => prepare_sft_dataset(rows, tokenizer, { [option]: odd } as never));
    await all(`SFTConfig({ ${option} })`, (odd) => new train.SFTConfig({ [option]: odd } as never));
  }
  const chat_template = "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}{{ tools }}";
  const of = (row: object): unknown =>
    prepare_sft_dataset(Dataset.from_list([row as never]), tokenizer, { chat_template });
  const messages = [{ role: "user", content: "a" }];
  await all("text", (odd) => of({ text: odd }));
  await all("prompt", (odd) => of({ prompt: odd, completion: "a" }));
  await all("completion", (odd) => of({ prompt: messages, completion: odd }));
  await all("messages", (odd) => of({ messages: odd }));
  await all("a message", (odd) => of({ messages: [odd] }));
  await all("content", (odd) => of({ messages: [{ role: "user", content: odd }] }));
  await all("conversations", (odd) => of({ conversations: [{ from: "human", value: odd }] }));
  for (const field of ["tools", "chat_template_kwargs"]) await all(field, (odd) => of({ messages, [field]: odd }));
  for (const field of ["input_ids", "labels", "completion_mask"]) {
    await all(field, (odd) => of({ input_ids: [1, 2], [field]: odd }));
  }
  await all("SFTTrainer", (odd) => new train.SFTTrainer(odd as never));
  await all("SFTConfig", (odd) => new train.SFTConfig(odd as never));
});

test("collators", async () => {
  const options: Readonly<Record<string, object>> = {
    DataCollatorForLanguageModeling: { tokenizer, mlm: false },
    DataCollatorForCompletionOnlyLM: { tokenizer, response_template: [1] },
    DataCollatorForPreference: { pad_token_id: 0 },
  };
  const collators = Object.entries(train).filter(([name]) => name.startsWith("DataCollator"));
  expect(collators.length).toBe(7);
  for (const [name, value] of collators) {
    const Collator = value as unknown as new (...args: readonly unknown[]) => (features: unknown) => unknown;
    await all(`new ${name}(it)`, (odd) => new Collator(odd));
    await all(`new ${name}(tokenizer, it)`, (odd) => new Collator(tokenizer, odd));
    const collate = name.endsWith("Texts") ? new Collator() : new Collator(options[name] ?? { tokenizer });
    await all(`${name}()(it)`, (odd) => collate(odd));
    await all(`${name}()([it])`, (odd) => collate([odd]));
    for (const field of ["input_ids", "attention_mask", "labels", "label", "token_type_ids", "seq_lengths", "other"]) {
      const rest = name.endsWith("Texts") ? { seq_lengths: [2] } : {};
      await all(`${name}, ${field}`, (odd) => collate([{ input_ids: [1, 2], ...rest, [field]: odd }]));
    }
  }
});
