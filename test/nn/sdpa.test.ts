// Attention as users of torch and flash-attn call it, against a plain rule in float64.

import { afterEach, describe, expect, test, vi } from "vitest";
import type { Device } from "../../src/core/device.js";
import { fromBf16, fromF16, toBf16, toF16 } from "../../src/core/dtype.js";
import { DTypeError, OctavoError, OptionError, ShapeError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { functional, type Kernels, manual_seed, SDPBackend, sdp_kernel, sdpa_kernel } from "../../src/nn/index.js";
import { DEVICES } from "../support/devices.js";
import { onDevice } from "../support/suites.js";
import { gpu } from "../support/webgpu.js";

const { scaled_dot_product_attention: sdpa, flash_attn_func, flash_attn_varlen_func } = functional;

/** Numbers that depend on the seed alone. */
function randomOf(seed: number): () => number {
  let state = seed * 2654435761 + 1;
  return () => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x6d2b79f5) | 0;
    return ((state ^ (state >>> 13)) >>> 0) / 2 ** 32;
  };
}

interface Values {
  shape: number[];
  data: Float64Array;
}

function made(random: () => number, shape: number[], dtype = "f32"): Values {
  const round =
    dtype === "f16"
      ? (x: number) => fromF16(toF16(x))
      : dtype === "bf16"
        ? (x: number) => fromBf16(toBf16(x))
        : Math.fround;
  const size = shape.reduce((n, one) => n * one, 1);
  return { shape, data: Float64Array.from({ length: size }, () => round(random() * 4 - 2)) };
}

/** An element of an array that broadcasts to the index. */
function at({ shape, data }: Values, index: readonly number[]): number {
  let place = 0;
  for (const [d, size] of shape.entries()) {
    const own = index[index.length - shape.length + d]!;
    place = place * size + (size === 1 ? 0 : own);
  }
  return data[place]!;
}

interface Rule {
  scale: number;
  softcap?: number;
  /** What is added to the score of query t and key s; -Infinity hides it. */
  bias(index: readonly number[], t: number, s: number): number;
}

/** softmax(q kᵀ) v in float64: q[..,H,T,D], k[..,G,S,D], v[..,G,S,E], and the shape of the result without its last dim. */
function attended(q: Values, k: Values, v: Values, lead: readonly number[], heads: number, rule: Rule): Float64Array {
  const [steps, size] = q.shape.slice(-2) as [number, number];
  const [keys, width] = v.shape.slice(-2) as [number, number];
  const rows = [...lead, heads].reduce((n, one) => n * one, 1);
  const out = new Float64Array(rows * steps * width);
  for (let row = 0; row < rows; row++) {
    const index: number[] = [];
    for (let d = lead.length - 1, rest = Math.floor(row / heads); d >= 0; d--) {
      index.unshift(rest % lead[d]!);
      rest = Math.floor(rest / lead[d]!);
    }
    const h = row % heads;
    const group = (x: Values): number => Math.floor(h / (heads / Math.max(1, x.shape.at(-3) ?? 1)));
    for (let t = 0; t < steps; t++) {
      const scores = Array.from({ length: keys }, (_, s) => {
        let dot = 0;
        for (let d = 0; d < size; d++) dot += at(q, [...index, h, t, d]) * at(k, [...index, group(k), s, d]);
        const score = dot * rule.scale;
        const capped = rule.softcap ? rule.softcap * Math.tanh(score / rule.softcap) : score;
        return capped + rule.bias([...index, h], t, s);
      });
      const top = Math.max(...scores);
      if (top === Number.NEGATIVE_INFINITY) continue;
      const weights = scores.map((score) => Math.exp(score - top));
      const sum = weights.reduce((n, one) => n + one, 0);
      for (let e = 0; e < width; e++) {
        let value = 0;
        for (let s = 0; s < keys; s++) value += weights[s]! * at(v, [...index, group(v), s, e]);
        out[(row * steps + t) * width + e] = value / sum;
      }
    }
  }
  return out;
}

function farthest(got: ArrayLike<number>, want: ArrayLike<number>): number {
  expect(got.length).toBe(want.length);
  let most = 0;
  for (let i = 0; i < want.length; i++) most = Math.max(most, Math.abs(got[i]! - want[i]!));
  return most;
}

/** Of values up to 2 in size: f32 sums of few terms; a result in 16 bits is rounded once more. */
const TOLERANCE = { f32: 3e-6, f16: 1.1e-3, bf16: 8e-3 };

afterEach(() => void vi.restoreAllMocks());

describe.each([...DEVICES, ...(gpu ? ["webgpu"] : [])])("scaled_dot_product_attention on %s", (deviceName) => {
  let device: Device;
  onDevice(deviceName, (opened) => (device = opened));
  const up = ({ shape, data }: Values, dtype: "f32" | "f16" | "bf16" | "u8" = "f32"): Tensor =>
    Tensor.from(device, dtype === "u8" ? Uint8Array.from(data) : Float32Array.from(data), shape, dtype);
  /** A software GPU compiles a shader for each combination. */
  const cases = deviceName === "webgpu" ? 3 : 60;

  test(`${cases} shapes, masks and dtypes`, async () => {
    for (let seed = 0; seed < cases; seed++) {
      const random = randomOf(seed + 1);
      const pick = <T>(...all: T[]): T => all[Math.floor(random() * all.length)]!;
      const below = (n: number): number => Math.floor(random() * n);
      const dtype = pick("f32", "f32", "f16", "bf16") as "f32" | "f16" | "bf16";
      const dims = pick(2, 3, 4, 4, 5);
      const lead = [2, 3].slice(0, Math.max(0, dims - 3));
      const gqa = dims > 2 && pick(true, false);
      const heads = dims === 2 ? 1 : pick(1, 2, 4, 6);
      const groups = gqa ? pick(...[1, 2, 3].filter((n) => heads % n === 0)) : heads;
      const [T, S, D, E] = [1 + below(9), 1 + below(9), 1 + below(12), 1 + below(9)];
      const of = (h: number, t: number, d: number, all = lead): number[] => [...all, ...(dims > 2 ? [h] : []), t, d];
      const keysLead = pick(
        lead,
        lead.map(() => 1),
      );
      const [q, k, v] = [
        made(random, of(heads, T, D), dtype),
        made(random, of(groups, S, D, keysLead), dtype),
        made(random, of(groups, S, E, keysLead), dtype),
      ];
      const kind = pick("none", "causal", "keys", "boolean", "added", "infinite");
      const whole = [...lead, ...(dims > 2 ? [heads] : []), T, S];
      const shape = whole.map((size) => pick(1, size)).slice(pick(0, below(whole.length)));
      if (kind === "keys" && dims > 2) {
        shape.splice(0, shape.length, ...lead, 1, 1, S);
      }
      const mask = made(random, shape);
      if (kind === "boolean" || kind === "keys") mask.data.forEach((x, i) => void (mask.data[i] = x > -0.5 ? 1 : 0));
      if (kind === "infinite") mask.data.forEach((x, i) => void (x < 0 && (mask.data[i] = Number.NEGATIVE_INFINITY)));
      const scale = pick(undefined, 0.3, 0);
      const softcap = pick(0, 0, 1.5);
      const want = attended(q, k, v, lead, heads, {
        scale: scale ?? D ** -0.5,
        softcap,
        bias: (index, t, s) => {
          if (kind === "none") return 0;
          if (kind === "causal") return s > t ? Number.NEGATIVE_INFINITY : 0;
          const value = at(mask, [...index, t, s]);
          return kind === "boolean" || kind === "keys" ? (value ? 0 : Number.NEGATIVE_INFINITY) : value;
        },
      });
      const y = scope(() =>
        sdpa(up(q, dtype), up(k, dtype), up(v, dtype), {
          ...(kind === "causal" ? { is_causal: true } : {}),
          ...(kind === "boolean" || kind === "keys" ? { attn_mask: up(mask, "u8") } : {}),
          ...(kind === "added" || kind === "infinite" ? { attn_mask: up(mask) } : {}),
          ...(scale === undefined ? {} : { scale }),
          softcap,
          enable_gqa: gqa,
        }),
      );
      const said = `${seed}: ${dtype} ${kind} ${q.shape} ${k.shape} ${v.shape} mask ${shape} scale ${scale} cap ${softcap}`;
      expect(y.shape, said).toEqual(of(heads, T, E));
      expect(y.dtype).toBe(dtype);
      expect(farthest(await y.readFloats(), want), said).toBeLessThan(TOLERANCE[dtype]);
      y.dispose();
    }
  });

  test("flash_attn_func: windows, slopes, and queries that are the last of the keys", async () => {
    for (let seed = 0; seed < cases; seed++) {
      const random = randomOf(seed + 1001);
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
      const y = scope(() => {
        const [qs, ks, vs] = [q, k, v].map((x) => up(x).permute(0, 2, 1, 3)) as [Tensor, Tensor, Tensor];
        const window_size = [left, right] as const;
        return flash_attn_func(qs, ks, vs, { causal, window_size, alibi_slopes: biased === "no" ? null : up(slopes) });
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
      const said = `${seed}: ${B} ${heads}/${groups} ${T}x${S} causal ${causal} window ${left},${right} slopes ${biased}`;
      expect(farthest(got, want), said).toBeLessThan(TOLERANCE.f32);
      y.dispose();
    }
  });

  test("flash_attn_varlen_func is flash_attn_func of each text", async () => {
    const random = randomOf(7);
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

  test("gradients, of a mask too, are those of finite differences", async () => {
    const kinds = ["infinite", "added", "causal", "long"];
    for (const [seed, kind] of kinds.slice(0, deviceName === "webgpu" ? 1 : 4).entries()) {
      const random = randomOf(seed + 50);
      const [T, S] = kind === "long" ? [5, 3] : [3, 5];
      const [q, k, v] = [made(random, [2, 4, T, 3]), made(random, [2, 2, S, 3]), made(random, [2, 2, S, 2])];
      // One mask for both rows: its gradient is summed over them.
      const mask = made(random, [4, T, S]);
      if (kind === "infinite") mask.data.forEach((x, i) => void (x < -1 && (mask.data[i] = Number.NEGATIVE_INFINITY)));
      const dy = made(random, [2, 4, T, 2]);
      const masked = kind === "added" || kind === "infinite";
      const softcap = kind === "added" ? 2 : 0;
      const loss = (): number => {
        const y = attended(q, k, v, [2], 4, {
          scale: 0.5,
          softcap,
          bias: (index, t, s) => (masked ? at(mask, [...index, t, s]) : s > t ? Number.NEGATIVE_INFINITY : 0),
        });
        return y.reduce((sum, value, i) => sum + value * dy.data[i]!, 0);
      };
      const all = [q, k, v, ...(masked ? [mask] : [])];
      const inputs = all.map((x) => up(x).requires_grad_());
      scope(() => {
        const [qs, ks, vs, ms] = inputs as [Tensor, Tensor, Tensor, Tensor];
        const how = masked ? { attn_mask: ms } : { is_causal: true };
        sdpa(qs, ks, vs, { ...how, scale: 0.5, enable_gqa: true, softcap }).backward(up(dy));
      });
      for (const [i, x] of all.entries()) {
        const want = x.data.map((value, j) => {
          if (!Number.isFinite(value)) return 0;
          const slope = [1e-4, -1e-4].map((step) => {
            x.data[j] = value + step;
            return loss();
          });
          x.data[j] = value;
          return (slope[0]! - slope[1]!) / 2e-4;
        });
        // Central differences in float64 are exact to some 1e-8; f32 sums of products up to 8 are not.
        expect(farthest(await inputs[i]!.grad!.readFloats(), want), `${kind} ${i}`).toBeLessThan(1e-5);
        inputs[i]!.dispose();
      }
    }
  });

  test("the smallest float hides keys only beside larger ones, as in torch", async () => {
    const random = randomOf(3);
    const [q, k, v] = [made(random, [1, 2, 4]), made(random, [1, 3, 4]), made(random, [1, 3, 4])];
    const least = -3.4028234663852886e38;
    const y = scope(() => {
      const attn_mask = Tensor.from(device, [0, least, 0, least, least, least], [2, 3]);
      return sdpa(up(q), up(k), up(v), { attn_mask });
    });
    const got = await y.readFloats();
    const mean = [0, 1, 2, 3].map((e) => (v.data[e]! + v.data[4 + e]! + v.data[8 + e]!) / 3);
    expect(farthest(got.subarray(4), mean)).toBeLessThan(TOLERANCE.f32);
    y.dispose();
  });

  test("dropout drops weights, by the generator's seed", async () => {
    const run = async (seed: number, p: number): Promise<Float32Array> => {
      manual_seed(seed);
      const random = randomOf(9);
      const y = scope(() => {
        const [q, k] = [up(made(random, [2, 2, 30, 4])), up(made(random, [2, 1, 40, 4]))];
        return sdpa(q, k, up({ shape: [2, 1, 40, 1], data: new Float64Array(80).fill(1) }), { dropout_p: p });
      });
      const values = await y.readFloats();
      y.dispose();
      return values;
    };
    const [one, again, other] = [await run(1, 0.25), await run(1, 0.25), await run(2, 0.25)];
    expect(again).toEqual(one);
    expect(other).not.toEqual(one);
    // Sums of weights: their mean is 1, its deviation below 0.01 for 120 rows.
    expect(one.reduce((sum, x) => sum + x, 0) / one.length).toBeCloseTo(1, 1);
    expect(new Set(one).size).toBeGreaterThan(100);
    expect(await run(1, 1)).toEqual(new Float32Array(120));
    if (deviceName === "webgpu") return; // what is recorded is the same
    const q = up(made(randomOf(9), [1, 2, 2])).requires_grad_();
    scope(() => sdpa(q, q, q, { dropout_p: 1 }).backward(up(made(randomOf(9), [1, 2, 2]))));
    expect((await q.grad!.readFloats()).every((x) => x === 0)).toBe(true);
    q.dispose();
  });

  test("kernels give the same, or say why they cannot", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    const random = randomOf(11);
    const shapes = [
      [2, 4, 5, 6],
      [2, 2, 7, 6],
      [2, 2, 7, 3],
    ];
    const [q, k, v] = scope(() => shapes.map((shape) => up(made(random, shape)))) as [Tensor, Tensor, Tensor];
    const mask = up(made(random, [5, 7]));
    const hides = Tensor.from(device, new Uint8Array(14).fill(1, 3, 12), [2, 1, 1, 7]);
    const run = (options: object = {}): Tensor => sdpa(q, k, v, { enable_gqa: true, ...options });
    const read = async (y: Tensor): Promise<Float32Array> => {
      const values = await y.readFloats();
      y.dispose();
      return values;
    };
    for (const options of [{}, { attn_mask: mask }, { attn_mask: hides }]) {
      const want = await read(run(options));
      for (const backend of [SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.FLASH_ATTENTION]) {
        if (backend === SDPBackend.FLASH_ATTENTION && options.attn_mask === mask) continue;
        const got = await read(sdpa_kernel(backend, () => run(options)));
        expect(farthest(got, want), `${backend}`).toBeLessThan(TOLERANCE.f32);
      }
    }
    expect(warn).not.toHaveBeenCalled();
    const refused = (call: () => Tensor): OctavoError => {
      try {
        call().dispose();
      } catch (error) {
        return error as OctavoError;
      }
      throw new Error("it ran");
    };
    const none = refused(() =>
      sdp_kernel({ enable_math: false, enable_mem_efficient: false }, () => run({ attn_mask: mask })),
    );
    expect(none).toBeInstanceOf(OctavoError);
    expect(none.code).toBe("ERR_NO_KERNEL");
    expect(none.message).toMatch(/^No available kernel\. Aborting execution\./);
    const lines = warn.mock.calls.map(([line]) => line);
    expect(lines).toEqual([
      "Flash attention kernel not used because: Flash Attention does not support non-null attn_mask.",
      "cuDNN attention kernel not used because: there is no cuDNN on this device.",
    ]);
    expect(none.details.reasons).toEqual(lines);
    const fusedOnly = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION];
    expect(refused(() => sdpa_kernel(fusedOnly, () => run({ dropout_p: 0.1 }))).code).toBe("ERR_NO_KERNEL");
    expect(refused(() => sdpa_kernel([], () => run())).code).toBe("ERR_NO_KERNEL");
    // The choice ended with each body, whether it threw or not.
    (await read(run({ attn_mask: mask, dropout_p: 0.1 }))).fill(0);
    for (const x of [q, k, v, mask, hides]) x.dispose();
  });

  test("a choice holds for what its body calls, and for nobody else", async () => {
    vi.spyOn(console, "warn").mockImplementation(() => {});
    const random = randomOf(13);
    const q = up(made(random, [1, 1, 2, 4]));
    const dropping = (): void => sdpa(q, q, q, { dropout_p: 0.5 }).dispose();
    const chosen = async (kernels: Kernels): Promise<void> => {
      expect(dropping).toThrow(/^No available kernel/);
      await Promise.resolve();
      // Behind an await, a call is inside by `run` alone.
      dropping();
      expect(() => kernels.run(dropping)).toThrow(/^No available kernel/);
    };
    const running = sdpa_kernel(SDPBackend.FLASH_ATTENTION, chosen);
    dropping();
    await Promise.all([running, sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], dropping)]);
    sdpa_kernel(SDPBackend.FLASH_ATTENTION, () => sdpa_kernel(SDPBackend.MATH, dropping));
    q.dispose();
  });

  test("nothing to see, and nothing that sees", async () => {
    const empty = scope(() => {
      const x = up({ shape: [2, 3, 4, 5], data: new Float64Array(120).fill(1) });
      const none = Tensor.empty(device, [2, 3, 0, 5], "f32");
      return [sdpa(x, none, none), sdpa(none, x, x)];
    });
    expect(await empty[0]!.readFloats()).toEqual(new Float32Array(120));
    expect(empty[1]!.shape).toEqual([2, 3, 0, 5]);
    for (const x of empty) x.dispose();
  });
});

describe("scaled_dot_product_attention refuses", () => {
  let device: Device;
  onDevice("reference", (opened) => (device = opened));
  const of = (...shape: number[]): Tensor => Tensor.empty(device, shape, "f32");
  test.each<[string, () => Tensor, new (...args: never) => Error, RegExp]>([
    [
      "a mask with a causal order",
      () => sdpa(of(2, 4), of(2, 4), of(2, 4), { attn_mask: of(2, 2), is_causal: true }),
      OptionError,
      /Explicit attn_mask should not be set when is_causal=True/,
    ],
    ["one dim", () => sdpa(of(4), of(4), of(4)), ShapeError, /at least 2 dimensional, got \[4\], \[4\], \[4\]/],
    [
      "two dims with groups",
      () => sdpa(of(2, 4), of(2, 4), of(2, 4), { enable_gqa: true }),
      ShapeError,
      /at least 3 dimensional/,
    ],
    ["another head size", () => sdpa(of(1, 2, 4), of(1, 2, 3), of(1, 2, 3)), ShapeError, /need one head size/],
    ["another length", () => sdpa(of(1, 2, 4), of(1, 3, 4), of(1, 2, 4)), ShapeError, /one length/],
    [
      "other heads",
      () => sdpa(of(3, 2, 4), of(2, 2, 4), of(2, 2, 4)),
      ShapeError,
      /3, 2, 2 heads do not fit each other\n.*enable_gqa/,
    ],
    [
      "heads that do not divide",
      () => sdpa(of(3, 2, 4), of(2, 2, 4), of(2, 2, 4), { enable_gqa: true }),
      ShapeError,
      /heads in key and value must divide/,
    ],
    ["other rows", () => sdpa(of(2, 1, 2, 4), of(3, 1, 2, 4), of(3, 1, 2, 4)), ShapeError, /do not broadcast/],
    [
      "a mask of another size",
      () => sdpa(of(1, 2, 4), of(1, 3, 4), of(1, 3, 4), { attn_mask: of(2, 2) }),
      ShapeError,
      /attn_mask of \[2, 2\] does not broadcast to the scores, \[1, 2, 3\]/,
    ],
    [
      "a mask of more dims",
      () => sdpa(of(1, 2, 4), of(1, 3, 4), of(1, 3, 4), { attn_mask: of(1, 1, 2, 3) }),
      ShapeError,
      /does not broadcast/,
    ],
    [
      "whole numbers for a mask",
      () => sdpa(of(2, 4), of(2, 4), of(2, 4), { attn_mask: Tensor.empty(device, [2, 2], "i32") }),
      DTypeError,
      /attn_mask dtype to be bool or float.*\n.*u8: 0 hides/,
    ],
    [
      "two dtypes",
      () => sdpa(of(2, 4), Tensor.empty(device, [2, 4], "f16"), of(2, 4)),
      DTypeError,
      /the same dtype, got f32, f16, f32/,
    ],
    [
      "no floats",
      () => {
        const x = Tensor.empty(device, [2, 4], "i32");
        return sdpa(x, x, x);
      },
      DTypeError,
      /must hold floats/,
    ],
    ["a dropout of two", () => sdpa(of(2, 4), of(2, 4), of(2, 4), { dropout_p: 2 }), OptionError, /between 0 and 1/],
    ["no tensor", () => sdpa(of(2, 4), of(2, 4), [[1]] as never), OptionError, /must be Tensors/],
    [
      "an unknown option",
      () => sdpa(of(2, 4), of(2, 4), of(2, 4), { causal: true } as never),
      OptionError,
      /is_causal/,
    ],
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
      "heads that do not divide, in flash-attn",
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

  test.each<[string, () => unknown]>([
    ["no kernel", () => sdpa_kernel("flash" as never, () => 1)],
    ["an error for a kernel", () => sdpa_kernel(SDPBackend.ERROR, () => 1)],
    ["no body", () => sdpa_kernel(SDPBackend.MATH, undefined as never)],
    ["an unknown kernel", () => sdp_kernel({ enable_triton: true } as never, () => 1)],
  ])("%s", (_, call) => {
    expect(call).toThrow(OptionError);
  });
});
