// automatic-speech-recognition: by encoder-decoders that write (Whisper), and by CTC. Long sound window by window, or in chunks that
// overlap.

import { isList, isWhole, listOf } from "../core/checks.js";
import { OptionError } from "../core/errors.js";
import type { Table } from "../core/options.js";
import { choice, flag, number, type Options, omit, readOptions, such } from "../core/options.js";
import { show } from "../core/show.js";
import type { PreTrainedFeatureModel } from "../generate/feature-model.js";
import { SPEECH_GENERATE } from "../generate/options.js";
import { PreTrainedSeq2SeqLM } from "../generate/seq2seq-model.js";
import type { PreTrainedSpeechSeq2Seq } from "../generate/speech-model.js";
import type { SpeechOutput } from "../generate/transcribe.js";
import type { FeatureExtractor, SoundInput } from "../media/feature-extractor.js";
import type { Logits } from "../nn/features.js";
import { Times } from "../tokenizer/timed.js";
import { withDefaults } from "./generation-defaults.js";
import { forBatch, inBatches, kind, type Parts, soundsOf, valuesOf } from "./kinds.js";
import { type Transcript, transcriptOf, type WrittenChunk } from "./transcript.js";

const seconds = (value: unknown): value is number => typeof value === "number" && value >= 0 && value < 86_400;

const CHUNKS = {
  /**
   * Seconds of a chunk; 0, the default, for none: CTC then hears all sound at once, and Whisper window by window, which is slower
   * and more exact.
   */
  chunk_length_s: number(seconds, "a number of seconds"),
  /** Seconds by which chunks overlap: on both sides, or [left, right]; a sixth of a chunk by default. */
  stride_length_s: such<number | readonly [number, number]>(
    (value) => seconds(value) || listOf(value, seconds)?.length === 2,
    "a number of seconds, or two of them",
  ),
  /** Give `chunks` with their times: of Whisper `true` for its segments, or "word"; of CTC "char" or "word". */
  return_timestamps: choice([true, false, "word", "char"]),
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
  ...(["output_scores", "output_logits", "num_return_sequences", "use_cache", "logprobs"] as const),
  ...(["return_timestamps", "return_segments", "return_token_timestamps"] as const),
  ...(["time_precision", "time_precision_features"] as const),
]);
const RECOGNIZE = {
  ...OF_GENERATE,
  ...CHUNKS,
  /** Of Whisper: give `chunks` with their language, in English. */
  return_language: flag(),
  /** Options of generate() in an object of their own, as in Python. */
  generate_kwargs: such<Options<typeof OF_GENERATE>>(
    (value) => typeof value === "object" && value !== null,
    "an object",
  ),
} satisfies Table;
export interface SpeechRecognitionOptions extends Options<typeof RECOGNIZE> {}

export type { Transcript, TranscriptChunk } from "./transcript.js";

/** What transformers' pipeline sets if nothing else does. */
const USUAL = { max_new_tokens: 256, num_beams: 5 };

/** Tokens of a decoder's start at most. */
const START = 4;

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
  if (size > most) {
    throw new OptionError(
      `${chunk_length_s} s are more than the ${most / sampling_rate} s that this model hears at once`,
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

type Hears = Parts<PreTrainedSpeechSeq2Seq | PreTrainedFeatureModel<Logits>>;

/** The options of generate() from both places where they may be. @throws OptionError for one in both */
function generationOptions({ generate_kwargs, ...options }: SpeechRecognitionOptions): SpeechRecognitionOptions {
  const own = readOptions("generate_kwargs", OF_GENERATE, generate_kwargs ?? {});
  const twice = Object.keys(own).find((name) => options[name as keyof typeof options] !== undefined);
  if (twice === undefined) return { ...options, ...own };
  throw new OptionError(`${twice} is given twice, in generate_kwargs and beside it`, { details: { option: twice } });
}

/**
 * A part of a longer sound, whose sides are only context.
 * @throws OptionError
 */
function partOf(sound: SoundInput, samples: Float32Array, sampling_rate: number): Chunk | undefined {
  const { stride, sampling_rate: rate } = sound as Readonly<Record<string, unknown>>;
  if (stride === undefined || stride === null) return undefined;
  const details = { option: "stride" };
  const sides = listOf(stride, (value): value is number => isWhole(value) && value >= 0);
  if (sides?.length !== 2) {
    throw new OptionError(`stride must be two numbers of samples, at the left and at the right, got ${show(stride)}`, {
      details,
    });
  }
  const share = sampling_rate / (rate as number);
  const [left, right] = sides as [number, number];
  const length = Math.round(samples.length / share);
  if (left + right > length) {
    throw new OptionError(`stride: ${left} and ${right} samples at the sides, of ${length}`, { details });
  }
  return { samples, left: rounded(left * share), right: rounded(right * share) };
}

/** Transcripts of one sound each. */
async function written(
  { model, tokenizer, feature_extractor, batch_size }: Parts<PreTrainedSpeechSeq2Seq>,
  sounds: readonly Float32Array[],
  options: SpeechRecognitionOptions,
): Promise<Transcript[]> {
  const { chunk_length_s, stride_length_s, language, return_language = false, ...rest } = options;
  const { return_timestamps = model.generation_config.return_timestamps === true, ...generation } = rest;
  if (return_timestamps === "char") {
    throw new OptionError('return_timestamps: Whisper writes times of segments (true) and of words ("word")', {
      details: { option: "return_timestamps" },
    });
  }
  if (isList(language) && language.length !== sounds.length) {
    throw new OptionError(`language has ${language.length} entries for ${sounds.length} sounds`, {
      details: { option: "language" },
    });
  }
  // Sound of several windows needs times, and has them unless the caller says otherwise.
  const times = return_timestamps || (options.return_timestamps === false ? false : undefined);
  const { sampling_rate, n_samples = 0 } = feature_extractor;
  const parts = sounds.flatMap((samples, sound) =>
    chunksOf(samples, options, feature_extractor, 1).map((chunk) => ({ sound, chunk })),
  );
  const { temperature, prompt_ids = [], condition_on_prev_tokens, ...plain } = generation;
  const positions = model.module.geometry.max_positions;
  const before = prompt_ids.length + (condition_on_prev_tokens ? Math.floor(positions / 2) - 1 : 0);
  const chosen = withDefaults(model, plain, USUAL, {}, positions - START - before);
  const languages = Object.values((model.generation_config.lang_to_id ?? {}) as Readonly<Record<string, number>>);
  const found = await inBatches(
    parts,
    batch_size,
    ({ chunk }) => chunk.samples.length,
    async (batch, numbers): Promise<WrittenChunk[]> => {
      const long = batch.some(({ chunk }) => chunk.samples.length > n_samples);
      const whole = long ? ({ truncation: false, padding: "longest" } as const) : {};
      const samples = batch.map(({ chunk }) => chunk.samples);
      const features = await feature_extractor.run(samples, { return_attention_mask: true, ...whole });
      const output = (await model.generate({
        ...forBatch(chosen, numbers),
        ...{ temperature, condition_on_prev_tokens, prompt_ids: prompt_ids.length > 0 ? prompt_ids : undefined },
        language: isList(language) ? batch.map(({ sound }) => language[sound]!) : language,
        num_return_sequences: 1,
        input_features: features.input_features!,
        attention_mask: features.attention_mask,
        return_timestamps: times,
        return_segments: true,
        tokenizer,
      })) as SpeechOutput;
      return batch.map(({ chunk }, row): WrittenChunk => {
        const segments = output.segments![row]!;
        const spoken = output.decoder_input_ids![row]!.find((id) => languages.includes(id));
        const named = return_language && spoken !== undefined ? [spoken] : [];
        const own = segments.flatMap(({ token_timestamps = [] }) => token_timestamps);
        const stride = [chunk.samples.length, chunk.left, chunk.right].map((length) => length / sampling_rate);
        return {
          tokens: [...named, ...segments.flatMap(({ tokens }) => tokens)],
          times: [...named.map(() => 0), ...own],
          ...(chunk_length_s ? { stride: stride as [number, number, number] } : {}),
        };
      });
    },
    // Long sound alone: what is padding would be heard at its end.
    ({ sound, chunk }) => (chunk.samples.length > n_samples ? sound + 1 : 0),
  );
  const time_precision = n_samples / sampling_rate / model.module.encoder_positions!;
  const begin = Times.of(tokenizer.backend)?.begin ?? Number.POSITIVE_INFINITY;
  return sounds.map((_, sound) => {
    const own = found.filter((_, n) => parts[n]!.sound === sound);
    return transcriptOf(tokenizer, own, begin, { return_timestamps, return_language, time_precision });
  });
}

/**
 * The text of a sound, by the likeliest character at each step.
 * @param ratio samples of a step
 */
async function heard(
  { model, tokenizer, feature_extractor }: Parts<PreTrainedFeatureModel<Logits>>,
  chunks: readonly Chunk[],
  ratio: number,
  return_timestamps: SpeechRecognitionOptions["return_timestamps"],
): Promise<Transcript> {
  const ids: number[] = [];
  // One at a time: models without a mask hear the silence that padding is.
  for (const { samples: own, left, right } of chunks) {
    const { logits } = await valuesOf(model.forward(await feature_extractor.run(own)), "logits");
    const [, steps = 0, vocab = 0] = logits.shape;
    const total = rounded(own.length / ratio);
    const share = (part: number): number => rounded((part / own.length) * total);
    for (let t = share(left); t < Math.min(steps, total - share(right)); t++) {
      const row = logits.values.subarray(t * vocab, (t + 1) * vocab);
      ids.push(row.indexOf(row.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY)));
    }
  }
  const text = tokenizer.decode(ids);
  if (!return_timestamps) return { text };
  const { char_offsets = [], word_offsets = [] } = tokenizer.decode(ids, {
    output_char_offsets: true,
    output_word_offsets: true,
  });
  const at = (offset: number): number => (offset * ratio) / feature_extractor.sampling_rate;
  const found = return_timestamps === "char" ? char_offsets : word_offsets;
  const timed = found.map((one) => ({
    text: "char" in one ? one.char : one.word,
    timestamp: [at(one.start_offset), at(one.end_offset)] as const,
  }));
  return { text, chunks: timed };
}

/** Transcripts by a CTC model. @param marked the sounds that are parts of longer ones */
async function spelled(
  parts: Parts<PreTrainedFeatureModel<Logits>>,
  sounds: readonly Float32Array[],
  marked: readonly (Chunk | undefined)[],
  options: SpeechRecognitionOptions,
): Promise<Transcript[]> {
  const { return_timestamps, chunk_length_s } = options;
  const [odd] = Object.keys(options).filter((name) => !Object.hasOwn(CHUNKS, name));
  if (odd) throw new OptionError(`${odd} is for models that generate text`, { details: { option: odd } });
  if (return_timestamps === true) {
    throw new OptionError('return_timestamps: CTC models give times of characters ("char") and of words ("word")', {
      details: { option: "return_timestamps" },
    });
  }
  if (chunk_length_s && marked.some((part) => part)) {
    throw new OptionError("chunk_length_s cuts a whole sound, and stride says that it is a part of one", {
      details: { option: "chunk_length_s" },
    });
  }
  const { model, feature_extractor } = parts;
  const strides = model.config.conv_stride as readonly number[] | undefined;
  const ratio = (strides ?? [5, 2, 2, 2, 2, 2, 2]).reduce((product, stride) => product * stride, 1);
  const cut = sounds.map((samples, n) => {
    const part = marked[n];
    return part ? [part] : chunksOf(samples, options, feature_extractor, ratio);
  });
  const texts: Transcript[] = [];
  for (const chunks of cut) texts.push(await heard(parts, chunks, ratio, return_timestamps));
  return texts;
}

export const speechRecognition = kind({
  models: ["speech-seq2seq", "ctc"],
  needs: ["tokenizer", "feature_extractor"],
  calls: RECOGNIZE,
  async run(parts: Hears, inputs, given: SpeechRecognitionOptions) {
    const options = generationOptions(given);
    const { items, many } = soundsOf(inputs);
    const { feature_extractor: ears } = parts;
    const sounds: Float32Array[] = [];
    for (const item of items) sounds.push(await ears.samples(item));
    const marked = items.map((item, n) => partOf(item, sounds[n]!, ears.sampling_rate));
    let texts: Transcript[];
    if ((parts.model as object) instanceof PreTrainedSeq2SeqLM) {
      if (marked.some((part) => part)) {
        throw new OptionError("stride is for CTC models", {
          details: { option: "stride" },
          hint: "pass the whole sound, with chunk_length_s if it is to be cut",
        });
      }
      texts = await written(parts as Parts<PreTrainedSpeechSeq2Seq>, sounds, options);
    } else {
      texts = await spelled(parts as Parts<PreTrainedFeatureModel<Logits>>, sounds, marked, options);
    }
    return many ? texts : texts[0];
  },
});
