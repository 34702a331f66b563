// Our own engine, from dist/: the model is loaded (and quantized) from the bf16 checkpoint and driven as the decode loop
// of src/generate/loop.ts does it, one recorded step ahead of the token that the host reads.

import { scope, Tensor } from "../../dist/core/tensor.js";
import { VARIANTS } from "../../dist/eval/variants.js";
import { openDevice } from "../../dist/load/device.js";
import { loadModel } from "../../dist/load/index.js";
import { KVCache } from "../../dist/nn/cache.js";
import { advance } from "../../dist/ops/advance.js";
import { argmax } from "../../dist/ops/sampling.js";
import { BitsAndBytesConfig } from "../../dist/quant/config.js";
import { headScheme } from "../../dist/quant/index.js";
import { Disk } from "../../dist/sources/disk.js";
import { tokenAt } from "./protocol.mjs";

/** @param {{ file: string, variant: string, isa?: string, threads: number, shape: import("./shapes.mjs").Shape }} job */
export async function open({ file, variant, isa, threads, shape }) {
  // The reference device (plain loops) is for trying this file out where there are no kernels.
  const reference = process.env.OCTAVO_PEERS_DEVICE === "reference";
  const device = reference ? openDevice("reference") : openDevice("cpu", { threads, isa });
  const { dtype, quantization, compute, head, cache: cacheDType } = VARIANTS[variant];
  const { model } = await loadModel(new Disk(file), "causal-lm", {
    device,
    name: shape.name,
    dtype,
    quantization: quantization && new BitsAndBytesConfig(quantization),
    compute,
    head: headScheme(head),
  });
  const { layers, groups, head_dim } = model.geometry;

  /** @param {number} rows @param {number} wanted */
  const session = async (rows, wanted) => {
    const capacity = Math.ceil(wanted / 16) * 16;
    const cache = new KVCache(device, {
      layers,
      batch: rows,
      groups,
      head_dim,
      capacity,
      dtype: cacheDType ?? (dtype === "float32" ? "f32" : "bf16"),
    });
    /** @type {Tensor | undefined} Position of the last token, i32[B,1]. */
    let positions;
    /** @type {Tensor | undefined} The token that follows, i32[B]. */
    let token;
    /** @type {Tensor | undefined} Its logits [B,vocab]. */
    let logits;
    /** Records tokens [B,T]; gives the next ones. */
    const record = (ids, at) =>
      scope(() => {
        const result = model.forward({ ids, positions: at, cache }, { logits_to_keep: 1 }).view(rows, -1);
        logits?.dispose();
        logits = result.alias().keep();
        return argmax(result);
      }).keep();
    const step = () =>
      scope(() => {
        advance(positions, 1);
        return record(token.view(rows, 1), positions);
      });
    return {
      reset() {
        cache.advance(-cache.length);
      },
      async feed(count) {
        const start = cache.length;
        const of = (value) =>
          Int32Array.from({ length: rows * count }, (_, i) => value(i % count, Math.floor(i / count)));
        const next = scope(() => {
          const ids = Tensor.from(
            device,
            of((i, row) => tokenAt(start + i, row, shape.vocab)),
            [rows, count],
          );
          return record(
            ids,
            Tensor.from(
              device,
              of((i) => start + i),
              [rows, count],
            ),
          );
        });
        token?.dispose();
        token = next;
        positions?.dispose();
        positions = Tensor.from(device, new Int32Array(rows).fill(start + count - 1), [rows, 1]).keep();
        await token.read();
      },
      async steps(count) {
        for (let i = 0; i < count; i++) {
          const before = token;
          token = step();
          await before.read();
          before.dispose();
        }
        await token.read();
      },
      logits: async () => (await logits.readFloats()).slice(0, shape.vocab),
      close() {
        for (const tensor of [positions, token, logits]) tensor?.dispose();
        cache.dispose();
      },
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
