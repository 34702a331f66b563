// LLM.int8() against bitsandbytes' own numbers (test/fixtures/README.md), and weights that arrive in pieces.

import { describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import type { Weight } from "../../src/nn/weight.js";
import { contiguous } from "../../src/ops/copy.js";
import { llmInt8Dequantize, llmInt8Linear, llmInt8Quantize } from "../../src/ops/llm-int8.js";
import { llmInt8Scheme } from "../../src/quant/llm-int8.js";
import { ALL_DEVICES } from "../support/devices.js";
import { difference, type Golden, readArrays, readJson } from "../support/fixtures.js";
import { integers, normals } from "../support/random.js";
import { onDevice } from "../support/suites.js";

interface RowCase {
  name: string;
  threshold: number;
  outlier_cols: number[] | null;
}
interface LinearCase {
  name: string;
  threshold: number;
  M: number;
  max_abs: number;
}

const rows = readArrays("quant", "int8_rows.safetensors");
const rowCases = readJson<{ cases: RowCase[] }>("quant", "int8_rows.json").cases;
const linears = readArrays("quant", "int8_linear.safetensors");
const linearCases = readJson<{ cases: LinearCase[] }>("quant", "int8_linear.json").cases;
const embeddings = readArrays("quant", "embedding.safetensors");

function get(arrays: ReadonlyMap<string, Golden>, name: string): Golden {
  const array = arrays.get(name);
  if (!array) throw new Error(`no ${name} in the fixture`);
  return array;
}

describe.each(ALL_DEVICES)("LLM.int8() on %s", (name) => {
  let device: Device;
  onDevice(name, (opened) => (device = opened));

  const upload = ({ values, shape }: Golden, dtype?: "f16" | "i8"): Tensor => Tensor.from(device, values, shape, dtype);
  const floats = async (tensor: Tensor): Promise<Float32Array> => {
    try {
      return await tensor.readFloats();
    } finally {
      tensor.dispose();
    }
  };

  test.each(rowCases.filter(({ threshold }) => threshold === 0))("codes and scales of $name are exact", async (one) => {
    const golden = get(rows, `${one.name}.A`);
    const { codes, scb, dense } = scope(() => {
      const quantized = Tensor.empty(device, golden.shape, "i8");
      const scales = Tensor.empty(device, [golden.shape[0]!], "f32");
      llmInt8Quantize(upload(golden, "f16"), quantized, scales, 0);
      return { codes: quantized, scb: scales, dense: llmInt8Dequantize(quantized, scales) };
    });
    expect(await codes.read()).toEqual(get(rows, `${one.name}.codes`).values);
    expect(await scb.read()).toEqual(get(rows, `${one.name}.row_stats`).values);
    expect(await floats(dense)).toEqual(get(rows, `${one.name}.dequantized`).values);
    codes.dispose();
    scb.dispose();
  });

  // The product with 127 times the unit matrix shows what the activations were quantized to: code * scale where an
  // element is no outlier, 127 * x where it is one.
  test.each(rowCases)(
    "activations of $name: codes, scales, outliers",
    async ({ name: key, threshold, outlier_cols }) => {
      const golden = get(rows, `${key}.A`);
      const [M = 0, K = 0] = golden.shape;
      const unit = new Int8Array(K * K);
      for (let k = 0; k < K; k++) unit[k * K + k] = 127;
      const { y, seen } = scope(() => {
        const marks = Tensor.from(device, new Uint8Array(K), [K]);
        const weight = {
          codes: Tensor.from(device, unit, [K, K]),
          scb: Tensor.from(device, new Float32Array(K).fill(127), [K]),
          seen: marks,
          threshold,
        };
        return { y: llmInt8Linear(upload(golden), weight), seen: marks };
      });
      const got = await floats(y);
      const marked = [...(await seen.read())].flatMap((mark, k) => (mark ? [k] : []));
      seen.dispose();
      expect(marked).toEqual(outlier_cols ?? []);
      const codes = get(rows, `${key}.codes`).values;
      const scales = get(rows, `${key}.row_stats`).values;
      for (let i = 0; i < M * K; i++) {
        const x = golden.values[i]!;
        const outlier = threshold > 0 && Math.abs(x) >= threshold;
        // bitsandbytes drops a whole column where any row has an outlier; here the other rows keep it.
        if (!outlier && marked.includes(i % K)) continue;
        const want = outlier ? x * 127 : codes[i]! * scales[Math.floor(i / K)]!;
        expect(Math.abs(got[i]! - want), `${key}[${i}]`).toBeLessThanOrEqual(4 * 2 ** -24 * Math.abs(want));
      }
    },
  );

  const named = linearCases.filter((one) => one.name.startsWith("linear_"));

  /** The layer of a case with bitsandbytes' own codes. */
  const layer = (key: string, threshold: number, dtype?: "f16"): Tensor =>
    scope(() => {
      const x = upload(get(linears, `${key}.x`), dtype);
      const bias = linears.get(`${key}.bias`);
      return llmInt8Linear(
        contiguous(x, "f32"),
        { codes: upload(get(linears, `${key}.CB`)), scb: upload(get(linears, `${key}.SCB`)), threshold },
        { bias: bias && upload(bias) },
      );
    });

  test.each(named)("$name with outliers chosen per row", async ({ name: key, threshold, max_abs }) => {
    const got = await floats(layer(key, threshold));
    // The stated rule in float64; here f32, whose few roundings the fixture allows 2e-6 of the largest result for.
    expect(difference(got, get(linears, `${key}.y_per_token`).values).max).toBeLessThan(2e-6 * max_abs);
  });

  test.each(named.filter(({ threshold }) => threshold === 0))("$name as bitsandbytes has it", async (one) => {
    const got = await floats(layer(one.name, 0, "f16"));
    expect(difference(got, get(linears, `${one.name}.y_exact`).values).max).toBeLessThan(2e-6 * one.max_abs);
    expect(difference(got, get(linears, `${one.name}.y_bitsandbytes`).values).max).toBeLessThan(3e-5 * one.max_abs);
  });

  test("a row does not depend on its batch mates", async () => {
    const weight = build(get(linears, "batch.weight"));
    const x = get(linears, "batch.x").values as Float32Array;
    const mate = get(linears, "batch.mate").values as Float32Array;
    const alone = await floats(scope(() => weight.linear(Tensor.from(device, x, [1, 64]))));
    const both = new Float32Array([...x, ...mate]);
    const together = await floats(scope(() => weight.linear(Tensor.from(device, both, [2, 64]))));
    // bitsandbytes moves it by 7e-3. Here not a bit of the codes; the kernel for two rows may sum in another order.
    expect(difference(together.subarray(0, 32), alone).max).toBeLessThan(1e-6);
    weight.dispose();
  });

  test("three dims, one outlier, the whole way from float weights", async () => {
    const weight = build(get(linears, "three_dim.weight"));
    const y = scope(() => weight.linear(upload(get(linears, "three_dim.x"))));
    expect(y.shape).toEqual([2, 5, 20]);
    const want = get(linears, "three_dim.y_bitsandbytes");
    const got = await floats(y);
    // Other rules than upstream (no fp16 rounding, outliers per row): the fixtures allow 1.5e-2 of the largest.
    const high = Array.from(want.values).reduce((most, v) => Math.max(most, Math.abs(v)), 0);
    expect(difference(got, want.values).max).toBeLessThan(1.5e-2 * high);
    expect(difference(got, want.values).mean).toBeLessThan(3e-3 * high);
    weight.dispose();
  });

  test.each([0, 1, 2])("lookups of quantized table %i", async (index) => {
    const table = get(embeddings, `${index}.weight`);
    const { codes, scb, dense } = scope(() => {
      const quantized = Tensor.empty(device, table.shape, "i8");
      const scales = Tensor.empty(device, [table.shape[0]!], "f32");
      llmInt8Quantize(upload(table, "f16"), quantized, scales, 0);
      return { codes: quantized, scb: scales, dense: llmInt8Dequantize(quantized, scales) };
    });
    expect(await codes.read()).toEqual(get(embeddings, `${index}.int8_codes`).values);
    expect(await scb.read()).toEqual(get(embeddings, `${index}.int8_SCB`).values);
    const values = await floats(dense);
    const K = table.shape[1]!;
    const ids = get(embeddings, `${index}.ids`).values;
    const got = [...ids].flatMap((id) => [...values.subarray(id * K, (id + 1) * K)]);
    expect(difference(got, get(embeddings, `${index}.int8_lookup`).values).max).toBeLessThan(1e-6);
    codes.dispose();
    scb.dispose();
  });

  /** A weight through the scheme's builder, rows arriving in pieces of the given sizes (in units of the granularity). */
  function build({ values, shape }: Pick<Golden, "values" | "shape">, pieces: readonly number[] = [1000]): Weight {
    const [N = 0, K = 0] = shape;
    return scope(() => {
      const builder = llmInt8Scheme(6).begin(device, [N, K], "weight");
      let next = 0;
      for (let at = 0; at < N; ) {
        const count = Math.min(N - at, pieces[next++ % pieces.length]! * builder.granularity);
        builder.put(Tensor.from(device, values.subarray(at * K, (at + count) * K) as Float32Array, [count, K]), at);
        at += count;
      }
      return builder.finish();
    });
  }

  test.each([
    [70, 45],
    [16, 64],
    [33, 1],
    [5, 130],
  ])("a %i x %i weight is the same however its rows arrive", async (N, K) => {
    const values = normals(N, N * K);
    const whole = await floats(
      scope(() => {
        const codes = Tensor.empty(device, [N, K], "i8");
        const scb = Tensor.empty(device, [N], "f32");
        llmInt8Quantize(Tensor.from(device, values, [N, K]), codes, scb, 0);
        return llmInt8Dequantize(codes, scb);
      }),
    );
    for (const pieces of [[1000], [1], [2, 1], [1, 3]]) {
      const weight = build({ values, shape: [N, K] }, pieces);
      expect(weight.shape).toEqual([N, K]);
      expect(weight.footprint).toBe(N * K);
      expect(await floats(weight.dense("f32"))).toEqual(whole);
      const half = weight.dense("bf16");
      expect(half.dtype).toBe("bf16");
      half.dispose();
      weight.dispose();
    }
  });

  test("marks of outliers add up over calls", async () => {
    const weight = build({ values: normals(1, 8 * 20), shape: [8, 20] });
    const ids = integers(2, 3, 0, 19);
    for (const k of ids) {
      const x = new Float32Array(20).fill(0.5);
      x[k] = -6;
      scope(() => void weight.linear(Tensor.from(device, x, [20])));
    }
    const { seen } = weight as unknown as { seen: Tensor };
    expect([...(await seen.read())].flatMap((mark, k) => (mark ? [k] : []))).toEqual(
      [...new Set(ids)].sort((a, b) => a - b),
    );
    expect(await weight.statistics?.()).toEqual({ outlier_columns: new Set(ids).size });
    weight.dispose();
  });
});
