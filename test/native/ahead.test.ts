// Loads that are read ahead, on a thread of their own: order with the commands around them, overlap with the others,
// failures, and what becomes of those that nobody waits for.

import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { DeviceError, FormatError, OptionError, ShapeError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { within } from "../../src/nn/module.js";
import { add } from "../../src/ops/add.js";
import { copyInto } from "../../src/ops/copy.js";
import { expectNoLeaks } from "../support/devices.js";
import { Machine } from "./helpers.js";

const AHEAD = { ahead: true };
const folder = mkdtempSync(join(tmpdir(), "octavo-ahead-"));
const m = new Machine({ threads: 2 });

afterAll(async () => {
  await m.backend.close();
  rmSync(folder, { recursive: true, force: true });
});

const file = join(folder, "data.bin");
const content = Float32Array.from({ length: 1 << 18 }, (_, i) => i % 1000);
writeFileSync(file, new Uint8Array(content.buffer));

/** A file of nothing, which takes a while to read. */
function large(bytes: number): string {
  const path = join(folder, `large-${bytes}.bin`);
  const fd = openSync(path, "w");
  ftruncateSync(fd, bytes);
  closeSync(fd);
  return path;
}

const SPEED = "/sys/class/net/lo/speed"; // reads of it are refused

describe("order", () => {
  test("commands that need the bytes wait for them, others run meanwhile", async () => {
    const bytes = 256 << 20;
    const path = large(bytes);
    const into = m.empty([bytes / 4]);
    const counter = m.from([0], [1], "i32");
    const before = m.backend.loadCounts();
    m.backend.load(into.buffer, 0, path, 0, bytes, AHEAD);
    for (let n = 0; n < 20; n++) m.run("advance", [counter], [1]);
    // All of these have run by now: had they waited for the load, none would have met it under way.
    expect(await m.ints(counter)).toEqual([20]);
    const after = m.backend.loadCounts();
    expect(after.loadsAhead - before.loadsAhead).toBe(1);
    expect(after.overlapped - before.overlapped).toBeGreaterThan(0);
    const last = m.view(into, [4], null, bytes - 16);
    const sum = m.empty([4]);
    m.run("add", [last, last, sum]);
    expect([...(await m.floats(sum))]).toEqual([0, 0, 0, 0]);
    m.backend.free(into.buffer);
  });

  test("a load comes behind the commands before it that use its bytes, and before those after it", async () => {
    const x = m.from([1, 2, 3, 4], [4]);
    const [early, late, later] = [m.empty([4]), m.empty([4]), m.empty([4])];
    m.run("add", [x, x, early]);
    m.backend.load(x.buffer, 0, file, 4 * 10, 16, AHEAD);
    m.run("add", [x, x, late]);
    m.backend.load(x.buffer, 0, file, 4 * 20, 16, AHEAD);
    m.backend.load(x.buffer, 8, file, 4 * 30, 8, AHEAD);
    m.run("add", [x, x, later]);
    m.backend.load(x.buffer, 0, file, 4 * 40, 16, AHEAD);
    m.backend.write(x.buffer, 4, new Uint8Array(Float32Array.of(-1).buffer));
    expect([...(await m.floats(early))]).toEqual([2, 4, 6, 8]);
    expect([...(await m.floats(late))]).toEqual([20, 22, 24, 26]);
    expect([...(await m.floats(later))]).toEqual([40, 42, 60, 62]);
    expect([...(await m.floats(x))]).toEqual([40, -1, 42, 43]);
  });

  test("a read at once finds what is on its way, and a write does not overtake it", async () => {
    for (let n = 0; n < 50; n++) {
      const x = m.from([0, 0], [2]);
      await m.floats(x);
      m.backend.load(x.buffer, 0, file, 4 * n, 8, AHEAD);
      expect([...(await m.floats(x))]).toEqual([n, n + 1]);
      m.backend.load(x.buffer, 0, file, 4 * n, 8, AHEAD);
      m.backend.write(x.buffer, 0, new Uint8Array(8));
      expect([...(await m.floats(x))]).toEqual([0, 0]);
      m.backend.free(x.buffer);
    }
  });

  test("many at once, more than are kept account of", async () => {
    const xs = Array.from({ length: 300 }, () => m.empty([100]));
    for (const [n, x] of xs.entries()) m.backend.load(x.buffer, 0, file, 400 * n, 400, AHEAD);
    for (const [n, x] of xs.entries()) expect((await m.floats(x))[7]).toBe((100 * n + 7) % 1000);
    for (const x of xs) m.backend.free(x.buffer);
  });
});

describe("failures", () => {
  test("a file that is missing, short, or cannot be read spoils the bytes, and says which file", async () => {
    const x = m.from([1, 2, 3, 4], [4]);
    const other = m.from([5], [1]);
    const fails = async (path: string, at: number, why: RegExp): Promise<void> => {
      m.backend.load(x.buffer, 0, path, at, 8, { ahead: true, site: 9 });
      await expect(m.backend.read(x.buffer, 0, 4)).rejects.toMatchObject({
        failure: { op: "load", site: 9, message: expect.stringMatching(why) },
      });
      expect(await m.backend.read(x.buffer, 8, 8)).toHaveLength(8);
      expect([...(await m.floats(other))]).toEqual([5]);
    };
    await fails(join(folder, "none.bin"), 0, /cannot open .*none\.bin: No such file/);
    await fails(file, content.length * 4 - 7, /data\.bin ends at byte 1048576/);
    await fails(folder, 0, /is not a regular file/);
    if (existsSync(SPEED)) await fails(SPEED, 0, /cannot read \/sys\/class\/net\/lo\/speed: /);
    m.backend.load(x.buffer, 0, file, 0, 8, AHEAD);
    expect([...(await m.floats(x))]).toEqual([0, 1, 3, 4]);
  });

  test("the next owner of a block never hears of the load that failed for the last", async () => {
    const device = openDevice("cpu", { threads: 1 });
    for (let n = 0; n < 100; n++) {
      const x = Tensor.empty(device, [2], "f32");
      const { buffer } = x;
      device.load(x, join(folder, "none.bin"), 0, { ahead: true });
      x.dispose();
      using y = Tensor.empty(device, [2], "f32");
      expect(y.buffer).toBe(buffer);
      await y.ready();
      // And memory that goes back to the system.
      const large = Tensor.empty(device, [65 << 18], "f32");
      device.load(large, join(folder, "none.bin"), 0, { ahead: true });
      large.dispose();
    }
    expectNoLeaks(device);
    await device.close();
  });

  test("a device that closes with a load under way answers what it was asked", async () => {
    const path = large(64 << 20);
    const device = openDevice("cpu", { threads: 1 });
    const x = Tensor.empty(device, [16 << 20], "f32");
    device.load(x, path, 0, { ahead: true });
    const reading = x.ready();
    await device.close();
    await reading;
  });
});

describe("Device.load", () => {
  test("what it cannot take is refused at once", async () => {
    const device = openDevice("cpu", { threads: 1 });
    const reference = openDevice("reference");
    using x = Tensor.from(device, [1, 2, 3, 4], [2, 2]);
    using turned = x.permute(1, 0);
    using other = Tensor.from(reference, [1], [1]);
    expect(() => device.load(turned, file, 0)).toThrow(ShapeError);
    expect(() => device.load(x, file, -1)).toThrow(ShapeError);
    expect(() => device.load(x, file, 0.5)).toThrow(ShapeError);
    expect(() => device.load(other, file, 0)).toThrow(DeviceError);
    expect(() => device.load(x, file, 0, { stamp: { inode: 1, modified: 2n } as never })).toThrow(OptionError);
    expect(() => reference.load(other, file, 0)).toThrow("device reference reads no files");
    expect([device.readsFiles, reference.readsFiles]).toEqual([true, false]);
    for (const tensor of [turned, x, other]) tensor.dispose();
    expectNoLeaks(device);
    await device.close();
    expect(() => device.load(x, file, 0)).toThrow(/closed|dispose/);
  });

  test.each([true, false])("a recording reads the file at each replay (ahead: %s)", async (ahead) => {
    const device = openDevice("cpu", { threads: 2 });
    const path = join(folder, `changing-${ahead}.bin`);
    using y = Tensor.from(device, [0, 0], [2]);
    writeFileSync(path, new Uint8Array(Float32Array.of(1, 2).buffer));
    using recording = device.capture(() =>
      scope(() => {
        const x = Tensor.empty(device, [2], "f32");
        device.load(x, path, 0, { ahead });
        const twice = add(x, x);
        copyInto(add(twice, y), y);
      }),
    );
    expect([...(await y.read())]).toEqual([0, 0]);
    recording.replay();
    expect([...(await y.read())]).toEqual([2, 4]);
    writeFileSync(path, new Uint8Array(Float32Array.of(10, 20).buffer));
    recording.replay();
    recording.replay();
    expect([...(await y.read())]).toEqual([42, 84]);
    recording.dispose();
    y.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test.each([true, false])("a file with a stamp must still be that one (ahead: %s)", async (ahead) => {
    const device = openDevice("cpu", { threads: 1 });
    const path = join(folder, `stamped-${ahead}.bin`);
    const write = (value: number): void => writeFileSync(path, new Uint8Array(Float32Array.of(value).buffer));
    write(1);
    const { ino: inode, mtimeNs: modified } = statSync(path, { bigint: true });
    using x = Tensor.empty(device, [1], "f32");
    const load = (): void => device.load(x, path, 0, { ahead, stamp: { inode, modified } });
    load();
    expect([...(await x.read())]).toEqual([1]);
    write(2);
    utimesSync(path, 1, 1); // whatever the resolution of its clock
    load();
    await expect(x.read()).rejects.toThrow(/stamped-.*\.bin was changed or replaced while it is in use/);
    rmSync(path);
    load();
    await expect(x.read()).rejects.toThrow(/cannot open .*No such file/);
    x.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  test("a failure names the file and the module that asked", async () => {
    const device = openDevice("cpu", { threads: 1 });
    using x = Tensor.empty(device, [2], "f32");
    within(device, "model.layers.3", () => device.load(x, join(folder, "none.bin"), 0, { ahead: true }));
    using sum = add(x, x);
    const error = await sum.read().catch((e: Error) => e);
    expect(error).toBeInstanceOf(FormatError);
    expect((error as Error).message).toMatch(/^load in model\.layers\.3: cannot open .*none\.bin/);
    for (const tensor of [x, sum]) tensor.dispose();
    expectNoLeaks(device);
    await device.close();
  });
});
