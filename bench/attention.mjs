// Causal attention of one text, forward, beside PyTorch's fused kernel in the same dtype: each round runs Octavo, then PyTorch, so that a
// busy moment of the machine hits both alike; medians of the rounds after the first.
// node bench/attention.mjs --python PATH [--lengths 2048,8192] [--sizes 64,128] [--width 2048] [--threads 2] [--rounds 5] [--json]
//
// "Octavo" is attention as a model's prefill computes it, over keys and values in the dtype; "the function" is
// functional.scaled_dot_product_attention, whose products are exact in every dtype. Without --python Octavo alone is measured.

import { spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    python: { type: "string" },
    lengths: { type: "string", default: "2048,8192" },
    sizes: { type: "string", default: "64,128" },
    width: { type: "string", default: "2048" },
    threads: { type: "string", default: String(availableParallelism()) },
    rounds: { type: "string", default: "5" },
    json: { type: "boolean", default: false },
  },
});
const [width, threads, rounds] = [values.width, values.threads, values.rounds].map(Number);
const library = (file) => import(new URL(`../dist/${file}`, import.meta.url).href);
const median = (list) => list.sort((a, b) => a - b)[list.length >> 1];

/** A Python that answers a line with a line. */
function python(path) {
  const twin = fileURLToPath(new URL("attention.py", import.meta.url));
  const own = spawn(path, [twin, values.threads], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: own.stdout })[Symbol.asyncIterator]();
  const read = async () => {
    const { value, done } = await lines.next();
    if (done) throw new Error(`${path} ended; it needs torch`);
    return JSON.parse(value);
  };
  const ask = (job) => {
    own.stdin.write(`${JSON.stringify(job)}\n`);
    return read();
  };
  return { read, ask, end: () => own.stdin.end() };
}

const { requestDevice, Tensor, scope } = await library("index.js");
const { functional } = await library("nn.js");
const { attention } = await library("ops/attention.js");
const device = await requestDevice("cpu", { threads });
const torch = values.python && python(values.python);
const info = torch && (await torch.read()).info;
const results = [];
for (const dtype of ["f32", "bf16"]) {
  for (const size of values.sizes.split(",").map(Number)) {
    for (const length of values.lengths.split(",").map(Number)) {
      const heads = width / size;
      const numbers = Float32Array.from({ length: length * width }, (_, i) => Math.sin(i * i));
      const make = (type) => Tensor.from(device, numbers, [1, heads, length, size], type).keep();
      const [q, k, v] = [dtype, dtype, dtype].map(make);
      const queries = Tensor.from(device, numbers, [1, length, heads, size]).keep();
      const ways = {
        model: () => attention(queries, k, v, { scale: size ** -0.5, compute: dtype }),
        function: () => functional.scaled_dot_product_attention(q, k, v, { is_causal: true }),
      };
      const times = { model: [], function: [], torch: [] };
      for (let round = 0; round <= rounds; round++) {
        for (const [name, run] of Object.entries(ways)) {
          const begin = performance.now();
          scope(() => void run());
          await device.synchronize();
          times[name].push(performance.now() - begin);
        }
        if (torch) times.torch.push((await torch.ask({ dtype, heads, length, size })).ms);
      }
      for (const one of [q, k, v, queries]) one.dispose();
      const found = Object.fromEntries(Object.entries(times).map(([name, all]) => [name, median(all.slice(1))]));
      results.push({ dtype, size, length, heads, ms: found });
      if (values.json) continue;
      const tflops = (ms) => `${((4 * length * length * width) / 2 / ms / 1e9).toFixed(3)} TFLOP/s`;
      const beside = (ms) => (torch ? ` (${(found.torch / ms).toFixed(2)} times as fast as PyTorch)` : "");
      console.log(
        `${dtype}, ${heads} heads of ${size}, ${length} tokens: Octavo ${tflops(found.model)}${beside(found.model)}, ` +
          `the function ${tflops(found.function)}${beside(found.function)}${torch ? `, PyTorch ${tflops(found.torch)}` : ""}`,
      );
    }
  }
}
torch?.end();
await device.close();
if (values.json) console.log(JSON.stringify({ info, threads, width, rounds, results }));
