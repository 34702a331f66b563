// llama.cpp through node-llama-cpp. Its public generators sample on every step, so the batch interface beneath them is
// driven directly: each decodeBatch() is one llama_decode of the tokens that were added, and nothing else.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { tokenAt } from "./protocol.mjs";

/** Tokens per llama_decode of a prompt, as node-llama-cpp and llama.cpp have it by default. */
const BATCH = 512;

/** @param {{ file: string, modules: string, threads: number, shape: import("./shapes.mjs").Shape }} job */
export async function open({ file, modules, threads, shape }) {
  const folder = join(modules, "node_modules", "node-llama-cpp");
  const { version } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const { getLlama } = await import(pathToFileURL(join(folder, "dist", "index.js")).href);
  /** @type {string[]} */
  const buffers = [];
  const llama = await getLlama({
    gpu: false,
    build: "never",
    skipDownload: true,
    maxThreads: threads,
    logLevel: "debug",
    logger: (_level, message) => {
      // "load_tensors:  CPU_REPACK model buffer size = ..." names the layout that the weights were put in.
      const found = /(\S+) model buffer size\s*=\s*([\d.]+ MiB)/.exec(message);
      if (found) buffers.push(`${found[1]} ${found[2]}`);
    },
  });
  const model = await llama.loadModel({ modelPath: file, gpuLayers: 0, ignoreMemorySafetyChecks: true });
  const features = llama.systemInfo.match(/\w+ = [1-9]\d*/g)?.map((feature) => feature.split(" ")[0]) ?? [];

  /** @param {number} rows @param {number} capacity */
  const session = async (rows, capacity) => {
    const context = await model.createContext({
      sequences: rows,
      contextSize: capacity,
      batchSize: Math.min(BATCH, capacity),
      threads,
      flashAttention: "auto",
      ignoreMemorySafetyChecks: true,
    });
    const { _ctx: bare } = context;
    let length = 0;
    let index = 0;
    const run = async (count) => {
      const part = Math.floor(BATCH / rows);
      for (let done = 0; done < count; done += part) {
        const n = Math.min(part, count - done);
        const last = done + n === count;
        bare.initBatch(n * rows);
        for (let row = 0; row < rows; row++) {
          const tokens = Uint32Array.from({ length: n }, (_, i) => tokenAt(length + i, row, shape.vocab));
          const wanted = bare.addToBatch(row, length, tokens, last ? Uint32Array.of(n - 1) : new Uint32Array(0));
          if (row === 0 && last) index = wanted[0];
        }
        await bare.decodeBatch();
        length += n;
      }
    };
    return {
      reset() {
        for (let row = 0; row < rows; row++) bare.disposeSequence(row);
        length = 0;
      },
      feed: run,
      async steps(count) {
        for (let i = 0; i < count; i++) await run(1);
      },
      async logits() {
        const sampler = new llama._bindings.AddonSampler(model._model);
        sampler.applyConfig({ temperature: 0 });
        const [, , , pairs] = await bare.sampleToken(index, sampler, false, false, true);
        sampler.dispose();
        return Float32Array.from(pairs.filter((_, at) => at % 2 === 1));
      },
      close: () => context.dispose(),
    };
  };
  return {
    // Read at the end: the log arrives late.
    get info() {
      const build = llama.llamaCppRelease?.release ?? "?";
      return `node-llama-cpp ${version}, llama.cpp ${build}, ${features.join(" ")}; ${[...new Set(buffers)].join(", ")}`;
    },
    session,
    close: () => model.dispose(),
  };
}
