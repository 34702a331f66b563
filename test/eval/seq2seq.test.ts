// Requests to encoder-decoders: the encoder reads the context, the decoder predicts the continuation.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import type { TokenText } from "../../src/eval/harness/prefix-tree.js";
import type { Scored } from "../../src/eval/harness/scorer.js";
import { scoreContinuations } from "../../src/eval/harness/seq2seq-scorer.js";
import { LM, type LoglikelihoodRequest } from "../../src/eval/index.js";
import { AutoModelForSeq2SeqLM, AutoModelForSpeechSeq2Seq, AutoTokenizer } from "../../src/generate/auto.js";
import type { PreTrainedModel } from "../../src/generate/model.js";
import { decoderStart } from "../../src/generate/seq2seq-inputs.js";
import type { PreTrainedSeq2SeqLM } from "../../src/generate/seq2seq-model.js";
import { DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { FIXTURES } from "../support/fixtures.js";
import { STORYTELLER } from "../support/models.js";
import { temporary } from "../support/temporary.js";

/** Contexts and continuations of several lengths, some of the same. */
const TEXTS: readonly TokenText[] = [
  { ids: [5, 6, 7, 8, 1, 20, 21, 22], from: 5 },
  { ids: [5, 1, 20, 21, 23], from: 2 },
  { ids: [9, 10, 11, 1, 30], from: 4 },
  { ids: [5, 6, 7, 8, 1, 31], from: 5 },
  { ids: [12, 1, 40, 41, 42, 43], from: 2 },
];

async function scores(model: PreTrainedSeq2SeqLM, texts: readonly TokenText[], rows = 64): Promise<Scored[]> {
  const found: Scored[] = [];
  await scoreContinuations(model, texts, {
    rows,
    scored: (batch) => {
      for (const [text, scored] of batch) found[text] = scored;
    },
  });
  return found;
}

/** In double precision, from a pass over the text alone. */
async function expected(model: PreTrainedSeq2SeqLM, { ids, from }: TokenText): Promise<Scored> {
  const start = decoderStart(model, 1, {}).decoder.ids[0]!;
  const continuation = ids.slice(from);
  const { logits, encoder_last_hidden_state } = model.forward({
    input_ids: [ids.slice(0, from)],
    decoder_input_ids: [[start, ...continuation.slice(0, -1)]],
  });
  const values = await logits.readFloats();
  const vocab = logits.shape[2]!;
  for (const tensor of [logits, encoder_last_hidden_state]) tensor.dispose();
  let [loglikelihood, is_greedy] = [0, true];
  for (const [n, id] of continuation.entries()) {
    const row = values.subarray(n * vocab, (n + 1) * vocab);
    const highest = Math.max(...row);
    loglikelihood += row[id]! - highest - Math.log(row.reduce((all, value) => all + Math.exp(value - highest), 0));
    is_greedy &&= row.indexOf(highest) === id;
  }
  return { loglikelihood, is_greedy };
}

/** A folder with a tokenizer of the words w3, w4, .. */
function tokenizerOf(vocab: number): string {
  const folder = temporary("words");
  mkdirSync(folder, { recursive: true });
  const names = ["<pad>", "</s>", "<unk>"];
  const words = Array.from({ length: vocab }, (_, n) => names[n] ?? `w${n}`);
  const added = names.map((content, id) => ({ id, content, special: true }));
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false };
  const end = { SpecialToken: { id: "</s>", type_id: 0 } };
  const file = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: added.map((token) => ({ ...token, ...flags })),
    normalizer: null,
    pre_tokenizer: { type: "WhitespaceSplit" },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ Sequence: { id: "A", type_id: 0 } }, end],
      pair: [{ Sequence: { id: "A", type_id: 0 } }, end, { Sequence: { id: "B", type_id: 0 } }, end],
      special_tokens: { "</s>": { id: "</s>", ids: [1], tokens: ["</s>"] } },
    },
    decoder: null,
    model: { type: "WordLevel", vocab: Object.fromEntries(words.map((word, id) => [word, id])), unk_token: "<unk>" },
  };
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(file));
  const settings = {
    tokenizer_class: "PreTrainedTokenizerFast",
    eos_token: "</s>",
    pad_token: "<pad>",
    unk_token: "<unk>",
  };
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(settings));
  return folder;
}

describe("encoder-decoders", () => {
  let device: Device;
  beforeAll(async () => {
    device = await requestTestDevice(DEVICES.includes("cpu") ? "cpu" : "reference");
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  test.each(["t5", "bart"])("%s: continuations are scored as alone, in any batch, in 8 bits too", async (name) => {
    for (const options of [{}, { load_in_8bit: true }]) {
      await using model = await AutoModelForSeq2SeqLM.from_pretrained(`${FIXTURES}/models/${name}`, {
        device,
        ...options,
      });
      const found = await scores(model, TEXTS);
      expect(await scores(model, TEXTS, 1)).toEqual(found);
      for (const [n, text] of TEXTS.entries()) {
        const wanted = await expected(model, text);
        expect(found[n]!.is_greedy).toBe(wanted.is_greedy);
        expect(Math.abs(found[n]!.loglikelihood - wanted.loglikelihood)).toBeLessThan(1e-4); // sums of f32
      }
    }
  });

  test("an LM takes all requests of one", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(tokenizerOf(120));
    await using model = await AutoModelForSeq2SeqLM.from_pretrained(`${FIXTURES}/models/t5`, { device });
    const lm = new LM(model, tokenizer);
    const pair: LoglikelihoodRequest = ["w3 w5 ", "w7 w8 w9"];
    const [context, continuation] = lm.encode_pair(...pair);
    expect([context, continuation]).toEqual([
      [3, 5, 1],
      [7, 8, 9],
    ]);
    const [scored] = await scores(model, [{ ids: [...context, ...continuation], from: context.length }]);
    const [found, alone] = await lm.loglikelihood([pair, ["", "w4 w6"]]);
    expect(found).toEqual([scored!.loglikelihood, scored!.is_greedy]);
    // Without a context the encoder reads the prefix token; a whole text ends with a token of its own.
    expect(await scores(model, [{ ids: [1, 4, 6], from: 1 }])).toEqual([
      { loglikelihood: alone![0], is_greedy: alone![1] },
    ]);
    const [whole] = await scores(model, [{ ids: [1, 4, 6, 1], from: 1 }]);
    expect(await lm.loglikelihood_rolling(["w4 w6"])).toEqual([whole!.loglikelihood]);
    // What lm-evaluation-harness 0.4.13 gives for the same model and tokenizer (HFLM with backend "seq2seq").
    expect(found![0]).toBeCloseTo(-19.614288, 4);
    expect(alone![0]).toBeCloseTo(-7.485696, 4);
    expect(whole!.loglikelihood).toBeCloseTo(-17.164993, 4);
    const asked = ["w3", "w20 w31 w42 w8"].map((text) => [text, { max_gen_toks: 5 }] as const);
    const together = await lm.generate_until(asked);
    expect(together.every((text) => text.length > 0)).toBe(true);
    expect(await new LM(model, tokenizer, { batch_size: 1 }).generate_until(asked)).toEqual(together);
  });

  test("one that reads sound is refused by name", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
    await using model = await AutoModelForSpeechSeq2Seq.from_pretrained(`${FIXTURES}/models/whisper`, { device });
    expect(() => new LM(model as unknown as PreTrainedModel, tokenizer)).toThrow(
      'must be a language model of text, got one of the task "speech-seq2seq"',
    );
  });
});
