// What drafts save: tokens/s of shape M in int8 with a model in 4 bits that drafts, and with prompt lookup, beside plain decoding of the same text.
// node bench/drafts.mjs [--shape M] [--drafter S] [--agree 0.7] [--guesses 3] [--tokens 128] [--runs 5] [--json]
//
// The weights are random but for what makes a text: blocks add nothing to the embeddings, and the output head holds the embedding of the
// token before, so each token has one successor. All products are computed as ever. The drafter has other successors for 1 - `agree` of
// the text's tokens. For lookup the successors make a short circle, which the prompt has passed once: the text repeats itself wholly.

import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "M" },
    drafter: { type: "string", default: "S" },
    agree: { type: "string", default: "0.7" },
    guesses: { type: "string", default: "3" },
    tokens: { type: "string", default: "128" },
    runs: { type: "string", default: "5" },
    json: { type: "boolean", default: false },
  },
});
const [agree, tokens, runs, guesses] = ["agree", "tokens", "runs", "guesses"].map((name) => Number(values[name]));
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);
const median = (list) => [...list].sort((a, b) => a - b)[list.length >> 1];

/** Numbers in [0, 1) by a seed (mulberry32). */
function randomBy(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(length, random) {
  const list = Int32Array.from({ length }, (_, i) => i);
  for (let i = length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [list[i], list[j]] = [list[j], list[i]];
  }
  return list;
}

/** The successor of each token: one circle through all of them. */
function circle(vocab, random) {
  const order = shuffled(vocab, random);
  const next = new Int32Array(vocab);
  for (let i = 0; i < vocab; i++) next[order[i]] = order[(i + 1) % vocab];
  return next;
}

/** The same, with other successors for a share of some tokens: those change places among themselves. */
function apart(next, tokens, share, random) {
  const order = shuffled(tokens.length, random);
  const chosen = [...order.subarray(0, Math.round(share * tokens.length))].map((n) => tokens[n]);
  const other = next.slice();
  chosen.forEach((token, i) => {
    other[token] = next[chosen[(i + 1) % chosen.length]];
  });
  return other;
}

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);
function toBf16(x) {
  float[0] = x;
  return bits[0] >>> 16;
}

/** Writes what makes each token's successor into a checkpoint of random weights. */
function plant(folder, next, { vocab_size, hidden_size }) {
  const file = openSync(join(folder, "model.safetensors"), "r+");
  try {
    const read = (length, position) => {
      const bytes = Buffer.alloc(length);
      readSync(file, bytes, 0, length, position);
      return bytes;
    };
    const length = Number(read(8, 0).readBigUInt64LE());
    const header = JSON.parse(read(length, 8).toString());
    const put = (name, words) => writeSync(file, words, 0, words.byteLength, 8 + length + header[name].data_offsets[0]);
    for (const [name, { data_offsets }] of Object.entries(header)) {
      if (/(o_proj|down_proj)\.weight$/.test(name)) put(name, new Uint8Array(data_offsets[1] - data_offsets[0]));
    }
    const random = randomBy(7);
    const embedding = Uint16Array.from({ length: vocab_size * hidden_size }, () => toBf16(random() - 0.5));
    const head = new Uint16Array(embedding.length);
    for (let token = 0; token < vocab_size; token++) {
      head.set(embedding.subarray(token * hidden_size, (token + 1) * hidden_size), next[token] * hidden_size);
    }
    put("model.embed_tokens.weight", embedding);
    put("lm_head.weight", head);
  } finally {
    closeSync(file);
  }
}

const IN_8BIT = { load_in_8bit: true };
const IN_4BIT = { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_compute_dtype: "int8" };

const folders = [];
const models = [];
try {
  const { AutoModelForCausalLM } = await library("index.js");
  const { writeRandomCheckpoint } = await library("eval/checkpoint.js");
  const { shapeConfig } = await library("eval/shapes.js");
  const load = async (shape, next, quantization_config) => {
    const folder = mkdtempSync(join(tmpdir(), "octavo-drafts-"));
    folders.push(folder);
    await writeRandomCheckpoint(folder, shapeConfig(shape));
    plant(folder, next, shapeConfig(shape));
    const options = { device: "cpu", dtype: "bfloat16", head_dtype: "int8", quantization_config };
    const model = await AutoModelForCausalLM.from_pretrained(folder, options);
    rmSync(folder, { recursive: true });
    models.push(model);
    return model;
  };
  const { vocab_size: vocab } = shapeConfig(values.shape);
  const next = circle(vocab, randomBy(1));
  const repeats = Int32Array.from({ length: vocab }, (_, token) =>
    token === 39 ? 0 : token === vocab - 1 ? 40 : token + 1,
  );
  const follow = (table, first, count) => {
    const text = [first];
    while (text.length < count) text.push(table[text.at(-1)]);
    return text;
  };
  const passed = follow(next, 5, 64 + tokens).slice(63, -1);
  const others = apart(next, passed, 1 - agree, randomBy(2));
  const model = await load(values.shape, next, IN_8BIT);
  const assistant_model = await load(values.drafter, others, IN_4BIT);
  const repeating = await load(values.shape, repeats, IN_8BIT);

  const [prompt, again] = [follow(next, 5, 64), follow(repeats, 5, 64)];
  const timed = async (target, input, wanted, options) => {
    const begin = performance.now();
    const [row] = await target.generate({
      input_ids: [input],
      max_new_tokens: tokens,
      do_sample: false,
      eos_token_id: vocab - 1,
      ...options,
    });
    const ms = performance.now() - begin;
    const right = follow(wanted, input[0], input.length + tokens);
    if (row.length !== right.length || row.some((id, i) => id !== right[i]))
      throw new Error("not the text that was planted");
    return ms;
  };
  const ways = {
    plain: [model, prompt, next, {}],
    assistant: [model, prompt, next, { assistant_model, num_assistant_tokens: guesses }],
    "plain, repeating": [repeating, again, repeats, {}],
    lookup: [repeating, again, repeats, { prompt_lookup_num_tokens: 10 }],
  };
  const times = Object.fromEntries(Object.keys(ways).map((name) => [name, []]));
  for (let run = -1; run < runs; run++) {
    for (const [name, way] of Object.entries(ways)) {
      const ms = await timed(...way);
      if (run >= 0) times[name].push(ms);
    }
  }
  const guessed = passed.filter((token) => others[token] === next[token]).length / tokens;
  const rate = (name) => (1000 * tokens) / median(times[name]);
  const ratio = (name, beside) => median(times[name].map((ms, run) => times[beside][run] / ms));
  const results = {
    agreed: guessed,
    ...Object.fromEntries(Object.keys(ways).map((name) => [name, rate(name)])),
    assistant_ratio: ratio("assistant", "plain"),
    lookup_ratio: ratio("lookup", "plain, repeating"),
  };
  if (values.json) process.stdout.write(`${JSON.stringify(results)}\n`);
  else {
    process.stdout.write(`the drafter is right about ${(100 * guessed).toFixed(0)} % of the tokens\n`);
    for (const name of Object.keys(ways))
      process.stdout.write(`${name.padEnd(20)}${rate(name).toFixed(1).padStart(8)} tokens/s\n`);
    process.stdout.write(
      `assistant ${results.assistant_ratio.toFixed(2)} x, lookup ${results.lookup_ratio.toFixed(2)} x\n`,
    );
  }
} finally {
  for (const model of models) await model[Symbol.asyncDispose]();
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
}
