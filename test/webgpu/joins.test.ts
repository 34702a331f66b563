// Horizontal fusion (horizontal-fusion.ts): products that share x become one dispatch.

import { expect, test } from "vitest";
import type { WebGPUBackend } from "../../src/backends/webgpu/index.js";
import type { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { denseScheme } from "../../src/nn/weight.js";
import { add } from "../../src/ops/add.js";
import { copyInto } from "../../src/ops/copy.js";
import { llmInt8Linear, llmInt8Quantize } from "../../src/ops/llm-int8.js";
import { fourBitScheme } from "../../src/quant/four-bit.js";
import { llmInt8Scheme } from "../../src/quant/llm-int8.js";
import { onGPU } from "../support/suites.js";
import { describeGPU } from "../support/webgpu.js";

describeGPU("WebGPU joins", () => {
  let backend: WebGPUBackend;
  let device: Device;
  onGPU((opened, behind) => {
    device = opened;
    backend = behind;
  });

  test("products that share x are one dispatch, whatever comes between, unless it must run first", async () => {
    const values = (n: number) => Float32Array.from({ length: n }, (_, i) => ((i * 37) % 29) / 14 - 1);
    const x = Tensor.from(device, values(2 * 64), [2, 64]);
    // In 8 bits the rows of x are quantized first.
    for (const [scheme, count] of [
      [denseScheme("bf16"), 1],
      [fourBitScheme({ kind: "nf4", blocksize: 64, double_quant: false, compute: "f32" }), 1],
      [llmInt8Scheme(6), 2],
      [llmInt8Scheme(0), 2],
    ] as const) {
      const weights = [24, 10, 7].map((n) => {
        const rows = Tensor.from(device, values(n * 64 + n).subarray(n), [n, 64]);
        const builder = scheme.begin(device, [n, 64], "weight");
        builder.put(rows, 0);
        rows.dispose();
        return builder.finish();
      });
      const apart: Float32Array[] = [];
      for (const weight of weights) {
        const y = weight.linear(x);
        apart.push((await y.read()) as Float32Array);
        y.dispose();
      }
      x.write(values(2 * 64)); // so that quantized rows in scratch are not reused
      const before = backend.statistics.dispatches;
      const first = weights[0]!.linear(x);
      const doubled = add(first, first);
      const [second, third] = [weights[1]!.linear(x), weights[2]!.linear(x)];
      device.flush();
      expect(backend.statistics.dispatches - before).toBe(count + 1);
      const together = [await first.read(), await second.read(), await third.read()];
      expect(together).toEqual(apart);
      expect(Array.from(await doubled.read())).toEqual(Array.from(apart[0]!, (value) => 2 * value));
      // The second product has another x: it must not be moved before the copy that writes it.
      const early = weights[0]!.linear(x);
      scope(() => copyInto(first.narrow(1, 0, 1).expand(2, 64), x));
      const late = weights[0]!.linear(x);
      expect(await early.read()).toEqual(apart[0]);
      expect(await late.read()).not.toEqual(apart[0]);
      x.write(values(2 * 64));
      for (const tensor of [first, doubled, second, third, early, late]) tensor.dispose();
      for (const weight of weights) weight.dispose();
    }
    x.dispose();
  });

  test("joined products mark outliers for each matrix, and equal separate products", async () => {
    // Column 5 holds an outlier in one row, and the weight rows do not fill the last workgroup.
    const values = Float32Array.from({ length: 3 * 64 }, (_, i) => (i === 69 ? 9 : ((i * 37) % 29) / 14 - 1));
    using x = Tensor.from(device, values, [3, 64]);
    const weights = [9, 6].map((n) => {
      const rows = Float32Array.from({ length: n * 64 }, (_, i) => ((i * 31 + n) % 17) / 8 - 1);
      const codes = Tensor.empty(device, [n, 64], "i8", "codes");
      const scb = Tensor.empty(device, [n], "f32", "scb");
      scope(() => llmInt8Quantize(Tensor.from(device, rows, [n, 64]), codes, scb, 0));
      return { codes, scb, seen: Tensor.from(device, new Uint8Array(64), [64]), threshold: 6 };
    });
    device.flush();
    const before = backend.statistics.dispatches;
    const joined = weights.map((weight) => llmInt8Linear(x, weight));
    device.flush();
    expect(backend.statistics.dispatches - before).toBe(2);
    for (const [i, weight] of weights.entries()) {
      expect(Array.from(await weight.seen.read())).toEqual(Array.from({ length: 64 }, (_, k) => (k === 5 ? 1 : 0)));
      using apart = llmInt8Linear(x, weight);
      expect(await joined[i]!.read()).toEqual(await apart.read());
      for (const tensor of [joined[i]!, weight.codes, weight.scb, weight.seen]) tensor.dispose();
    }
  });
});
