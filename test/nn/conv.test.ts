// Convolutions against plain loops on every device, in pieces, and their gradients against differences.

import { afterAll, describe, expect, test } from "vitest";
import { OctavoError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { Conv1d, Conv2d, type ConvOptions } from "../../src/nn/conv.js";
import { Matrix } from "../../src/nn/module.js";
import { GroupNorm, weightNorm } from "../../src/nn/norm.js";
import { denseScheme } from "../../src/nn/weight.js";
import { ACT, activate } from "../../src/ops/activation.js";
import { add } from "../../src/ops/add.js";
import { multiply } from "../../src/ops/gated.js";
import { valueAndGradients } from "../../src/ops/gradient.js";
import { sumRows } from "../../src/ops/sum-rows.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { differences, openDoubles, valuesOf } from "../support/doubles.js";
import { difference } from "../support/fixtures.js";
import { normals, product } from "../support/random.js";

/** Fills a convolution with kernels [O,C/groups,...] and biases. */
function fill(conv: Conv1d | Conv2d, kernels: Tensor, bias: Tensor | undefined): void {
  const { weight } = conv;
  if (weight instanceof Matrix) {
    const builder = denseScheme("f32").begin(kernels.device, weight.shape, "kernels");
    builder.put(kernels.view(...weight.shape), 0);
    weight.fill(builder.finish());
  } else weight.fill(kernels.alias());
  if (bias) conv.bias!.fill(bias.alias());
}

/** Plain loops: x[B,C,H,W], w[O,C/groups,Kh,Kw] -> [B,H',W',O]. */
function plain(
  x: Float32Array,
  shape: number[],
  w: Float32Array,
  kernel: number[],
  bias: Float32Array,
  o: ConvOptions,
) {
  const [B = 0, C = 0, H = 0, W = 0] = shape;
  const [O = 0, inputs = 0, Kh = 0, Kw = 0] = kernel;
  const { stride = 1, padding = 0, groups = 1 } = o;
  const flat = H === 1 && Kh === 1; // over time alone: no rows above or below
  const [ph, sh] = flat ? [0, 1] : [padding, stride];
  const high = Math.floor((H + 2 * ph - Kh) / sh) + 1;
  const wide = Math.floor((W + 2 * padding - Kw) / stride) + 1;
  const y = new Float32Array(B * high * wide * O);
  let at = 0;
  for (let b = 0; b < B; b++)
    for (let i = 0; i < high; i++)
      for (let j = 0; j < wide; j++)
        for (let n = 0; n < O; n++) {
          let sum = bias[n] ?? 0;
          const first = Math.floor(n / (O / groups)) * inputs;
          for (let c = 0; c < inputs; c++)
            for (let k = 0; k < Kh; k++)
              for (let l = 0; l < Kw; l++) {
                const [r, s] = [i * sh + k - ph, j * stride + l - padding];
                if (r < 0 || s < 0 || r >= H || s >= W) continue;
                sum += x[((b * C + first + c) * H + r) * W + s]! * w[((n * inputs + c) * Kh + k) * Kw + l]!;
              }
          y[at++] = activate(ACT.gelu, sum);
        }
  expect(C).toBe(inputs * groups);
  return y;
}

const CASES: readonly [string, shape: number[], kernel: number[], options: ConvOptions][] = [
  ["a patch for each window", [2, 3, 8, 12], [5, 3, 4, 4], { stride: 4 }],
  ["windows that overlap, with padding", [2, 2, 5, 6], [3, 2, 3, 2], { stride: 2, padding: 1 }],
  ["groups", [1, 4, 3, 5], [6, 2, 2, 2], { groups: 2, bias: false }],
  ["time", [2, 3, 1, 9], [4, 3, 1, 3], { padding: 1 }],
  ["time in steps", [1, 3, 1, 11], [4, 3, 1, 3], { padding: 1, stride: 2, bias: false }],
  ["a waveform", [2, 1, 1, 33], [4, 1, 1, 10], { stride: 5 }],
  ["time in groups with an even window", [2, 6, 1, 7], [6, 2, 1, 4], { padding: 2, groups: 3 }],
  // More windows than one piece holds: 64 * 8 * 5000 elements.
  ["a long time", [1, 64, 1, 5007], [4, 64, 1, 8], {}],
];

describe.each(ALL_DEVICES)("%s", (name) => {
  test.each(CASES)("%s", async (_, shape, kernel, options) => {
    if (shape[3]! > 1000 && name === "webgpu") return; // a minute in software; the pieces are the same commands
    const device = await requestTestDevice(name);
    const [x, w] = [normals(1, product(shape)), normals(2, product(kernel), 0.3)];
    const bias = options.bias === false ? new Float32Array(0) : normals(3, kernel[0]!);
    const flat = shape[2] === 1;
    const channels = shape[1]!;
    const conv = flat
      ? new Conv1d(channels, kernel[0]!, kernel[3]!, options)
      : new Conv2d(channels, kernel[0]!, [kernel[2]!, kernel[3]!], options);
    const y = scope(() => {
      fill(conv, Tensor.from(device, w, kernel), bias.length ? Tensor.from(device, bias, [bias.length]) : undefined);
      const input = Tensor.from(device, x, shape);
      return conv instanceof Conv1d
        ? conv.forward(input.select(2, 0).permute(0, 2, 1), "gelu")
        : conv.forward(input, "gelu");
    });
    const want = plain(x, shape, w, kernel, bias, options);
    expect(product(y.shape)).toBe(want.length);
    // A sum of n products in f32 in another order: n roundings of sums up to 32 (2^-24 * 32), as a random walk.
    const taps = product(kernel.slice(1));
    expect(difference(await y.readFloats(), want).max).toBeLessThan(2e-6 * Math.sqrt(taps) + 2e-6);
    y.dispose();
    conv.dispose();
    expectNoLeaks(device);
    await device.close();
  });
});

describe("gradients", () => {
  const device = openDoubles();
  afterAll(() => expectNoLeaks(device));

  test.each(CASES.slice(0, -1))("%s", (_, shape, kernel, options) => {
    const flat = shape[2] === 1;
    const conv = flat
      ? new Conv1d(shape[1]!, kernel[0]!, kernel[3]!, options)
      : new Conv2d(shape[1]!, kernel[0]!, [kernel[2]!, kernel[3]!], options);
    scope(() => {
      const x = Tensor.from(device, normals(4, product(shape)), shape);
      const w = Tensor.from(device, normals(5, product(kernel), 0.3), kernel);
      const bias = conv.bias ? Tensor.from(device, normals(6, kernel[0]!), [kernel[0]!]) : undefined;
      fill(conv, w, bias);
      const { weight } = conv;
      const kernels = weight instanceof Matrix ? weight.weight.trainable[0]! : weight.value;
      const by = [x, kernels, ...(conv.bias ? [conv.bias.value] : [])];
      const loss = (): Tensor =>
        scope(() => {
          const y =
            conv instanceof Conv1d ? conv.forward(x.select(2, 0).permute(0, 2, 1), "gelu") : conv.forward(x, "gelu");
          const weights = Tensor.from(device, normals(7, y.size), [y.size]);
          return sumRows(multiply(y.view(y.size), weights).view(-1, 1));
        });
      const { gradients } = valueAndGradients(by, loss);
      by.forEach((tensor, i) => {
        const some = [...Array(tensor.size).keys()].filter((e) => e % 3 === i % 3);
        const want = differences(tensor, some, loss);
        const got = valuesOf(gradients[i]!);
        for (const [e, slope] of want.entries()) {
          // As in test/ops/gradients.test.ts: what central differences lose.
          expect(Math.abs(got[some[e]!]! - slope), `${i}, ${some[e]}`).toBeLessThan(1e-6 * (1 + Math.abs(slope)));
        }
      });
    });
    conv.dispose();
  });
});

describe("norms", () => {
  const device = openDoubles();
  afterAll(() => expectNoLeaks(device));

  test("over time in groups, and of weights: values and gradients", () =>
    scope(() => {
      const norm = new GroupNorm(2, 4, 1e-3);
      const [x, weight, bias] = [
        Tensor.from(device, normals(1, 40), [2, 5, 4]),
        Tensor.from(device, normals(2, 4), [4]),
        Tensor.from(device, normals(3, 4), [4]),
      ];
      norm.weight.fill(weight.alias());
      norm.bias.fill(bias.alias());
      const [v, g] = [Tensor.from(device, normals(4, 24), [4, 2, 3]), Tensor.from(device, normals(5, 3), [1, 1, 3])];
      const values = valuesOf(weightNorm(v, g, 2));
      const directions = valuesOf(v);
      for (let k = 0; k < 3; k++) {
        let squares = 0;
        for (let i = k; i < 24; i += 3) squares += directions[i]! ** 2;
        for (let i = k; i < 24; i += 3) {
          expect(values[i]!).toBeCloseTo((directions[i]! / Math.sqrt(squares)) * valuesOf(g)[k]!, 6); // the factor of `scale` is f32
        }
      }
      const sum = (y: Tensor, seed: number): Tensor =>
        sumRows(multiply(y.view(y.size), Tensor.from(device, normals(seed, y.size), [y.size])).view(-1, 1));
      const loss = (): Tensor => scope(() => add(sum(norm.forward(x), 7), sum(weightNorm(v, g, 2), 8)));
      const by = [x, norm.weight.value, norm.bias.value, v, g];
      const { gradients } = valueAndGradients(by, loss);
      by.forEach((tensor, i) => {
        const want = differences(tensor, [...Array(tensor.size).keys()], loss);
        const got = valuesOf(gradients[i]!);
        for (const [e, slope] of want.entries()) {
          expect(Math.abs(got[e]! - slope), `${i}, ${e}`).toBeLessThan(1e-6 * (1 + Math.abs(slope)));
        }
      });
      norm.dispose();
    }));
});

test("channels that do not fit are named", async () => {
  const device = await requestTestDevice("reference");
  scope(() => {
    expect(() => new Conv1d(4, 6, 3).forward(Tensor.from(device, new Float32Array(10), [1, 5, 2]))).toThrow(
      /expected 4 channels, got \[1, 5, 2\]/,
    );
    expect(() => new Conv1d(4, 6, 3, { groups: 4 })).toThrow(OctavoError);
  });
  await device.close();
});
