// The language-model loss over a head, by pieces of rows: the logits of all tokens are never in memory at once. With an open
// tape each piece is differentiated immediately (like Liger's fused loss), so no logits are kept for the backward pass.

import { ShapeError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { add } from "../ops/add.js";
import { copyInto } from "../ops/copy.js";
import { crossEntropy, IGNORED } from "../ops/cross-entropy.js";
import { multiply } from "../ops/gated.js";
import { valueAndGradients } from "../ops/gradient.js";
import { linear } from "../ops/linear.js";
import { rowsOf } from "../ops/op.js";
import { scale } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";
import { type GradientCall, recordAs, tapes } from "../ops/tape.js";
import type { CausalLM } from "./decoder.js";
import type { Seq2SeqLM } from "./seq2seq.js";

/** Most elements of logits in a piece: 16 MB, and as much for their gradient. */
export const CHUNK_LOGITS = 2 ** 22;

/** Maps hidden states to logits. */
export interface Head {
  readonly vocabulary: number;
  /** Records [R,K] -> [R,V]. */
  logits(hidden: Tensor): Tensor;
  /** The tensors of the head that can have gradients. */
  readonly trainable: readonly Tensor[];
}

/** The head of a decoder. */
export function headOf(model: CausalLM | Seq2SeqLM): Head {
  const linear = model.output_embeddings();
  return {
    vocabulary: model.geometry.vocab,
    logits: (hidden) => model.head(hidden),
    trainable: linear ? [...linear.weight.weight.trainable, ...(linear.bias ? [linear.bias.value] : [])] : [],
  };
}

export interface HeadLossOptions {
  /** Divisor of the summed losses: the labels that count, over all batches of one update. */
  readonly items: number;
  readonly smoothing?: number;
  /** Label of tokens that do not count. */
  readonly ignored?: number;
  /** Rows per piece; by default what fits in 16 MB of logits. */
  readonly rows?: number;
}

/** Sum of the cross-entropies of `hidden[..,K]` through `head` against `labels[R]` (i32), over `items`: [1]. */
export function headLoss(hidden: Tensor, head: Head, labels: Tensor, options: HeadLossOptions): Tensor {
  const rows = rowsOf(hidden.shape);
  if (labels.shape.length !== 1 || labels.shape[0] !== rows) {
    throw new ShapeError(`loss: ${rows} tokens want labels [${rows}], got [${labels.shape.join(", ")}]`);
  }
  if (rows === 0) throw new ShapeError("loss: there are no tokens");
  const most = options.rows ?? Math.max(1, Math.floor(CHUNK_LOGITS / head.vocabulary));
  const piece = (part: Tensor, targets: Tensor): Tensor => {
    const { loss } = crossEntropy(head.logits(part), targets, options.smoothing, options.ignored ?? IGNORED);
    return scale(sumRows(loss.view(-1, 1)), 1 / options.items);
  };
  const given = [hidden, ...head.trainable];
  const [loss] = recordAs("head loss", given, timesLoss(given.length), (wanted) =>
    scope(() => {
      const dhidden = wanted[0] ? Tensor.empty(hidden.device, hidden.shape, "f32", "gradient") : undefined;
      let sums: Tensor[] = []; // the loss, then gradients of what is trainable
      for (let at = 0; at < rows; at += most) {
        const count = Math.min(most, rows - at);
        const next = scope(() => {
          const part = rowsApart(hidden.view(rows, -1), at, count);
          const targets = labels.narrow(0, at, count);
          const by = given.map((tensor, i) => (i === 0 ? part : tensor)).filter((_, i) => wanted[i]);
          if (by.length === 0) return accumulated(sums, [piece(part, targets)]);
          const { value, gradients } = valueAndGradients(by, () => piece(part, targets));
          if (!dhidden) return accumulated(sums, [value, ...gradients]);
          copyInto(gradients[0]!, dhidden.view(rows, -1).narrow(0, at, count));
          return accumulated(sums, [value, ...gradients.slice(1)]);
        });
        for (const sum of sums) sum.dispose();
        sums = next;
      }
      const [total, ...others] = sums;
      return { outputs: [total!], saved: dhidden ? [dhidden, ...others] : others };
    }),
  );
  return loss!;
}

/**
 * Sums of the cross-entropies of each text: `hidden[R,T,K]` through `head` against `labels[R·T]` (i32), [R]. Where the head itself is not
 * trained, the logits of all tokens are never in memory: each token's gradient is kept as it is for a loss of weight one.
 */
export function textLosses(hidden: Tensor, head: Head, labels: Tensor): Tensor {
  const [texts = 0, steps = 0, width = 0] = hidden.shape;
  const rows = texts * steps;
  const sums = (losses: Tensor): Tensor => {
    const ones = Tensor.from(losses.device, new Float32Array(steps).fill(1), [1, steps]);
    return linear(losses.view(texts, steps), ones).view(texts);
  };
  const losses = (part: Tensor, targets: Tensor): Tensor => crossEntropy(head.logits(part), targets).loss;
  if (head.trainable.some((one) => tapes.open?.tracks(one))) {
    return scope(() => sums(losses(hidden.view(rows, width), labels)));
  }
  const most = Math.max(1, Math.floor(CHUNK_LOGITS / head.vocabulary));
  const [all] = recordAs("text losses", [hidden], timesLossOfText, ([wanted]) =>
    scope(() => {
      const each = Tensor.empty(hidden.device, [rows], "f32", "loss");
      const dhidden = wanted ? Tensor.empty(hidden.device, hidden.shape, "f32", "gradient") : undefined;
      for (let at = 0; at < rows; at += most) {
        const count = Math.min(most, rows - at);
        scope(() => {
          const part = rowsApart(hidden.view(rows, width), at, count);
          const targets = labels.narrow(0, at, count);
          if (!dhidden) return copyInto(losses(part, targets), each.narrow(0, at, count));
          const { gradients } = valueAndGradients([part], () => {
            const one = losses(part, targets);
            copyInto(one, each.narrow(0, at, count));
            return sumRows(one.view(-1, 1));
          });
          return copyInto(gradients[0]!, dhidden.view(rows, width).narrow(0, at, count));
        });
      }
      return { outputs: [sums(each)], saved: dhidden ? [dhidden] : [] };
    }),
  );
  return all!;
}

/** Gradients of tokens, times the gradient of their text's loss. */
function timesLossOfText({ inputs: [, saved], dy: [dy] }: GradientCall): readonly (Tensor | undefined)[] {
  const [texts = 0, steps = 0, width = 0] = saved!.shape;
  return [multiply(dy!.view(texts, 1, 1).expand(texts, steps, width), saved!)];
}

/** Rows in an allocation of their own, so their gradient is no larger than they are. */
function rowsApart(x: Tensor, at: number, count: number): Tensor {
  if (count === x.shape[0]) return x;
  const part = Tensor.empty(x.device, [count, x.shape[1]!], "f32", "loss");
  copyInto(x.narrow(0, at, count), part);
  return part;
}

function accumulated(sums: readonly Tensor[], more: readonly Tensor[]): Tensor[] {
  return more.map((one, i) => (sums[i] ? add(sums[i], one) : one));
}

/** Gradients computed for a loss of weight one, times the gradient of the loss. */
function timesLoss(count: number) {
  return ({ inputs, wanted, dy: [dy] }: GradientCall): readonly (Tensor | undefined)[] => {
    const saved = inputs.slice(count);
    return wanted.map((wants) => {
      if (!wants) return undefined;
      const one = saved.shift()!;
      const flat = one.view(1, one.size);
      return multiply(dy!.view(1, 1).expand(1, one.size), flat).view(...one.shape);
    });
  };
}

/**
 * Labels of a language model for rows of `steps` ids: each token's label is the next token; the last one of a row has none.
 * `items` counts those that are not `ignored`.
 */
export function nextTokenLabels(
  ids: ArrayLike<number>,
  steps: number,
  ignored = IGNORED,
): { readonly labels: Int32Array; readonly items: number } {
  const labels = Int32Array.from(ids, (_, i) => ((i + 1) % steps === 0 ? ignored : ids[i + 1]!));
  return { labels, items: labels.filter((label) => label !== ignored).length };
}
