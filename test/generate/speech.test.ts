// Transcripts with times and of long sound, as transformers gives them for a small random Whisper (test/fixtures/speech, made by
// make_speech.py).

import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import type { Device } from "../../src/core/device.js";
import { ConfigError, OptionError } from "../../src/core/errors.js";
import { Tensor } from "../../src/core/tensor.js";
import { AutoFeatureExtractor, AutoModelForSpeechSeq2Seq } from "../../src/generate/auto.js";
import { WhisperTimeStampLogitsProcessor } from "../../src/generate/processors/host/index.js";
import type { PreTrainedSpeechSeq2Seq } from "../../src/generate/speech-model.js";
import type { SpeechOutput } from "../../src/generate/transcribe.js";
import { compressionRatio } from "../../src/generate/window.js";
import type { FeatureExtractor, SoundFeatures } from "../../src/media/feature-extractor.js";
import { copyOf, editJson } from "../support/checkpoints.js";
import { ALL_DEVICES, expectNoLeaks, openTestDevice, requestTestDevice } from "../support/devices.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { sound } from "../support/sound.js";

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

test("a device, a tensor, part of a window and a stream give the same", async () => {
  const { input_features: whole, attention_mask } = await heard([15_000]);
  const features = Tensor.from(device, whole!.data, whole!.shape);
  const given = { language: "en", max_new_tokens: 6, return_timestamps: true };
  const want = await model.generate({ input_features: whole!, ...given });
  expect(await model.generate({ input_features: features, attention_mask, ...given })).toEqual(want);
  features.dispose();
  const written: number[] = [];
  for await (const { token_ids } of model.stream({ input_features: whole!, ...given })) written.push(token_ids[0]!);
  // A stream is of one window; what follows the last time of it is said again in the next.
  expect(written).toHaveLength(6);
  expect(written.slice(0, 5)).toEqual(want[0]!.slice(0, 5));
  const { data, shape } = whole!;
  const [, mels = 0, frames = 0] = shape;
  const part = Float32Array.from({ length: mels * 40 }, (_, at) => data[Math.floor(at / 40) * frames + (at % 40)]!);
  const progress: (readonly (readonly [number, number])[])[] = [];
  const monitor_progress = (rows: readonly (readonly [number, number])[]): void => void progress.push(rows);
  await model.generate({ input_features: { data: part, shape: [1, mels, 40] }, ...given, monitor_progress });
  expect(progress[0]).toEqual([[0, 40]]);
  const plain = { language: "en", max_new_tokens: 2, monitor_progress };
  await model.generate({ input_features: whole!, ...plain });
  expect(progress.at(-1)).toEqual([[0, 100]]);
  const timed = { ...given, max_new_tokens: 4, return_token_timestamps: true } as const; // one window
  const expected = await model.generate({ input_features: whole!, ...timed });
  for (const name of ALL_DEVICES.filter((one) => ["reference", "wasm"].includes(one))) {
    const other = await requestTestDevice(name);
    const same = await AutoModelForSpeechSeq2Seq.from_pretrained(folder, { device: other, dtype: "float32" });
    expect(await same.generate({ input_features: whole!, ...timed }), name).toEqual(expected);
    same.dispose();
    expectNoLeaks(other);
    await other.close();
  }
});

test("windows that are not good enough are tried again, each row by itself", async () => {
  const features = await heard([41_000, 15_000]);
  const given = { language: "en", seed: 5, return_timestamps: true, max_new_tokens: 12 };
  const likely = { logprob_threshold: -1.1 };
  const ofRow = async (length: number, pitch: number, options: object): Promise<number[]> => {
    const own = await ears(sound(length, 16_000, pitch), {
      return_attention_mask: true,
      truncation: false,
      padding: length > 16_000 ? "longest" : "max_length",
    });
    const [row] = await model.generate({ ...(own as Required<SoundFeatures>), ...given, ...options });
    return row!;
  };
  const greedy = await ofRow(41_000, 220, {});
  const hot = await ofRow(41_000, 220, { temperature: 0.9 });
  expect(hot).not.toEqual(greedy);
  expect(await ofRow(41_000, 220, { temperature: [0, 0.9], logprob_threshold: 0 })).toEqual(hot);
  expect(await ofRow(41_000, 220, { temperature: [0, 0.9], logprob_threshold: -1e9 })).toEqual(greedy);
  expect(await ofRow(41_000, 220, { temperature: 0.9, seed: 6 })).not.toEqual(hot);
  const both = await model.generate({
    ...(features as Required<SoundFeatures>),
    ...given,
    ...likely,
    temperature: [0, 0.3],
  });
  const alone = await ofRow(41_000, 220, { ...likely, temperature: [0, 0.3] });
  expect(both[0]!.slice(0, alone.length)).toEqual(alone);
  // Several samples of one sound differ.
  const one = (await heard([15_000])) as Required<SoundFeatures>;
  const samples = await model.generate({ ...one, ...given, temperature: 1, num_return_sequences: 2 });
  expect(samples).toHaveLength(2);
  expect(samples[0]).not.toEqual(samples[1]);
});

test("a window is encoded once, whatever its languages and tries are", async () => {
  const one = (await heard([15_000])) as Required<SoundFeatures>;
  const encode = vi.spyOn(model.module, "encode");
  const monitor_progress = vi.fn();
  const tries = { temperature: [0, 0.4, 0.8], logprob_threshold: 0 };
  await model.generate({
    ...one,
    ...tries,
    num_beams: 2,
    max_new_tokens: 6,
    return_timestamps: true,
    monitor_progress,
  });
  expect(encode).toHaveBeenCalledTimes(monitor_progress.mock.calls.length);
  encode.mockRestore();
});

test("a transcript of a model that is disposed meanwhile fails", async () => {
  const other = await AutoModelForSpeechSeq2Seq.from_pretrained(folder, { device });
  const one = (await heard([41_000])) as Required<SoundFeatures>;
  const monitor_progress = vi.fn(() => other.dispose());
  await expect(other.generate({ ...one, language: "en", monitor_progress })).rejects.toThrow(/used after dispose/);
  expect(monitor_progress).toHaveBeenCalledTimes(1);
});

test("how well ids compress", async () => {
  const ids = Array.from({ length: 50 }, (_, n) => n + 1);
  expect(await compressionRatio(ids.fill(7), 51_865)).toBeCloseTo(100 / 13, 6);
  expect(
    await compressionRatio(
      Array.from({ length: 50 }, (_, n) => n + 1),
      51_865,
    ),
  ).toBeCloseTo(100 / 77, 6);
});

test("the rule about times", () => {
  const config = { no_timestamps_token_id: 4, eos_token_id: [3], max_initial_timestamp_index: 1 };
  const rule = new WhisperTimeStampLogitsProcessor(config, 1);
  const after = (ids: number[], scores: number[]): number[] => {
    const values = Float32Array.from(scores);
    rule.change(values, [9, ...ids]);
    return [...values.keys()].filter((id) => values[id]! > Number.NEGATIVE_INFINITY);
  };
  const flat = [5, 5, 5, 5, 5, 0, 0, 0, 0]; // ids 5 to 8 are times
  expect(after([], flat)).toEqual([5, 6]);
  expect(after([6], flat)).toEqual([0, 1, 2, 3]);
  expect(after([6, 1], flat)).toEqual([0, 1, 2, 3, 7, 8]);
  expect(after([6, 1, 7], flat)).toEqual([3, 7, 8]);
  expect(after([6, 1, 7, 7], flat)).toEqual([0, 1, 2, 3]);
  expect(after([6, 1], [1, 1, 1, 1, 1, 0, 0, 0.9, 0.9])).toEqual([7, 8]); // together they are likelier
  expect(() => new WhisperTimeStampLogitsProcessor({ eos_token_id: 1 } as never, 1)).toThrow(OptionError);
});

test("what cannot be is refused", async () => {
  const short = (await heard([15_000])) as Required<SoundFeatures>;
  const long = (await heard([41_000, 30_100])) as Required<SoundFeatures>;
  const refused = (options: object, message: RegExp): Promise<void> =>
    expect(model.generate({ ...short, ...options } as never)).rejects.toThrow(message);
  await refused({ ...long, return_timestamps: false }, /256 frames are more than the 100 of a window/);
  await refused({ ...long, attention_mask: undefined }, /need an attention_mask/);
  await refused({ return_timestamps: true, decoder_input_ids: [[301]] }, /decoder_input_ids starts one text/);
  await refused({ no_speech_threshold: 0.6 }, /counts only below logprob_threshold/);
  await refused({ prompt_ids: [999] }, /999 is not a token id below 362/);
  await refused({ prompt_ids: [1], prompt_condition_type: "all-segments" }, /needs condition_on_prev_tokens/);
  await refused({ prompt_condition_type: "all-segments" }, /needs condition_on_prev_tokens/);
  await refused({ return_timestamps: true, streamer: { put() {}, end() {} } }, /streamer is for one window/);
  await refused({ return_timestamps: true, max_new_tokens: 43 }, /45 tokens are more than the 44 positions/);
  await refused({ temperature: [] }, /temperature must be/);
  const controller = new AbortController();
  controller.abort();
  await refused({ return_timestamps: true, signal: controller.signal }, /abort/i);
  const folderWith = (more: Record<string, unknown>): string => {
    const copy = copyOf("speech", "whisper");
    editJson(join(copy, "generation_config.json"), more);
    return copy;
  };
  for (const [more, options, message] of [
    [{ no_timestamps_token_id: null }, { return_timestamps: true }, /no_timestamps_token_id is missing/],
    [{ alignment_heads: null }, { return_token_timestamps: true }, /alignment_heads is missing/],
    [{ alignment_heads: [[7, 0]] }, { return_timestamps: "word" }, /alignment_heads is/],
  ] as const) {
    const other = await AutoModelForSpeechSeq2Seq.from_pretrained(folderWith(more), { device });
    await expect(other.generate({ ...short, ...options })).rejects.toThrow(ConfigError);
    await expect(other.generate({ ...short, ...options })).rejects.toThrow(message);
    other.dispose();
  }
});
