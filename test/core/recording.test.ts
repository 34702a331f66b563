// Recordings: captured once, replayed on the same memory, never disturbed by what others do with the arena meanwhile.

import { describe, expect, test } from "vitest";
import { DeviceError, OctavoError, OutOfMemoryError, ShapeError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { add } from "../../src/ops/add.js";
import { advance } from "../../src/ops/advance.js";
import { copyInto } from "../../src/ops/copy.js";
import { ALL_DEVICES, expectNoLeaks, requestTestDevice } from "../support/devices.js";

describe.each(ALL_DEVICES)("%s", (name) => {
  test("capturing runs nothing; each replay runs it once", async () => {
    const device = await requestTestDevice(name);
    const x = Tensor.from(device, Float32Array.of(1, 2, 3), [3]);
    const recording = device.capture(() => scope(() => copyInto(add(add(x, x), x), x)));
    expect(await x.readFloats()).toEqual(Float32Array.of(1, 2, 3));
    recording.replay();
    expect(await x.readFloats()).toEqual(Float32Array.of(3, 6, 9));
    recording.replay();
    recording.replay();
    expect(await x.readFloats()).toEqual(Float32Array.of(27, 54, 81));
    recording.dispose();
    expect(() => recording.replay()).toThrow(OctavoError);
    x.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("memory that a recording uses in between is nobody else's", async () => {
    const device = await requestTestDevice(name);
    const size = 1000;
    const x = Tensor.from(device, new Float32Array(size).fill(1), [size]);
    const y = Tensor.empty(device, [size], "f32");
    using recording = device.capture(() => scope(() => copyInto(add(add(x, x), add(x, x)), y)));
    // Everything that is taken from now on must be other memory than the sums inside the recording.
    const others = Array.from({ length: 8 }, (_, i) => Tensor.from(device, new Float32Array(size).fill(i), [size]));
    recording.replay();
    expect((await y.readFloats()).every((value) => value === 4)).toBe(true);
    for (const [i, other] of others.entries()) {
      expect((await other.readFloats()).every((value) => value === i)).toBe(true);
      other.dispose();
    }
    recording.dispose();
    x.dispose();
    y.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("what a recording cannot hold is refused, and leaves the device as it was", async () => {
    const device = await requestTestDevice(name);
    const x = Tensor.from(device, Int32Array.of(5), [1]);
    expect(() => device.capture(() => void Tensor.from(device, Int32Array.of(1), [1]))).toThrow(DeviceError);
    expect(() => device.capture(() => void device.capture(() => advance(x, 1)))).toThrow(DeviceError);
    expect(() =>
      device.capture(() => {
        advance(x, 1);
        throw new ShapeError("stop");
      }),
    ).toThrow(ShapeError);
    await expect(async () => {
      let reading: Promise<unknown> | undefined;
      device.capture(() => {
        reading = x.read();
      });
      await reading;
    }).rejects.toThrow(DeviceError);
    advance(x, 1);
    expect([...(await x.read())]).toEqual([6]);
    x.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("memory that runs out inside a capture is an error, not a loop", async () => {
    const device = await requestTestDevice(name);
    const budget = device.backend.budget;
    expect(() => device.capture(() => void Tensor.empty(device, [budget], "f32"))).toThrow(OutOfMemoryError);
    expectNoLeaks(device);
    await device.close();
  });
});
