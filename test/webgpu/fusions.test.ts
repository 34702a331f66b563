// Calls in one dispatch with the calls whose results they read (fusion.ts): the results equal those of separate dispatches
// bit for bit, because every number is computed by the same expressions in the same order.

import { expect, test } from "vitest";
import { openWebGPU, type WebGPUBackend } from "../../src/backends/webgpu/index.js";
import { Device } from "../../src/core/device.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { advanceLanes } from "../../src/ops/advance.js";
import { copyInto } from "../../src/ops/copy.js";
import { gated } from "../../src/ops/gated.js";
import { kvAppend } from "../../src/ops/kv-append.js";
import { layerNorm } from "../../src/ops/layer-norm.js";
import { linear } from "../../src/ops/linear.js";
import { llmInt8Linear } from "../../src/ops/llm-int8.js";
import { rmsNorm } from "../../src/ops/rms-norm.js";
import { rope, ropeTable } from "../../src/ops/rope.js";
import { expectNoLeaks, flat } from "../support/devices.js";
import { sharedGPU } from "../support/shared-gpu.js";
import { onGPU } from "../support/suites.js";
import { describeGPU, runSteps, type Steps } from "../support/webgpu.js";
import { APPENDS, GATES, int8Weight, NORMS, ROWS, rotationsAndAppends, values } from "./fusion-cases.js";

describeGPU("WebGPU fusions", () => {
  let backend: WebGPUBackend;
  let device: Device;
  onGPU((opened, behind) => {
    device = opened;
    backend = behind;
  });

  const run = (together: boolean, steps: Steps, also: readonly Tensor[] = [], from = backend, on = device) =>
    runSteps(on, from, together, steps, also);

  test.each(NORMS)(
    "$op of $M rows of $K quantizes them too (threshold $threshold)",
    async ({ op, M, K, threshold, dispatches, apart = 7 }) => {
      const loud = (k: number): boolean => k === 3 || k === 41;
      const rows = values(M * K, 37).map((value, i) => (loud(i % K) ? 40 : value));
      using x = Tensor.from(device, rows, [M, K]);
      using weight = flat(
        device,
        values(K, 7).map((value) => 2 + value / 10),
      );
      using bias = flat(device, values(K, 11));
      const norm = (): Tensor => {
        if (op === "rms_norm") return rmsNorm(x, weight, 1e-6, 1);
        return layerNorm(x, weight, op === "layer_norm" ? bias : undefined, 1e-5);
      };
      const weights = [9, 6, 4].map((n) => int8Weight(device, n, K, threshold));
      const seen = weights.map((one) => one.seen);
      const outcomes: Awaited<ReturnType<typeof run>>[] = [];
      for (const together of [true, false]) {
        for (const one of seen) one.write(new Uint8Array(K));
        let y: Tensor | undefined;
        const products = weights.map((one) => () => llmInt8Linear(y!, one));
        outcomes.push(await run(together, [() => (y = norm()), ...products], seen));
      }
      expect(outcomes[0]!.results).toEqual(outcomes[1]!.results);
      expect(outcomes[0]!.dispatches).toBe(dispatches);
      expect(outcomes[1]!.dispatches).toBe(apart); // separate batches share no scratch: each product quantizes the rows
      const columns = Array.from({ length: K }, (_, k) => Number(threshold > 0 && loud(k)));
      for (const marks of outcomes[0]!.results.slice(4)) expect(Array.from(marks)).toEqual(columns);
      for (const { codes, scb, seen: own } of weights) for (const tensor of [codes, scb, own]) tensor.dispose();
    },
  );

  test("rows that a norm quantized are quantized again after a write, and outliers are marked for the right product", async () => {
    using x = Tensor.from(device, values(64, 37), [1, 64]);
    using weight = flat(device, new Float32Array(64).fill(8));
    using other = Tensor.from(device, values(64, 41), [1, 64]);
    const product = int8Weight(device, 5, 64, 6);
    using zeros = flat(device, new Uint8Array(64));
    const results: Uint8Array[][] = [];
    for (const together of [true, false]) {
      product.seen.write(new Uint8Array(64).fill(1));
      let y: Tensor | undefined;
      const steps = [
        () => (y = rmsNorm(x, weight, 1e-6)),
        () => void copyInto(zeros, product.seen),
        () => llmInt8Linear(y!, product),
        () => void copyInto(other, y!),
        () => llmInt8Linear(y!, product),
      ];
      results.push((await run(together, steps, [product.seen])).results);
    }
    expect(results[0]).toEqual(results[1]);
    expect(results[0]![1]).not.toEqual(results[0]![2]);
    expect(Math.max(...results[0]!.at(-1)!)).toBe(1); // outliers of the first product, marked after the zeros
    expect(Math.min(...results[0]!.at(-1)!)).toBe(0);
    for (const tensor of [product.codes, product.scb, product.seen]) tensor.dispose();
  });

  test.each(GATES)(
    "a gate opens what is multiplied beside it: $name, $M rows, $N results ($limits limits)",
    async (form) => {
      const { scheme, M, N, limits, dispatches, apart: most = 3 } = form;
      const own = await openWebGPU(sharedGPU!, { limits });
      await using on = new Device(own);
      using x = Tensor.from(on, values(M * 128, 37), [M, 128]);
      const weights = [31, 43].map((seed) => {
        using rows = Tensor.from(on, values(N * 128, seed), [N, 128]);
        const builder = scheme.begin(on, [N, 128], "weight");
        builder.put(rows, 0);
        return builder.finish();
      });
      for (const act of ["silu", "gelu"] as const) {
        for (const order of [
          [0, 1],
          [1, 0],
        ] as const) {
          const made: Tensor[] = [];
          const steps = [
            () => (made[order[0]] = weights[order[0]]!.linear(x)),
            () => (made[order[1]] = weights[order[1]]!.linear(x)),
            () => gated(made[0]!, made[1]!, act),
          ];
          const outcomes: Awaited<ReturnType<typeof run>>[] = [];
          for (const together of [true, false]) {
            x.write(values(M * 128, 37)); // so that quantized rows in scratch are not reused
            outcomes.push(await run(together, steps, [], own, on));
          }
          const [together, apart] = outcomes as [(typeof outcomes)[0], (typeof outcomes)[0]];
          expect([together.dispatches, apart.dispatches]).toEqual([dispatches, most]);
          expect(together.results).toEqual(apart.results);
        }
      }
      for (const weight of weights) weight.dispose();
      x.dispose();
      expectNoLeaks(on);
    },
  );

  test("a gate that was overwritten is used with its new values", async () => {
    using x = Tensor.from(device, values(64, 37), [1, 64]);
    using rows = Tensor.from(device, values(6 * 64, 31), [6, 64]);
    using other = Tensor.from(device, values(6, 3), [1, 6]);
    const results: Uint8Array[][] = [];
    for (const together of [true, false]) {
      let [gate, up]: (Tensor | undefined)[] = [];
      const steps = [
        () => (gate = linear(x, rows)),
        () => (up = linear(x, rows)),
        () => void copyInto(other, gate!),
        () => gated(gate!, up!, "silu"),
      ];
      results.push((await run(together, steps)).results);
    }
    expect(results[0]).toEqual(results[1]);
  });

  test("two gates of the same products, and three appends: all results are written", async () => {
    using x = Tensor.from(device, values(64, 37), [1, 64]);
    const matrices = [31, 43].map((seed) => Tensor.from(device, values(16 * 64, seed), [16, 64]));
    using positions = Tensor.from(device, Int32Array.of(3), [1, 1]);
    using frequencies = flat(device, Float32Array.of(1, 0.1));
    using table = ropeTable(positions, frequencies, 1);
    using lanes = Tensor.from(device, Int32Array.of(0, 1), [2, 1, 1]);
    using pages = Tensor.from(device, Int32Array.of(2, 0), [1, 2]);
    const caches = [0, 1, 2].map(() => Tensor.empty(device, [1, 2, 2, 8], "bf16"));
    const outcomes: Awaited<ReturnType<typeof run>>[] = [];
    for (const together of [true, false]) {
      for (const cache of caches) cache.writeBytes(new Uint8Array(64));
      const made: Tensor[] = [];
      const heads = (tensor: Tensor): Tensor => made[made.push(tensor.view(1, 1, 2, 8)) - 1]!;
      let [gate, up, q, k]: Tensor[] = [];
      const steps = [
        () => (gate = linear(x, matrices[0]!)),
        () => (up = linear(x, matrices[1]!)),
        () => gated(gate!, up!, "silu"),
        () => gated(gate!, up!, "gelu"),
        () => (q = rope(heads(gate!), table)),
        () => (k = rope(heads(up!), table)),
        () => void kvAppend(k!, lanes, pages, caches[0]!),
        () => void kvAppend(heads(gate!), lanes, pages, caches[1]!),
        () => void kvAppend(q!, lanes, pages, caches[2]!),
      ];
      outcomes.push(await run(together, steps, caches));
      for (const tensor of made) tensor.dispose();
    }
    expect(outcomes[0]!.results).toEqual(outcomes[1]!.results);
    // Products with one gate, the other gate; places, rotations with two appends, the third append. Without fusion each
    // append computes the places.
    expect([outcomes[0]!.dispatches, outcomes[1]!.dispatches]).toEqual([5, 12]);
    for (const tensor of [...matrices, ...caches]) tensor.dispose();
  });

  test.each(ROWS)("a product quantizes its one row of $K itself, outliers from $threshold", async (form) => {
    const { K, N, threshold, dispatches } = form;
    const row = values(K, 37);
    using one = Tensor.from(device, row, [1, K]);
    using two = Tensor.from(device, Float32Array.from([...row, ...row]), [2, K]);
    using bias = flat(device, values(N, 5));
    using residual = Tensor.from(device, values(2 * N, 3), [2, N]);
    const weight = int8Weight(device, N, K, threshold);
    const options = [
      { bias, act: "gelu" },
      { residual: residual.narrow(0, 0, 1), twice: residual },
    ] as const;
    for (const { ...given } of options) {
      const twice = "twice" in given ? { residual: given.twice } : given;
      const outcomes: Awaited<ReturnType<typeof run>>[] = [];
      for (const product of [() => llmInt8Linear(one, weight, given), () => llmInt8Linear(two, weight, twice)]) {
        weight.seen.write(new Uint8Array(K));
        outcomes.push(await run(true, [product], [weight.seen]));
      }
      const [alone, pair] = outcomes as [(typeof outcomes)[0], (typeof outcomes)[0]];
      expect(alone.results[0]).toEqual(pair.results[0]!.subarray(0, 4 * N));
      const marks = Array.from(row, (value) => Number(threshold > 0 && Math.abs(value) >= Math.fround(threshold)));
      expect(marks.includes(1)).toBe(threshold > 0);
      for (const { results } of outcomes) expect(Array.from(results[1]!)).toEqual(marks);
      expect(alone.dispatches).toBe(dispatches);
    }
    options[1].residual.dispose();
    for (const tensor of [weight.codes, weight.scb, weight.seen]) tensor.dispose();
  });

  test.each(APPENDS)(
    "rotations go with appends to a cache of $dtype ($limits limits)",
    async ({ dtype, limits, count }) => {
      const own = await openWebGPU(sharedGPU!, { limits });
      await using on = new Device(own);
      using rig = rotationsAndAppends(own, on, dtype);
      const { append } = rig;
      for (const positionsInRow of [
        [0, 1, 1, 2],
        [2, 0, 0, 1],
      ]) {
        using lanes = Tensor.from(on, Int32Array.of(0, 0, 1, 1, ...positionsInRow), [2, 2, 2]);
        const [few, together] = await append(lanes, true);
        const [apart, alone] = await append(lanes, false);
        expect([few, apart]).toEqual([count, 6]);
        expect(await Promise.all(together)).toEqual(await Promise.all(alone));
      }
      // Reads of each cache reject with the failure of its own call; the rotated queries and keys are valid.
      for (const [lane, problem] of [
        [[0, 0, 2, 1, 0, 1, 0, 1], "a lane is of row 2; the table has 2"],
        [[0, 0, 1, 1, 0, -1, 0, 1], "a lane stands at position -1"],
      ] as const) {
        using outside = Tensor.from(on, Int32Array.from(lane), [2, 2, 2]);
        const [, [q1, k1, ...caches]] = await append(outside, true);
        const [, [q2, k2]] = await append(outside, false);
        expect([await q1, await k1]).toEqual([await q2, await k2]);
        const messages = (await Promise.allSettled(caches)).map((outcome) =>
          outcome.status === "rejected" ? (outcome.reason as Error).message : "read",
        );
        for (const [i, message] of messages.entries()) {
          const name = i < messages.length / 2 ? "first" : "second";
          expect(message).toContain(`kv_append in ${name}: ${problem}`);
        }
      }
      rig[Symbol.dispose]();
      expectNoLeaks(on);
    },
  );

  test("a recorded step fuses too, and a failure names the call that failed", async () => {
    using positions = Tensor.from(device, Int32Array.of(3), [1, 1]);
    using frequencies = flat(device, Float32Array.of(1, 0.1));
    using table = ropeTable(positions, frequencies, 1);
    using x = Tensor.from(device, values(64, 37), [1, 64]);
    using scale = flat(device, new Float32Array(64).fill(8));
    const weights = [16, 16, 16].map((n) => int8Weight(device, n, 64, 6));
    const caches = [0, 1].map(() => Tensor.from(device, new Float32Array(64), [2, 2, 2, 8]));
    using lanes = Tensor.from(device, Int32Array.of(0, 0), [2, 1, 1]);
    using pages = Tensor.from(device, Int32Array.of(4, 0, 1), [1, 3]);
    using out = Tensor.empty(device, [1, 16], "f32");
    using turned = Tensor.empty(device, [1, 1, 2, 8], "f32");
    const step = (): void =>
      scope(() => {
        const h = rmsNorm(x, scale, 1e-6);
        const [q, k, v] = weights.map((weight) => llmInt8Linear(h, weight).view(1, 1, 2, 8));
        const queries = rope(q!, table);
        const keys = rope(k!, table);
        const from = device.enter("keys");
        kvAppend(keys, lanes, pages, caches[0]!);
        device.enter("values");
        kvAppend(v!, lanes, pages, caches[1]!);
        device.enter(from);
        copyInto(queries, turned);
        const [gate, up] = weights.slice(1).map((weight) => llmInt8Linear(h, weight));
        copyInto(gated(gate!, up!, "silu"), out);
        advanceLanes(lanes, 1);
        return undefined;
      });
    const kept = [out, turned, ...caches];
    const each = async () => (await Promise.all(kept.map((tensor) => tensor.readBytes()))).map((bytes) => [...bytes]);
    using recording = device.capture(step);
    const replayed: number[][][] = [];
    for (let i = 0; i < 4; i++) {
      const before = backend.statistics.dispatches;
      recording.replay();
      // Norm with rows, q + k + v, places, rotations with appends, gate + up with gated, two copies, and the lanes.
      expect(backend.statistics.dispatches - before).toBe(8);
      replayed.push(await each());
    }
    lanes.write(Int32Array.of(0, -3));
    recording.replay();
    await expect(caches[0]!.read()).rejects.toThrow(/^kv_append in keys: a lane stands at position -3/);
    await expect(caches[1]!.read()).rejects.toThrow(/^kv_append in values: a lane stands at position -3/);
    expect([[...(await out.readBytes())], [...(await turned.readBytes())]]).toEqual(replayed[3]!.slice(0, 2));
    for (const cache of caches) cache.write(new Float32Array(64));
    lanes.write(Int32Array.of(0, 0));
    for (let i = 0; i < 4; i++) {
      step();
      expect(await each()).toEqual(replayed[i]);
    }
    for (const { codes, scb, seen } of weights) for (const tensor of [codes, scb, seen]) tensor.dispose();
    for (const cache of caches) cache.dispose();
  });
});
