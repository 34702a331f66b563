// What is left of scores on the device is what the host's warpers leave, one after the other.

import { expect, test } from "vitest";
import { Tensor } from "../../src/core/tensor.js";
import { getLogitsProcessor } from "../../src/generate/processors/host/list.js";
import { openDevice } from "../../src/load/device.js";
import { warp } from "../../src/ops/warp.js";
import { uniforms } from "../support/random.js";

const NEVER = Number.NEGATIVE_INFINITY;

test("warp is the host's warpers", async () => {
  const next = uniforms(17);
  const pick = <T>(list: readonly T[]): T => list[Math.floor(next() * list.length)]!;
  await using device = openDevice("cpu", { threads: 1 });
  let dropped = 0;
  for (let round = 0; round < 400; round++) {
    const vocab = pick([1, 2, 17, 160, 1000, 4099]);
    const width = pick([0.5, 3, 12]);
    const [whole, holes] = [next() < 0.2, next() < 0.3];
    const score = (): number => {
      if (holes && next() < 0.4) return NEVER;
      const own = width * (next() + next() + next() - 1.5);
      return whole ? Math.round(own) : own;
    };
    const row = Float32Array.from({ length: vocab }, score);
    row[Math.floor(next() * vocab)] = width;
    // Numbers that are the same in 32 bits: what is on the edge by a last bit is anybody's.
    const config = {
      temperature: pick([1, 0.5, 1.75]),
      top_k: pick([0, 0, 5, 50]),
      top_p: pick([1, 1, 0.8125]),
      min_p: pick([0, 0, 0.03125]),
      typical_p: pick([1, 0.90625, 0.375, 0.015625]),
      epsilon_cutoff: pick([0, 0, 0.001953125, 0.0625]),
      eta_cutoff: pick([0, 0, 0.001953125, 0.0625, 0.625]),
    };
    const want = row.slice();
    getLogitsProcessor({ ...config, do_sample: true }, { input_ids_seq_length: 1 }).change(want, [1], 0);
    using logits = Tensor.from(device, row, [1, vocab]);
    using params = Tensor.from(device, Float32Array.from(Object.values(config)), [1, 7]);
    using left = warp(logits, params);
    expect(await left.readFloats(), JSON.stringify({ round, vocab, ...config })).toEqual(want);
    dropped += want.filter((one) => one === NEVER).length;
  }
  expect(dropped).toBeGreaterThan(10_000);
});
