// Attention as users of torch call it, against a plain rule in float64.

import { afterEach, describe, expect, test, vi } from "vitest";
import type { Device } from "../../src/core/device.js";
import { DTypeError, OctavoError, OptionError, ShapeError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { functional, manual_seed, SDPBackend, sdp_kernel, sdpa_kernel } from "../../src/nn/index.js";
import { at, attended, farthest, made, TOLERANCE, type Values } from "../support/attention.js";
import { DEVICES } from "../support/devices.js";
import { uniforms } from "../support/random.js";
import { onDevice } from "../support/suites.js";
import { gpu } from "../support/webgpu.js";

const { scaled_dot_product_attention: sdpa } = functional;

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
      const random = uniforms(seed + 1);
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
      const said = `${seed}: ${dtype} ${kind} ${q.shape} ${k.shape} ${v.shape} mask ${shape} scale ${scale} cap ${softcap}`;
      const attend = (): Tensor =>
        scope(() =>
          sdpa(up(q, dtype), up(k, dtype), up(v, dtype), {
            ...(kind === "causal" ? { is_causal: true } : {}),
            ...(kind === "boolean" || kind === "keys" ? { attn_mask: up(mask, "u8") } : {}),
            ...(kind === "added" || kind === "infinite" ? { attn_mask: up(mask) } : {}),
            ...(scale === undefined ? {} : { scale }),
            softcap,
            enable_gqa: gqa,
          }),
        );
      for (const y of [attend(), sdpa_kernel(SDPBackend.MATH, attend)]) {
        expect(y.shape, said).toEqual(of(heads, T, E));
        expect(y.dtype).toBe(dtype);
        expect(farthest(await y.readFloats(), want), said).toBeLessThan(TOLERANCE[dtype]);
        y.dispose();
      }
    }
  });

  test("gradients, of a mask too, are those of finite differences", async () => {
    const kinds = ["infinite", "added", "causal", "long"];
    for (const [seed, kind] of kinds.slice(0, deviceName === "webgpu" ? 1 : 4).entries()) {
      const random = uniforms(seed + 50);
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
      const gradients = (): Tensor[] => {
        const inputs = all.map((x) => up(x).requires_grad_());
        scope(() => {
          const [qs, ks, vs, ms] = inputs as [Tensor, Tensor, Tensor, Tensor];
          const how = masked ? { attn_mask: ms } : { is_causal: true };
          sdpa(qs, ks, vs, { ...how, scale: 0.5, enable_gqa: true, softcap }).backward(up(dy));
        });
        return inputs;
      };
      const found = [gradients(), ...(deviceName === "webgpu" ? [] : [sdpa_kernel(SDPBackend.MATH, gradients)])];
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
        for (const [way, inputs] of found.entries()) {
          expect(farthest(await inputs[i]!.grad!.readFloats(), want), `${kind} ${i} ${way}`).toBeLessThan(1e-5);
          inputs[i]!.dispose();
        }
      }
    }
  });

  test("the smallest float hides keys only beside larger ones, as in torch", async () => {
    const random = uniforms(3);
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
      const random = uniforms(9);
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
    const q = up(made(uniforms(9), [1, 2, 2])).requires_grad_();
    scope(() => sdpa(q, q, q, { dropout_p: 1 }).backward(up(made(uniforms(9), [1, 2, 2]))));
    expect((await q.grad!.readFloats()).every((x) => x === 0)).toBe(true);
    q.dispose();
  });

  test("kernels give the same, or say why they cannot", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    const random = uniforms(11);
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
    run({ attn_mask: mask, dropout_p: 0.1 }).dispose();
    for (const x of [q, k, v, mask, hides]) x.dispose();
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
  ])("%s", (_, call, kind, words) => {
    scope(() => {
      expect(call).toThrow(kind);
      expect(call).toThrow(words);
    });
  });
});
