// Encoder-decoders as judges: both stacks read the same text, the decoder one place later. A text is judged by the decoder's state at its
// last end, an answer's place by the states of all tokens.

import { OptionError, ShapeError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { ConfigJson } from "../nn/architecture.js";
import { type BatchIds, type EncoderBase, EncoderForTask, type EncoderGeometry, startAndEnd } from "../nn/encoder.js";
import { type Embedding, Linear, Module, Parameter } from "../nn/module.js";
import { Pass } from "../nn/pass.js";
import type { Stack } from "../nn/seq2seq.js";
import { rowsAt } from "../ops/pool.js";
import { labelCount, readConfig } from "./_config.js";

/** What judges of an architecture share. */
export interface ReadingStacks {
  /** How the names of its classes begin. */
  readonly classes: string;
  /** The module whose fields checkpoints have. */
  readonly tree: Module;
  readonly words: Embedding;
  readonly encoder: Stack;
  readonly decoder: Stack;
  readonly geometry: EncoderGeometry;
  /** Paths of modules that stay in full precision beside the head. */
  readonly unquantized?: readonly string[];
  /** What ends a text. */
  readonly eos_token_id: number;
  /** What the decoder reads before the ids of a text. */
  readonly first: (text: Int32Array) => number;
}

/** What ends a text, and what the decoder reads first, where config.json does not say. @throws ConfigError */
export function readEnds(json: ConfigJson, { eos, start }: { readonly eos: number; readonly start: number }) {
  return readConfig(
    json,
    z.object({ eos_token_id: z.int().default(eos), decoder_start_token_id: z.int().default(start) }),
  );
}

/** What the decoder reads: each text one place later. */
function shifted({ ids, rows, steps }: BatchIds, first: ReadingStacks["first"]): Int32Array {
  const decoder_ids = new Int32Array(rows * steps);
  for (let row = 0; row < rows; row++) {
    const text = ids.subarray(row * steps, (row + 1) * steps);
    decoder_ids.set(text.subarray(0, -1), row * steps + 1);
    decoder_ids[row * steps] = first(text);
  }
  return decoder_ids;
}

/** The last end of each text among all tokens of the batch. @throws OptionError unless all texts have as many, and one at least */
function lastEnds({ ids, rows, steps }: BatchIds, eos: number): Int32Array {
  let wanted: number | undefined;
  return Int32Array.from({ length: rows }, (_, row) => {
    const text = ids.subarray(row * steps, (row + 1) * steps);
    const own = text.reduce((count, id) => count + Number(id === eos), 0);
    if (own === 0 || own !== (wanted ?? own)) {
      throw new OptionError("All examples must have the same number of <eos> tokens.", {
        hint: `each text ends with id ${eos}, which the tokenizer adds`,
        details: { option: "input_ids", row },
      });
    }
    wanted = own;
    return row * steps + text.lastIndexOf(eos);
  });
}

/** The decoder's states [B,T,hidden] of a text that the encoder has read. */
function statesOf({ encoder, decoder }: ReadingStacks, pass: Pass, ids: Tensor): Tensor {
  const { positions, mask, judged } = pass.input;
  const decoder_ids = judged?.decoder_ids;
  if (!decoder_ids) throw new ShapeError("a judge with a decoder ran without what the decoder reads");
  return scope(() => {
    const hidden = encoder.forward(pass, ids);
    const { attention, place, checkpoint } = pass;
    using decoding = new Pass({ positions, encoded: { hidden, mask } }, { attention, place, checkpoint });
    return decoder.forward(decoding, decoder_ids);
  });
}

function partsOf(stacks: ReadingStacks, forward: EncoderBase["forward"]) {
  const { geometry, words, tree, encoder, decoder } = stacks;
  const base: EncoderBase = { geometry, words, blocks: [...encoder.layers, ...decoder.layers], forward };
  return { base, tree, stacks: [encoder.layers, decoder.layers] };
}

class ClassificationHead extends Module {
  dense: Linear;
  out_proj: Linear;

  constructor(width: number, labels: number) {
    super();
    this.dense = new Linear(width, width, { bias: true });
    this.out_proj = new Linear(width, labels, { bias: true });
  }
}

/** A label for each text: `logits` [B,labels]. @param prefix the stacks' field in checkpoints */
export function textJudgeOf(stacks: ReadingStacks, json: ConfigJson, prefix: string): EncoderForTask {
  const { hidden: width } = stacks.geometry;
  const classification_head = new ClassificationHead(width, labelCount(json));
  const forward = (pass: Pass, ids: Tensor): Tensor =>
    scope(() => rowsAt(statesOf(stacks, pass, ids), pass.input.judged!.chosen!).view(-1, 1, width));
  return new EncoderForTask({
    ...partsOf(stacks, forward),
    ...{ name: `${stacks.classes}ForSequenceClassification`, prefix, heads: { classification_head } },
    unquantized: ["classification_head.out_proj", ...(stacks.unquantized ?? [])],
    beside: (batch) => ({ decoder_ids: shifted(batch, stacks.first), chosen: lastEnds(batch, stacks.eos_token_id) }),
    outputs: (hidden) => {
      const { dense, out_proj } = classification_head;
      return { logits: out_proj.forward(dense.forward(hidden.view(-1, width), { act: "tanh" })) };
    },
  });
}

/**
 * Scores for what each place of a text holds: `logits` [B,T,vocab], by the decoder's state before it.
 * @param prefix the stacks' field in checkpoints
 * @param tied the head multiplies with the words' matrix
 */
export function maskedOf(stacks: ReadingStacks, name: string, prefix: string, tied: boolean): EncoderForTask {
  const { hidden, vocab } = stacks.geometry;
  const lm_head = new Linear(hidden, vocab);
  if (tied) lm_head.tie(stacks.words.weight);
  const offsets = new Parameter(1, vocab); // zeros in most files, which some lack
  offsets.optional = true;
  const model = new EncoderForTask({
    ...partsOf(stacks, (pass, ids) => statesOf(stacks, pass, ids)),
    ...{ name, prefix, heads: { lm_head }, output_embeddings: lm_head },
    unquantized: ["lm_head"],
    beside: (batch) => ({ decoder_ids: shifted(batch, stacks.first) }),
    outputs: (states) => {
      const bias = offsets.filled ? { bias: offsets.value.view(-1) } : {};
      return { logits: lm_head.weight.weight.linear(states, bias) };
    },
  });
  Object.assign(model, { final_logits_bias: offsets });
  model.name_tree();
  return model;
}

/** Where an answer starts and ends: `start_logits` and `end_logits` [B,T]. @param prefix the stacks' field in checkpoints, if they are one */
export function answersOf(stacks: ReadingStacks, prefix?: string): EncoderForTask {
  const qa_outputs = new Linear(stacks.geometry.hidden, 2, { bias: true });
  return new EncoderForTask({
    ...partsOf(stacks, (pass, ids) => statesOf(stacks, pass, ids)),
    ...{ name: `${stacks.classes}ForQuestionAnswering`, ...(prefix ? { prefix } : {}), heads: { qa_outputs } },
    unquantized: ["qa_outputs", ...(stacks.unquantized ?? [])],
    beside: (batch) => ({ decoder_ids: shifted(batch, stacks.first) }),
    outputs: (hidden) => startAndEnd(qa_outputs.forward(hidden)),
  });
}
