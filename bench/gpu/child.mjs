// One measurement in a process of its own: a shape with random weights in one storage on WebGPU, or single kernels. Every
// result is a line of JSON on stdout the moment it is there, so that what a time limit cuts off is only the rest.
//
//   node child.mjs '{"storage":"int8","shape":"M","batches":[1,8,32],"prompts":[512,2048],"steps":48,"runs":3,"sessions":9}'
//   node child.mjs '{"machine":true}'
//   node child.mjs '{"kernels":{"rows":[1,8,512],"inputs":2048,"outputs":5632,"past":268435456}}'

import { openWebGPU } from "../../dist/backends/webgpu/index.js";
import { findGPU, listAdapters } from "../../dist/backends/webgpu/node.js";
import { Device } from "../../dist/core/device.js";
import { KERNEL_SCHEMES, linearSpeed } from "../../dist/eval/kernels.js";
import { measureMachine } from "../../dist/eval/machine.js";
import { shapeConfig } from "../../dist/eval/shapes.js";
import { bytesPerStep, decodeTimes, median, prefillTimes, recordTimes } from "../../dist/eval/speed.js";
import { VARIANTS } from "../../dist/eval/variants.js";
import { fillRandomly } from "../../dist/load/random.js";
import { buildModel } from "../../dist/models/index.js";
import { BitsAndBytesConfig } from "../../dist/quant/config.js";
import { headScheme, schemeOf } from "../../dist/quant/index.js";

const DTYPES = { float32: "f32", float16: "f16", bfloat16: "bf16" };

/** @param {object} line */
const put = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
/** @param {string} text */
const say = (text) => process.stderr.write(`    ${process.uptime().toFixed(1)} s: ${text}\n`);

/** A real adapter if there is one, else what there is. */
async function open() {
  const adapters = await listAdapters();
  const real = adapters.find(({ facts }) => !facts.software);
  return { gpu: real?.gpu ?? (await findGPU()), facts: (real ?? adapters[0])?.facts };
}

/** @param {import("../../dist/core/device.js").Device} device */
async function measureModel(device, job) {
  const { dtype, quantization, compute, head } = VARIANTS[job.storage];
  const config = shapeConfig(job.shape);
  const model = await buildModel(config, "causal-lm");
  const scheme = schemeOf(quantization && new BitsAndBytesConfig(quantization));
  say("random weights");
  await fillRandomly(device, model, { dtype: DTYPES[dtype], scheme, compute, head: headScheme(head) });
  const cache_dtype = dtype === "float32" ? "f32" : "bf16";
  put({ weight_bytes: [...model.parameters()].reduce((sum, parameter) => sum + parameter.nbytes, 0) });
  const decode = async (batch) => {
    say(`decode, batch ${batch}`);
    const ms = median(await decodeTimes(device, model, { batch, context: 0, steps: job.steps, cache_dtype }));
    put({ decode: { batch, ms, gb_per_s: bytesPerStep(model, batch, job.steps / 2, cache_dtype) / ms / 1e6 } });
  };
  const prefill = async (tokens) => {
    say(`prefill of ${tokens} tokens`);
    const ms = median(await prefillTimes(device, model, { batch: 1, tokens, runs: job.runs, cache_dtype }));
    put({ prefill: { tokens, ms, tokens_per_s: (1000 * tokens) / ms } });
  };
  // What counts most comes first, in case time runs out.
  const [batch, ...batches] = job.batches;
  const [tokens, ...prompts] = job.prompts;
  await decode(batch);
  await prefill(tokens);
  say("JavaScript of a step");
  const { record, replay, dispatches } = await recordTimes(device, model, job.sessions);
  put({ step: { dispatches, record_ms: record, replay_ms: replay } });
  for (const more of batches) await decode(more);
  for (const more of prompts) await prefill(more);
  model.dispose();
}

async function measureKernels(device, { rows: all, inputs, outputs, past }) {
  for (const name of Object.keys(KERNEL_SCHEMES)) {
    for (const rows of all) {
      say(`${name}, ${rows} rows`);
      put({ kernel: await linearSpeed(device, name, rows, inputs, outputs, past) });
    }
  }
}

const job = JSON.parse(process.argv[2] ?? "{}");
const { gpu, facts } = await open();
const device = new Device(await openWebGPU(gpu));
put({ adapter: { description: device.backend.description, ...facts } });
if (job.machine) {
  say("the machine's limits");
  put({ machine: await measureMachine(device) });
}
if (job.storage) await measureModel(device, job);
if (job.kernels) await measureKernels(device, job.kernels);
await device.close();
put({ done: true });
