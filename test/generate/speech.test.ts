// Transcripts with times and of long sound, as transformers gives them for a small random Whisper (test/fixtures/speech, made by
// make_speech.py).

import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Device } from "../../src/core/device.js";
import { ConfigError, OptionError } from "../../src/core/errors.js";
import { AutoFeatureExtractor, AutoModelForSpeechSeq2Seq } from "../../src/generate/auto.js";
import { WhisperTimeStampLogitsProcessor } from "../../src/generate/processors/host/index.js";
import type { PreTrainedSpeechSeq2Seq } from "../../src/generate/seq2seq-model.js";
import type { SpeechOutput } from "../../src/generate/transcribe.js";
import { compressionRatio } from "../../src/generate/window.js";
import type { FeatureExtractor, SoundFeatures } from "../../src/media/feature-extractor.js";
import { expectNoLeaks, openTestDevice } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { sound } from "../support/sound.js";
import { temporary } from "../support/temporary.js";

interface Run {
  lengths: number[];
  options: Record<string, unknown>;
  found: SpeechOutput;
}
const { runs } = readJson<{ runs: Run[] }>("speech", "cases.json");
const folder = join(FIXTURES, "speech", "whisper");

let device: Device;
let model: PreTrainedSpeechSeq2Seq;
let ears: FeatureExtractor;
beforeAll(async () => {
  device = openTestDevice("cpu");
  model = await AutoModelForSpeechSeq2Seq.from_pretrained(folder, { device, dtype: "float32" });
  ears = await AutoFeatureExtractor.from_pretrained(folder);
});
afterAll(async () => {
  model.dispose();
  expectNoLeaks(device);
  await device.close();
});

/** Sounds as make_speech.py hears them. */
function heard(lengths: readonly number[]): Promise<SoundFeatures> {
  const sounds = lengths.map((length, n) => sound(length, 16_000, 220 + 90 * n));
  const long = Math.max(...lengths) > ears.n_samples!;
  const how = long ? { truncation: false, padding: "longest" as const } : {};
  return ears(sounds, { return_attention_mask: true, ...how });
}

/** Times are whole steps of 0.02 s, of which windows begin at multiples of 0.02 s too. */
function expectTimes(got: readonly number[] | undefined, want: readonly number[] | undefined, place: string): void {
  expect(got?.length, place).toBe(want?.length);
  want?.forEach((time, n) => {
    expect(Math.abs(got![n]! - time), `${place} ${n}`).toBeLessThan(1e-5);
  });
}

test.each(runs.map((run, n) => [`${n}: ${run.lengths} ${JSON.stringify(run.options)}`, run] as const))(
  "%s",
  async (_, { lengths, options, found: want }) => {
    const features = await heard(lengths);
    const found = await model.generate({ ...features, ...options } as never);
    if (!want.segments && !want.token_timestamps) {
      expect(found).toEqual(want.sequences);
      return;
    }
    const got = found as unknown as SpeechOutput;
    expect(got.sequences).toEqual(want.sequences);
    want.token_timestamps?.forEach((times, row) => {
      expectTimes(got.token_timestamps?.[row], times, `times of ${row}`);
    });
    want.segments?.forEach((segments, row) => {
      expect(got.segments?.[row]?.map(({ tokens }) => tokens)).toEqual(segments.map(({ tokens }) => tokens));
      for (const [n, segment] of segments.entries()) {
        const own = got.segments![row]![n]!;
        expectTimes([own.start, own.end], [segment.start, segment.end], `segment ${n}`);
        expectTimes(own.token_timestamps, segment.token_timestamps, `words of segment ${n}`);
      }
    });
  },
);
