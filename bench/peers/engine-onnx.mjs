// onnxruntime-node, driven as transformers.js drives it: the KV cache goes in as inputs and comes back as outputs. The
// variants "-shared" hand the same preallocated tensors in as outputs, so that the cache is extended in place.

import { createRequire } from "node:module";
import { join } from "node:path";
import { tokenAt } from "./protocol.mjs";

/** @param {{ file: string, modules: string, variant: string, threads: number, shape: import("./shapes.mjs").Shape }} job */
export async function open({ file, modules, variant, threads, shape }) {
  const require = createRequire(join(modules, "package.json"));
  const { InferenceSession, Tensor, env } = require("onnxruntime-node");
  const model = await InferenceSession.create(file, {
    executionProviders: ["cpu"],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    executionMode: "sequential",
    graphOptimizationLevel: "all",
  });
  const shared = variant.endsWith("-shared");
  const head = shape.hidden / shape.heads;
  const names = Array.from({ length: shape.layers }, (_, layer) => [`${layer}.key`, `${layer}.value`]).flat();

  /** @param {number} rows @param {number} capacity */
  const session = async (rows, capacity) => {
    const cells = shared ? capacity : 0;
    const empty = () => {
      const size = rows * shape.groups * cells * head;
      return names.map(() => new Tensor("float32", new Float32Array(size), [rows, shape.groups, cells, head]));
    };
    let cache = empty();
    let length = 0;
    /** @type {any} */
    let logits;
    const run = async (count) => {
      const ids = new BigInt64Array(rows * count);
      for (let row = 0; row < rows; row++) {
        for (let i = 0; i < count; i++) ids[row * count + i] = BigInt(tokenAt(length + i, row, shape.vocab));
      }
      const total = length + count;
      /** @type {Record<string, any>} */
      const feeds = {
        input_ids: new Tensor("int64", ids, [rows, count]),
        seqlens_k: new Tensor("int32", new Int32Array(rows).fill(total - 1), [rows]),
        total_sequence_length: new Tensor("int32", Int32Array.of(total), []),
      };
      names.forEach((name, i) => {
        feeds[`past_key_values.${name}`] = cache[i];
      });
      if (shared) {
        const fetches = Object.fromEntries(names.map((name, i) => [`present.${name}`, cache[i]]));
        logits = (await model.run(feeds, { logits: null, ...fetches })).logits;
      } else {
        const results = await model.run(feeds);
        for (const tensor of cache) tensor.dispose();
        cache = names.map((name) => results[`present.${name}`]);
        logits = results.logits;
      }
      length = total;
    };
    return {
      reset() {
        if (!shared) cache = empty();
        length = 0;
      },
      feed: run,
      async steps(count) {
        for (let i = 0; i < count; i++) await run(1);
      },
      logits: async () => logits.data.slice(0, shape.vocab),
      close() {
        cache = [];
      },
    };
  };
  return {
    info: `onnxruntime-node ${env.versions.node ?? env.versions.common}`,
    session,
    close: () => model.release(),
  };
}
