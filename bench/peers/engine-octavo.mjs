// Our own engine, from dist/: the model is loaded (and quantized) from the bf16 checkpoint and runs in the decode session that
// generate() uses, one step ahead of the tokens that the host reads.

import { VARIANTS } from "../../dist/eval/variants.js";
import { DecodeSession } from "../../dist/generate/session.js";
import { openDevice } from "../../dist/load/device.js";
import { loadModel } from "../../dist/load/index.js";
import { BitsAndBytesConfig } from "../../dist/quant/config.js";
import { headScheme } from "../../dist/quant/index.js";
import { Disk } from "../../dist/sources/disk.js";
import { tokenAt } from "./protocol.mjs";

const GREEDY = { do_sample: false, temperature: 1, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, seed: 0 };

/** @param {{ file: string, variant: string, isa?: string, threads: number, shape: import("./shapes.mjs").Shape }} job */
export async function open({ file, variant, isa, threads, shape }) {
  // The reference device (plain loops) is for trying this file out where there are no kernels.
  const reference = process.env.OCTAVO_PEERS_DEVICE === "reference";
  const device = reference ? openDevice("reference") : openDevice("cpu", { threads, isa });
  const { dtype, quantization, compute, head, cache } = VARIANTS[variant];
  const { model } = await loadModel(new Disk(file), "causal-lm", {
    device,
    name: shape.name,
    dtype,
    quantization: quantization && new BitsAndBytesConfig(quantization),
    compute,
    head: headScheme(head),
  });
  const cache_dtype = cache ?? (dtype === "float32" ? "f32" : "bf16");

  /** @param {number} rows @param {number} wanted */
  const session = async (rows, wanted) => {
    const capacity = Math.ceil(wanted / 16) * 16;
    const decoding = new DecodeSession(device, model, { rows, capacity, cache_dtype });
    const prompt = (row, count) => Int32Array.from({ length: count }, (_, i) => tokenAt(i, row, shape.vocab));
    let fed = 0;
    return {
      reset() {
        for (let row = 0; row < rows; row++) decoding.remove(row);
      },
      /** Up to the first new token. */
      async feed(count) {
        fed = count;
        const config = { ...GREEDY, max_new_tokens: capacity - count, eos_token_ids: [] };
        await decoding.add(Array.from({ length: rows }, (_, row) => ({ row, prompt: prompt(row, count), config })));
        await decoding.step();
      },
      async steps(count) {
        let running = decoding.step();
        for (let i = 1; i < count; i++) {
          const next = decoding.step();
          await running;
          running = next;
        }
        await running;
      },
      /** After the last feed, by a session of its own that shows the logits. */
      async logits() {
        /** @type {Float32Array | undefined} */
        let seen;
        const processors = [{ process: (own) => void (seen = own.slice(0, shape.vocab)) }];
        const checked = new DecodeSession(device, model, { rows: 1, capacity: fed + 1, cache_dtype, processors });
        const config = { ...GREEDY, max_new_tokens: 1, eos_token_ids: [] };
        await checked.add([{ row: 0, prompt: prompt(0, fed), config }]);
        await checked.step();
        checked.dispose();
        return seen;
      },
      close: () => decoding.dispose(),
    };
  };
  return {
    info: `octavo, ${device.backend.description ?? device.name}, weights ${(device.memory.live / 2 ** 20).toFixed(0)} MiB`,
    session,
    async close() {
      model.dispose();
      await device.close?.();
    },
  };
}
