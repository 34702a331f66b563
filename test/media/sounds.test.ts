// WAV files of all kinds as libsndfile reads them, and feature extractors under random configs (test/fixtures/make_sounds.py).

import { describe, expect, test } from "vitest";
import { FormatError, OctavoError } from "../../src/core/errors.js";
import { FeatureExtractor } from "../../src/media/feature-extractor.js";
import { NODE_MEDIA } from "../../src/media/node.js";
import { readWav } from "../../src/media/wav.js";
import { difference, readArrays, readJson } from "../support/fixtures.js";

interface Case {
  readonly config: Record<string, unknown>;
  readonly call: Record<string, unknown>;
  readonly sounds: number[];
  readonly mask?: number[];
}
const { files, cases } = readJson<{
  files: { kind: string; name: number; rate: number | null }[];
  cases: Case[];
}>("processors", "sounds.json");
const arrays = readArrays("processors", "sounds.safetensors");
const floats = (name: string): Float32Array => arrays.get(name)!.values as Float32Array;

describe("WAV", () => {
  test.each(files)("$kind (file $name)", ({ name, rate }) => {
    const bytes = arrays.get(`${name}.file`)!.values as Uint8Array;
    if (rate === null) {
      expect(() => readWav(bytes)).toThrow(FormatError);
      return;
    }
    const { samples, sampling_rate } = readWav(bytes);
    expect(sampling_rate).toBe(rate);
    // Channels are averaged in f64 on both sides; single samples are exact.
    expect(difference(samples, floats(`${name}.samples`)).max).toBeLessThanOrEqual(6e-8);
  });
});

describe("feature extractors", () => {
  test.each(cases.map((one, n) => ({ ...one, n })))("random config $n", async ({ config, call, sounds, mask, n }) => {
    const extractor = new FeatureExtractor(config, undefined, NODE_MEDIA);
    const run = extractor.run(
      sounds.map((i) => floats(`sound.${i}`)),
      call,
    );
    const want = arrays.get(`case.${n}`);
    if (!want) {
      await expect(run).rejects.toThrow(OctavoError);
      return;
    }
    const { input_features, input_values, attention_mask } = await run;
    const { data, shape } = (input_features ?? input_values)!;
    expect(shape).toEqual(want.shape);
    // torch computes the Fourier transform in f32, whose rounding the logarithm of weak bands shows.
    expect(difference(data, want.values).max).toBeLessThanOrEqual(1e-4);
    if (mask) expect(attention_mask!.map((row) => row.reduce((sum, bit) => sum + bit, 0))).toEqual(mask);
  });
});
