// Caches: a row's attention does not depend on how its keys lie or came there, rows are forked, reordered, rewound and
// replaced by page numbers alone, rings keep what a window needs, and nothing leaks when memory runs out.

import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OutOfMemoryError, ShapeError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { type CacheDType, type CacheOptions, CrossCache, KVCache, type LayerShape } from "../../src/nn/cache.js";
import { advanceLanes } from "../../src/ops/advance.js";
import { attention } from "../../src/ops/attention.js";
import { copyInto } from "../../src/ops/copy.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { normals } from "../support/random.js";

const [H, G, D, E] = [4, 2, 24, 20];
const LAYER: LayerShape = { groups: G, k_dim: D, v_dim: E };
const DTYPES: readonly CacheDType[] = ["f32", "f16", "bf16", "i8"];

/** Queries, keys and values of a token of a text: they depend on nothing else. */
function token(text: number, position: number): { q: Float32Array; k: Float32Array; v: Float32Array } {
  const seed = 1000 * text + position + 1;
  return { q: normals(seed, H * D), k: normals(seed + 0.25e6, G * D), v: normals(seed + 0.5e6, G * E) };
}

/** One lane: a token of a text that a row holds. */
interface Lane {
  readonly row: number;
  readonly text: number;
  readonly position: number;
}

describe.each(["cpu", "reference"])("caches on %s", (deviceName) => {
  let device: Device;
  beforeAll(async () => {
    device = await requestTestDevice(deviceName);
  });
  afterAll(async () => {
    expectNoLeaks(device);
    await device.close();
  });

  /** Appends the lanes (of one b) to layer 0, and gives the attention of each of them. */
  async function step(cache: KVCache, lanes: readonly Lane[], window = 0, layer = 0): Promise<Float32Array[]> {
    const tokens = lanes.map(({ text, position }) => token(text, position));
    const T = lanes.length;
    const join = (parts: Float32Array[]): Float32Array => Float32Array.from(parts.flatMap((part) => [...part]));
    using y = scope(() => {
      const from = (values: Float32Array, heads: number): Tensor =>
        Tensor.from(device, values, [1, T, heads, values.length / T / heads]);
      const places = Int32Array.of(...lanes.map(({ row }) => row), ...lanes.map(({ position }) => position));
      const at = Tensor.from(device, places, [2, 1, T]);
      const k = from(join(tokens.map((x) => x.k)), G);
      const v = from(join(tokens.map((x) => x.v)), G);
      const held = cache.append(layer, k, v, at);
      const q = from(join(tokens.map((x) => x.q)), H);
      const { scales, table } = held;
      return attention(q, held.k, held.v, { scale: D ** -0.5, scales, lanes: at, table, window });
    });
    const all = await y.readFloats();
    return lanes.map((_, i) => all.slice(i * H * E, (i + 1) * H * E));
  }

  /** Tokens `from` .. `to` of a text into a row. */
  function piece(
    cache: KVCache,
    row: number,
    text: number,
    from: number,
    to: number,
    window = 0,
  ): Promise<Float32Array[]> {
    cache.extend(Array.from({ length: cache.rows }, (_, r) => (r === row ? to - from : 0)));
    return step(
      cache,
      Array.from({ length: to - from }, (_, i) => ({ row, text, position: from + i })),
      window,
    );
  }

  /** Attention of a text's tokens, alone, in one piece, in a contiguous cache. */
  async function alone(dtype: CacheDType, text: number, length: number, window = 0): Promise<Float32Array[]> {
    using cache = new KVCache(device, { layers: [LAYER], rows: 1, capacity: length, dtype });
    return piece(cache, 0, text, 0, length, window);
  }

  const paged = (dtype: CacheDType, more: Partial<CacheOptions> = {}): CacheOptions => ({
    layers: [LAYER],
    rows: 3,
    capacity: 90,
    dtype,
    pages: { size: 16, count: 18 },
    ...more,
  });

  test.each(DTYPES)("%s: alone, batched, in pieces, in pages: the same bits", async (dtype) => {
    const want = [await alone(dtype, 1, 60), await alone(dtype, 2, 41), await alone(dtype, 3, 80)];
    for (const pages of [undefined, { size: 16, count: 18 }, { size: 7, count: 40 }]) {
      using cache = new KVCache(device, paged(dtype, { pages }));
      expect(await piece(cache, 2, 3, 0, 33)).toEqual(want[2]!.slice(0, 33));
      expect(await piece(cache, 0, 1, 0, 50)).toEqual(want[0]!.slice(0, 50));
      expect(await piece(cache, 1, 2, 0, 40)).toEqual(want[1]!.slice(0, 40));
      expect(await piece(cache, 2, 3, 33, 79)).toEqual(want[2]!.slice(33, 79));
      // One token of each row, in any order, with an unused lane among them.
      cache.extend([1, 1, 1]);
      const y = await step(cache, [
        { row: 2, text: 3, position: 79 },
        { row: -1, text: 9, position: 3 },
        { row: 0, text: 1, position: 50 },
        { row: 1, text: 2, position: 40 },
      ]);
      expect(y[0]).toEqual(want[2]![79]);
      expect(y[1]!.every((x) => x === 0)).toBe(true);
      expect(y[2]).toEqual(want[0]![50]);
      expect(y[3]).toEqual(want[1]![40]);
      expect([0, 1, 2].map((row) => cache.length(row))).toEqual([51, 41, 80]);
    }
  });

  test("a fork writes its own row of the table alone, however many there are", () => {
    using cache = new KVCache(device, paged("f32", { rows: 64, pages: { size: 16, count: 64 } }));
    cache.extend(Array.from({ length: 64 }, (_, row) => (row === 0 ? 12 : 0)));
    const written: number[] = [];
    const write = vi.spyOn(device, "write").mockImplementation((_buffer, _at, bytes) => {
      written.push(bytes.byteLength);
    });
    for (let row = 1; row < 64; row++) cache.fork(0, row);
    write.mockRestore();
    expect(written).toHaveLength(63);
    // A page for each 16 of 90 tokens, and the number of keys.
    expect(new Set(written)).toEqual(new Set([4 * (6 + 1)]));
  });

  test.each(DTYPES)("%s: forks share pages until they differ", async (dtype) => {
    // Text 100 + n is text 1 in its first 37 tokens, and goes on as text n.
    for (const pages of [undefined, { size: 16, count: 9 }]) {
      using cache = new KVCache(device, paged(dtype, { pages }));
      await piece(cache, 0, 1, 0, 37);
      const before = cache.free_pages;
      cache.fork(0, 1);
      cache.fork(1, 2);
      expect(cache.free_pages).toBe(before);
      cache.extend([1, 1, 1]);
      const mixed = await step(cache, [
        { row: 0, text: 1, position: 37 },
        { row: 1, text: 2, position: 37 },
        { row: 2, text: 3, position: 37 },
      ]);
      // The last page was copied for all but the last of them; a whole row is one page where it is contiguous.
      expect(before - cache.free_pages).toBe(2);
      for (const [n, text] of [1, 2, 3].entries()) {
        using single = new KVCache(device, paged(dtype, { rows: 1, pages: undefined }));
        await piece(single, 0, 1, 0, 37);
        expect((await piece(single, 0, text, 37, 38))[0]).toEqual(mixed[n]);
      }
      expect(await piece(cache, 0, 1, 38, 40)).toEqual((await alone(dtype, 1, 40)).slice(38));
    }
  });

  test("rows are reordered, rewound and replaced", async () => {
    using cache = new KVCache(device, paged("f32"));
    const texts = [await alone("f32", 1, 60), await alone("f32", 2, 60), await alone("f32", 3, 60)];
    for (const [row, text] of [1, 2, 3].entries()) await piece(cache, row, text, 0, 20 + 10 * row);
    cache.reorder([2, 2, 0]);
    expect([0, 1, 2].map((row) => cache.length(row))).toEqual([40, 40, 20]);
    expect(await piece(cache, 0, 3, 40, 50)).toEqual(texts[2]!.slice(40, 50));
    expect(await piece(cache, 1, 3, 40, 42)).toEqual(texts[2]!.slice(40, 42));
    expect(await piece(cache, 2, 1, 20, 25)).toEqual(texts[0]!.slice(20, 25));
    // Back to a place in a page that row 1 shares with nobody, and into one that it does.
    cache.rewind(0, 25);
    expect(cache.length(0)).toBe(25);
    expect(await piece(cache, 0, 3, 25, 30)).toEqual(texts[2]!.slice(25, 30));
    expect(await piece(cache, 1, 3, 42, 44)).toEqual(texts[2]!.slice(42, 44));
    cache.free(0);
    cache.free(1);
    expect(cache.length(0)).toBe(0);
    expect(cache.free_pages).toBe(18 - 2); // row 2 holds 25 tokens
    expect(await piece(cache, 1, 2, 0, 45)).toEqual(texts[1]!.slice(0, 45));
    expect(await piece(cache, 2, 1, 25, 26)).toEqual([texts[0]![25]]);
  });

  test("rings hold what a window needs, beside layers that keep all", async () => {
    const layers = [LAYER, { ...LAYER, window: 9 }];
    using cache = new KVCache(device, { layers, rows: 2, capacity: 400, dtype: "i8", chunk: 8 });
    using plain = new KVCache(device, { layers: [LAYER, LAYER], rows: 2, capacity: 400, dtype: "i8" });
    expect(cache.nbytes).toBeLessThan(0.55 * plain.nbytes);
    const seen = await alone("i8", 1, 120, 9);
    const all = await alone("i8", 1, 120);
    for (let from = 0; from < 112; from += 8) {
      const lanes = Array.from({ length: 8 }, (_, i) => ({ row: 1, text: 1, position: from + i }));
      cache.extend([0, 8]);
      expect(await step(cache, lanes, 9, 1)).toEqual(seen.slice(from, from + 8));
      expect(await step(cache, lanes, 0, 0)).toEqual(all.slice(from, from + 8));
    }
    cache.rewind(1, 5);
    cache.extend([0, 5]);
    const again = Array.from({ length: 5 }, (_, i) => ({ row: 1, text: 1, position: 107 + i }));
    expect(await step(cache, again, 9, 1)).toEqual(seen.slice(107, 112));
    cache.fork(1, 0);
    cache.extend([1, 1]);
    const last = await step(
      cache,
      [0, 1].map((row) => ({ row, text: 1, position: 112 })),
      9,
      1,
    );
    expect(last).toEqual([seen[112], seen[112]]);
    expect(() => cache.rewind(1, 30)).toThrow(/further back than a window of 9 keeps/);
    expect(() => cache.extend([9, 0])).toThrow(/layers with a window have room for 8/);
    cache.rewind(1, 113);
    expect(cache.length(1)).toBe(0);
  });

  test("the same recording goes on while rows come and go", async () => {
    using cache = new KVCache(device, paged("f32", { rows: 2, pages: { size: 16, count: 6 } }));
    const want = [await alone("f32", 1, 60), await alone("f32", 2, 60), await alone("f32", 3, 60)];
    await piece(cache, 0, 1, 0, 14);
    await piece(cache, 1, 2, 0, 30);
    using lanes = Tensor.from(device, Int32Array.of(0, 1, 13, 29), [2, 2, 1]).keep();
    const [q, k, v] = [
      Tensor.empty(device, [2, 1, H, D], "f32").keep(),
      Tensor.empty(device, [2, 1, G, D], "f32").keep(),
      Tensor.empty(device, [2, 1, G, E], "f32").keep(),
    ];
    using y = Tensor.empty(device, [2, 1, H, E], "f32").keep();
    using recording = device.capture(() => {
      scope(() => {
        advanceLanes(lanes, 1);
        const held = cache.append(0, k, v, lanes);
        copyInto(attention(q, held.k, held.v, { scale: D ** -0.5, lanes, table: held.table }), y);
        return undefined;
      });
    });
    const texts = [1, 2];
    const places = [14, 30];
    for (let n = 0; n < 12; n++) {
      if (n === 5) {
        // Row 1 ends; text 3 takes its place.
        cache.free(1);
        await piece(cache, 1, 3, 0, 20);
        lanes.write(Int32Array.of(0, 1, places[0]! - 1, 19));
        [texts[1], places[1]] = [3, 20];
      }
      if (n === 8) {
        cache.free(0);
        lanes.write(Int32Array.of(-1, 1, 0, places[1]! - 1));
      }
      const on = n < 8 ? [0, 1] : [1];
      cache.extend([0, 1].map((row) => (on.includes(row) ? 1 : 0)));
      const tokens = texts.map((text, row) => token(text, places[row]!));
      q!.write(Float32Array.from(tokens.flatMap((x) => [...x.q])));
      k!.write(Float32Array.from(tokens.flatMap((x) => [...x.k])));
      v!.write(Float32Array.from(tokens.flatMap((x) => [...x.v])));
      recording.replay();
      const got = await y.readFloats();
      for (const row of [0, 1]) {
        const mine = got.slice(row * H * E, (row + 1) * H * E);
        if (on.includes(row)) expect(mine, `step ${n} of row ${row}`).toEqual(want[texts[row]! - 1]![places[row]!]);
        else expect(mine.every((x) => x === 0)).toBe(true);
        places[row]!++;
      }
    }
    expect((await lanes.read())[2]).toBe(0); // an unused lane stays where it is
    for (const tensor of [q!, k!, v!]) tensor.dispose();
  });

  test.each(["k", "v"] as const)("a NaN in %s passes through codes", async (part) => {
    using cache = new KVCache(device, paged("i8"));
    cache.extend([3, 0, 0]);
    using y = scope(() => {
      const made = { q: normals(1, 3 * H * D), k: normals(2, 3 * G * D), v: normals(3, 3 * G * E) };
      made[part][G * (part === "k" ? D : E) + 3] = Number.NaN; // token 1, head 0
      const lanes = Tensor.from(device, Int32Array.of(0, 0, 0, 0, 1, 2), [2, 1, 3]);
      const k = Tensor.from(device, made.k, [1, 3, G, D]);
      const held = cache.append(0, k, Tensor.from(device, made.v, [1, 3, G, E]), lanes);
      const q = Tensor.from(device, made.q, [1, 3, H, D]);
      return attention(q, held.k, held.v, { scale: 1, scales: held.scales, lanes, table: held.table });
    });
    const values = await y.readFloats();
    const broken = Array.from({ length: 3 * H }, (_, i) => values.subarray(i * E, (i + 1) * E).every(Number.isNaN));
    const none = Array.from({ length: 3 * H }, (_, i) => values.subarray(i * E, (i + 1) * E).some(Number.isNaN));
    const want = [false, false, false, false, true, true, false, false, true, true, false, false];
    expect(broken).toEqual(want);
    expect(none).toEqual(want);
  });

  test("what does not fit is refused, and changes nothing", async () => {
    using cache = new KVCache(device, paged("f32", { pages: { size: 16, count: 4 } }));
    cache.extend([40, 0, 0]);
    expect(cache.free_pages).toBe(1);
    expect(() => cache.extend([1, 17, 0])).toThrow(OutOfMemoryError);
    expect(() => cache.extend([51, 0, 0])).toThrow(/holds 40 of 90 tokens; 51 more do not fit/);
    expect(() => cache.extend([1, 1])).toThrow(ShapeError);
    expect(() => cache.rewind(0, 41)).toThrow(ShapeError);
    expect(() => cache.fork(0, 3)).toThrow(/rows 0 to 2, not 3/);
    expect(() => cache.reorder([0, 1])).toThrow(ShapeError);
    expect([cache.length(0), cache.length(1), cache.free_pages]).toEqual([40, 0, 1]);
    cache.extend([8, 16, 0]);
    expect(cache.free_pages).toBe(0);
    expect(() => new KVCache(device, paged("f32", { pages: { size: 0, count: 4 } }))).toThrow(ShapeError);
  });

  test.each(["f32", "i8"] as const)("nothing leaks when an allocation is refused: %s", (dtype) => {
    const { live } = device.memory;
    const allocate = device.allocate.bind(device);
    const layers = [LAYER, { ...LAYER, window: 9 }, LAYER];
    const makers = [
      (): Disposable => new KVCache(device, { layers, rows: 2, capacity: 100, dtype, chunk: 4 }),
      (): Disposable => new CrossCache(device, { layers, rows: 2, capacity: 30, dtype }),
    ];
    try {
      for (const make of makers) {
        for (let n = 1; ; n++) {
          let left = n;
          device.allocate = (bytes, label) => {
            if (--left === 0) throw new OutOfMemoryError(`${label} is refused`);
            return allocate(bytes, label);
          };
          if (n > 20) throw new Error("it never gets through");
          try {
            make()[Symbol.dispose]();
          } catch (error) {
            expect(error).toBeInstanceOf(OutOfMemoryError);
            expect(device.memory.live).toBe(live);
            continue;
          }
          expect(n).toBeGreaterThan(layers.length * (dtype === "i8" ? 3 : 2));
          break;
        }
        expect(device.memory.live).toBe(live);
      }
    } finally {
      device.allocate = allocate;
    }
  });

  test("cross-attention reads what was written once, and beams share it", async () => {
    const S = 30;
    using cache = new CrossCache(device, { layers: [LAYER], rows: 3, capacity: S, dtype: "bf16" });
    const [k, v] = [normals(1, 2 * S * G * D), normals(2, 2 * S * G * E)];
    const q = normals(3, 3 * 2 * H * D);
    cache.begin([2, 0], [30, 11], S);
    const read = async (rows: readonly number[]): Promise<Float32Array> => {
      using y = scope(() => {
        const lanes = Tensor.from(
          device,
          Int32Array.of(...rows.flatMap((r) => [r, r]), ...rows.flatMap(() => [7, 8])),
          [2, 3, 2],
        );
        const held = cache.layer(0);
        const options = { scale: D ** -0.5, lanes, table: held.table, causal: false };
        return attention(Tensor.from(device, q, [3, 2, H, D]), held.k, held.v, options);
      });
      return y.readFloats();
    };
    scope(() => void cache.write(0, Tensor.from(device, k, [2, S, G, D]), Tensor.from(device, v, [2, S, G, E])));
    // Without a cache: the same keys beside the queries, rounded alike.
    const direct = (text: number, count: number, of: number): Promise<Float32Array> => {
      using y = scope(() => {
        const cut = (x: Float32Array, width: number): Tensor => {
          const rows = Tensor.from(device, x.slice(text * S * G * width, (text * S + count) * G * width), [
            1,
            count,
            G,
            width,
          ]);
          const kept = Tensor.empty(device, rows.shape, "bf16");
          copyInto(rows, kept);
          return kept.permute(0, 2, 1, 3);
        };
        const part = Tensor.from(device, q.slice(of * 2 * H * D, (of + 1) * 2 * H * D), [1, 2, H, D]);
        return attention(part, cut(k, D), cut(v, E), { scale: D ** -0.5, causal: false });
      });
      return y.readFloats();
    };
    const size = 2 * H * E;
    const first = await read([0, 1, 2]);
    expect(first.slice(0, size)).toEqual(await direct(1, 11, 0));
    expect(first.slice(size, 2 * size).every((x) => x === 0)).toBe(true);
    expect(first.slice(2 * size)).toEqual(await direct(0, 30, 2));
    cache.reorder([2, 2, 0]);
    expect([0, 1, 2].map((row) => cache.length(row))).toEqual([30, 30, 11]);
    const second = await read([0, 1, 2]);
    expect(second.slice(0, size)).toEqual(await direct(0, 30, 0));
    expect(second.slice(size, 2 * size)).toEqual(await direct(0, 30, 1));
    expect(second.slice(2 * size)).toEqual(await direct(1, 11, 2));
    cache.free(2);
    cache.begin([1], [5], 6);
    scope(
      () =>
        void cache.write(
          0,
          Tensor.from(device, k.slice(0, 6 * G * D), [1, 6, G, D]),
          Tensor.from(device, v.slice(0, 6 * G * E), [1, 6, G, E]),
        ),
    );
    const third = await read([0, 1, 2]);
    expect(third.slice(0, size)).toEqual(await direct(0, 30, 0));
    expect(third.slice(size, 2 * size)).toEqual(await direct(0, 5, 1));
    expect(() => cache.begin([0], [31], 31)).toThrow(/room for 30/);
    expect(() => cache.begin([0, 0], [3, 3], 3)).toThrow(ShapeError);
  });
});
