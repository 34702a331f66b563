// Loaded encoders as users hold them: features, masked language models, classifiers of texts and tokens, answers. One forward
// pass, no generation.

import type { Device } from "../core/device.js";
import { OptionError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import type { Loaded } from "../load/index.js";
import type { SentenceEmbedding } from "../load/sentence.js";
import type { EncoderModel, EncoderOutputs } from "../nn/encoder.js";
import type { Pass, PassInput } from "../nn/pass.js";
import { TextLengths } from "../nn/text-lengths.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { pool, rowsAt, unitLength } from "../ops/pool.js";
import { type After, type Inputs, readCall } from "./arguments.js";
import { LoadedModel } from "./base.js";
import { type Batch, placesOf, readBatch, textLengths } from "./inputs.js";
import { ENCODER_FORWARD, type EncoderForwardOptions } from "./options.js";
import { Ragged } from "./ragged.js";
import { encoderLoss } from "./task-loss.js";

/** Outputs of each task's forward, f32; T is the longest row of the batch. */
export interface EncoderResults {
  /** `pooler_output` if the model has a pooler; `sentence_embedding` if the folder says how to make it (modules.json). */
  base: { last_hidden_state: Tensor; pooler_output?: Tensor; sentence_embedding?: Tensor };
  /** [B,T,vocab] */
  "masked-lm": { logits: Tensor };
  /** [B,labels] */
  "sequence-classification": { logits: Tensor };
  /** [B,T,labels] */
  "token-classification": { logits: Tensor };
  /** [B,T] each */
  "question-answering": { start_logits: Tensor; end_logits: Tensor };
}

/** Tasks whose models are encoders of text. */
export type EncoderTask = keyof EncoderResults;

type Result<T extends EncoderTask> = EncoderResults[T] & {
  /** With labels: f32[1]. */
  loss?: Tensor;
  hidden_states?: Tensor[];
  attentions?: Tensor[];
};

/** A call is a forward pass. */
interface Call<T extends EncoderTask> {
  (options: EncoderForwardOptions): Result<T>;
  (inputs: Inputs<EncoderForwardOptions>, options?: After<EncoderForwardOptions>): Result<T>;
}
export interface PreTrainedEncoder<T extends EncoderTask = "masked-lm"> extends Call<T> {}

// biome-ignore lint/suspicious/noUnsafeDeclarationMerging: `Called` makes instances that can be called
export class PreTrainedEncoder<T extends EncoderTask = "masked-lm"> extends LoadedModel<EncoderModel> {
  readonly #sentence: SentenceEmbedding | undefined;

  /** For `from_pretrained`. @throws OptionError for anything but a model that was loaded */
  constructor(loaded: Loaded<T>, device: Device, ownsDevice: boolean) {
    super(loaded as Loaded<T> & { model: EncoderModel }, device, ownsDevice);
    this.#sentence = loaded.sentence;
  }

  /**
   * Records one forward pass over a batch; `EncoderResults` says what each task returns. Padding may be on either side and costs
   * nothing; positions count columns, or the tokens that are no padding, as in transformers. Where a token is padding, results
   * mean nothing. With `labels`, or the positions of answers, there is a `loss`. The caller disposes all of them.
   * @throws ShapeError, OptionError (an id outside the vocabulary, a text longer than the positions of the model)
   */
  forward(options: EncoderForwardOptions): Result<T>;
  /** The same with the options after the inputs. */
  forward(inputs: Inputs<EncoderForwardOptions>, options?: After<EncoderForwardOptions>): Result<T>;
  forward(...given: readonly unknown[]): Result<T> {
    this.checkUsable();
    const inputs = readCall("forward", ENCODER_FORWARD, given);
    const { device, module } = this;
    const { vocab, token_types } = module.geometry;
    const batch = readBatch(inputs.input_ids, inputs.attention_mask, vocab);
    const { rows, steps } = batch;
    const { causal, max_positions } = module.geometry;
    const positions = causal ? placesOf(batch, {}, max_positions).positions : positionsOf(module, batch);
    using reach = new TextLengths(textLengths(batch, positions, undefined).lengths);
    const types =
      inputs.token_type_ids === undefined || token_types === 0
        ? undefined
        : readBatch(inputs.token_type_ids, undefined, token_types, "token_type_ids");
    if (types && (types.rows !== rows || types.steps !== steps)) {
      throw new OptionError(`token_type_ids must have the shape of input_ids, [${rows}, ${steps}]`);
    }
    const loss = encoderLoss(this, inputs, batch, vocab);
    const { output_hidden_states: capture, output_attentions: capture_attentions } = inputs;
    const beside = module.beside?.(batch);
    const crosses = beside?.decoder_ids !== undefined;
    if (crosses && (capture || capture_attentions)) {
      const option = capture ? "output_hidden_states" : "output_attentions";
      throw new OptionError(
        `forward: ${option}: ${module.class_name} has an encoder's and a decoder's, and gives none`,
        {
          details: { option },
        },
      );
    }
    const attention = this.attending(capture_attentions);
    // Attention's weights have a place for padding, and so have answers: padding is among the places that theirs are chosen from.
    const places = crosses || capture_attentions || (loss && this.task === "question-answering");
    const results = scope((): Record<string, Tensor | Tensor[]> => {
      const ragged = places || module.geometry.pairs ? undefined : Ragged.of(batch);
      const ints = (values: Int32Array): Tensor =>
        ragged
          ? Tensor.from(device, ragged.pick(values), [1, ragged.tokens])
          : Tensor.from(device, values, [rows, steps]);
      const mask = batch.mask && Tensor.from(device, batch.mask, [rows, steps], "u8");
      const token_types = types && ints(types.ids);
      const hides: Pick<PassInput, "segments" | "mask"> = ragged
        ? { segments: Tensor.from(device, ragged.segments, [1, ragged.tokens]) }
        : { mask };
      const judged = beside && {
        ...(beside.decoder_ids ? { decoder_ids: ints(beside.decoder_ids) } : {}),
        ...(beside.chosen ? { chosen: Tensor.from(device, beside.chosen, [rows]) } : {}),
      };
      const told = { ...(judged ? { judged } : {}), lengths: reach };
      const texts = ragged && hides.segments;
      const input = { positions: ints(positions), token_types, ...hides, ...told, ...(texts ? { texts } : {}) };
      using pass = module.pass(input, { capture, capture_attentions, attention });
      const computed = module.hidden(pass, ints(batch.ids));
      pass.capture(computed);
      const whole = (x: Tensor): Tensor => ragged?.padded(x) ?? x;
      const outputs = module.per_token
        ? mapped(module.outputs(computed, pass), whole)
        : this.#outputs(whole(computed), batch, { positions: pass.input.positions, mask, ...told });
      return {
        ...(loss ? { loss: loss(outputs) } : {}),
        ...outputs,
        ...(capture ? { hidden_states: takeHiddenStates(pass).map(whole) } : {}),
        ...(capture_attentions ? { attentions: pass.take_attentions("self") } : {}),
      };
    });
    return results as unknown as Result<T>; // what each task's head gives
  }

  /** The outputs of a head that sees whole texts: the batch with its padding. */
  #outputs(hidden: Tensor, batch: Batch, input: PassInput): EncoderOutputs {
    using pass = this.module.pass(input);
    const outputs = this.module.outputs(hidden, pass);
    if (!this.#sentence) return outputs;
    return { ...outputs, sentence_embedding: embedding(hidden, input.mask, this.#sentence, lastOf(batch)) };
  }
}

function mapped(outputs: EncoderOutputs, change: (x: Tensor) => Tensor): EncoderOutputs {
  return Object.fromEntries(Object.entries(outputs).map(([name, x]) => [name, change(x)]));
}

/** The captured states, in the current scope. */
function takeHiddenStates(pass: Pass): Tensor[] {
  return pass.take_hidden_states().map((state) => {
    const own = state.alias();
    state.dispose();
    return own;
  });
}

/** [B,T]: position of each token. @throws OptionError for a text that is too long */
function positionsOf({ geometry }: EncoderModel, { rows, steps, ids }: Batch): Int32Array {
  const { padding_idx, max_positions } = geometry;
  const positions = new Int32Array(rows * steps);
  let longest = 0;
  for (let row = 0; row < rows; row++) {
    let count = 0;
    for (let at = row * steps; at < (row + 1) * steps; at++) {
      if (padding_idx === undefined) positions[at] = count++;
      else positions[at] = ids[at] === padding_idx ? padding_idx : padding_idx + ++count;
    }
    longest = Math.max(longest, count);
  }
  if (longest > max_positions) {
    throw new OptionError(`${longest} tokens are more than the ${max_positions} positions of this model`, {
      hint: "shorten the text, or tokenize with truncation: true",
    });
  }
  return positions;
}

/** The last token of each row that is no padding; the last of all where every token is. */
export function lastOf({ rows, steps, mask }: Pick<Batch, "rows" | "steps" | "mask">): number[] {
  return Array.from({ length: rows }, (_, row) => {
    const last = mask?.subarray(row * steps, (row + 1) * steps).lastIndexOf(1) ?? steps - 1;
    return last < 0 ? steps - 1 : last;
  });
}

/**
 * One vector for each text, [B,hidden], or as many hidden sizes wide as there are poolings.
 * @param last the last token of each text
 */
export function embedding(
  hidden: Tensor,
  mask: Tensor | undefined,
  { pooling, normalize }: SentenceEmbedding,
  last: readonly number[],
): Tensor {
  const [rows = 0, steps = 0, width = 0] = hidden.shape;
  const parts = pooling.map((kind) => {
    if (kind === "cls") return contiguous(hidden.select(1, 0));
    if (kind !== "lasttoken") return pool(hidden, mask, kind);
    const at = Int32Array.from(last, (column, row) => row * steps + column);
    return rowsAt(hidden, Tensor.from(hidden.device, at, [rows]));
  });
  let whole = parts[0]!;
  if (parts.length > 1) {
    whole = Tensor.empty(hidden.device, [rows, parts.length * width], "f32", "sentence_embedding");
    for (const [n, part] of parts.entries()) copyInto(part, whole.narrow(1, n * width, width));
  }
  return normalize ? unitLength(whole) : whole;
}
