// One peer, one variant, one process: opens it, measures it, prints one line of JSON. Started by main.mjs with a JSON
// argument; progress goes to stderr.

import { measure, peakRss } from "./protocol.mjs";
import { planOf, SHAPES } from "./shapes.mjs";

const ENGINES = { octavo: "./engine-octavo.mjs", "llama.cpp": "./engine-llama-cpp.mjs", onnx: "./engine-onnx.mjs" };

/** @type {{ peer: keyof typeof ENGINES, variant: string, isa?: string, file: string, modules: string, shape: string, threads: number, quick: boolean }} */
const job = JSON.parse(process.argv[2]);
const say = (text) => process.stderr.write(`  ${text}\n`);
const { open } = await import(ENGINES[job.peer]);
const start = performance.now();
const engine = await open({ ...job, shape: SHAPES[job.shape] });
const load_ms = performance.now() - start;
say(`loaded in ${(load_ms / 1000).toFixed(2)} s`);
const rss_loaded = peakRss();
const rates = await measure(engine, planOf(job.shape, job.quick), say);
await engine.close();
process.stdout.write(
  `${JSON.stringify({ info: engine.info, load_ms, peak_rss_loaded: rss_loaded, peak_rss: peakRss(), rates })}\n`,
);
// Some peers leave handles open.
process.exit(0);
