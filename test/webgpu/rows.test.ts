// A token's bits depend on its own prefix only: attention gives the same results for the tokens of a text in one prefill
// and in chunks, alone and in a batch, in pages of any size and order, packed with other texts and padded. With few queries
// workgroups share the keys, with many they do not, and single queries have a variant of their own: all must agree.

import { afterAll, beforeAll, expect, test } from "vitest";
import { openWebGPU } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { denseScheme, type Scheme } from "../../src/nn/weight.js";
import { type AttentionOptions, attention } from "../../src/ops/attention.js";
import { kvAppend } from "../../src/ops/kv-append.js";
import { fourBitScheme } from "../../src/quant/four-bit.js";
import { llmInt8Scheme } from "../../src/quant/llm-int8.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { normals } from "../support/random.js";
import { sharedGPU } from "../support/shared-gpu.js";
import { describeGPU } from "../support/webgpu.js";

/** Tokens of the text: more than two spans, and no multiple of any tile. */
const N = 603;
const D = 16;

interface Form {
  readonly name: string;
  readonly H: number;
  readonly G: number;
  readonly dtype: "f32" | "bf16" | "i8";
  readonly more?: Partial<AttentionOptions>;
}

/** A token of one of the texts; a row of -1 is an unused lane. */
type Lane = readonly [row: number, position: number];

describeGPU("a token's bits", () => {
  let device: Device;
  beforeAll(async () => {
    device = await requestTestDevice("webgpu");
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  /** Queries, keys and values of text `row`; the tests compare results of text 0. */
  const textOf = ({ H, G }: Form, row: number) => ({
    q: normals(10 * row + 1, N * H * D, 3),
    k: normals(10 * row + 2, N * G * D),
    v: normals(10 * row + 3, N * G * D),
  });
  const take = (from: Float32Array, width: number, at: number): Float32Array =>
    from.subarray(at * width, (at + 1) * width);
  const joined = (parts: readonly Float32Array[]): Float32Array =>
    Float32Array.from(parts.flatMap((part) => [...part]));

  /** The results of text 0 for lanes `[B,T]` over a cache of all texts in pages of `size`, by position. */
  async function cached(form: Form, lanes: readonly (readonly Lane[])[], size: number, backwards = false) {
    const { H, G, dtype, more } = form;
    const B = lanes.length;
    const T = lanes[0]!.length;
    const flat = lanes.flat();
    const rows = 1 + Math.max(0, ...flat.map(([row]) => row));
    const texts = Array.from({ length: rows }, (_, row) => textOf(form, row));
    const each = Math.ceil(N / size);
    const P = rows * each;
    const y = scope(() => {
      const page = (row: number, c: number): number => (backwards ? P - 1 - (c * rows + row) : row * each + c);
      const table = Tensor.from(
        device,
        Int32Array.from(texts.flatMap((_, row) => [N, ...Array.from({ length: each }, (_, c) => page(row, c))])),
        [rows, 1 + each],
      );
      const scales = dtype === "i8" ? Tensor.empty(device, [2, P, G, size], "f32") : undefined;
      const every = Int32Array.from([
        ...texts.flatMap((_, row) => new Array(N).fill(row)),
        ...texts.flatMap(() => [...Array(N).keys()]),
      ]);
      const all = Tensor.from(device, every, [2, rows, N]);
      const [k, v] = (["k", "v"] as const).map((name, i) => {
        const cache = Tensor.empty(device, [P, G, size, D], dtype);
        const x = Tensor.from(device, joined(texts.map((text) => text[name])), [rows, N, G, D]);
        kvAppend(x, all, table, cache, scales?.select(0, i));
        return cache;
      });
      const q = joined(
        flat.map(([row, at]) => (row < 0 ? new Float32Array(H * D).fill(1) : take(texts[row]!.q, H * D, at))),
      );
      return attention(Tensor.from(device, q, [B, T, H, D]), k!, v!, {
        ...{ scale: 0.25, scales, table, ...more },
        lanes: Tensor.from(device, Int32Array.from([...flat.map(([row]) => row), ...flat.map(([, at]) => at)]), [
          2,
          B,
          T,
        ]),
      });
    });
    const values = (await y.read()) as Float32Array;
    y.dispose();
    const found = new Map<number, Float32Array>();
    flat.forEach(([row, position], at) => {
      if (row === 0) found.set(position, take(values, H * D, at));
      if (row < 0) expect(take(values, H * D, at)).toEqual(new Float32Array(H * D));
    });
    return found;
  }

  /** The results of text 0 without a cache: all texts in one row, or each padded on the left in a row of its own. */
  async function uncached(form: Form, how: "alone" | "packed" | "padded", before: number) {
    const { H, G, dtype, more } = form;
    const S = before + N;
    const [text, other] = [textOf(form, 0), textOf(form, 1)];
    const own = (name: "q" | "k" | "v", width: number): Float32Array =>
      joined([other[name].subarray(0, before * width), text[name]]);
    const y = scope(() => {
      const [k, v] = (["k", "v"] as const).map((name) =>
        Tensor.from(device, own(name, G * D), [1, S, G, D], dtype === "i8" ? "f32" : dtype).permute(0, 2, 1, 3),
      );
      const marks = Array.from({ length: S }, (_, j) => (j < before ? 0 : 1));
      return attention(Tensor.from(device, own("q", H * D), [1, S, H, D]), k!, v!, {
        ...{ scale: 0.25, ...more },
        segments: how === "packed" ? Tensor.from(device, Int32Array.from(marks), [1, S]) : undefined,
        mask: how === "padded" ? Tensor.from(device, Uint8Array.from(marks), [1, S]) : undefined,
      });
    });
    const values = (await y.read()) as Float32Array;
    y.dispose();
    return new Map(Array.from({ length: N }, (_, at) => [at, take(values, H * D, before + at)]));
  }

  const FORMS: readonly Form[] = [
    { name: "heads of their own keys", H: 2, G: 2, dtype: "f32" },
    { name: "shared keys", H: 4, G: 2, dtype: "bf16" },
    { name: "shared codes and a window", H: 3, G: 1, dtype: "i8", more: { window: 290 } },
  ];
  const positions = [0, 1, 63, 64, 255, 256, 257, 300, 511, 512, 601, 602];
  const whole: readonly Lane[] = Array.from({ length: N }, (_, at) => [0, at]);

  test.each(FORMS)("$name", { timeout: 240_000 }, async (form) => {
    const want = await cached(form, [whole], N);
    expect(want.size).toBe(N);
    const expectSame = (what: string, got: ReadonlyMap<number, Float32Array>): void => {
      expect(got.size, what).toBeGreaterThan(0);
      const different = [...got].filter(([at, values]) =>
        values.some((value, i) => !Object.is(value, want.get(at)![i])),
      );
      expect(
        different.map(([at]) => at),
        `${what}: positions whose bits differ`,
      ).toEqual([]);
    };
    for (const at of positions.filter((_, i) => i % 3 === 2))
      expectSame(`alone at ${at}`, await cached(form, [[[0, at]]], N));
    expectSame("pages of 16, last first", await cached(form, [whole], 16, true));
    expectSame("a piece", await cached(form, [whole.slice(253, 270)], 48));
    const batch: Lane[][] = positions.map((at) => [[0, at]]);
    expectSame(
      "a lane each, with mates of other lengths",
      await cached(
        form,
        batch.flatMap((one, i) => [one, [[1, 7 * i]]]),
        16,
      ),
    );
    const mixed = positions.flatMap<Lane>((at, i) => [
      [0, at],
      [-1, 0],
      [1, 40 * i],
      [2, 600 - i],
      [0, Math.max(0, at - 3)],
    ]);
    expectSame("one list of lanes of three texts", await cached(form, [mixed], 16, true));
    if (form.dtype === "i8") return;
    expectSame("without a cache", await uncached(form, "alone", 0));
    expectSame("packed behind another text", await uncached(form, "packed", 70));
    expectSame("padded on the left", await uncached(form, "padded", 70));
  });

  // Tiles sum in another order than the kernels for few rows, so deterministic devices do not use them.
  test("products of floats and 4 bits agree on a deterministic device", { timeout: 240_000 }, async () => {
    const [K, outputs, most] = [416, 40, 33];
    const rows = normals(7, most * K);
    const strict = new Device(await openWebGPU(sharedGPU!, { deterministic: true }));
    const schemes: Scheme[] = (["f32", "f16", "bf16"] as const).map((dtype) => denseScheme(dtype));
    for (const double_quant of [false, true]) {
      schemes.push(fourBitScheme({ kind: "nf4", blocksize: 32, double_quant, compute: "f32" }));
    }
    const made = schemes.map((scheme) => {
      const builder = scheme.begin(strict, [outputs, K], "weight");
      scope(() => builder.put(Tensor.from(strict, normals(8, outputs * K), [outputs, K]), 0));
      return builder.finish();
    });
    for (const [i, weight] of made.entries()) {
      const results: Float32Array[] = [];
      for (const M of [1, 4, 8, 9, most]) {
        const y = scope(() => weight.linear(Tensor.from(strict, rows.subarray(0, M * K), [M, K])));
        results.push(((await y.read()) as Float32Array).slice(0, outputs));
        y.dispose();
      }
      for (const one of results) expect(one, schemes[i]!.name).toEqual(results[0]);
      weight.dispose();
    }
    expectNoLeaks(strict);
    await strict.close();
  });

  // Integer sums are exact; outliers, of which there are many here, must be added in one order.
  test("a row's bits in LLM.int8() products do not depend on the other rows", { timeout: 120_000 }, async () => {
    const [K, outputs, most] = [1104, 40, 40];
    const rows = normals(5, most * K).map((value, i) => (i % 23 === 4 ? 8 * value : value));
    const builder = llmInt8Scheme(6).begin(device, [outputs, K], "weight");
    scope(() => builder.put(Tensor.from(device, normals(6, outputs * K), [outputs, K]), 0));
    const weight = builder.finish();
    const results: Float32Array[] = [];
    for (const M of [1, 3, 8, 9, most]) {
      const y = scope(() => weight.linear(Tensor.from(device, rows.subarray(0, M * K), [M, K])));
      results.push(((await y.read()) as Float32Array).slice(0, outputs));
      y.dispose();
    }
    weight.dispose();
    for (const one of results) expect(one).toEqual(results[0]);
  });
});
