// What modes of decoding and processors of scores cost: time of a step on random weights of a shape in int8, beside the plain step.
// node bench/modes.mjs [--shape M] [--vocab 32000] [--only PATTERN] [--tokens 32] [--runs 5] [--json]
//
// Beams stand beside a plain batch of as many rows; all else beside decoding of one text, which is measured again right before each.
// Medians; ways take turns in each run. What a text must be (a JSON Schema, a regular expression) is told by a tokenizer of as many random
// words as the vocabulary has.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "M" },
    vocab: { type: "string", default: "32000" },
    only: { type: "string", default: "" },
    tokens: { type: "string", default: "32" },
    runs: { type: "string", default: "5" },
    json: { type: "boolean", default: false },
  },
});
const [tokens, runs, vocab] = [Number(values.tokens), Number(values.runs), Number(values.vocab)];
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];

const prompt = (row) => Array.from({ length: 48 }, (_, i) => (i * 7919 + row * 31 + 13) % 31999);
const [ONE, FOUR] = [[prompt(0)], [0, 1, 2, 3].map(prompt)];
const GREEDY = { input_ids: ONE, do_sample: false };
const SAMPLED = { input_ids: ONE, do_sample: true, seed: 1, top_k: 0, top_p: 1 };

/** A tokenizer of bytes, and of words of letters, digits and marks that are drawn. */
function tokenizerJson() {
  // The letters that stand for bytes in files of byte-level tokenizers: printable ones for themselves, others from 256 on.
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  let beyond = 256;
  const letters = Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(printable(byte) ? byte : beyond++));
  let state = 1;
  const draw = (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  const from = (set, most) => Array.from({ length: 1 + draw(most) }, () => set[draw(set.length)]).join("");
  const pieces = new Set(letters);
  while (pieces.size < vocab - 1) {
    const kind = draw(10);
    const word = from("abcdefghijklmnopqrstuvwxyzetaoinshr", 9);
    if (kind === 0) pieces.add(from("0123456789", 3));
    else if (kind === 1) pieces.add(from('{}[]",:.-_()', 4));
    else if (kind === 2) pieces.add(from(letters.slice(128), 4));
    else pieces.add(kind < 7 ? letters[32] + word : word);
  }
  const ids = [...pieces, "</s>"].map((piece, id) => [piece, id]);
  const special = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  return {
    version: "1.0",
    added_tokens: [{ id: vocab - 1, content: "</s>", ...special }],
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { type: "BPE", vocab: Object.fromEntries(ids), merges: [] },
  };
}
const SCHEMA = {
  type: "object",
  properties: {
    numbers: { type: "array", items: { type: "integer" }, minItems: 3, maxItems: 3 },
    kind: { enum: ["cat", "dog", "horse"] },
    text: { type: "string", minLength: 2000 },
  },
  required: ["numbers", "kind", "text"],
};

/** Each way, and the one that it stands beside. */
const ALL = {
  "greedy, 1 text": [GREEDY],
  "greedy, 4 texts": [{ input_ids: FOUR, do_sample: false }],
  "4 beams": [{ ...GREEDY, num_beams: 4, early_stopping: false }, "greedy, 4 texts"],
  "4 beams, drawn": [{ ...GREEDY, do_sample: true, seed: 1, num_beams: 4 }, "greedy, 4 texts"],
  sampled: [SAMPLED, "greedy, 1 text"],
  ...Object.fromEntries(
    Object.entries({
      temperature: { temperature: 0.7 },
      top_k: { top_k: 50 },
      top_p: { top_p: 0.9 },
      min_p: { min_p: 0.05 },
      typical_p: { typical_p: 0.9 },
      epsilon_cutoff: { epsilon_cutoff: 3e-4 },
      eta_cutoff: { eta_cutoff: 3e-4 },
      "typical_p, top_k": { typical_p: 0.9, top_k: 50 },
      repetition_penalty: { repetition_penalty: 1.2 },
      presence_penalty: { presence_penalty: 0.5 },
      frequency_penalty: { frequency_penalty: 0.5 },
      encoder_repetition_penalty: { encoder_repetition_penalty: 1.2 },
      no_repeat_ngram_size: { no_repeat_ngram_size: 3 },
      encoder_no_repeat_ngram_size: { encoder_no_repeat_ngram_size: 3 },
      bad_words_ids: { bad_words_ids: [[5], [6, 7], [8, 9, 10]] },
      sequence_bias: {
        sequence_bias: [
          [[5], -2],
          [[6, 7], 2],
          [[8, 9, 10], 1],
        ],
      },
      min_length: { min_length: 60 },
      min_new_tokens: { min_new_tokens: 20 },
      forced_bos_token_id: { forced_bos_token_id: 5 },
      forced_eos_token_id: { forced_eos_token_id: vocab - 1 },
      exponential_decay: { exponential_decay_length_penalty: [4, 1.0001] },
      suppress_tokens: { suppress_tokens: [5, 6, 7] },
      begin_suppress_tokens: { begin_suppress_tokens: [5, 6, 7] },
      remove_invalid_values: { remove_invalid_values: true },
      renormalize_logits: { renormalize_logits: true },
      watermark: { watermarking_config: {} },
      "watermark, selfhash": { watermarking_config: { seeding_scheme: "selfhash" } },
      "watermark, SynthID": { watermarking_config: { ngram_len: 5, keys: [654, 400, 836, 123, 340, 443, 597, 160] } },
      "a host processor": { logits_processor: [{ process: () => undefined }] },
      json_schema: { json_schema: SCHEMA },
      regex: { regex: "([a-z]+ ){800}" },
    }).map(([name, option]) => [name, [{ ...SAMPLED, ...option }, "sampled"]]),
  ),
};

const wanted = ([name, [, beside]]) => !values.only || new RegExp(values.only).test(name) || beside === undefined;
const WAYS = Object.fromEntries(Object.entries(ALL).filter((way) => wanted(way) || way[0] === "sampled"));

const folder = mkdtempSync(join(tmpdir(), "octavo-modes-"));
const times = Object.fromEntries(Object.keys(WAYS).map((name) => [name, []]));
const pairs = Object.fromEntries(Object.keys(WAYS).map((name) => [name, []]));
try {
  const { AutoModelForCausalLM, AutoTokenizer } = await library("index.js");
  const { writeRandomCheckpoint } = await library("eval/checkpoint.js");
  const { shapeConfig } = await library("eval/shapes.js");
  await writeRandomCheckpoint(folder, { ...shapeConfig(values.shape), vocab_size: vocab });
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(tokenizerJson()));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ eos_token: "</s>" }));
  const tokenizer = await AutoTokenizer.from_pretrained(folder);
  const model = await AutoModelForCausalLM.from_pretrained(folder, {
    device: "cpu",
    dtype: "bfloat16",
    quantization_config: { load_in_8bit: true },
  });
  const seconds = async (options, max_new_tokens) => {
    const words = options.json_schema || options.regex ? { tokenizer } : {};
    const begin = performance.now();
    const rows = await model.generate({ ...options, ...words, max_new_tokens, eos_token_id: vocab - 1 });
    if (rows[0].length !== 48 + max_new_tokens) throw new Error("a text ended early");
    return performance.now() - begin;
  };
  // The difference is decoding alone: the prompt and the first step are in both.
  const stepOf = async ([options]) => ((await seconds(options, tokens)) - (await seconds(options, 2))) / (tokens - 2);
  for (let run = -1; run < runs; run++) {
    for (const [name, way] of Object.entries(WAYS)) {
      // A machine that others use too gets slower and faster: only neighbours are compared.
      const beside = way[1] === undefined || run < 0 ? Number.NaN : await stepOf(WAYS[way[1]]);
      const step = await stepOf(way);
      if (run < 0) continue;
      times[name].push(step);
      pairs[name].push([step, beside]);
    }
  }
  await model[Symbol.asyncDispose]();
} finally {
  rmSync(folder, { recursive: true, force: true });
}
const results = Object.fromEntries(
  Object.entries(WAYS).map(([name, [, beside]]) => {
    const ms = median(times[name]);
    const ratio = beside && median(pairs[name].map(([own, plain]) => own / plain));
    // What a processor costs is the same in a smaller model, where it is told better from noise.
    const more = beside && median(pairs[name].map(([own, plain]) => own - plain));
    return [name, { ms, beside, ratio, more }];
  }),
);
if (values.json) process.stdout.write(`${JSON.stringify(results)}\n`);
else
  for (const [name, { ms, beside, ratio, more }] of Object.entries(results)) {
    const compared = beside ? `  ${more.toFixed(2).padStart(6)} ms more, ${ratio.toFixed(3)} x ${beside}` : "";
    process.stdout.write(`${name.padEnd(28)}${ms.toFixed(2).padStart(8)} ms a step${compared}\n`);
  }
