// Rows of different lengths in one batch: eight rows of 16 to 900 tokens decode beside eight equal rows with as many keys in
// all, in turn, and a row is replaced by a new prompt beside the prefill of that prompt alone.
// node bench/rows.mjs [--shape M] [--bits 8|4|16] [--steps 24] [--pairs 5]: prints one line of JSON, medians of the pairs.

import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    shape: { type: "string", default: "M" },
    bits: { type: "string", default: "8" },
    steps: { type: "string", default: "24" },
    pairs: { type: "string", default: "5" },
  },
});
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);
const { requestDevice } = await library("index.js");
const { buildModel } = await library("models/index.js");
const { fillRandomly } = await library("load/random.js");
const { shapeConfig } = await library("eval/shapes.js");
const { DecodeSession } = await library("generate/session.js");
const { median, prefillTimes } = await library("eval/speed.js");
const { llmInt8Scheme } = await library("quant/llm-int8.js");
const { fourBitScheme } = await library("quant/four-bit.js");

const ROWS = 8;
const DIFFERENT = [16, 142, 268, 394, 521, 648, 774, 900];
const EQUAL = Array(ROWS).fill(Math.round(DIFFERENT.reduce((sum, n) => sum + n, 0) / ROWS));
const NEW = 256;
const steps = Number(values.steps);
const shape = { rows: ROWS, capacity: 900 + NEW + 4 * steps, cache_dtype: "bf16" };

const schemes = {
  4: fourBitScheme({ kind: "nf4", blocksize: 64, double_quant: false, compute: "int8" }),
  8: llmInt8Scheme(6),
  16: undefined,
};
if (!(values.bits in schemes)) throw new Error(`--bits must be 4, 8 or 16, got ${values.bits}`);
const device = await requestDevice("cpu");
const model = await buildModel(shapeConfig(values.shape), "causal-lm");
await fillRandomly(device, model, { dtype: "bf16", scheme: schemes[values.bits] });

const greedy = { do_sample: false, temperature: 1, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, seed: 0 };
const config = { ...greedy, max_new_tokens: 4 * steps, eos_token_ids: [] };
const request = (row, length) => ({
  row,
  prompt: Int32Array.from({ length }, (_, i) => (i * 7919 + row * 131 + 13) % model.geometry.vocab),
  config,
});

/** Milliseconds of a decode step of rows of these lengths, and of replacing one of them. */
async function measure(lengths) {
  const session = new DecodeSession(device, model, shape);
  await session.add(lengths.map((length, row) => request(row, length)));
  for (let i = 0; i < 3; i++) await session.step();
  const times = [];
  for (let i = 0; i < steps; i++) {
    const start = performance.now();
    await session.step();
    times.push(performance.now() - start);
  }
  const start = performance.now();
  await session.replace(request(3, NEW));
  await session.step();
  const replaced = performance.now() - start;
  session.dispose();
  return { step: median(times), replaced };
}

await measure(EQUAL); // warms up
const pairs = [];
for (let i = 0; i < Number(values.pairs); i++) {
  const equal = await measure(EQUAL);
  const different = await measure(DIFFERENT);
  const [alone] = await prefillTimes(device, model, { batch: 1, tokens: NEW, runs: 1, cache_dtype: shape.cache_dtype });
  pairs.push({ equal, different, alone });
}
const rounded = (x) => Math.round(x * 100) / 100;
console.log(
  JSON.stringify({
    equal_ms: rounded(median(pairs.map(({ equal }) => equal.step))),
    different_ms: rounded(median(pairs.map(({ different }) => different.step))),
    speed_share: rounded(median(pairs.map(({ equal, different }) => equal.step / different.step))),
    replace_ms: rounded(median(pairs.map(({ different }) => different.replaced - different.step))),
    prefill_ms: rounded(median(pairs.map(({ alone }) => alone))),
  }),
);
await device.close();
