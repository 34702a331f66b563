// What an op may be: several outputs, shapes by a function, compositions; and what its constructor refuses.

import { afterAll, describe, expect, test } from "vitest";
import { openReference } from "../../src/backends/reference/index.js";
import { Device } from "../../src/core/device.js";
import { DeviceError, OutOfMemoryError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { add } from "../../src/ops/add.js";
import { embeddingBack } from "../../src/ops/embedding.js";
import { OPS } from "../../src/ops/index.js";
import { Op } from "../../src/ops/op.js";
import { scale } from "../../src/ops/scale.js";
import { tokenLogprobs, tokenLogprobsOp } from "../../src/ops/token-logprobs.js";
import { expectNoLeaks } from "../support/devices.js";

const reference = () => undefined;

describe("a signature with outputs that nothing can allocate is refused", () => {
  test.each([
    ["f: x[N]:f32 -> y[M]:f32", /M of output `y` is bound by no operand/],
    ["f: x[N]:f32 b[M]:f32? -> y[M]:f32", /M of output `y` is bound by no operand that is always there/],
    ["f: x[N]:f32 -> y[N]:f32 z[..,N]:f32", /\.\. of output `z`/],
    ["f: x[N]:f32 -> y[N]:f32|f16", /dtype of output `y`/],
    ["f: x[N]:f32 b[N]:f32? -> y[N]:=b", /dtype of output `y`/],
    ["f: x[N]:f32 -> y[N]:f32?", /output `y` takes no flags/],
    ["f: x[N]:f32 -> y[N]:f32!", /output `y` takes no flags/],
  ])("%s", (signature, message) => {
    expect(() => new Op({ signature, reference })).toThrow(message);
  });

  test("unless a function gives its shape", () => {
    expect(new Op({ signature: "f: x[N]:f32 -> y[M]:f32", shape: ({ N = 0 }) => [[2 * N]], reference }).name).toBe("f");
  });
});

/** Both halves of rows, and their difference. */
const halves = new Op({
  signature: "halves: x[..,K]:f32 ; by:i32 -> low[L,H]:f32 high[L,H]:f32 rows[1]:i32",
  shape: ({ K = 0 }, { by = 1 }) => [[2, K / by], [2, K / by], [1]],
  reference({ x, low, high, rows }) {
    const width = low!.shape[1]!;
    for (let r = 0; r < 2; r++) {
      for (let k = 0; k < width; k++) {
        low!.data[r * width + k] = x!.data[2 * r * width + k]!;
        high!.data[r * width + k] = x!.data[(2 * r + 1) * width + k]!;
      }
    }
    rows!.data[0] = 2;
    return undefined;
  },
});
const twice = new Op({
  signature: "twice: x[..]:f32 -> y[..]:f32 z[..]:f32",
  compose: ([x]) => [add(x!, x!), scale(add(x!, x!), -1)],
  reference,
});

describe("outputs", () => {
  const device = new Device(openReference([...OPS, halves]));
  afterAll(() => expectNoLeaks(device));

  test("all of them are allocated by the function and filled by one command", async () => {
    const x = Tensor.from(device, Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8), [2, 4]);
    const recorded = device.recorded;
    const [low, high, rows] = halves.runAll([x], [2]);
    expect(device.recorded).toBe(recorded + 1);
    expect([low!.shape, high!.shape, rows!.dtype]).toEqual([[2, 2], [2, 2], "i32"]);
    expect([...(await low!.read())]).toEqual([1, 2, 5, 6]);
    expect([...(await high!.read())]).toEqual([3, 4, 7, 8]);
    expect([...(await rows!.read())]).toEqual([2]);
    for (const tensor of [x, low!, high!, rows!]) tensor.dispose();
  });

  test("memory that runs out between two leaves nothing behind", () => {
    const small = new Device(openReference([...OPS, halves], 4096));
    const x = Tensor.from(small, new Float32Array(600), [2, 300]);
    expect(() => halves.runAll([x], [1])).toThrow(OutOfMemoryError);
    x.dispose();
    expectNoLeaks(small);
  });

  test("plainer ops are recorded where a backend has no kernel, and what they made in between is freed", async () => {
    const x = Tensor.from(device, Float32Array.of(1, -2), [2]);
    const [y, z] = twice.runAll([x], []);
    expect([...(await y!.read()), ...(await z!.read())]).toEqual([2, -4, -2, 4]);
    for (const tensor of [x, y!, z!]) tensor.dispose();
    const without = new Device(openReference(OPS.filter((op) => op !== tokenLogprobsOp)));
    const values = await Promise.all(
      [device, without].map(async (on) => {
        const logits = Tensor.from(on, Float32Array.of(0.5, 1, -2, 3, 0, 1), [2, 3]);
        const targets = Tensor.from(on, Int32Array.of(2, 0), [2]);
        const logprobs = tokenLogprobs(logits, targets);
        const read = await logprobs.readFloats();
        for (const tensor of [logits, targets, logprobs]) tensor.dispose();
        return read;
      }),
    );
    for (const [i, value] of values[1]!.entries()) expect(value).toBeCloseTo(values[0]![i]!, 6);
    expectNoLeaks(without);
  });

  test("without either, the op is refused", () => {
    const none = new Device(openReference([]));
    const x = Tensor.from(none, Float32Array.of(1), [1]);
    expect(() => add(x, x)).toThrow(DeviceError);
    x.dispose();
  });

  test("a shape function that makes no sense is refused", () => {
    scope(() => {
      const ids = Tensor.from(device, Int32Array.of(0), [1]);
      const dy = Tensor.from(device, Float32Array.of(1), [1, 1]);
      expect(() => embeddingBack(ids, dy, -1)).toThrow(/bad shape \[-1, 1\]/);
    });
  });
});
