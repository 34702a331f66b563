// Examples as tokens with labels, against TRL's SFTTrainer, and its packing (training/).

import { beforeAll, describe, expect, test, vi } from "vitest";
import { AutoTokenizer, OptionError, type PreTrainedTokenizer } from "../../src/index.js";
import { Dataset } from "../../src/train/data/dataset.js";
import { IterableDataset } from "../../src/train/data/iterable-dataset.js";
import { packed } from "../../src/train/data/packing.js";
import { prepare_sft_dataset } from "../../src/train/data/sft.js";
import type { PackingStrategy, SFTOptions } from "../../src/train/data/sft-options.js";
import type { Feature } from "../../src/train/data/types.js";
import { sftCollator } from "../../src/train/sft-trainer.js";
import { readJson } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";

interface Golden {
  readonly template: string;
  readonly cases: { name: string; rows: Feature[]; options: SFTOptions; made: Feature[] }[];
}
interface Packing {
  readonly texts: number[][];
  readonly cases: {
    strategy: PackingStrategy;
    length: number;
    made: { input_ids: number[][]; seq_lengths?: number[][] };
  }[];
}

const golden = readJson<Golden>("training", "sft.json");
const packing = readJson<Packing>("training", "packing.json");
let tokenizer: PreTrainedTokenizer;
beforeAll(async () => {
  tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
  tokenizer.chat_template = golden.template;
});

async function all(examples: AsyncIterable<Feature>): Promise<Feature[]> {
  const rows: Feature[] = [];
  for await (const one of examples) rows.push(one);
  return rows;
}

test.each(golden.cases)("$name", async ({ rows, options, made }) => {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {}); // a prompt that ends with a blank
  expect(prepare_sft_dataset(Dataset.from_list(rows), tokenizer, options).to_list()).toEqual(made);
  const stream = IterableDataset.from_generator(() => rows);
  expect(await all(prepare_sft_dataset(stream, tokenizer, options))).toEqual(made);
  warn.mockRestore();
});

test.each(packing.cases)("packing $strategy, $length", ({ strategy, length, made }) => {
  const rows = packed(
    packing.texts.map((ids) => ({ input_ids: ids, labels: ids })),
    length,
    strategy,
  );
  expect(rows.map(({ input_ids }) => input_ids)).toEqual(made.input_ids);
  if (made.seq_lengths) expect(rows.map(({ seq_lengths }) => seq_lengths)).toEqual(made.seq_lengths);
  for (const { input_ids, labels } of rows) expect(labels).toEqual(input_ids);
});

describe("prepare_sft_dataset", () => {
  const of = (row: Feature, options: SFTOptions = {}): Feature[] =>
    prepare_sft_dataset(Dataset.from_list([row]), tokenizer, options).to_list();

  test("the end of a text may be what is left", () => {
    const [whole] = of({ text: "Once upon a time there was a king." });
    const [cut] = of({ text: "Once upon a time there was a king." }, { max_length: 4, truncation_mode: "keep_end" });
    expect(cut!.input_ids).toEqual((whole!.input_ids as number[]).slice(-4));
  });

  test("packing keeps beginnings whatever truncation_mode says, as in TRL", () => {
    const row = { text: "The robot found a key and went on to the moon." };
    const packs = { packing: true, max_length: 4, packing_strategy: "bfd" } as const;
    const [kept] = of(row, { ...packs, truncation_mode: "keep_end" });
    expect(kept!.input_ids).toEqual(tokenizer(row.text).input_ids.slice(0, 4));
  });

  test("rows of a batch are filled up to a multiple, or stand one behind the other", () => {
    const rows = [{ text: "The robot found a key." }, { text: "Once" }].flatMap((row) => of(row, {}));
    const [one, two] = rows.map(({ input_ids }) => (input_ids as number[]).length);
    expect(one).toBeGreaterThan(two!);
    const padded = sftCollator(tokenizer, { pad_to_multiple_of: 16 })(rows) as { input_ids: number[][] };
    expect(padded.input_ids.map(({ length }) => length)).toEqual([16, 16]);
    const flat = sftCollator(tokenizer, { padding_free: true })(rows) as Record<
      "input_ids" | "position_ids",
      number[][]
    >;
    expect(flat.input_ids).toEqual([rows.flatMap(({ input_ids }) => input_ids)]);
    expect(flat.position_ids).toEqual([[...Array(one).keys(), ...Array(two).keys()]]);
  });

  test("older chats, tools as text, and tokens that are there already", () => {
    const chat = {
      conversations: [
        { from: "human", value: "Hello" },
        { from: "gpt", value: "Hi" },
      ],
    };
    const today = {
      messages: [
        { role: "user", content: "Hello" },
        { role: "assistant", content: "Hi" },
      ],
    };
    expect(of(chat)).toEqual(of(today));
    expect(of({ ...today, tools: '[{"name":"hunt"}]' })).toEqual(of({ ...today, tools: [{ name: "hunt" }] }));
    expect(of({ input_ids: [5, 6, 7], completion_mask: [0, 1, 1] })).toEqual([
      { input_ids: [5, 6, 7], labels: [-100, 6, 7] },
    ]);
  });

  test("packs a thousand texts at a time, from memory and from a stream", async () => {
    const rows = Array.from({ length: 1001 }, (_, n) => ({ input_ids: Array.from({ length: 1 + (n % 5) }, () => n) }));
    const options = { packing: true, max_length: 16 };
    const data = prepare_sft_dataset(Dataset.from_list(rows), tokenizer, options).to_list();
    expect(
      await all(
        prepare_sft_dataset(
          IterableDataset.from_generator(() => rows),
          tokenizer,
          options,
        ),
      ),
    ).toEqual(data);
    const tokens = data.flatMap(({ input_ids }) => input_ids as number[]);
    expect(tokens.length).toBe(rows.reduce((sum, { input_ids }) => sum + input_ids.length, 0));
    expect(data.every(({ input_ids }) => (input_ids as number[]).length <= 16)).toBe(true);
  });

  test.each<[row: Feature, options: SFTOptions, message: RegExp]>([
    [{ prompt: "a" }, {}, /example 0: expected text, prompt and completion, or messages, got prompt; a prompt alone/],
    [{ text: 3 }, {}, /text must be text, got 3/],
    [{ messages: [] }, {}, /list of messages, got \[\]/],
    [{ messages: [{ content: "a" }] }, {}, /a message needs a role/],
    [{ messages: [{ role: "user", content: "a" }] }, { assistant_only_loss: true }, /no token is the assistant's/],
    [{ text: "a" }, { assistant_only_loss: true }, /assistant_only_loss is for messages/],
    [{ text: "a" }, { completion_only_loss: true }, /needs examples with a prompt and a completion/],
    [{ messages: [{ role: "user" }], tools: "{" }, {}, /tools are no JSON/],
    [{ input_ids: [1], labels: [] }, {}, /labels must be whole numbers, one for each token/],
    [{ text: "a" }, { packing: true, max_length: null }, /packing needs a max_length/],
  ])("%o, %o is refused", (row, options, message) => {
    const work = () => of(row, options);
    expect(work).toThrow(OptionError);
    expect(work).toThrow(message);
  });
});
