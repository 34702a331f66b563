// What an encoder-decoder reads: its encoder's input, and how its decoder starts.

import { OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import type { Seq2SeqLM } from "../nn/seq2seq.js";
import type { LoadedModel } from "./base.js";
import { readFeatures } from "./features.js";
import { type Batch, type Ids, readBatch } from "./inputs.js";
import { type EncoderInput, encodedShape } from "./seq2seq.js";
import { type SpeechOptions, type SpeechStart, speechStart } from "./speech.js";

/** What the encoder reads. @throws ShapeError, OptionError */
export function readEncoderInput(
  { features, geometry, encoder_positions }: Seq2SeqLM,
  options: { readonly input_ids?: Ids | undefined; readonly attention_mask?: Ids | undefined },
): EncoderInput {
  if (features) return readFeatures((options as Record<string, unknown>)[features.name], features);
  const batch = readBatch(options.input_ids, options.attention_mask, geometry.vocab);
  if (batch.steps <= (encoder_positions ?? batch.steps)) return batch;
  throw new OptionError(
    `${batch.steps} tokens are more than the ${encoder_positions} positions of this model's encoder`,
    { hint: "shorten the text, or tokenize with truncation: true" },
  );
}

/** @throws OptionError */
export function checkDecoderRows(model: Seq2SeqLM, encoder: EncoderInput, decoder: Batch): void {
  const { rows } = encodedShape(model, encoder);
  if (decoder.rows === rows) return;
  const name = model.features?.name ?? "input_ids";
  throw new OptionError(`decoder_input_ids has ${decoder.rows} rows, ${name} has ${rows}`);
}

/** @throws OptionError for a text of the decoder that is longer than its positions */
export function checkDecoderPositions({ geometry: { max_positions } }: Seq2SeqLM, tokens: number, hint: string): void {
  if (tokens <= max_positions) return;
  throw new OptionError(`${tokens} tokens are more than the ${max_positions} positions of this model's decoder`, {
    hint,
  });
}

/** The decoder's start if the caller gives none. @throws OptionError if the files have none either */
export function decoderStart(
  { generation_config, config, module }: LoadedModel<Seq2SeqLM>,
  rows: number,
  options: SpeechOptions,
): SpeechStart {
  const { vocab } = module.geometry;
  const named = [generation_config, config].map((file) => file.decoder_start_token_id);
  const id = named.find((value) => value !== undefined && value !== null);
  if (typeof id !== "number" || !Number.isSafeInteger(id) || id < 0 || id >= vocab) {
    throw new OptionError(`decoder_start_token_id in the model's files is ${id === undefined ? "missing" : show(id)}`, {
      hint: "pass decoder_input_ids",
    });
  }
  if (module.features) return speechStart(id, rows, options, generation_config, vocab);
  return { decoder: { rows, steps: 1, ids: new Int32Array(rows).fill(id), mask: undefined } };
}

/** @throws OptionError for a language or task beside a start of the decoder, which names its own */
export function refuseTwoStarts(options: { readonly decoder_input_ids?: unknown } & SpeechOptions): void {
  const option = options.language !== undefined ? "language" : options.task !== undefined ? "task" : undefined;
  if (options.decoder_input_ids === undefined || option === undefined) return;
  throw new OptionError(`${option} and decoder_input_ids both say how the decoder starts: pass one of them`, {
    details: { option },
  });
}
