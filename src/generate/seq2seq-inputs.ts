// What an encoder-decoder reads: its encoder's input, and how its decoder starts.

import { OptionError } from "../core/errors.js";
import type { Options } from "../core/options.js";
import { show } from "../core/show.js";
import type { Seq2SeqLM } from "../nn/seq2seq.js";
import { IGNORED } from "../ops/cross-entropy.js";
import type { LoadedModel } from "./base.js";
import { readFeatures } from "./features.js";
import { type Batch, type Ids, readBatch, table } from "./inputs.js";
import { type NextLabels, tokenLabels } from "./labels.js";
import type { SEQ2SEQ_FORWARD } from "./options.js";
import { type EncoderInput, encodedShape } from "./seq2seq.js";
import { type SpeechOptions, type SpeechStart, speechStart } from "./speech.js";

/** What the encoder reads. @throws ShapeError, OptionError */
export function readEncoderInput(
  { features, geometry, encoder_positions, encoder_vocab }: Seq2SeqLM,
  options: { readonly input_ids?: Ids | undefined; readonly attention_mask?: Ids | undefined },
): EncoderInput {
  if (features) return readFeatures((options as Record<string, unknown>)[features.name], features);
  const batch = readBatch(options.input_ids, options.attention_mask, encoder_vocab ?? geometry.vocab);
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

/**
 * Labels one place later, behind the token that begins a text, with padding for -100. mBART has no such token: its texts begin with
 * their last one, which names the language.
 * @throws OptionError if config.json has no such token, or no padding
 */
export function shiftedRight(config: object, labels: readonly (readonly number[])[]): number[][] {
  const { model_type, decoder_start_token_id: start, pad_token_id: pad } = config as Readonly<Record<string, unknown>>;
  const wraps = model_type === "mbart";
  const first = wraps ? pad : start;
  if (typeof first !== "number" || typeof pad !== "number") {
    const missing = typeof pad !== "number" ? "pad_token_id" : "decoder_start_token_id";
    throw new OptionError(`labels: the model's config.json has no ${missing}, so they make no decoder_input_ids`, {
      hint: "pass decoder_input_ids",
    });
  }
  return labels.map((row) => {
    const real = row.filter((id) => id !== IGNORED && id !== pad);
    const begin = wraps ? (row.map((id) => (id === IGNORED ? pad : id)).at(real.length - 1) ?? pad) : first;
    return [begin, ...row.slice(0, -1)].map((id) => (id === IGNORED ? pad : id));
  });
}

/**
 * What the decoder of a forward pass reads, and what it learns: without ids of its own it reads its labels.
 * @throws ShapeError, OptionError
 */
export function readDecoder(
  { config, module }: LoadedModel<Seq2SeqLM>,
  inputs: Options<typeof SEQ2SEQ_FORWARD>,
): { readonly decoder: Batch; readonly learned: NextLabels | undefined } {
  const { labels, decoder_input_ids: begun, num_items_in_batch, label_smoothing, skip_logits, logits_to_keep } = inputs;
  const { vocab } = module.geometry;
  if (labels === undefined) {
    if (skip_logits || num_items_in_batch !== undefined || label_smoothing) {
      throw new OptionError(
        "forward: skip_logits, num_items_in_batch and label_smoothing are about a loss: pass labels",
      );
    }
    return { decoder: readBatch(begun, undefined, vocab, "decoder_input_ids"), learned: undefined };
  }
  if (logits_to_keep) {
    throw new OptionError("forward: labels need the logits of all positions, and logits_to_keep is set");
  }
  const rows = table("labels", labels);
  const shape = { rows: rows.length, steps: rows[0]!.length };
  const decoder = begun === undefined ? undefined : readBatch(begun, undefined, vocab, "decoder_input_ids");
  const learned = tokenLabels(
    { ...(decoder ?? shape), mask: undefined },
    rows,
    vocab,
    num_items_in_batch === undefined,
  );
  if (decoder) return { decoder, learned };
  return { decoder: readBatch(shiftedRight(config, rows), undefined, vocab, "labels"), learned };
}

/** @throws OptionError for a language or task beside a start of the decoder, which names its own */
export function refuseTwoStarts(options: { readonly decoder_input_ids?: unknown } & SpeechOptions): void {
  const option = options.language !== undefined ? "language" : options.task !== undefined ? "task" : undefined;
  if (options.decoder_input_ids === undefined || option === undefined) return;
  throw new OptionError(`${option} and decoder_input_ids both say how the decoder starts: pass one of them`, {
    details: { option },
  });
}
