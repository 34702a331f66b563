// What kernels make of a block and keep (Queue.derived): made once, anew when the block was written, right in tapes that
// are recorded at one time and run at another, and gone with the block. Here it is a number times ten.

import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { type Block, Buffers } from "../../src/backends/webgpu/device/buffers.js";
import { Scopes, unchecked } from "../../src/backends/webgpu/device/error-scopes.js";
import { Queue } from "../../src/backends/webgpu/device/queue.js";
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

describeGPU("what is made of a block", () => {
  let device: GPUDevice;
  let queue: Queue;
  let buffers: Buffers;
  let source: Block;
  let result: Block;
  let made = 0;

  beforeAll(async () => {
    device = await (await gpu!.requestAdapter())!.requestDevice();
    const scopes = new Scopes(device);
    queue = new Queue(device, scopes, 4096, (_, error) => expect.fail(error.message));
    buffers = new Buffers(
      device,
      scopes,
      { buffer: 4096, binding: 4096 },
      () => {},
      (block) => queue.forget(block),
    );
    queue.buffers = buffers;
  });
  beforeEach(() => {
    source = buffers.block(buffers.allocate(SIZE));
    result = buffers.block(buffers.allocate(SIZE));
    made = 0;
    put(1);
  });
  afterAll(() => {
    buffers.close();
    queue.close();
    device.destroy();
  });

  const piece = (block: Block) => ({ block, start: 0, size: SIZE });
  /** Writes the source. */
  const put = (value: number): void => queue.dispatch(fill({}), [piece(source)], { value }, 1);
  /** Has ten times the source plus one in the result, by way of what is kept. */
  const use = (key = "ten"): void => {
    const ten = queue.derived(source, key, SIZE, (block) => {
      made++;
      queue.dispatch(scaled({}), [piece(source), piece(block)], { factor: 10, plus: 0 }, 1);
    });
    queue.dispatch(scaled({}), [piece(ten), piece(result)], { factor: 1, plus: 1 }, 1);
  };
  const read = async (): Promise<number> => {
    const { bytes } = await queue.read(result, 0, 4);
    return new DataView(bytes.buffer, bytes.byteOffset).getFloat32(0, true);
  };
  const taped = (body: () => void) => {
    const tape = queue.tape(() => {
      body();
      return true;
    })!;
    queue.submit();
    return tape;
  };

  test("is made once, and anew once the block was written", async () => {
    use();
    use();
    expect(await read()).toBe(11);
    expect(made).toBe(1);
    put(2);
    use();
    expect(await read()).toBe(21);
    queue.write(source, 0, new Uint8Array(Float32Array.of(3).buffer), unchecked());
    use();
    expect(await read()).toBe(31);
    expect(made).toBe(3);
  });

  test("a tape finds it made, and is stale once the block was written", async () => {
    const tape = taped(() => use());
    expect(made).toBe(1);
    expect(tape.dispatches).toBe(1);
    queue.play(tape, 0, 0);
    queue.play(tape, 0, 0);
    expect(await read()).toBe(11);
    expect(tape.stale).toBe(false);
    put(4);
    expect(tape.stale).toBe(true);
    tape.destroy();
  });

  test("a tape that writes the block before makes it whenever it runs", async () => {
    use();
    const tape = taped(() => {
      queue.dispatch(scaled({}), [piece(result), piece(source)], { factor: 1, plus: 0 }, 1);
      use();
    });
    expect(tape.stale).toBe(false);
    expect(tape.dispatches).toBe(3);
    queue.play(tape, 0, 0); // 11 before
    queue.play(tape, 0, 0);
    expect(await read()).toBe(1111);
    // What was made before the tape ran is out of date.
    use();
    expect(await read()).toBe(1111);
    expect(made).toBe(3);
    tape.destroy();
  });

  test("a tape that writes the block behind is not to be run again", () => {
    const tape = taped(() => {
      use();
      put(5);
    });
    expect(tape.stale).toBe(true);
    tape.destroy();
  });

  test("goes with the block, and makes room when it is out of date", async () => {
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
    queue.submit();
    expect(buffers.bytes).toBe(before);
  });
});
