// Speech in pipelines: times, long sound, languages, labels and other rates, as transformers gives them (test/fixtures/speech, made by
// make_speech.py).

import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { AutoFeatureExtractor, AutoModelForAudioClassification, AutoTokenizer } from "../../src/generate/auto.js";
import { openDevice } from "../../src/load/device.js";
import { resample } from "../../src/media/resample.js";
import { pipeline } from "../../src/pipelines/node.js";
import { type TranscriptOptions, transcriptOf } from "../../src/pipelines/transcript.js";
import { expectNoLeaks } from "../support/devices.js";
import { expectNear, FIXTURES, readJson } from "../support/fixtures.js";
import { sound } from "../support/sound.js";

const device = openDevice("cpu", { threads: 2 });
afterAll(async () => {
  expectNoLeaks(device);
  await device.close();
});

interface Heard {
  samples: number;
  stride?: [number, number];
  options: Record<string, unknown>;
  found: unknown;
}
interface Cases {
  pipes: Heard[];
  decoded: Record<"plain" | "skipped" | "timed" | "timed_skipped", string>[] & { ids: number[]; offsets: unknown }[];
  joined: ({ outputs: { tokens: number[]; times: number[]; stride?: [number, number, number] }[]; text: string } & Pick<
    TranscriptOptions,
    "return_timestamps" | "return_language"
  > & { chunks?: object[] })[];
  labelled: Record<string, { lengths: number[]; logits: number[][]; unmasked: number[][]; pipes: Heard[] }>;
  spelled: (Heard | { ids: number[]; text: string; char_offsets: object[]; word_offsets: object[] })[];
}
const cases = readJson<Cases>("speech", "cases.json");
const folder = join(FIXTURES, "speech", "whisper");
const tokenizer = await AutoTokenizer.from_pretrained(folder);
const spelling = await AutoTokenizer.from_pretrained(join(FIXTURES, "pipelines", "ctc"));

test("tokens of times are read, written and left out as in Python", () => {
  for (const { ids, plain, skipped, timed, timed_skipped, offsets } of cases.decoded) {
    expect(tokenizer.decode(ids)).toBe(plain);
    expect(tokenizer.decode(ids, { skip_special_tokens: true })).toBe(skipped);
    expect(tokenizer.decode(ids, { decode_with_timestamps: true })).toBe(timed);
    expect(tokenizer.decode(ids, { decode_with_timestamps: true, skip_special_tokens: true })).toBe(timed_skipped);
    const found = tokenizer.decode(ids, { output_offsets: true });
    expectNear(found, { text: plain, offsets });
    for (const skip_special_tokens of [true, false]) {
      const stream = tokenizer.streamDecoder({ skip_special_tokens });
      const text = ids.map((id) => stream.push(id)).join("") + stream.end();
      expect(text).toBe(skip_special_tokens ? skipped : plain);
    }
  }
});

test("options about times are refused by tokenizers of other texts", () => {
  for (const options of [{ decode_with_timestamps: true }, { output_offsets: true }, { time_precision: 0.04 }]) {
    expect(() => spelling.decode([5], options)).toThrow(/for Whisper's tokenizers/);
  }
  expect(() => tokenizer.decode([5], { output_char_offsets: true })).toThrow(/for tokenizers of CTC models/);
});

test("outputs of chunks are joined as in Python", () => {
  const begin = tokenizer.convert_tokens_to_ids("<|notimestamps|>")! + 1;
  for (const { outputs, text, chunks, ...options } of cases.joined) {
    const found = transcriptOf(tokenizer, outputs, begin, { ...options, time_precision: 0.02 });
    expectNear(found, chunks ? { text, chunks } : { text });
  }
});

test("characters and words of CTC have their frames", () => {
  for (const one of cases.spelled) {
    if (!("ids" in one)) continue;
    const { ids, ...want } = one;
    expect(spelling.decode(ids, { output_char_offsets: true, output_word_offsets: true })).toEqual(want);
  }
});

const open = (which: "whisper" | "ctc") =>
  which === "whisper"
    ? pipeline("automatic-speech-recognition", folder, { device, dtype: "float32" })
    : pipeline("automatic-speech-recognition", join(FIXTURES, "models", "wav2vec2"), {
        device,
        tokenizer: spelling,
        feature_extractor: join(FIXTURES, "pipelines", "ctc"),
        dtype: "float32",
      });

test("Whisper's transcripts", async () => {
  await using pipe = await open("whisper");
  for (const { samples, options, found } of cases.pipes) {
    const input = { raw: sound(samples, 16_000), sampling_rate: 16_000 };
    expectNear(await pipe(input, options), found, JSON.stringify(options));
  }
});

test("transcripts of CTC", async () => {
  await using pipe = await open("ctc");
  for (const one of cases.spelled) {
    if ("ids" in one) continue;
    const { samples, stride, options, found } = one;
    const input = { raw: sound(samples, 16_000), sampling_rate: 16_000, ...(stride && { stride }) };
    expectNear(await pipe(input, options), found, JSON.stringify({ stride, ...options }));
  }
  const slow = sound(9000, 8000);
  const timed = { return_timestamps: "char" } as const;
  expect(await pipe({ raw: slow, sampling_rate: 8000, stride: [617, 1300] }, timed)).toEqual(
    await pipe({ raw: resample(slow, 8000, 16_000), sampling_rate: 16_000, stride: [1234, 2600] }, timed),
  );
  const raw = sound(900, 16_000);
  const of = (stride: unknown, options = {}) => pipe({ raw, sampling_rate: 16_000, stride } as never, options);
  await expect(of([450, 451])).rejects.toThrow(/stride: 450 and 451 samples at the sides, of 900/);
  for (const wrong of [[1], [-1, 0], [0.5, 0], 7, "left", [Number.NaN, 0]]) {
    await expect(of(wrong)).rejects.toThrow(/stride must be two numbers of samples/);
  }
  await expect(of([0, 9], { chunk_length_s: 1 })).rejects.toThrow(/chunk_length_s/);
  await using writer = await open("whisper");
  await expect(writer({ raw, sampling_rate: 16_000, stride: [0, 9] })).rejects.toThrow(/stride is for CTC models/);
});

test.each(["labels", "labels-weighted"])("labels of sound: %s", async (name) => {
  const place = join(FIXTURES, "speech", name);
  const { lengths, logits, unmasked, pipes } = cases.labelled[name]!;
  const model = await AutoModelForAudioClassification.from_pretrained(place, { device, dtype: "float32" });
  const ears = await AutoFeatureExtractor.from_pretrained(place);
  const sounds = lengths.map((length, n) => sound(length, 16_000, 200 + 130 * n));
  const { input_values, attention_mask } = await ears(sounds, { return_attention_mask: true });
  for (const [mask, want] of [[attention_mask, logits] as const, [undefined, unmasked] as const]) {
    const found = model.forward({ input_values: input_values!, attention_mask: mask }).logits;
    expectNear([...(await found.readFloats())], want.flat());
    found.dispose();
  }
  const pipe = await pipeline("audio-classification", model, { feature_extractor: ears });
  for (const { samples, options, found } of pipes) {
    expectNear(await pipe({ raw: sound(samples, 16_000), sampling_rate: 16_000 }, options), found);
  }
  const short = sound(3000, 16_000);
  expect(await pipe([short, short.slice(0, 900)], { top_k: 1 })).toEqual([
    await pipe(short, { top_k: 1 }),
    await pipe(short.slice(0, 900), { top_k: 1 }),
  ]);
  await expect(pipe({ raw: [short, short], sampling_rate: 16_000 })).rejects.toThrow(/one channel/);
  model.dispose();
});
