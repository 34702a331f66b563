// Attention against golden results in float64 (test/fixtures/attention/sdpa).

import { describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { attention } from "../../src/ops/attention.js";
import { contiguous } from "../../src/ops/copy.js";
import { ALL_DEVICES } from "../support/devices.js";
import { difference, type Golden, readArrays, readJson } from "../support/fixtures.js";
import { onDevice } from "../support/suites.js";

interface Case {
  name: string;
  B?: number;
  Lq?: number;
  Lk?: number;
  D: number;
  causal?: boolean;
  window?: number | null;
  softcap?: number;
  scale?: number;
  alibi?: "added" | "scaled";
  left_pad?: number[];
  right_pad?: number[];
  magnitude?: number;
  cu_seqlens_q?: number[];
}

const arrays = readArrays("attention", "sdpa.safetensors");
const file = readJson<{ tolerance: { out: number; large_scores: number }; cases: Case[] }>("attention", "sdpa.json");

const SKIPPED: Record<string, string> = {
  more_queries_than_keys: "a decoder never has fewer keys than queries; the op refuses it",
  packed_cross_lengths: "packed queries and keys of different lengths: segments describe keys and queries alike",
};

function get(name: string): Golden {
  const array = arrays.get(name);
  if (!array) throw new Error(`no ${name} in the fixture`);
  return array;
}

for (const { name } of file.cases) {
  const reason = SKIPPED[name];
  if (reason) test.skip(`${name}: ${reason}`);
}

describe.each(ALL_DEVICES)("attention on %s", (deviceName) => {
  let device: Device;
  onDevice(deviceName, (opened) => (device = opened));
  const upload = ({ values, shape }: Golden): Tensor => Tensor.from(device, values, shape);

  /** Padding as a key mask u8[B,S]. */
  const padding = ({ B = 1, Lk = 0, left_pad, right_pad }: Case): Tensor | undefined => {
    if (!left_pad && !right_pad) return undefined;
    const mask = new Uint8Array(B * Lk).fill(1);
    for (let b = 0; b < B; b++) {
      mask.fill(0, b * Lk, b * Lk + (left_pad?.[b] ?? 0));
      mask.fill(0, (b + 1) * Lk - (right_pad?.[b] ?? 0), (b + 1) * Lk);
    }
    return Tensor.from(device, mask, [B, Lk]);
  };

  /** What is added to the scores, [B,H,T,S]: the case's bias, or a mask of single pairs as minus infinity. */
  const additive = (one: Case, heads: number): Tensor | undefined => {
    const { name, B = 1, Lq = 0, Lk = 0 } = one;
    const bias = arrays.get(`${name}.bias`);
    if (bias) return upload(bias).expand(B, heads, Lq, Lk);
    const pairs = arrays.get(`${name}.mask`);
    if (!pairs) return undefined;
    const values = Float32Array.from(pairs.values, (seen) => (seen ? 0 : Number.NEGATIVE_INFINITY));
    return Tensor.from(device, values, pairs.shape).expand(B, heads, Lq, Lk);
  };

  test.each(file.cases.filter((one) => !one.cu_seqlens_q && !SKIPPED[one.name]))("$name", async (one) => {
    const { name, D, causal = false } = one;
    const want = get(`${name}.out`);
    const scale = one.scale ?? 1 / Math.sqrt(D);
    const y = scope(() => {
      const q = upload(get(`${name}.q`)).permute(0, 2, 1, 3);
      const slopes = arrays.get(`${name}.slopes`);
      const factor = one.alibi === "scaled" ? D ** -0.5 : 1;
      const out = attention(q, upload(get(`${name}.k`)), upload(get(`${name}.v`)), {
        scale,
        causal,
        window: one.window ?? 0,
        softcap: one.softcap,
        mask: padding(one),
        bias: additive(one, q.shape[2]!),
        slopes:
          slopes &&
          Tensor.from(
            device,
            (slopes.values as Float32Array).map((s) => s * factor),
            slopes.shape,
          ),
      });
      return contiguous(out.permute(0, 2, 1, 3));
    });
    expect(y.shape).toEqual(want.shape);
    const { out, large_scores } = file.tolerance;
    expect(difference(await y.readFloats(), want.values).max).toBeLessThan(one.magnitude ? large_scores : out);
    y.dispose();
  });

  test.each(file.cases.filter((one) => one.cu_seqlens_q && !SKIPPED[one.name]))("$name", async (one) => {
    const { name, D, cu_seqlens_q: ends = [], window } = one;
    const total = ends.at(-1)!;
    const segments = Int32Array.from({ length: total }, (_, i) => ends.findIndex((end) => end > i));
    const y = scope(() => {
      const [q, k, v] = ["q", "k", "v"].map((part) => {
        const golden = get(`${name}.${part}`);
        return Tensor.from(device, golden.values, [1, ...golden.shape]);
      });
      return attention(q!, k!.permute(0, 2, 1, 3), v!.permute(0, 2, 1, 3), {
        scale: 1 / Math.sqrt(D),
        window: window ?? 0,
        segments: Tensor.from(device, segments, [1, total]),
      });
    });
    expect(difference(await y.readFloats(), get(`${name}.out`).values).max).toBeLessThan(file.tolerance.out);
    y.dispose();
  });
});
