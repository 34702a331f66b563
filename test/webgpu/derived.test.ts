// Derived blocks (CommandRecorder.derived): they are computed once, and again after their source was written; they are
// current whenever a prepared step runs, and freed with their source. Here they hold ten times a number.

import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type Block, Buffers } from "../../src/backends/webgpu/device/buffers.js";
import { CommandRecorder } from "../../src/backends/webgpu/device/command-recorder.js";
import { ErrorScopes, unchecked } from "../../src/backends/webgpu/device/error-scopes.js";
import { family, reads, writes } from "../../src/backends/webgpu/shader.js";
import { describeGPU, gpu } from "../support/webgpu.js";

const SIZE = 16;
const fill = family("fill", (_: Record<never, never>) => ({
  bindings: [writes("y")],
  params: ["value:f32"],
  body: "if (gid == 0u) { y[0] = P.value; }",
}));
const scaled = family("scaled", (_: Record<never, never>) => ({
  bindings: [reads("x", "array<f32>"), writes("y")],
  params: ["factor:f32", "plus:f32"],
  body: "if (gid == 0u) { y[0] = x[0] * P.factor + P.plus; }",
}));

describeGPU("a derived block", () => {
  let device: GPUDevice;
  let recorder: CommandRecorder;
  let buffers: Buffers;
  let source: Block;
  let result: Block;
  let made = 0;

  beforeAll(async () => {
    device = await (await gpu!.requestAdapter())!.requestDevice();
    const scopes = new ErrorScopes(device);
    recorder = new CommandRecorder(device, scopes, 4096, (_, error) => expect.fail(error.message));
    buffers = new Buffers(
      device,
      scopes,
      { buffer: 4096, binding: 4096 },
      () => {},
      (block) => recorder.forget(block),
    );
    recorder.buffers = buffers;
  });
  beforeEach(() => {
    source = buffers.block(buffers.allocate(SIZE));
    result = buffers.block(buffers.allocate(SIZE));
    made = 0;
    put(1);
  });
  afterAll(() => {
    buffers.close();
    recorder.close();
    device.destroy();
  });

  const binding = (block: Block) => ({ block, start: 0, size: SIZE });
  /** Writes the source. */
  const put = (value: number): void => recorder.dispatch(fill({}), [binding(source)], { value }, 1);
  /** Writes ten times the source plus one to the result, by way of a derived block. */
  const use = (key = "ten"): void => {
    const ten = recorder.derived(source, key, SIZE, (block) => {
      made++;
      recorder.dispatch(scaled({}), [binding(source), binding(block)], { factor: 10, plus: 0 }, 1);
    });
    recorder.dispatch(scaled({}), [binding(ten), binding(result)], { factor: 1, plus: 1 }, 1);
  };
  const read = async (): Promise<number> => {
    const { bytes } = await recorder.read(result, 0, 4);
    return new DataView(bytes.buffer, bytes.byteOffset).getFloat32(0, true);
  };
  const prepared = (body: () => void) => {
    const step = recorder.prepare(() => {
      body();
      return true;
    })!;
    recorder.submit();
    return step;
  };

  test("is computed once, and again after a write to its source", async () => {
    use();
    use();
    expect(await read()).toBe(11);
    expect(made).toBe(1);
    put(2);
    use();
    expect(await read()).toBe(21);
    recorder.write(source, 0, new Uint8Array(Float32Array.of(3).buffer), unchecked());
    use();
    expect(await read()).toBe(31);
    expect(made).toBe(3);
  });

  test("is computed before a prepared step, which is stale after a write to the source", async () => {
    const step = prepared(() => use());
    expect(made).toBe(1);
    expect(step.dispatches).toBe(1);
    recorder.replay(step, 0, 0);
    recorder.replay(step, 0, 0);
    expect(await read()).toBe(11);
    expect(step.stale).toBe(false);
    put(4);
    expect(step.stale).toBe(true);
    step.destroy();
  });

  test("is computed by each run of a step that writes the source first", async () => {
    use();
    const step = prepared(() => {
      recorder.dispatch(scaled({}), [binding(result), binding(source)], { factor: 1, plus: 0 }, 1);
      use();
    });
    expect(step.stale).toBe(false);
    expect(step.dispatches).toBe(3);
    recorder.replay(step, 0, 0); // 11 before
    recorder.replay(step, 0, 0);
    expect(await read()).toBe(1111);
    // The block computed before the step ran is stale.
    use();
    expect(await read()).toBe(1111);
    expect(made).toBe(3);
    step.destroy();
  });

  test("makes a step stale that writes the source after using it", () => {
    const step = prepared(() => {
      use();
      put(5);
    });
    expect(step.stale).toBe(true);
    step.destroy();
  });

  test("is freed with its source, and also when stale", async () => {
    await read();
    const before = buffers.bytes;
    const id = buffers.allocate(SIZE);
    source = buffers.block(id);
    put(6);
    use();
    use("another");
    expect(buffers.bytes).toBe(before + 3 * SIZE);
    put(7);
    use("a third");
    await read();
    expect(buffers.bytes).toBe(before + 2 * SIZE);
    buffers.free(id);
    recorder.submit();
    expect(buffers.bytes).toBe(before);
  });
});
