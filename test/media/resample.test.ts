// Sound at other rates, against a float64 computation of torchaudio's rule (test/fixtures/speech, made by make_speech.py).

import { join } from "node:path";
import { expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { AutoFeatureExtractor } from "../../src/generate/auto.js";
import { resample } from "../../src/media/resample.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { sound } from "../support/sound.js";

interface Rate {
  from: number;
  to: number;
  samples: number;
  values: number[];
}
const { rates } = readJson<{ rates: Rate[] }>("speech", "cases.json");

test.each(rates)("$from Hz to $to Hz", ({ from, to, samples, values }) => {
  const found = resample(sound(samples, from), from, to);
  expect(found.length).toBe(values.length);
  // f32 samples of at most 1, and stored values of 9 digits.
  for (const [n, value] of values.entries()) expect(Math.abs(found[n]! - value)).toBeLessThan(2e-7);
});

test("odd rates, and those that sound does not have", () => {
  const samples = sound(40, 16_001);
  expect(resample(samples, 16_000, 16_000)).toBe(samples);
  const there = resample(resample(sound(2000, 16_000), 16_000, 16_001), 16_001, 16_000);
  // What comes back is the sound, but for its ends and for what is near half the rate.
  for (let t = 100; t < 1900; t++) expect(Math.abs(there[t]! - sound(2000, 16_000)[t]!)).toBeLessThan(2e-3);
  expect(resample(new Float32Array(0), 8_000, 16_000)).toHaveLength(0);
  expect(resample(Float32Array.of(1), 1_000_000, 1)).toHaveLength(1);
  for (const rate of [0, -1, 2.5, 1e9, Number.NaN]) expect(() => resample(samples, rate, 16_000)).toThrow(OptionError);
});

test("a WAV file and samples of another rate are heard as at the model's, of two channels as their mean", async () => {
  const extractor = await AutoFeatureExtractor.from_pretrained(join(FIXTURES, "speech", "labels"));
  const own = resample(sound(400, 8_000), 8_000, 16_000);
  const want = (await extractor(own)).input_values!.data;
  const bytes = new DataView(new ArrayBuffer(44 + 1600));
  const text = (at: number, word: string): void => {
    for (const [n, letter] of [...word].entries()) bytes.setUint8(at + n, letter.charCodeAt(0));
  };
  text(0, "RIFF");
  text(8, "WAVEfmt ");
  for (const [at, value] of [
    [16, 16],
    [24, 8_000],
    [40, 1600],
  ] as const)
    bytes.setUint32(at, value, true);
  for (const [at, value] of [
    [20, 3],
    [22, 1],
    [34, 32],
  ] as const)
    bytes.setUint16(at, value, true);
  text(36, "data");
  sound(400, 8_000).forEach((sample, n) => {
    bytes.setFloat32(44 + 4 * n, sample, true);
  });
  expect((await extractor(new Uint8Array(bytes.buffer))).input_values!.data).toEqual(want);
  for (const name of ["samples", "raw", "array"]) {
    const input = { [name]: sound(400, 8_000), sampling_rate: 8_000 } as never;
    expect((await extractor(input)).input_values!.data, name).toEqual(want);
  }
  const other = sound(400, 8_000, 300);
  const mean = other.map((sample, t) => (sample + sound(400, 8_000)[t]!) / 2);
  expect(await extractor.samples({ raw: [sound(400, 8_000), other], sampling_rate: 16_000 })).toEqual(mean);
});
