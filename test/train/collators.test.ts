// Collators against transformers' (training/collators.json), and what is Octavo's own in them.

import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { AutoTokenizer, OptionError, type PreTrainedTokenizer } from "../../src/index.js";
import {
  DataCollatorForCompletionOnlyLM,
  DataCollatorForPackedTexts,
  DataCollatorForSeq2Seq,
  DataCollatorForTokenClassification,
  DataCollatorWithPadding,
} from "../../src/train/data/collators.js";
import { DataCollatorForLanguageModeling } from "../../src/train/data/language-modeling.js";
import type { Feature } from "../../src/train/data/types.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";
import { temporary } from "../support/temporary.js";

interface Case {
  readonly name: keyof typeof COLLATORS;
  readonly side: "left" | "right";
  readonly options: object;
  readonly features: Feature[];
  readonly made: object;
}

const COLLATORS = {
  DataCollatorWithPadding,
  DataCollatorForTokenClassification,
  DataCollatorForSeq2Seq,
  DataCollatorForLanguageModeling,
};

let words: PreTrainedTokenizer;
let stories: PreTrainedTokenizer;
beforeAll(async () => {
  const folder = temporary("words");
  mkdirSync(folder, { recursive: true });
  copyFileSync(join(FIXTURES, "tokenizers", "words-vocab.txt"), join(folder, "vocab.txt"));
  writeFileSync(join(folder, "tokenizer_config.json"), '{"tokenizer_class":"BertTokenizer"}');
  words = await AutoTokenizer.from_pretrained(folder);
  stories = await AutoTokenizer.from_pretrained(STORYTELLER);
});

test.each(readJson<Case[]>("training", "collators.json"))("$name, $side, $options", (given) => {
  words.padding_side = given.side;
  const Collator = COLLATORS[given.name];
  const made = new Collator(words, given.options)(given.features);
  expect(made).toEqual(given.made);
  // All of it in one object.
  expect(new Collator({ ...given.options, tokenizer: words })(given.features)).toEqual(made);
});

describe("masked tokens", () => {
  const features = Array.from({ length: 40 }, (_, n) => ({
    input_ids: Array.from({ length: 100 }, (_, i) => 5 + ((n * 31 + i * 7) % 40)),
  }));
  const counted = (seed: number) => {
    const { input_ids, labels } = new DataCollatorForLanguageModeling(words, { seed })(features) as Record<
      string,
      number[][]
    >;
    let [hidden, masked, kept, other] = [0, 0, 0, 0];
    const all = features.flatMap((one) => one.input_ids);
    const given = input_ids!.flat();
    let wrong = 0;
    labels!.flat().forEach((label, at) => {
      const [was, is] = [all[at]!, given[at]!];
      if (label !== (label === -100 ? -100 : was) || (label === -100 && is !== was)) wrong++;
      if (label === -100) return;
      hidden++;
      if (is === words.mask_token_id) masked++;
      else if (is === was) kept++;
      else other++;
    });
    expect(wrong).toBe(0);
    return { hidden, masked, kept, other };
  };

  test("15 of 100 are hidden: 80 of those masked, 10 replaced, 10 kept", () => {
    const { hidden, masked, kept, other } = counted(1);
    // 4000 tokens: four standard deviations are 90 of the hidden ones, and 0.065, 0.05, 0.05 of the shares.
    expect(Math.abs(hidden - 600)).toBeLessThan(90);
    expect(Math.abs(masked / hidden - 0.8)).toBeLessThan(0.065);
    expect(Math.abs(kept / hidden - 0.1)).toBeLessThan(0.06);
    expect(Math.abs(other / hidden - 0.1)).toBeLessThan(0.06);
  });

  test("are the same for the same seed and batch, and others otherwise", () => {
    const made = (seed: number, batch: Feature[]) => new DataCollatorForLanguageModeling(words, { seed })(batch).labels;
    expect(made(3, features)).toEqual(made(3, features));
    expect(made(3, features)).not.toEqual(made(4, features));
    expect(made(3, features.slice(1))).not.toEqual((made(3, features) as number[][]).slice(1));
  });
});

test("a text's own end is learned where it is also the padding", () => {
  const end = stories.eos_token_id!;
  expect(stories.pad_token_id).toBe(end);
  stories.padding_side = "right";
  const { labels } = new DataCollatorForLanguageModeling(stories, { mlm: false })([
    { input_ids: [5, 6, end] },
    { input_ids: [5, 6, 7, 8, end] },
  ]);
  expect(labels).toEqual([
    [5, 6, end, -100, -100],
    [5, 6, 7, 8, end],
  ]);
});

test("labels of examples are kept and padded", () => {
  const { labels } = new DataCollatorForLanguageModeling({ tokenizer: stories, mlm: false })([
    { input_ids: [5, 6, 7], labels: [-100, 6, 7] },
    { input_ids: [5, 6], labels: [-100, 6] },
  ]);
  expect(labels).toEqual([
    [-100, 6, 7],
    [-100, 6, -100],
  ]);
});

test("decoder_input_ids are labels one place later", () => {
  const model = { config: { decoder_start_token_id: 2, pad_token_id: 0 } };
  words.padding_side = "right";
  const made = new DataCollatorForSeq2Seq(words, { model })([
    { input_ids: [5], labels: [6, 7, 8] },
    { input_ids: [5], labels: [9] },
  ]);
  expect(made.decoder_input_ids).toEqual([
    [2, 6, 7],
    [2, 9, 0],
  ]);
  const without = new DataCollatorForSeq2Seq(words, { model: { config: {} } });
  expect(() => without([{ input_ids: [5], labels: [6] }])).toThrow(
    expect.objectContaining({
      message: expect.stringMatching(/^DataCollatorForSeq2Seq: .*config.json has no pad_token_id/),
      details: { option: "model" },
    }),
  );
});

test("completions alone: behind the last answer, or between answers and questions", () => {
  const ids = [1, 50, 51, 2, 3, 60, 4, 50, 51, 5, 6];
  const one = new DataCollatorForCompletionOnlyLM({ tokenizer: stories, response_template: [50, 51] });
  expect(one([{ input_ids: ids }]).labels).toEqual([[...new Array(9).fill(-100), 5, 6]]);
  const all = new DataCollatorForCompletionOnlyLM({
    tokenizer: stories,
    response_template: [50, 51],
    instruction_template: [60],
  });
  const x = -100;
  expect(all([{ input_ids: ids }, { input_ids: [7] }]).labels).toEqual([
    [x, x, x, 2, 3, x, x, x, x, 5, 6],
    [x, x, x, x, x, x, x, x, x, x, x],
  ]);
  const text = new DataCollatorForCompletionOnlyLM({ tokenizer: stories, response_template: "fox" });
  const fox = stories.encode("fox", { add_special_tokens: false });
  expect(text([{ input_ids: [9, ...fox, 8] }]).labels).toEqual([[x, ...fox.map(() => x), 8]]);
});

test("packed texts are one row of texts that begin anew", () => {
  const made = new DataCollatorForPackedTexts()([
    { input_ids: [1, 2, 3, 4], labels: [1, 2, -100, 4], seq_lengths: [3, 1] },
    { input_ids: [5, 6], labels: [5, 6], seq_lengths: [2] },
  ]);
  expect(made).toEqual({
    input_ids: [[1, 2, 3, 4, 5, 6]],
    labels: [[-100, 2, -100, -100, -100, 6]],
    position_ids: [[0, 1, 2, 0, 0, 1]],
  });
});

test("what are no examples is refused", () => {
  const pad = new DataCollatorWithPadding(stories);
  const refused: [unknown, RegExp][] = [
    [[], /list of examples/],
    [[{}], /no input_ids/],
    [[{ input_ids: [1] }, {}], /1 of 2 examples have input_ids/],
    [[{ input_ids: "a" }], /must be a list of numbers/],
    [[{ input_ids: [1, 2], token_type_ids: [0] }], /2 input_ids, and 1 of token_type_ids/],
    [
      [
        { input_ids: [1, 2], labels: [0, 1] },
        { input_ids: [1], labels: [0] },
      ],
      /other lengths/,
    ],
  ];
  for (const [features, message] of refused) expect(() => pad(features as never)).toThrow(message);
  const apart = new DataCollatorWithPadding(stories, { padding: false });
  expect(() => apart([{ input_ids: [1] }, { input_ids: [1, 2] }])).toThrow(/rows of one length/);
  expect(() => new DataCollatorForLanguageModeling(stories)).toThrow(/no mask token/);
  expect(() => new DataCollatorWithPadding({} as never)).toThrow(OptionError);
  expect(() => new DataCollatorForPackedTexts()([{ input_ids: [1], seq_lengths: [2] }])).toThrow(/texts of \[2\]/);
});
