// DeBERTa's relative positions: buckets as transformers has them, long texts by pieces, the names of published files.

import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { OptionError } from "../../src/core/errors.js";
import { scope, Tensor } from "../../src/core/tensor.js";
import { AutoModelForMaskedLM, AutoModelForSequenceClassification } from "../../src/generate/auto.js";
import type { PreTrainedEncoder } from "../../src/generate/encoder-model.js";
import { save } from "../../src/load/state-file.js";
import { RelativeRows, read, rowOf } from "../../src/models/_deberta.js";
import { signedBucketOf } from "../../src/nn/buckets.js";
import { copyOf, editJson } from "../support/checkpoints.js";
import { expectNoLeaks, requestTestDevice } from "../support/devices.js";
import { difference, FIXTURES, readArrays, readJson } from "../support/fixtures.js";

describe("buckets", () => {
  const cases = readJson<{ buckets: number; max: number; rows: number[] }[]>("deberta_buckets.json");

  test.each(cases)("$buckets up to $max", ({ buckets, max, rows }) => {
    expect(rows.map((_, distance) => signedBucketOf(distance, buckets, max))).toEqual(rows);
    expect(rows.map((_, distance) => signedBucketOf(0 - distance, buckets, max))).toEqual(rows.map((row) => 0 - row));
  });

  test("rows of the table that a text looks at", () => {
    const c = read(readJson("models", "deberta-v2", "config.json"));
    for (const steps of [1, 2, 5, 9, 40, 200]) {
      const rows = new RelativeRows(c, steps);
      const [from, count] = steps > 3 ? [2, steps - 3] : [0, steps];
      const [byQuery, byKey] = [rows.places(from, count, false), rows.places(from, count, true)];
      for (let i = 0; i < count; i++) {
        for (let j = 0; j < steps; j++) {
          const row = rowOf(from + i - j, c) - rows.first;
          expect(row).toBeLessThan(rows.count);
          expect([byQuery[i * steps + j], byKey[i * steps + j]]).toEqual([i * rows.count + row, j * rows.count + row]);
        }
      }
      expect(rows.count).toBeLessThanOrEqual(Math.min(2 * c.span, 2 * steps - 1));
    }
  });
});

describe("long texts", () => {
  let device: Device;
  let model: PreTrainedEncoder<"sequence-classification">;
  beforeAll(async () => {
    device = await requestTestDevice("cpu");
    model = await AutoModelForSequenceClassification.from_pretrained(join(FIXTURES, "models", "deberta-v3"), {
      device,
    });
  });
  afterAll(async () => {
    model.dispose();
    expectNoLeaks(device);
    await device.close();
  });

  const text = (length: number, seed: number): number[] =>
    Array.from({ length }, (_, t) => 3 + ((t * t * 7 + t * seed + seed) % 150));
  const run = async (rows: number[][], whole = false): Promise<number[]> => {
    const longest = Math.max(...rows.map((row) => row.length));
    const fill = (row: number[], what: number): number[] => [
      ...row,
      ...new Array<number>(longest - row.length).fill(what),
    ];
    const { logits, attentions = [] } = model.forward({
      input_ids: rows.map((row) => fill(row, 0)),
      attention_mask: rows.map((row) =>
        fill(
          row.map(() => 1),
          0,
        ),
      ),
      output_attentions: whole,
    });
    for (const one of attentions) one.dispose();
    const values = [...(await logits.readFloats())];
    logits.dispose();
    return values;
  };

  test("queries in pieces give what all at once give", async () => {
    const rows = [text(1300, 5)];
    expect(difference(await run(rows), await run(rows, true)).max).toBeLessThan(1e-5);
  });

  test("rows in pieces give what each row alone gives", async () => {
    const rows = [text(800, 5), text(700, 11), text(9, 2)];
    const together = await run(rows);
    const alone = (await Promise.all(rows.map((row) => run([row])))).flat();
    expect(difference(together, alone).max).toBeLessThan(1e-5);
  });

  test("memory of a long text is bounded by pieces", async () => {
    const peakOf = async (length: number): Promise<number> => {
      device.arena.resetPeak();
      const before = device.memory.live;
      await run([text(length, 3)]);
      return device.memory.peak - before;
    };
    const whole = 3 * 3200 * 3200 * 4; // what is added to the scores of one layer, of which several copies would be held
    expect(await peakOf(3200)).toBeLessThan(0.8 * whole);
  });
});

test("padding on the left, before a convolution", async () => {
  const device = await requestTestDevice("cpu");
  const model = await AutoModelForMaskedLM.from_pretrained(join(FIXTURES, "models", "deberta-v2"), { device });
  const run = async (input_ids: number[][], attention_mask?: number[][]): Promise<Float32Array> => {
    const { logits } = model.forward({ input_ids, ...(attention_mask ? { attention_mask } : {}) });
    const values = await logits.readFloats();
    logits.dispose();
    return values;
  };
  const text = [5, 90, 33, 7, 61, 12, 80];
  const padded = await run([[0, 0, 0, ...text]], [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1]]);
  const alone = await run([text]);
  expect(difference(padded.subarray((3 / 10) * padded.length), alone).max).toBeLessThan(1e-5);
  model.dispose();
  expectNoLeaks(device);
  await device.close();
});

/** A copy of the fixture with other tensors. */
async function withTensors(
  device: Device,
  change: (stored: Map<string, { shape: readonly number[]; values: ArrayLike<number> }>) => void,
): Promise<string> {
  const folder = copyOf("models", "deberta-v2");
  const stored = new Map(readArrays("models", "deberta-v2", "model.safetensors"));
  change(stored as never);
  const tensors = [...stored].map(([name, { shape, values }]): [string, Tensor] => [
    name,
    Tensor.from(device, Float32Array.from(values), shape),
  ]);
  await save(new Map(tensors), join(folder, "model.safetensors"));
  for (const [, tensor] of tensors) tensor.dispose();
  return folder;
}

test("files as microsoft/deberta-v3-base has them: the other head, positions and predictions that nothing uses", async () => {
  const device = await requestTestDevice("reference");
  const folder = await withTensors(device, (stored) => {
    for (const [name, array] of [...stored]) {
      const other = name
        .replace(/^cls\.predictions\.transform\./, "lm_predictions.lm_head.")
        .replace(/^cls\.predictions\.bias$/, "lm_predictions.lm_head.bias");
      stored.delete(name);
      stored.set(other, array);
    }
    stored.set("deberta.embeddings.position_embeddings.weight", { shape: [2, 3], values: [1, 2, 3, 4, 5, 6] });
    stored.set("mask_predictions.dense.weight", { shape: [2], values: [1, 2] });
  });
  editJson(join(folder, "config.json"), { legacy: undefined, architectures: undefined });
  const model = await AutoModelForMaskedLM.from_pretrained(folder, { device });
  expect(model.warnings).toEqual([]);
  const { inputs, tolerance_fp32 } = readJson<{
    inputs: { single: { input_ids: number[][] } };
    tolerance_fp32: number;
  }>("models", "deberta-v2", "expected.json");
  const { logits } = model.forward(inputs.single);
  const want = readArrays("models", "deberta-v2", "expected.safetensors").get("fp32.single.logits")!;
  expect(difference(await logits.readFloats(), want.values).max).toBeLessThan(tolerance_fp32);
  logits.dispose();
  model.dispose();
  expectNoLeaks(device);
  await device.close();
});

test("several texts in a row, which a convolution cannot tell apart, are refused", async () => {
  const device = await requestTestDevice("reference");
  const model = await AutoModelForMaskedLM.from_pretrained(join(FIXTURES, "models", "deberta-v2"), { device });
  const ints = (...values: number[]): Tensor => Tensor.from(device, Int32Array.from(values), [1, values.length]);
  expect(() =>
    scope(() => {
      using pass = model.module.pass({ positions: ints(0, 1, 0), segments: ints(0, 0, 1) });
      return model.module.hidden(pass, ints(5, 6, 7));
    }),
  ).toThrow(OptionError);
  model.dispose();
  expectNoLeaks(device);
  await device.close();
});
