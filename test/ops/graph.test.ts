// Tensors that require gradients: what `backward` gives them, and what is recorded for whom and for how long.

import { afterAll, expect, test } from "vitest";
import { quantize_absmax } from "../../src/bnb/functional-affine.js";
import { DTypeError, GradientError, OctavoError, ShapeError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { activation } from "../../src/ops/activation.js";
import { add } from "../../src/ops/add.js";
import { fillInto } from "../../src/ops/fill.js";
import { multiply } from "../../src/ops/gated.js";
import { valueAndGradients } from "../../src/ops/gradient.js";
import { no_grad } from "../../src/ops/graph.js";
import { linear } from "../../src/ops/linear.js";
import { scale } from "../../src/ops/scale.js";
import { sumRows } from "../../src/ops/sum-rows.js";
import { transfer } from "../../src/ops/transfer.js";
import { expectNoLeaks } from "../support/devices.js";
import { normals } from "../support/random.js";

const device = openDevice("reference");
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

const vector = (...values: number[]): Tensor => Tensor.from(device, values, [values.length]);
const sum = (x: Tensor): Tensor => scope(() => sumRows(x.view(x.size, 1)));
const gradOf = async (x: Tensor): Promise<number[]> => [...(await x.grad!.readFloats())];

test("gradients are those of valueAndGradients, and add up", async () => {
  using x = Tensor.from(device, normals(1, 6), [2, 3]);
  using w = Tensor.from(device, normals(2, 12), [4, 3]);
  const loss = (): Tensor => scope(() => sum(activation(linear(x, w), "gelu")));
  const { value, gradients } = valueAndGradients([x, w], loss);
  x.requires_grad_();
  w.requires_grad_();
  const y = loss();
  expect(y.requires_grad).toBe(true);
  y.backward();
  for (const [i, leaf] of [x, w].entries()) {
    expect(leaf.grad!.shape).toEqual(leaf.shape);
    expect(await gradOf(leaf)).toEqual([...(await gradients[i]!.readFloats())]);
  }
  const once = await gradOf(x);
  using again = loss();
  again.backward();
  expect(await gradOf(x)).toEqual(once.map((g) => 2 * g));
  x.grad = undefined;
  expect(x.grad).toBeUndefined();
  for (const tensor of [value, ...gradients, y]) tensor.dispose();
});

test("a result of any shape with a gradient by it, and tensors it does not depend on", async () => {
  using x = vector(1, 2, 3).requires_grad_();
  using apart = vector(1).requires_grad_();
  using y = multiply(x, x);
  using dy = vector(1, 10, 100);
  y.backward(dy);
  expect(await gradOf(x)).toEqual([2, 40, 600]);
  expect(apart.grad).toBeUndefined();
});

test("two results that have nothing in common are differentiated one after the other", async () => {
  using a = vector(1, 2).requires_grad_();
  using b = vector(3, 4).requires_grad_();
  using first = scope(() => sum(multiply(a, a)));
  using second = scope(() => sum(multiply(b, b)));
  first.backward();
  expect(await gradOf(a)).toEqual([2, 4]);
  expect(b.grad).toBeUndefined();
  second.backward();
  expect(await gradOf(b)).toEqual([6, 8]);
});

test("what an earlier backward used up is no constant for a later one", () => {
  using a = vector(1, 2).requires_grad_();
  using shared = multiply(a, a);
  using first = sum(shared);
  using second = scope(() => sum(scale(shared, 3)));
  first.backward();
  expect(() => second.backward()).toThrow(GradientError);
  using third = scope(() => sum(add(shared, a)));
  expect(() => third.backward()).toThrow(/used up/);
  expect(() => first.backward()).toThrow(/used up/);
});

test("parameters are updated in place between passes", async () => {
  using w = vector(2).requires_grad_();
  for (let step = 0; step < 3; step++) {
    using loss = multiply(w, w);
    loss.backward();
    const [g = 0] = await gradOf(w);
    const [value = 0] = await w.readFloats();
    fillInto(w, value - 0.25 * g);
    w.grad = null;
  }
  expect([...(await w.readFloats())]).toEqual([0.25]);
  using held = multiply(w, w);
  expect(() => fillInto(w, 1)).toThrow(GradientError); // the square still needs it
  held.backward();
});

test("nothing is recorded within no_grad, and without tensors that ask", () => {
  using x = vector(1).requires_grad_();
  using y = no_grad(() => multiply(x, x));
  expect(y.requires_grad).toBe(false);
  expect(() => y.backward()).toThrow(/depends on no tensor/);
  x.requires_grad_(false);
  using z = multiply(x, x);
  expect(z.requires_grad).toBe(false);
  expect(() => no_grad((async () => {}) as never)).toThrow(OctavoError);
});

test("what is recorded for results that are gone is dropped", () => {
  using x = Tensor.from(device, normals(3, 1000), [1000]).requires_grad_();
  const each = device.memory.live; // a pass keeps two tensors like it
  let most = 0;
  for (let pass = 0; pass < 300; pass++) {
    scope(() => sum(activation(multiply(x, x), "gelu"))).dispose();
    most = Math.max(most, device.memory.live);
  }
  // 64 entries, of three for a pass, may wait for the search.
  expect(most).toBeLessThan(60 * each);
  using kept = scope(() => sum(activation(multiply(x, x), "gelu")));
  for (let pass = 0; pass < 200; pass++) multiply(x, x).dispose();
  kept.backward();
  expect(x.grad).toBeDefined();
});

test("gradients go through a transfer, and lie on the devices of their tensors", async () => {
  const there = openDevice("reference");
  {
    using x = vector(1, 2, 3).requires_grad_();
    using w = Tensor.from(there, [4, 5, 6], [3]).requires_grad_();
    using loss = scope(() => sum(multiply(transfer(multiply(x, x), there), w)));
    loss.backward();
    expect(w.grad!.device).toBe(there);
    expect(await gradOf(w)).toEqual([1, 4, 9]);
    expect(x.grad!.device).toBe(device);
    expect(await gradOf(x)).toEqual([8, 20, 36]);
    // A row of a matrix that lies there, and nothing of another.
    using m = Tensor.from(there, [1, 2, 3, 4], [2, 2]).requires_grad_();
    using row = scope(() => sum(transfer(m.select(0, 1), device)));
    row.backward();
    expect(await gradOf(m)).toEqual([0, 0, 1, 1]);
    const { value, gradients } = valueAndGradients([w, x], () => scope(() => sum(transfer(multiply(w, w), device))));
    expect(gradients.map((gradient) => gradient.device)).toEqual([there, device]);
    for (const tensor of [value, ...gradients]) tensor.dispose();
  }
  expectNoLeaks(there);
  await there.close();
});

test("a result whose backward failed has no part that passes as a constant", () => {
  using x = vector(1, -2).requires_grad_();
  const [codes, state] = quantize_absmax(x);
  expect(() => state.scale.backward()).toThrow(/no gradient/);
  using more = scope(() => add(sum(multiply(x, x)), state.scale));
  expect(() => more.backward()).toThrow(/used up/);
  for (const tensor of [codes, state.scale, state.zero_point]) tensor.dispose();
});

test("the host overwrites nothing that a gradient still needs", async () => {
  using x = vector(3).requires_grad_();
  using y = multiply(x, x);
  expect(() => x.write([100])).toThrow(GradientError);
  expect(() => x.writeBytes(new Uint8Array(4))).toThrow(GradientError);
  y.backward();
  expect(await gradOf(x)).toEqual([6]);
  x.write([100]);
  multiply(x, x).dispose();
  x.write([7]); // nobody holds the square
  expect([...(await x.readFloats())]).toEqual([7]);
});

test("refusals", () => {
  using x = vector(1, 2).requires_grad_();
  using y = multiply(x, x);
  using odd = vector(1, 2, 3);
  expect(() => y.requires_grad_()).toThrow(GradientError);
  expect(() => y.backward()).toThrow(/needs a gradient of that shape/);
  expect(() => y.backward(odd)).toThrow(GradientError);
  expect(() => {
    x.grad = odd;
  }).toThrow(ShapeError);
  using codes = Tensor.from(device, Int32Array.of(1), [1]);
  expect(() => codes.requires_grad_()).toThrow(DTypeError);
  expect(() => x.requires_grad_("yes" as never)).toThrow(OctavoError);
  expect(() => y.backward("one" as never)).toThrow(OctavoError);
  const gone = vector(1);
  gone.dispose();
  expect(() => gone.requires_grad_()).toThrow(OctavoError);
});
