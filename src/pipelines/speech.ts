// automatic-speech-recognition: by encoder-decoders that write (Whisper), and by CTC. Long sound in chunks that overlap.

import { isList, listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import type { Table } from "../core/options.js";
import { number, type Options, omit, such } from "../core/options.js";
import type { PreTrainedFeatureModel } from "../generate/feature-model.js";
import { SPEECH_GENERATE } from "../generate/options.js";
import type { PreTrainedSpeechSeq2Seq } from "../generate/seq2seq-model.js";
import { PreTrainedSeq2SeqLM } from "../generate/seq2seq-model.js";
import type { FeatureExtractor, SoundInput } from "../media/feature-extractor.js";
import type { Logits } from "../nn/features.js";
import { withDefaults } from "./generation-defaults.js";
import { forBatch, inBatches, isText, kind, listed, type Parts, valuesOf } from "./kinds.js";

const seconds = (value: unknown): value is number => typeof value === "number" && value >= 0 && value < 86_400;

const CHUNKS = {
  /** Seconds of a chunk; 0, the default, for none. Sound longer than what the model hears at once needs it. */
  chunk_length_s: number(seconds, "a number of seconds"),
  /** Seconds by which chunks overlap: on both sides, or [left, right]; a sixth of a chunk by default. */
  stride_length_s: such<number | readonly [number, number]>(
    (value) => seconds(value) || listOf(value, seconds)?.length === 2,
    "a number of seconds, or two of them",
  ),
};
const OF_GENERATE = omit(SPEECH_GENERATE, [
  ...([
    "input_features",
    "attention_mask",
    "decoder_input_ids",
    "streamer",
    "tokenizer",
    "return_dict_in_generate",
  ] as const),
  ...(["output_scores", "output_logits", "num_return_sequences", "use_cache"] as const),
]);
const RECOGNIZE = { ...OF_GENERATE, ...CHUNKS } satisfies Table;
export interface SpeechRecognitionOptions extends Options<typeof RECOGNIZE> {}

/** What was said. */
export interface Transcript {
  readonly text: string;
}

/** What transformers' pipeline sets if nothing else does. */
const USUAL = { max_new_tokens: 256, num_beams: 5 };

interface Chunk {
  readonly samples: Float32Array;
  /** Samples at its sides that belong to its neighbours. */
  readonly left: number;
  readonly right: number;
}

/** Halves go to the even neighbour, as in Python. */
function rounded(value: number): number {
  const whole = Math.round(value);
  return Math.abs(value % 1) === 0.5 && whole % 2 !== 0 ? whole - 1 : whole;
}

/**
 * A sound cut into chunks that overlap.
 * @param ratio samples of one step of the model: chunks are whole steps
 * @throws OptionError
 */
function chunksOf(
  samples: Float32Array,
  { chunk_length_s = 0, stride_length_s = chunk_length_s / 6 }: SpeechRecognitionOptions,
  { sampling_rate, n_samples }: FeatureExtractor,
  ratio: number,
): Chunk[] {
  const aligned = (s: number): number => rounded((s * sampling_rate) / ratio) * ratio;
  const size = aligned(chunk_length_s);
  const most = n_samples ?? Number.POSITIVE_INFINITY;
  if (size > most || (size === 0 && samples.length > most)) {
    const length = size > most ? chunk_length_s : samples.length / sampling_rate;
    throw new OptionError(
      `${length.toFixed(1)} s are more than the ${most / sampling_rate} s that this model hears at once`,
      {
        details: { option: "chunk_length_s" },
        hint: `pass chunk_length_s: ${most / sampling_rate}`,
      },
    );
  }
  if (size === 0) return [{ samples, left: 0, right: 0 }];
  const [left, right] = [stride_length_s].flat().map(aligned) as [number, number?];
  const sides = [left, right ?? left] as const;
  const step = size - sides[0] - sides[1];
  if (step <= 0) {
    throw new OptionError("chunk_length_s must be more than the strides on both sides together", {
      details: { option: "stride_length_s" },
    });
  }
  const chunks: Chunk[] = [];
  for (let at = 0; at < samples.length; at += step) {
    const last = at + size >= samples.length;
    const own = samples.subarray(at, at + size);
    const behind = at === 0 ? 0 : sides[0];
    if (own.length > behind) chunks.push({ samples: own, left: behind, right: last ? 0 : sides[1] });
    if (last) break;
  }
  return chunks;
}

/**
 * Tokens of chunks that overlap as one text: where two of them match best, the left one goes on to the middle of the match and the
 * right one from there (transformers' tokenization_whisper.py).
 */
export function joined(sequences: readonly (readonly number[])[]): number[] {
  const all: number[] = [];
  let left = sequences[0] ?? [];
  for (const right of sequences.slice(1)) {
    let best = 0;
    let [leftMiddle, rightMiddle] = [left.length, 0];
    for (let i = 1; i < left.length + right.length; i++) {
      const [from, to] = [Math.max(0, left.length - i), Math.min(left.length, left.length + right.length - i)];
      const begin = Math.max(0, i - left.length);
      let matches = 0;
      for (let t = from; t < to; t++) if (left[t] === right[begin + t - from]) matches++;
      // Among equal shares the longer match wins.
      const score = matches / i + i / 10_000;
      if (matches < 2 || score <= best) continue;
      best = score;
      leftMiddle = (from + to) >> 1;
      rightMiddle = (begin + Math.min(right.length, i)) >> 1;
    }
    all.push(...left.slice(0, leftMiddle));
    left = right.slice(rightMiddle);
  }
  return [...all, ...left];
}

type Hears = Parts<PreTrainedSpeechSeq2Seq | PreTrainedFeatureModel<Logits>>;

/** Texts of one sound each. */
async function written(
  { model, tokenizer, feature_extractor, batch_size }: Parts<PreTrainedSpeechSeq2Seq>,
  sounds: readonly Float32Array[],
  options: SpeechRecognitionOptions,
): Promise<string[]> {
  const { chunk_length_s, stride_length_s, language, ...generation } = options;
  if (isList(language) && language.length !== sounds.length) {
    throw new OptionError(`language has ${language.length} entries for ${sounds.length} sounds`, {
      details: { option: "language" },
    });
  }
  const parts = sounds.flatMap((samples, sound) =>
    chunksOf(samples, options, feature_extractor, 1).map((chunk) => ({ sound, chunk })),
  );
  const special = new Set(tokenizer.all_special_ids);
  const found = await inBatches(
    parts,
    batch_size,
    ({ chunk }) => chunk.samples.length,
    async (batch, numbers) => {
      const { input_features } = await feature_extractor.run(batch.map(({ chunk }) => chunk.samples));
      const rows = await model.generate({
        ...forBatch(withDefaults(model, generation, USUAL), numbers),
        language: isList(language) ? batch.map(({ sound }) => language[sound]!) : language,
        num_return_sequences: 1,
        input_features: input_features!,
        tokenizer,
      });
      return rows.map((ids) => ids.filter((id) => !special.has(id)));
    },
  );
  return sounds.map((_, sound) => {
    const own = found.filter((_, n) => parts[n]!.sound === sound);
    return tokenizer.decode(joined(own), { skip_special_tokens: true });
  });
}

/** The text of a sound, by the likeliest character at each step. */
async function heard(
  { model, tokenizer, feature_extractor }: Parts<PreTrainedFeatureModel<Logits>>,
  samples: Float32Array,
  options: SpeechRecognitionOptions,
): Promise<string> {
  const strides = model.config.conv_stride as readonly number[] | undefined;
  const ratio = (strides ?? [5, 2, 2, 2, 2, 2, 2]).reduce((product, stride) => product * stride, 1);
  const ids: number[] = [];
  // One at a time: models without a mask hear the silence that padding is.
  for (const { samples: own, left, right } of chunksOf(samples, options, feature_extractor, ratio)) {
    const { logits } = await valuesOf(model.forward(await feature_extractor.run(own)), "logits");
    const [, steps = 0, vocab = 0] = logits.shape;
    const total = rounded(own.length / ratio);
    const share = (part: number): number => rounded((part / own.length) * total);
    for (let t = share(left); t < Math.min(steps, total - share(right)); t++) {
      const row = logits.values.subarray(t * vocab, (t + 1) * vocab);
      ids.push(row.indexOf(row.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY)));
    }
  }
  return tokenizer.decode(ids, { skip_special_tokens: false });
}

/** One sound or several: a list of numbers is samples. @throws OptionError */
function soundsOf(inputs: unknown): { items: readonly SoundInput[]; many: boolean } {
  const asSound = (value: unknown): SoundInput | undefined => {
    const samples = isList(value) && typeof value[0] === "number";
    const other = isText(value) || (typeof value === "object" && value !== null && !isList(value));
    return samples || other ? (value as SoundInput) : undefined;
  };
  return listed(inputs, asSound, "samples, { samples, sampling_rate }, or a WAV file");
}

export const speechRecognition = kind({
  models: ["speech-seq2seq", "ctc"],
  needs: ["tokenizer", "feature_extractor"],
  calls: RECOGNIZE,
  async run(parts: Hears, inputs, options: SpeechRecognitionOptions) {
    const { items, many } = soundsOf(inputs);
    const sounds: Float32Array[] = [];
    for (const item of items) sounds.push(await parts.feature_extractor.samples(item));
    let texts: string[];
    if ((parts.model as object) instanceof PreTrainedSeq2SeqLM) {
      texts = await written(parts as Parts<PreTrainedSpeechSeq2Seq>, sounds, options);
    } else {
      const [odd] = Object.keys(options).filter((name) => !Object.hasOwn(CHUNKS, name));
      if (odd) throw new OptionError(`${odd} is for models that generate text`, { details: { option: odd } });
      texts = [];
      for (const samples of sounds) {
        texts.push(await heard(parts as Parts<PreTrainedFeatureModel<Logits>>, samples, options));
      }
    }
    const found = texts.map((text): Transcript => ({ text }));
    return many ? found : found[0];
  },
});
