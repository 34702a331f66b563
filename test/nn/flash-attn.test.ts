// Attention as users of flash-attn call it, against a plain rule in float64.

import { describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError, ShapeError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { functional } from "../../src/nn/index.js";
import { at, attended, farthest, made, TOLERANCE, type Values } from "../support/attention.js";
import { DEVICES } from "../support/devices.js";
import { uniforms } from "../support/random.js";
import { onDevice } from "../support/suites.js";
import { gpu } from "../support/webgpu.js";

const { flash_attn_func, flash_attn_varlen_func } = functional;

describe.each([...DEVICES, ...(gpu ? ["webgpu"] : [])])("flash-attn on %s", (deviceName) => {
  let device: Device;
  onDevice(deviceName, (opened) => (device = opened));
  const up = ({ shape, data }: Values, dtype: "f32" | "bf16" = "f32"): Tensor =>
    Tensor.from(device, Float32Array.from(data), shape, dtype);
  /** A software GPU compiles a shader for each combination. */
  const cases = deviceName === "webgpu" ? 3 : 60;

  test("flash_attn_func: windows, slopes, and queries that are the last of the keys", async () => {
    for (let seed = 0; seed < cases; seed++) {
      const random = uniforms(seed + 1001);
      const pick = <V>(...all: V[]): V => all[Math.floor(random() * all.length)]!;
      const [B, T, S, D, E] = [pick(1, 2), pick(1, 3, 7), pick(1, 4, 9), pick(4, 6), pick(4, 5)];
      const heads = pick(2, 4);
      const groups = pick(1, 2);
      const causal = pick(true, false);
      const [left, right] = [pick(-1, 0, 2, 50), pick(-1, 0, 1, 2 ** 40)];
      const biased = pick("no", "no", "heads", "rows");
      const [q, k, v] = [
        made(random, [B, heads, T, D]),
        made(random, [B, groups, S, D]),
        made(random, [B, groups, S, E]),
      ];
      const slopes = made(random, biased === "rows" ? [B, heads] : [heads]);
      slopes.data.forEach((x, i) => void (slopes.data[i] = Math.fround(Math.abs(x))));
      const want = attended(q, k, v, [B], heads, {
        scale: D ** -0.5,
        bias: ([b = 0, h = 0], t, s) => {
          const away = s - (t + S - T);
          if (away > (causal ? 0 : right < 0 ? 99 : right) || away < (left < 0 ? -99 : -left)) {
            return Number.NEGATIVE_INFINITY;
          }
          return biased === "no" ? 0 : -at(slopes, [b, h]) * Math.abs(away);
        },
      });
      const said = `${seed}: ${B} ${heads}/${groups} ${T}x${S} causal ${causal} window ${left},${right} slopes ${biased}`;
      // With a dropout that drops nothing, the weights are held.
      for (const dropout_p of deviceName === "webgpu" ? [0] : [0, 1e-12]) {
        const y = scope(() => {
          const [qs, ks, vs] = [q, k, v].map((x) => up(x).permute(0, 2, 1, 3)) as [Tensor, Tensor, Tensor];
          const alibi_slopes = biased === "no" ? null : up(slopes);
          return flash_attn_func(qs, ks, vs, { causal, window_size: [left, right], alibi_slopes, dropout_p });
        });
        expect(y.shape).toEqual([B, T, heads, E]);
        const got = Float64Array.from(want);
        for (const [i, value] of (await y.readFloats()).entries()) {
          const [e, h, t, b] = [
            i % E,
            Math.floor(i / E) % heads,
            Math.floor(i / E / heads) % T,
            Math.floor(i / E / heads / T),
          ];
          got[((b * heads + h) * T + t) * E + e] = value;
        }
        expect(farthest(got, want), `${said} dropout ${dropout_p}`).toBeLessThan(TOLERANCE.f32);
        y.dispose();
      }
    }
  });

  test("flash_attn_varlen_func is flash_attn_func of each text", async () => {
    const random = uniforms(7);
    const [ofQueries, ofKeys] = [
      [0, 2, 2, 7],
      [0, 5, 6, 9],
    ];
    const [q, k, v] = scope(() => [
      up(made(random, [7, 4, 6]), "bf16"),
      up(made(random, [9, 2, 6]), "bf16"),
      up(made(random, [9, 2, 5]), "bf16"),
    ]) as [Tensor, Tensor, Tensor];
    const options = { causal: true, window_size: [3, 0] as const };
    const y = flash_attn_varlen_func(q, k, v, {
      ...options,
      cu_seqlens_q: ofQueries,
      cu_seqlens_k: Int32Array.from(ofKeys),
    });
    const whole = await y.readFloats();
    for (let text = 0; text < 3; text++) {
      const part = (x: Tensor, ends: number[]): Tensor =>
        x.view(1, ...x.shape).narrow(1, ends[text]!, ends[text + 1]! - ends[text]!);
      const one = scope(() => flash_attn_func(part(q, ofQueries), part(k, ofKeys), part(v, ofKeys), options));
      const own = whole.slice(ofQueries[text]! * 20, ofQueries[text + 1]! * 20);
      expect(await one.readFloats()).toEqual(own);
      one.dispose();
    }
    for (const x of [q, k, v, y]) x.dispose();
  });
});

describe("flash-attn refuses", () => {
  let device: Device;
  onDevice("reference", (opened) => (device = opened));
  const of = (...shape: number[]): Tensor => Tensor.empty(device, shape, "f32");
  test.each<[string, () => Tensor, new (...args: never) => Error, RegExp]>([
    [
      "texts that end elsewhere",
      () =>
        flash_attn_varlen_func(of(5, 1, 4), of(5, 1, 4), of(5, 1, 4), { cu_seqlens_q: [0, 4], cu_seqlens_k: [0, 5] }),
      OptionError,
      /cu_seqlens_q ends at 4, q at 5/,
    ],
    [
      "texts that descend",
      () =>
        flash_attn_varlen_func(of(5, 1, 4), of(5, 1, 4), of(5, 1, 4), {
          cu_seqlens_q: [0, 6, 5],
          cu_seqlens_k: [0, 2, 5],
        }),
      OptionError,
      /do not descend/,
    ],
    [
      "a longest text that is not",
      () =>
        flash_attn_varlen_func(of(5, 1, 4), of(5, 1, 4), of(5, 1, 4), {
          cu_seqlens_q: [0, 5],
          cu_seqlens_k: [0, 5],
          max_seqlen_q: 4,
        }),
      OptionError,
      /a text has 5 tokens/,
    ],
    [
      "heads that do not divide",
      () => flash_attn_func(of(1, 2, 3, 4), of(1, 2, 2, 4), of(1, 2, 2, 4)),
      ShapeError,
      /must divide number of heads/,
    ],
  ])("%s", (_, call, kind, words) => {
    scope(() => {
      expect(call).toThrow(kind);
      expect(call).toThrow(words);
    });
  });
});
