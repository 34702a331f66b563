// Feature extractors of transformers: sound as the waveforms of wav2vec 2.0 or the spectrograms of Whisper.

import { isList } from "../core/checks.js";
import { ConfigError, OctavoError, OptionError, ShapeError, UnsupportedModelError } from "../core/errors.js";
import { choice, flag, type Options, readOptions, whole } from "../core/options.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import { CallableBase } from "./callable.js";
import type { FloatTensor } from "./image-processor.js";
import { bytesOf, isFile, type MediaFile, type MediaReader } from "./reader.js";
import { rateOf, resample } from "./resample.js";
import { LogMel } from "./spectrogram.js";
import { readWav } from "./wav.js";

const schema = z.object({
  sampling_rate: z.int().min(1).max(1_000_000).default(16_000),
  padding_value: z.number().default(0),
  padding_side: z.literal("right").default("right"),
  do_normalize: z.boolean().nullish(),
  return_attention_mask: z.boolean().default(false),
  feature_size: z.int().min(1).max(1024).nullish(),
  // Of spectrograms.
  hop_length: z.int().min(1).max(100_000).default(160),
  chunk_length: z.int().min(1).max(86_400).default(30),
  n_fft: z.int().min(2).max(65_536).multipleOf(2).default(400),
  dither: z.literal(0).default(0),
});

type Fields = z.infer<typeof schema>;

/** The extractor of files that name none. */
const BY_MODEL: ReadonlyMap<string, string> = new Map([
  ["whisper", "WhisperFeatureExtractor"],
  ["wav2vec2", "Wav2Vec2FeatureExtractor"],
  ["hubert", "Wav2Vec2FeatureExtractor"],
]);
const KINDS = [...BY_MODEL.values()];

type Samples = Float32Array | readonly number[];
/** Two channels are averaged. */
type Channels = Samples | readonly [Samples] | readonly [Samples, Samples];

/** Samples with their rate in Hz, under any of the names that pipelines in JavaScript and Python have for them. */
export type RatedSound = {
  readonly sampling_rate: number;
  /** Samples at both sides of a part of a longer sound that are heard, but not written: of speech recognition by CTC. */
  readonly stride?: readonly [left: number, right: number];
} & ({ readonly samples: Channels } | { readonly raw: Channels } | { readonly array: Channels });

/** Sound: samples from -1 to 1 at the model's rate, samples with their rate, or a WAV file. Other rates are resampled. */
export type SoundInput = Samples | RatedSound | MediaFile;

/** Options of a call. */
export const EXTRACT_FEATURES = {
  /** Rate of samples that do not have one; it must be the model's. */
  sampling_rate: whole(1),
  /** Return `attention_mask` as well; by default as the file says. */
  return_attention_mask: flag(),
  /** Give every waveform mean 0 and variance 1; by default as the file says, and not before spectrograms. */
  do_normalize: flag(),
  /**
   * To the "longest" row, the default of waveforms, or to "max_length", the default of spectrograms; false for sounds of one length.
   */
  padding: choice([true, false, "longest", "max_length", "do_not_pad"]),
  /**
   * Samples of each row with `padding: "max_length"`, of spectrograms by default those of a chunk. What is longer is cut off from spectrograms,
   * and from waveforms with `truncation: true` alone.
   */
  max_length: whole(1),
  /**
   * true cuts waveforms to `max_length`, whatever the padding. Of spectrograms false keeps what is longer than a chunk, for `generate` to
   * transcribe window by window.
   */
  truncation: flag(),
  /** Lengths in samples are raised to a multiple of this. */
  pad_to_multiple_of: whole(1),
};

export interface FeatureExtractorOptions extends Options<typeof EXTRACT_FEATURES> {}

export interface SoundFeatures {
  /** f32[B,T] of wav2vec 2.0. */
  readonly input_values?: FloatTensor;
  /** f32[B,mels,frames] of Whisper. */
  readonly input_features?: FloatTensor;
  /** [B][T] of samples or frames. */
  readonly attention_mask?: number[][];
}

export class FeatureExtractor extends CallableBase<
  readonly [sound: SoundInput | readonly SoundInput[], options?: FeatureExtractorOptions],
  Promise<SoundFeatures>
> {
  /** preprocessor_config.json. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly sampling_rate: number;
  readonly #fields: Fields;
  readonly #reader: MediaReader;
  readonly #mel: LogMel | undefined;

  /** @throws UnsupportedModelError for another kind of extractor, ConfigError for a value that it does not take */
  constructor(config: Readonly<Record<string, unknown>>, model_type: unknown, reader: MediaReader) {
    super();
    const named = config.feature_extractor_type ?? BY_MODEL.get(String(model_type));
    if (typeof named !== "string" || !KINDS.includes(named)) {
      throw new UnsupportedModelError(`feature extractor ${show(named ?? model_type)} is not supported`, {
        hint: `supported: ${KINDS.join(", ")}`,
        details: { feature_extractor_type: show(named) },
      });
    }
    const result = schema.safeParse(config);
    if (!result.success) {
      const [issue] = result.issues;
      const key = issue!.path.join(".");
      throw new ConfigError(`preprocessor_config.json: ${key}: ${issue!.message} (got ${show(config[key])})`);
    }
    this.config = config;
    this.#fields = result.data;
    this.#reader = reader;
    const { sampling_rate, hop_length, n_fft, feature_size } = result.data;
    this.sampling_rate = sampling_rate;
    if (named === "WhisperFeatureExtractor") {
      this.#mel = new LogMel({ mels: feature_size ?? 80, n_fft, hop_length, sampling_rate });
    }
  }

  /** Samples that a spectrogram holds at most; undefined for waveforms, which have any length. */
  get n_samples(): number | undefined {
    return this.#mel && this.#fields.chunk_length * this.sampling_rate;
  }

  /** A sound's samples at the model's rate. @throws as `run` */
  async samples(sound: SoundInput): Promise<Float32Array> {
    return this.#read(sound);
  }

  /**
   * Sound as a model's inputs: `input_features` of Whisper, `input_values` of wav2vec 2.0.
   * @throws ShapeError, OptionError (a `sampling_rate` for samples without their own that is not the model's), FormatError,
   * NotFoundError
   */
  override async run(
    sound: SoundInput | readonly SoundInput[],
    options: FeatureExtractorOptions = {},
  ): Promise<SoundFeatures> {
    const asked = readOptions("a feature extractor", EXTRACT_FEATURES, options);
    this.#checkRate(asked.sampling_rate);
    const list: readonly unknown[] = isList(sound) && typeof sound[0] !== "number" ? sound : [sound];
    if (list.length === 0) throw new ShapeError("a feature extractor got no sound");
    const rows: Float32Array[] = [];
    for (const one of list) rows.push(await this.#read(one));
    return this.#mel ? this.#spectrograms(rows, asked, this.#mel) : this.#waveforms(rows, asked);
  }

  #checkRate(rate: number | undefined): void {
    if (rate === undefined || rate === this.sampling_rate) return;
    throw new OptionError(`sound at ${rate} Hz: this model hears ${this.sampling_rate} Hz`, {
      details: { option: "sampling_rate" },
      hint: "resample it first",
    });
  }

  async #read(sound: unknown): Promise<Float32Array> {
    try {
      if (sound instanceof Float32Array || isList(sound)) return samplesOf(sound);
      if (isFile(sound)) {
        const { samples, sampling_rate } = readWav(await bytesOf(this.#reader, sound));
        return this.#atOwnRate(samplesOf(samples), sampling_rate);
      }
      const { samples, raw, array, sampling_rate } = sound as Readonly<Record<string, unknown>>;
      return this.#atOwnRate(mono(samples ?? raw ?? array), rateOf(sampling_rate));
    } catch (cause) {
      if (cause instanceof OctavoError) throw cause;
      throw new ShapeError(`sound must be samples or a WAV file, got ${show(sound)}`, { cause });
    }
  }

  #atOwnRate(samples: Float32Array, rate: number): Float32Array {
    return rate === this.sampling_rate ? samples : resample(samples, rate, this.sampling_rate);
  }

  #waveforms(given: readonly Float32Array[], asked: FeatureExtractorOptions): SoundFeatures {
    const { do_normalize, padding_value, return_attention_mask } = this.#fields;
    const { padding = true, truncation = false, max_length } = asked;
    if ((truncation || padding === "max_length") && max_length === undefined) {
      throw new OptionError(`${truncation ? "truncation of waveforms" : 'padding: "max_length"'} needs max_length`);
    }
    const most = max_length && rounded(max_length, asked);
    const rows = truncation ? given.map((row) => row.subarray(0, most)) : given;
    const longest = rows.reduce((length, row) => Math.max(length, row.length), 0);
    const padded = padding !== false && padding !== "do_not_pad";
    if (!padded) checkLengths(rows.map(({ length }) => length));
    const steps = padding === "max_length" ? Math.max(most ?? 0, longest) : padded ? rounded(longest, asked) : longest;
    const masked = asked.return_attention_mask ?? return_attention_mask;
    const data = new Float32Array(rows.length * steps).fill(padding_value);
    const attention_mask: number[][] = [];
    for (const [r, row] of rows.entries()) {
      const kept = row.subarray(0, steps);
      data.set(kept, r * steps);
      if (asked.do_normalize ?? do_normalize ?? true) {
        // Without a mask padding is sound, as in transformers.
        const whole = data.subarray(r * steps, (r + 1) * steps);
        const heard = masked ? whole.subarray(0, kept.length) : whole;
        heard.set(normalized(heard));
      }
      if (masked) attention_mask.push(Array.from({ length: steps }, (_, t) => Number(t < kept.length)));
    }
    const input_values = { data, shape: [rows.length, steps] };
    return masked ? { input_values, attention_mask } : { input_values };
  }

  #spectrograms(rows: readonly Float32Array[], asked: FeatureExtractorOptions, mel: LogMel): SoundFeatures {
    const { padding_value, return_attention_mask, chunk_length, hop_length, n_fft } = this.#fields;
    const { padding = "max_length" } = asked;
    const most = rounded(asked.max_length ?? chunk_length * this.sampling_rate, asked);
    const lengths = rows.map(({ length }) => (asked.truncation === false ? length : Math.min(length, most)));
    const longest = Math.max(...lengths);
    const padded = padding !== false && padding !== "do_not_pad";
    if (!padded) checkLengths(lengths);
    const steps = padding === "max_length" ? Math.max(most, longest) : padded ? rounded(longest, asked) : longest;
    const least = Math.max(n_fft / 2 + 1, hop_length);
    if (steps < least) throw new OptionError(`max_length must be at least ${least} samples, got ${steps}`);
    const parts = rows.map((row) => {
      const samples = new Float32Array(steps).fill(padding_value);
      const kept = row.subarray(0, steps);
      samples.set(asked.do_normalize ? normalized(kept) : kept);
      return mel.of(samples);
    });
    const frames = Math.floor(steps / hop_length);
    const data = new Float32Array(parts.length * parts[0]!.length);
    for (const [r, part] of parts.entries()) data.set(part, r * part.length);
    const input_features = { data, shape: [rows.length, parts[0]!.length / frames, frames] };
    if (!(asked.return_attention_mask ?? return_attention_mask)) return { input_features };
    const attention_mask = rows.map(({ length }) =>
      Array.from({ length: frames }, (_, f) => Number(f * hop_length < length)),
    );
    return { input_features, attention_mask };
  }
}

/** A length as a multiple of what was asked for. */
function rounded(length: number, { pad_to_multiple_of: multiple = 1 }: FeatureExtractorOptions): number {
  return Math.ceil(length / multiple) * multiple;
}

/** Samples as floats. @throws ShapeError for an empty list or what is no number */
function samplesOf(list: unknown): Float32Array {
  if (list instanceof Float32Array && list.length > 0) return list;
  if (!isList(list) || list.length === 0) throw new ShapeError(`sound must be samples, got ${show(list)}`);
  const samples: number[] = [];
  for (let t = 0; t < list.length; t++) {
    const value = list[t];
    if (typeof value !== "number") throw new ShapeError(`sound holds ${show(value)} at ${t}, which is no number`);
    samples.push(value);
  }
  return Float32Array.from(samples);
}

/** True for sound whose samples are given as channels. */
export function hasChannels(sound: unknown): boolean {
  try {
    const { samples, raw, array } = sound as Readonly<Record<string, unknown>>;
    return areChannels(samples ?? raw ?? array);
  } catch {
    return false; // a proxy: refused where it is read
  }
}

function areChannels(value: unknown): value is readonly unknown[] {
  return isList(value) && (isList(value[0]) || value[0] instanceof Float32Array);
}

/** Samples of one channel, or of two, averaged. @throws ShapeError: of more, nobody knows which axis is the channels */
function mono(value: unknown): Float32Array {
  if (!areChannels(value)) return samplesOf(value);
  if (value.length > 2) {
    throw new ShapeError(`sound has one or two channels, got ${value.length} lists`, {
      hint: "pass [channels][samples], or average the channels first",
    });
  }
  const channels = Array.from(value, samplesOf);
  const [left, right = left] = channels as [Float32Array, Float32Array?];
  if (left.length !== right.length) {
    throw new ShapeError(`channels of ${left.length} and ${right.length} samples: they must have the same length`);
  }
  return left.map((sample, t) => (sample + right[t]!) / 2);
}

/** @throws ShapeError where sounds that are not padded have several lengths */
function checkLengths(lengths: readonly number[]): void {
  const odd = lengths.find((length) => length !== lengths[0]);
  if (odd === undefined) return;
  throw new ShapeError(`sounds of ${lengths[0]} and ${odd} samples do not make a batch`, { hint: "padding: true" });
}

/** Numbers that are summed by eights; of more, halves are summed alone. */
const PIECE = 128;

/** A sum in f32 in numpy's order, whose rounding the mean of a quiet sound far from zero shows. */
function summed(values: Float32Array): number {
  const { length } = values;
  if (length > PIECE) {
    const half = Math.floor(length / 2);
    const first = half - (half % 8);
    return Math.fround(summed(values.subarray(0, first)) + summed(values.subarray(first)));
  }
  const whole = length - (length % 8);
  const sums = new Float32Array(8);
  for (let i = 0; i < whole; i++) sums[i % 8]! += values[i]!;
  const [a, b, c, d, e, f, g, h] = sums as unknown as number[];
  const { fround } = Math;
  let sum = fround(fround(fround(a! + b!) + fround(c! + d!)) + fround(fround(e! + f!) + fround(g! + h!)));
  for (let i = whole; i < length; i++) sum = fround(sum + values[i]!);
  return sum;
}

/** Mean 0 and variance 1, as wav2vec 2.0 was trained; in f32 throughout. */
function normalized(samples: Float32Array): Float32Array {
  const { length } = samples;
  const mean = Math.fround(summed(samples) / length);
  const from = samples.map((value) => value - mean);
  const variance = Math.fround(summed(from.map((value) => value * value)) / length);
  const deviation = Math.fround(Math.sqrt(Math.fround(variance + Math.fround(1e-7))));
  return from.map((value) => value / deviation);
}
