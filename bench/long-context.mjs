// A prompt as long as 128k tokens of one text over an 8-bit cache, in chunks of 512: what the process holds at most, read from outside.
// A child process loads a model with random weights and takes the prompt in; this one reads the child's resident memory from /proc.
// Linux only.
// node bench/long-context.mjs [--shape M] [--layers 22] [--tokens 131072] [--bits 8|4] [--last 1024] [--json]
//
// The time of attention grows with the square of the length. `--last n` computes the last n tokens alone: the keys and values before
// them are random numbers, appended to the cache of every layer as those of a prompt are. `--layers` takes the first ones of the shape.

import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    child: { type: "string" },
    shape: { type: "string", default: "M" },
    layers: { type: "string" },
    tokens: { type: "string", default: "131072" },
    bits: { type: "string", default: "8" },
    last: { type: "string" },
    json: { type: "boolean", default: false },
  },
});
const tokens = Number(values.tokens);
const last = Number(values.last ?? tokens);
/** Tokens that a generated text has after its prompt. */
const NEW = 4;
/** Positions whose stand-ins are appended at once. */
const PIECE = 4096;

/** The built library, which the child runs too. */
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);

const say = (message) => new Promise((resolve) => process.send(message, resolve));
const heard = () => new Promise((resolve) => process.once("message", resolve));

async function child(folder) {
  const { AutoModelForCausalLM } = await library("index.js");
  const how = values.bits === "4" ? { load_in_4bit: true, bnb_4bit_compute_dtype: "int8" } : { load_in_8bit: true };
  const model = await AutoModelForCausalLM.from_pretrained(folder, { device: "cpu", dtype: "bfloat16", ...how });
  const ids = Array.from({ length: tokens }, (_, i) => (i * 7919 + 13) % 997);
  const options = { input_ids: [ids], max_new_tokens: NEW, eos_token_id: [], cache_implementation: "quantized" };
  await say({ weights: model.weight_bytes, cache: model.cache_footprint(options).bytes });
  await heard();
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  let result;
  if (last < tokens) result = await tail(model, ids);
  else {
    const [text] = await model.generate({
      ...options,
      progress_callback: ({ loaded }) => loaded % 8192 === 0 && process.send({ loaded, seconds: seconds() }),
    });
    result = { fine: text.length === tokens + NEW, seconds: seconds() };
  }
  await say({ ...result, kept: model.device.memory.kept });
  await heard();
  await model[Symbol.asyncDispose]();
  process.disconnect();
}

/** Stand-ins for the first keys and values, then the last tokens as a session takes them in. */
async function tail(model, ids) {
  const { RowForward } = await library("generate/forward.js");
  const { flatChunks, runChunks } = await library("generate/prefill.js");
  const { scope, Tensor } = await library("index.js");
  const { device, module } = model;
  const options = { rows: 1, capacity: tokens + NEW, cache_dtype: "i8" };
  const forward = new RowForward(device, module, options);
  const { groups, k_dim } = forward.cache.options.layers[0];
  const numbers = Float32Array.from({ length: PIECE * groups * k_dim }, (_, i) => Math.sin(i));
  for (let at = 0; at < tokens - last; at += PIECE) {
    const count = Math.min(PIECE, tokens - last - at);
    forward.cache.extend([count]);
    scope(() => {
      const rows = Tensor.from(device, numbers.subarray(0, count * groups * k_dim), [1, count, groups, k_dim]);
      const places = Int32Array.from({ length: 2 * count }, (_, i) => (i < count ? 0 : at + i - count));
      const lanes = Tensor.from(device, places, [2, 1, count]);
      forward.cache.options.layers.forEach((_, layer) => void forward.cache.append(layer, rows, rows, lanes));
    });
    await device.synchronize();
  }
  const text = { row: 0, ids: ids.slice(tokens - last), from: tokens - last };
  let logits;
  const start = performance.now();
  await runChunks(flatChunks([text]), (chunk) => {
    forward.cache.extend([chunk.ids.length]);
    const hidden = forward.hidden(chunk);
    if (chunk.ends.length > 0) logits = forward.lastLogits(chunk, hidden).alias().keep();
    return hidden;
  });
  const fine = (await logits.readFloats()).every(Number.isFinite);
  const seconds = (performance.now() - start) / 1000;
  logits.dispose();
  forward.dispose();
  return { fine, seconds };
}

/** Bytes that the kernel counts for a process, now and at most. */
function resident(pid) {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const bytes = (field) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)[1]) * 1024;
  return { now: bytes("VmRSS"), most: bytes("VmHWM") };
}

async function main() {
  const folder = mkdtempSync(join(tmpdir(), "octavo-long-"));
  try {
    const { writeRandomCheckpoint } = await library("eval/checkpoint.js");
    const { shapeConfig } = await library("eval/shapes.js");
    const shape = shapeConfig(values.shape);
    const layers = Number(values.layers ?? shape.num_hidden_layers);
    await writeRandomCheckpoint(folder, {
      ...shape,
      num_hidden_layers: layers,
      max_position_embeddings: tokens + NEW,
    });
    const args = ["--child", folder, "--tokens", values.tokens, "--bits", values.bits, "--last", String(last)];
    const own = fork(fileURLToPath(import.meta.url), args);
    const failed = new Promise((_, reject) => {
      own.once("exit", (code) => code !== 0 && reject(new Error(`the process ended with ${code}`)));
    });
    failed.catch(() => {}); // heard by `next`
    const next = async () => (await Promise.race([once(own, "message"), failed]))[0];
    const { weights, cache } = await next();
    const before = resident(own.pid).now;
    writeFileSync(`/proc/${own.pid}/clear_refs`, "5"); // the peak begins anew
    own.send("go");
    let result = await next();
    for (; "loaded" in result; result = await next()) {
      const { most } = resident(own.pid);
      process.stderr.write(`${result.loaded} tokens, ${result.seconds.toFixed(0)} s, ${(most / 1e9).toFixed(2)} GB\n`);
    }
    const { most } = resident(own.pid);
    own.send("end");
    await once(own, "exit");
    const row = { ...{ shape: values.shape, layers, tokens, last, bits: Number(values.bits) }, weights, cache };
    const all = { ...row, peak: most, beside: most - before - cache, ...result };
    const checked = last < tokens ? "the last logits are finite" : `${NEW} tokens follow`;
    const gb = (bytes) => `${(bytes / 1e9).toFixed(2)} GB`;
    if (values.json) console.log(JSON.stringify(all));
    else
      console.log(
        `${values.shape}, ${layers} layers, ${tokens} tokens, the last ${last} of them computed in ${all.seconds.toFixed(0)} s: ` +
          `at most ${gb(most)} resident (weights ${gb(weights)}, cache ${gb(cache)}, ${gb(all.beside)} more than before beside the ` +
          `cache); ${all.fine ? checked : `NOT SO: ${checked}`}`,
      );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

await (values.child === undefined ? main() : child(values.child));
