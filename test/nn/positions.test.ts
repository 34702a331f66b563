// Rotary frequencies and ALiBi slopes against transformers' (test/fixtures/attention/positions).

import { describe, expect, test } from "vitest";
import { ConfigError, OptionError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { alibiSlopes, mptAlibiSlopes } from "../../src/nn/alibi.js";
import {
  build_alibi_tensor,
  build_falcon_alibi_tensor,
  build_mpt_alibi_tensor,
  ROPE_INIT_FUNCTIONS,
  relative_position_bucket,
} from "../../src/nn/position-functions.js";
import { ropeFields, ropeFrequencies } from "../../src/nn/rope.js";
import { contiguous } from "../../src/ops/copy.js";
import { rope, ropeTable } from "../../src/ops/rope.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, readArrays, readJson } from "../support/fixtures.js";

interface RopeCase {
  key: string;
  max_position_embeddings: number;
  original_max_position_embeddings?: number;
  seq_len: number;
  head_dim?: number;
  hidden_size?: number;
  num_attention_heads?: number;
  partial_rotary_factor?: number;
  rope_theta: number;
  rope_scaling: Record<string, unknown> | null;
  positions: number[];
  attention_factor: number;
}

const arrays = readArrays("attention", "positions.safetensors");
const file = readJson<{ tolerance: number; rope: RopeCase[]; other: { kind: string; heads?: number }[] }>(
  "attention",
  "positions.json",
);
const get = (name: string): Float32Array => arrays.get(name)!.values as Float32Array;
const kindOf = ({ rope_scaling: scaling }: RopeCase): string =>
  String(scaling?.rope_type ?? scaling?.type ?? "default");

/** The frequencies of a case, for a text of its length. */
function frequencies(one: RopeCase, fields = ropeFields({ ...one })) {
  const { head_dim = 0, hidden_size = 0, num_attention_heads = 1, partial_rotary_factor = 1 } = one;
  const dim = (head_dim || hidden_size / num_attention_heads) * partial_rotary_factor;
  const { inverse, scale, ofLength } = ropeFrequencies({ ...fields, dim });
  return { inverse: ofLength?.(one.seq_len) ?? inverse, scale };
}

describe.each(file.rope)("$key", (one) => {
  test("inverse frequencies", () => {
    const { inverse, scale } = frequencies(one);
    // Each is a power and a division in f32: two roundings, of numbers up to 1.
    expect(difference(inverse, get(`${one.key}.inv_freq`)).max).toBeLessThan(file.tolerance);
    expect(scale).toBeCloseTo(one.attention_factor, 12);
  });

  test("the function of transformers' name gives them", () => {
    const init = ROPE_INIT_FUNCTIONS[kindOf(one) as keyof typeof ROPE_INIT_FUNCTIONS];
    const [inverse, factor] = init({ ...one }, one.seq_len);
    expect(inverse).toEqual(frequencies(one).inverse);
    expect(factor).toBeCloseTo(one.attention_factor, 12);
  });

  test("the newer layout of config.json says the same", () => {
    const parameters = { ...one.rope_scaling, rope_theta: one.rope_theta, rope_type: kindOf(one) };
    const { rope_theta, rope_scaling, ...others } = { ...one };
    const newer = frequencies(one, ropeFields({ ...others, rope_parameters: parameters }));
    expect(newer).toEqual(frequencies(one));
  });

  test.each(ALL_DEVICES)("cos, sin and rotation on %s", async (name) => {
    const device = await requestTestDevice(name);
    const { inverse, scale } = frequencies(one);
    const T = one.positions.length;
    const half = inverse.length;
    const { table, turned } = scope(() => {
      const made = ropeTable(
        Tensor.from(device, Int32Array.from(one.positions), [1, T]),
        Tensor.from(device, inverse, [half]),
        scale,
      );
      const q = arrays.get(`${one.key}.q`);
      const x = q && Tensor.from(device, q.values, q.shape).permute(0, 2, 1, 3);
      return { table: made, turned: x && contiguous(rope(x, made).permute(0, 2, 1, 3)) };
    });
    const values = await table.readFloats();
    for (let t = 0; t < T; t++) {
      const at = t * 2 * half;
      for (const [part, key] of [
        [values.subarray(at, at + half), "cos"],
        [values.subarray(at + half, at + 2 * half), "sin"],
      ] as const) {
        const row = get(`${one.key}.${key}`).subarray(t * 2 * half, (t + 1) * 2 * half);
        // Both halves of a head have the same angles. An angle near 300 carries a rounding of 1.5e-5, which two
        // libraries that round the frequency alike share.
        expect(difference(part, row.subarray(0, half)).max).toBeLessThan(
          file.tolerance * Math.max(1, one.positions[t]! * 0.5),
        );
      }
    }
    if (turned) {
      const reach = Math.max(...one.positions);
      const want = get(`${one.key}.q_rotated`);
      expect(difference(await turned.readFloats(), want).max).toBeLessThan(
        4 * file.tolerance * Math.max(1, reach * 0.5),
      );
    }
    table.dispose();
    turned?.dispose();
    expectNoLeaks(device);
    await device.close();
  });
});

test("frequencies of real sizes under more options", () => {
  const more = readJson<{ rope: (RopeCase & { inv_freq: number[] })[]; relative_tolerance: number }>(
    ...["attention", "rope_more.json"],
  );
  expect(more.rope.length).toBeGreaterThan(15);
  for (const one of more.rope) {
    const { inverse, scale } = frequencies(one);
    const off = inverse.map((f, i) => Math.abs(f / one.inv_freq[i]! - 1));
    expect(Math.max(...off), one.key).toBeLessThan(more.relative_tolerance);
    expect(scale, one.key).toBeCloseTo(one.attention_factor, 12);
  }
});

test("kinds that are not here, and blocks that lack something, are refused by name", () => {
  const of =
    (rope_scaling: Record<string, unknown>, more: Record<string, unknown> = {}) =>
    () =>
      ropeFrequencies({ ...ropeFields({ max_position_embeddings: 64, rope_scaling, ...more }), dim: 8 });
  expect(of({ rope_type: "proportional" })).toThrow(ConfigError);
  expect(of({ rope_type: "yarm" })).toThrow('rope_scaling type "yarm" is not supported; did you mean "yarn"?');
  expect(of({ type: "dynamic" })).toThrow('rope_scaling of type "dynamic" needs a positive "factor"');
  expect(of({ type: "dynamic", factor: 2 }, { max_position_embeddings: undefined })).toThrow("max_position_embeddings");
  expect(of({ type: "longrope", short_factor: [1, 1, 1, 1], long_factor: [1, 2, 3] })).toThrow(
    'needs 4 positive numbers as "long_factor", got [1,2,3]',
  );
  expect(of({ type: "yarn" })).toThrow('rope_scaling of type "yarn" needs a positive "factor"');
  expect(of({ type: "yarn", factor: 4, truncate: 1 })).toThrow('needs true or false as "truncate", got 1');
  expect(of({ full_attention: { rope_type: "default" } })).toThrow('for "full_attention" alone');
});

test("longrope by its first name, and with the length that the block does not decide", () => {
  const lists = { short_factor: [1, 1, 1, 2], long_factor: [4, 4, 4, 4], original_max_position_embeddings: 16 };
  const of = (type: string, trained?: number) => {
    const fields = ropeFields({ max_position_embeddings: 64, rope_scaling: { ...lists, type } });
    return ropeFrequencies({ ...fields, dim: 8, trained });
  };
  const frequencies = of("longrope");
  expect(of("su").inverse).toEqual(frequencies.inverse);
  expect(frequencies.ofLength!(16)).toEqual(frequencies.inverse);
  expect(frequencies.ofLength!(17)).toEqual(of("su", 8).ofLength!(9));
  expect(frequencies.ofLength!(17)).not.toEqual(frequencies.inverse);
  expect(of("su", 32).ofLength!(32)).toEqual(frequencies.inverse);
});

test("theta and the block stand where transformers 5 looks for them", () => {
  const linear = { rope_type: "linear", factor: 4 };
  const theta = 500_000;
  // What the file says, and the theta and type that count.
  const files: [config: Record<string, unknown>, theta: number, kind: string | undefined][] = [
    [{ rope_scaling: { ...linear, rope_theta: theta }, rope_theta: 10 }, theta, "linear"],
    [{ rope_scaling: linear, rope_theta: theta }, theta, "linear"],
    [{ rope_scaling: {}, rope_parameters: { ...linear, rope_theta: theta } }, theta, "linear"],
    [{ rope_scaling: null, rope_parameters: { ...linear, rope_theta: theta } }, theta, "linear"],
    [{ rope_scaling: { rope_type: "default", rope_theta: theta }, rope_parameters: linear }, theta, "default"],
    [{ rope_scaling: {} }, 10_000, undefined],
    [{}, 10_000, undefined],
  ];
  for (const [config, wanted, kind] of files) {
    const fields = ropeFields(config);
    expect(fields.theta, JSON.stringify(config)).toBe(wanted);
    expect(fields.scaling?.rope_type, JSON.stringify(config)).toBe(kind);
  }
});

test("llama3 without its original length takes that beside it, or the model's length", () => {
  const block = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4 };
  const of = (config: Record<string, unknown>) => ropeFrequencies({ ...ropeFields(config), dim: 64 }).inverse;
  const wanted = of({ rope_scaling: { ...block, original_max_position_embeddings: 128 } });
  expect(of({ rope_scaling: block, max_position_embeddings: 128 })).toEqual(wanted);
  expect(of({ rope_scaling: block, max_position_embeddings: 256, original_max_position_embeddings: 128 })).toEqual(
    wanted,
  );
  expect(of({ rope_scaling: block, max_position_embeddings: 256 })).not.toEqual(wanted);
  expect(() => of({ rope_scaling: block })).toThrow("original_max_position_embeddings");
});

test("rope_scaling that is incomplete or misspelt is refused", () => {
  const make = (scaling: Record<string, unknown>) => () => ropeFrequencies({ theta: 10000, dim: 8, scaling });
  expect(make({ type: "linear" })).toThrow('needs a positive "factor", got undefined');
  expect(make({ type: "linear", factor: "2" })).toThrow(ConfigError);
  expect(make({ type: "linear", factor: Number.POSITIVE_INFINITY })).toThrow(ConfigError);
  expect(make({ type: "liner", factor: 2 })).toThrow('did you mean "linear"?');
  expect(() => ropeFields({ rope_theta: -1 })).toThrow("rope_theta must be a positive number");
  expect(() => ropeFields({ rope_scaling: 4 })).toThrow("rope_scaling must be an object");
});

test.each(file.other.filter(({ kind }) => kind === "alibi"))("MPT's slopes of $heads heads", ({ heads = 0 }) => {
  const bias = get(`alibi.mpt.${heads}`); // [heads, 5], for distances -4 to 0
  const want = Array.from({ length: heads }, (_, h) => -bias[h * 5 + 3]!);
  expect(difference(mptAlibiSlopes(heads, 8), want).max).toBeLessThan(file.tolerance);
});

test("MPT's slopes end at 2^-bias_max, whatever it is", () => {
  expect([...mptAlibiSlopes(4, 16)]).toEqual([2 ** -4, 2 ** -8, 2 ** -12, 2 ** -16]);
  expect([...mptAlibiSlopes(3, 8)]).toEqual([2 ** -4, 2 ** -8, 2 ** -2]);
});

test.each(file.other.filter(({ kind }) => kind === "alibi"))("ALiBi slopes of $heads heads", ({ heads = 0 }) => {
  const slopes = alibiSlopes(heads);
  // bloom's bias is slope * position, [2, heads, 5]; the first text is not padded.
  const bias = get(`alibi.bloom.${heads}`);
  const want = Array.from({ length: heads }, (_, h) => bias[h * 5 + 1]!);
  expect(difference(slopes, want).max).toBeLessThan(file.tolerance);
  expect(
    difference(
      slopes.map((s) => 4 * s),
      Array.from({ length: heads }, (_, h) => bias[h * 5 + 4]!),
    ).max,
  ).toBeLessThan(4 * file.tolerance);
});

test("rotary frequencies in proportion: all of a head rotates, most of it by nothing", () => {
  const config = {
    hidden_size: 64,
    num_attention_heads: 4,
    rope_theta: 10000,
    rope_scaling: { partial_rotary_factor: 0.4 },
  };
  // transformers 5.18: int(0.4 * 16 // 2) = 3 angles of 8.
  const [inverse, factor] = ROPE_INIT_FUNCTIONS.proportional(config);
  expect([...inverse].map((f) => f * 1000).map(Math.round)).toEqual([1000, 316, 100, 0, 0, 0, 0, 0]);
  expect(factor).toBe(1);
  const halved = ROPE_INIT_FUNCTIONS.proportional({ ...config, rope_scaling: { factor: 2 } });
  expect(halved[0][0]).toBe(0.5);
});

test("rotary functions refuse what says too little", () => {
  expect(() => ROPE_INIT_FUNCTIONS.linear({ head_dim: 8 })).toThrow(/needs a positive "factor"/);
  expect(() => ROPE_INIT_FUNCTIONS.default({ hidden_size: 8 })).toThrow(
    /head_dim, or hidden_size and num_attention_heads/,
  );
  expect(() => ROPE_INIT_FUNCTIONS.default({ head_dim: 8 }, -1)).toThrow(OptionError);
  expect(() => ROPE_INIT_FUNCTIONS.default(undefined as never)).toThrow(OptionError);
});

const ALIBI = file.other.filter(({ kind }) => kind === "alibi") as unknown as { heads: number; mask: number[][] }[];
test.each(ALIBI)("ALiBi of $heads heads as models of transformers build it", ({ heads, mask }) => {
  for (const [name, build] of [
    ["bloom", () => build_alibi_tensor(mask, heads)],
    [
      "falcon",
      () =>
        build_falcon_alibi_tensor(
          mask.map((row) => Uint8Array.from(row)),
          heads,
        ),
    ],
    ["mpt", () => build_mpt_alibi_tensor(heads, 5)],
  ] as const) {
    const { data, shape } = build();
    expect(shape).toEqual(name === "mpt" ? [heads, 1, 5] : [2 * heads, 1, 5]);
    // Slopes are powers in f32; products of up to 4 of them.
    expect(difference(data, get(`alibi.${name}.${heads}`)).max).toBeLessThan(4 * file.tolerance);
  }
});

test("ALiBi of any number of texts", () => {
  const mask = new Array<number[]>(2 ** 16 + 1).fill([1]);
  expect(build_alibi_tensor(mask, 1).shape).toEqual([2 ** 16 + 1, 1, 1]);
});

interface BucketCase {
  key: string;
  bidirectional: boolean;
  num_buckets: number;
  max_distance: number;
}
const BUCKETS = file.other.filter(({ kind }) => kind === "t5_bucket") as unknown as BucketCase[];
test.each(BUCKETS)("$key", ({ key, ...options }) => {
  const distances = Int32Array.from({ length: 301 }, (_, i) => i - 150);
  const { bidirectional, num_buckets, max_distance } = options;
  const got = relative_position_bucket(distances, { bidirectional, num_buckets, max_distance });
  expect([...got]).toEqual([...arrays.get(key)!.values]);
});

test.each<[string, () => unknown]>([
  ["a mask of twos", () => build_alibi_tensor([[2]], 4)],
  ["rows of other lengths", () => build_alibi_tensor([[1], [1, 1]], 4)],
  ["no heads", () => build_falcon_alibi_tensor([[1]], 0)],
  ["no tokens", () => build_mpt_alibi_tensor(4, 0)],
  ["no slopes", () => build_mpt_alibi_tensor(4, 4, Number.NaN)],
  ["half a distance", () => relative_position_bucket([0.5])],
  ["too few buckets", () => relative_position_bucket([1], { num_buckets: 3 })],
  ["distances without end", () => relative_position_bucket([1], { max_distance: 8 })],
])("%s is refused", (_, call) => {
  expect(call).toThrow(OptionError);
});
