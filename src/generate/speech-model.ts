// Loaded encoder-decoders of sound, as users hold them: what their calls take and give.

import type { After, InputsNamed } from "./arguments.js";
import type { Step } from "./loop.js";
import type {
  AsDict,
  SpeechForwardOptions,
  SpeechGenerateOptions,
  SpeechStreamOptions,
  SpeechTextStreamOptions,
} from "./options.js";
import type { PreTrainedSeq2SeqLM, Seq2SeqOutput } from "./seq2seq-model.js";
import type { TextStep } from "./texts.js";
import type { SpeechOutput } from "./transcribe.js";

/** Options with which a transcript comes with its times. */
type AsTimed =
  | { readonly return_segments: true }
  | { readonly return_token_timestamps: true }
  | { readonly return_timestamps: "word" };
type SpeechInputs = InputsNamed<SpeechGenerateOptions, "input_features">;
type SpeechAfter = After<SpeechGenerateOptions, "input_features">;

/** A `PreTrainedSeq2SeqLM` whose encoder reads sound: `input_features` [B,mels,frames], as a feature extractor makes them. */
export interface PreTrainedSpeechSeq2Seq extends Omit<PreTrainedSeq2SeqLM, "forward" | "generate" | "stream"> {
  /** A call is a forward pass. */
  (options: SpeechForwardOptions): Seq2SeqOutput;
  /** @throws as that of PreTrainedSeq2SeqLM */
  forward(options: SpeechForwardOptions): Seq2SeqOutput;
  /**
   * Transcribes. The text of one window is that of PreTrainedSeq2SeqLM: the decoder's start, and the new tokens. With times, for sound
   * of several windows, and with the options about windows (speech-options.ts), it is as transformers 5 gives it: the new tokens of all
   * segments, with neither the start nor the end's token.
   * @throws as that of PreTrainedSeq2SeqLM; ConfigError for files that lack what times need
   */
  generate(options: SpeechGenerateOptions & (AsDict | AsTimed)): Promise<SpeechOutput>;
  generate(options: SpeechGenerateOptions): Promise<number[][]>;
  /** The same with the options after the inputs. */
  generate(inputs: SpeechInputs, options: SpeechAfter & (AsDict | AsTimed)): Promise<SpeechOutput>;
  generate(inputs: SpeechInputs & (AsDict | AsTimed), options: SpeechAfter): Promise<SpeechOutput>;
  generate(inputs: SpeechInputs, options?: SpeechAfter): Promise<number[][]>;
  /** @throws as that of PreTrainedSeq2SeqLM */
  stream(options: SpeechTextStreamOptions): AsyncGenerator<TextStep>;
  stream(options: SpeechStreamOptions): AsyncGenerator<Step>;
  [Symbol.asyncDispose](): Promise<void>;
}
