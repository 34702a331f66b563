// Writes a checkpoint with random weights for a config, to time loading without a download.

import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { writeSafetensors } from "../checkpoints/safetensors-write.js";
import { toBf16 } from "../core/dtype.js";
import { buildModel } from "../models/index.js";
import type { ConfigJson } from "../nn/architecture.js";
import { Matrix } from "../nn/module.js";

/** Writes config.json and model.safetensors (bf16) into `folder`; returns the bytes of the tensors. */
export async function writeRandomCheckpoint(folder: string, config: ConfigJson): Promise<number> {
  const model = await buildModel(config, "causal-lm");
  const pool = Uint16Array.from({ length: 1 << 20 }, (_, i) =>
    toBf16((((i * 2654435761) >>> 8) % 2001) / 25000 - 0.04),
  );
  const one = toBf16(1);
  let bytes = 0;
  let turn = 0;
  const tensors = [...model.named_parameters()].map(([name, parameter]) => {
    const count = parameter.shape.reduce((n, size) => n * size, 1);
    bytes += 2 * count;
    return {
      name,
      dtype: "BF16" as const,
      shape: parameter.shape,
      data: (): Uint8Array => {
        const values = new Uint16Array(count);
        if (!(parameter instanceof Matrix)) values.fill(one);
        else
          for (let at = 0; at < count; at += pool.length)
            values.set(pool.subarray(0, Math.min(pool.length, count - at)), at);
        turn++;
        if (values.length > 0) values[0] = toBf16(turn / 1000); // makes all tensors different
        return new Uint8Array(values.buffer);
      },
    };
  });
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "config.json"), JSON.stringify({ ...config, torch_dtype: "bfloat16" }, null, 2));
  await writeSafetensors(join(folder, "model.safetensors"), tensors, { format: "pt" });
  return bytes;
}
