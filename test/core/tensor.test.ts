// Tensors: views against plain indexing, who frees what and when, and use after the end.

import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { DTypeError, OctavoError, ShapeError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { openDevice } from "../../src/load/device.js";
import { contiguous } from "../../src/ops/copy.js";
import { expectNoLeaks } from "../support/devices.js";
import { product } from "../support/random.js";

let device: Device;
beforeEach(() => {
  device = openDevice("reference");
});
afterEach(async () => {
  expectNoLeaks(device);
  await device.close();
});

/** A view as a shape and a function from an index to a value: the slow and certain twin of a strided tensor. */
interface Twin {
  readonly shape: readonly number[];
  at(index: readonly number[]): number;
}

function values({ shape, at }: Twin): number[] {
  const out: number[] = [];
  const go = (index: number[]): void => {
    if (index.length === shape.length) out.push(at(index));
    else for (let i = 0; i < shape[index.length]!; i++) go([...index, i]);
  };
  go([]);
  return out;
}

type Step = { kind: "narrow" | "select" | "permute" | "expand" | "view" | "unfold"; a: number; b: number; c: number };

/** Applies one random step to both; steps that do not fit are passed over. */
function take(tensor: Tensor, twin: Twin, { kind, a, b, c }: Step): [Tensor, Twin] | undefined {
  const { shape } = twin;
  const rank = shape.length;
  if (rank === 0) return undefined;
  const dim = a % rank;
  const size = shape[dim]!;
  switch (kind) {
    case "narrow": {
      const start = b % (size + 1);
      const length = c % (size - start + 1);
      const next = shape.map((n, d) => (d === dim ? length : n));
      const at = (index: readonly number[]): number => twin.at(index.map((i, d) => (d === dim ? i + start : i)));
      return [tensor.narrow(c % 2 ? dim : dim - rank, start, length), { shape: next, at }];
    }
    case "select": {
      if (size === 0) return undefined;
      const at = (index: readonly number[]): number => twin.at([...index.slice(0, dim), b % size, ...index.slice(dim)]);
      return [tensor.select(dim, b % size), { shape: shape.filter((_, d) => d !== dim), at }];
    }
    case "permute": {
      const order = shape.map((_, d) => d).sort((x, y) => ((x * b + a) % 7) - ((y * b + a) % 7) || x - y);
      const at = (index: readonly number[]): number => {
        const back = new Array<number>(rank);
        order.forEach((d, i) => {
          back[d] = index[i]!;
        });
        return twin.at(back);
      };
      return [tensor.permute(...order), { shape: order.map((d) => shape[d]!), at }];
    }
    case "expand": {
      const next = shape.map((n, d) => (n === 1 ? 1 + ((b >> d) % 3) : n));
      const at = (index: readonly number[]): number => twin.at(index.map((i, d) => (shape[d] === 1 ? 0 : i)));
      return [tensor.expand(...next), { shape: next, at }];
    }
    case "unfold": {
      if (size === 0 || rank > 6) return undefined;
      const window = 1 + (b % size);
      const step = 1 + (c % 3);
      const next = [...shape.with(dim, Math.floor((size - window) / step) + 1), window];
      const at = (index: readonly number[]): number =>
        twin.at(shape.map((_, d) => index[d]! * (d === dim ? step : 1) + (d === dim ? index[rank]! : 0)));
      return [tensor.unfold(c % 2 ? dim : dim - rank, window, step), { shape: next, at }];
    }
    case "view": {
      if (!tensor.contiguous) return undefined;
      const flat = values(twin);
      return [tensor.view(flat.length), { shape: [flat.length], at: ([i = 0]) => flat[i]! }];
    }
  }
}

describe("views", () => {
  test("any chain of views sees what plain indexing sees", async () => {
    const step = fc.record({
      kind: fc.constantFrom(
        "narrow" as const,
        "select" as const,
        "permute" as const,
        "expand" as const,
        "view" as const,
        "unfold" as const,
      ),
      a: fc.nat(20),
      b: fc.nat(20),
      c: fc.nat(20),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 0, max: 4 }), { minLength: 1, maxLength: 4 }),
        fc.array(step, { maxLength: 6 }),
        async (shape, steps) => {
          const count = product(shape);
          const data = Int32Array.from({ length: count }, (_, i) => i + 1);
          let tensor = Tensor.from(device, data, shape);
          const rows = shape.map((_, d) => product(shape.slice(d + 1)));
          let twin: Twin = { shape, at: (index) => data[index.reduce((sum, i, d) => sum + i * rows[d]!, 0)]! };
          for (const one of steps) {
            const next = take(tensor, twin, one);
            if (!next) continue;
            tensor.dispose();
            [tensor, twin] = next;
          }
          expect(tensor.shape).toEqual(twin.shape);
          const seen = contiguous(tensor);
          expect([...(await seen.read())]).toEqual(values(twin));
          for (const one of new Set([seen, tensor])) one.dispose();
        },
      ),
      { numRuns: 300 },
    );
  });

  test("view works out one size, and refuses what does not fit", () => {
    const x = Tensor.empty(device, [2, 3, 4], "f32");
    const y = x.view(4, -1);
    expect(y.shape).toEqual([4, 6]);
    expect(() => x.view(5, 5)).toThrow(ShapeError);
    expect(() => x.view(7, -1)).toThrow(ShapeError); // 24 / 7 * 7 is 24 in floating point
    expect(() => x.view(-1, -1)).toThrow(ShapeError);
    const turned = x.permute(1, 0, 2);
    expect(() => turned.view(24)).toThrow("contiguous");
    for (const t of [x, y, turned]) t.dispose();
  });

  test.each<[string, (x: Tensor) => Tensor]>([
    ["narrow beyond the end", (x) => x.narrow(0, 1, 2)],
    ["narrow before the start", (x) => x.narrow(0, -1, 1)],
    ["narrow of a dim that is not there", (x) => x.narrow(2, 0, 1)],
    ["permute of another rank", (x) => x.permute(0)],
    ["unfold of a window that is too wide", (x) => x.unfold(0, 100, 1)],
    ["expand of a dim that is not 1", (x) => x.expand(4, 3)],
  ])("%s is refused", (_, make) => {
    const x = Tensor.empty(device, [2, 3], "f32");
    expect(() => make(x)).toThrow(ShapeError);
    x.dispose();
  });

  test("codes of four bits have no views that could split a byte", () => {
    const x = Tensor.empty(device, [2, 3], "u4");
    expect(() => x.narrow(0, 1, 1)).toThrow(ShapeError);
    expect(() => x.permute(1, 0)).toThrow(ShapeError);
    expect(x.nbytes).toBe(3);
    x.dispose();
  });

  test("a size that is no whole number is refused", () => {
    expect(() => Tensor.empty(device, [2, -1], "f32")).toThrow(ShapeError);
    expect(() => Tensor.empty(device, [2.5], "f32")).toThrow(ShapeError);
    expect(() => Tensor.from(device, [1, 2, 3], [2])).toThrow(ShapeError);
  });

  test("reading converts, and says what it cannot do", async () => {
    const x = Tensor.from(device, [1.5, -2, 65520], [3], "f16");
    expect([...(await x.readFloats())]).toEqual([1.5, -2, Number.POSITIVE_INFINITY]);
    const ids = Tensor.from(device, Int32Array.of(7), [1]);
    await expect(ids.readFloats()).rejects.toThrow(DTypeError);
    const wide = x.view(3, 1).expand(3, 2);
    await expect(wide.read()).rejects.toThrow("contiguous");
    expect(() => wide.write([1, 2, 3, 4, 5, 6])).toThrow("contiguous");
    for (const one of [x, ids, wide]) one.dispose();
    device.arena.owners(); // the unnamed [3, 1] view still holds the memory
    expect(device.memory.live).toBe(6);
    device = openDevice("reference");
  });
});

describe("lifetimes", () => {
  test("memory goes back with the last view of it", () => {
    const x = Tensor.empty(device, [8], "f32");
    const a = x.narrow(0, 0, 4);
    const b = x.alias();
    x.dispose();
    x.dispose(); // twice is once
    expect(device.memory.live).toBe(32);
    a.dispose();
    expect(device.memory.live).toBe(32);
    b.dispose();
    expect(device.memory.live).toBe(0);
  });

  test("a disposed tensor says so, and leaves no half command behind", async () => {
    const x = Tensor.from(device, [1, 2], [2]);
    const gone = x.alias();
    gone.dispose();
    expect(gone.alive).toBe(false);
    for (const use of [() => gone.buffer, () => gone.view(2), () => gone.alias(), () => gone.write([1, 2])]) {
      expect(use).toThrow(OctavoError);
    }
    const { add } = await import("../../src/ops/add.js");
    expect(() => add(x, gone)).toThrow("after dispose()");
    const y = add(x, x);
    expect([...(await y.read())]).toEqual([2, 4]);
    for (const one of [x, y]) one.dispose();
    expectNoLeaks(device);
  });

  test("scope frees everything but its result, however it is wrapped", () => {
    const inside: Tensor[] = [];
    const make = (): Tensor => {
      const t = Tensor.empty(device, [4], "f32");
      inside.push(t);
      return t;
    };
    const result = scope(() => {
      make();
      const inner = scope(() => {
        make();
        return { list: [make(), make()], name: "x" };
      });
      make().keep();
      return [inner.list[1]!, { deep: make() }] as const;
    });
    expect(inside.map((t) => t.alive)).toEqual([false, false, false, true, true, true]);
    expect(result[0]).toBe(inside[3]);
    for (const t of inside) t.dispose();
  });

  test("scope frees everything when its body throws, and gives the outer scope back", () => {
    const outer = scope(() => {
      const mine = Tensor.empty(device, [1], "f32");
      expect(() =>
        scope(() => {
          Tensor.empty(device, [1000], "f32");
          throw new Error("inside");
        }),
      ).toThrow("inside");
      expect(device.memory.live).toBe(4);
      return mine;
    });
    outer.dispose();
  });

  test("what escapes an inner scope dies with the outer one", () => {
    let escaped: Tensor | undefined;
    scope(() => {
      escaped = scope(() => Tensor.empty(device, [1], "f32"));
      expect(escaped.alive).toBe(true);
    });
    expect(escaped!.alive).toBe(false);
  });

  test("using disposes", () => {
    {
      using x = Tensor.empty(device, [4], "f32");
      expect(x.alive).toBe(true);
    }
    expect(device.memory.live).toBe(0);
  });
});

test("views that make no sense are refused", async () => {
  const device = openDevice("reference");
  const x = Tensor.from(device, new Float32Array(6), [2, 3]);
  const wide = x.permute(1, 0);
  for (const bad of [
    () => x.permute(0, 0),
    () => x.permute(0, 5),
    () => x.permute(0),
    () => x.expand(2),
    () => x.expand(2, 4),
    () => x.narrow(1, 0.5, 1),
    () => x.narrow(1, 0, Number.NaN),
    () => wide.writeBytes(new Uint8Array(4)),
    () => x.writeBytes(new Uint8Array(4), -4),
  ]) {
    expect(bad).toThrow(ShapeError);
  }
  wide.dispose();
  x.dispose();
  expectNoLeaks(device);
  await device.close();
});
