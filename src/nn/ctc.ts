// The loss of connectionist temporal classification (Graves et al. 2006, section 4.1): the probability of all ways in which the frames of
// a sound can spell a text, with blanks between its letters. The recursion over frames is made of ops, in logarithms, so it is
// differentiated like everything else.

import { OptionError } from "../core/errors.js";
import { scope, Tensor } from "../core/tensor.js";
import { add } from "../ops/add.js";
import { contiguous, copyInto } from "../ops/copy.js";
import { crossEntropy } from "../ops/cross-entropy.js";
import { filled } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { linear } from "../ops/linear.js";
import { scale } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";

export interface CTCOptions {
  readonly blank: number;
  /** "sum" of the rows' losses, or the "mean" over rows of the loss for each letter, as in torch. */
  readonly reduction: "sum" | "mean";
  /** Rows with too few frames for their text count nothing, instead of being an error. */
  readonly zero_infinity: boolean;
}

/** The logarithm of what is impossible: finite, so that no infinities meet. */
const NEVER = -1e30;

/** Frames that a text needs at least: one for each letter, and a blank between two that are the same. */
function framesFor(text: readonly number[]): number {
  return text.length + text.filter((letter, i) => i > 0 && letter === text[i - 1]).length;
}

/**
 * Texts, and how much the loss of each row counts.
 * @throws OptionError for a text that is longer than its row's frames
 */
function sharesOf(
  texts: readonly (readonly number[])[],
  lengths: readonly number[],
  { reduction, zero_infinity }: CTCOptions,
): Float32Array {
  return Float32Array.from(texts, (text, row) => {
    const needed = framesFor(text);
    if (needed > lengths[row]!) {
      if (zero_infinity) return 0;
      throw new OptionError(
        `labels of row ${row}: ${text.length} of them need at least ${needed} frames, and the sound has ${lengths[row]}`,
        { hint: "leave such examples out, or set ctc_zero_infinity in the model's config.json" },
      );
    }
    return reduction === "sum" ? 1 : 1 / (texts.length * Math.max(1, text.length));
  });
}

/**
 * The loss of logits f32[B,T,V] against texts: [1], in nats.
 * @param lengths frames of each row that count
 * @throws OptionError
 */
export function ctcLoss(
  logits: Tensor,
  texts: readonly (readonly number[])[],
  lengths: readonly number[],
  options: CTCOptions,
): Tensor {
  const { device, shape } = logits;
  const [rows = 0, , vocab = 0] = shape;
  const shares = sharesOf(texts, lengths, options);
  const steps = Math.max(...lengths);
  // States of a row: blank, letter, blank, letter, ..., blank.
  const states = 2 * Math.max(...texts.map((text) => text.length)) + 1;
  const spelled = texts.map((text) =>
    Array.from({ length: states }, (_, s) => (s % 2 === 1 ? text[(s - 1) / 2] : undefined) ?? options.blank),
  );
  // A state is also reached from the one before the last, if a blank between the two is not what tells them apart.
  const skips = spelled.flatMap((row) => row.map((one, s) => (s > 1 && one === row[s - 2] ? NEVER : 0)));
  return scope(() => {
    const emitted = emissions(logits, spelled, vocab, steps);
    const mask = Tensor.from(device, Float32Array.from(skips), [rows, states]);
    const zeros = Tensor.from(device, new Int32Array(rows * states), [rows * states]);
    const ends = filled(device, [rows, 2], NEVER);
    // Two columns before the first state: before the first frame all is in the second of them, from which both first states come.
    let before = filled(device, [rows, states + 2], NEVER);
    copyInto(filled(device, [rows, 1], 0), before.narrow(1, 1, 1));
    for (let t = 0; t < steps; t++) {
      const [reached, next] = scope(() => {
        const ways = Tensor.empty(device, [rows, states, 3], "f32", "ctc");
        copyInto(before.narrow(1, 2, states), ways.select(2, 0));
        copyInto(before.narrow(1, 1, states), ways.select(2, 1));
        copyInto(add(contiguous(before.narrow(1, 0, states)), mask), ways.select(2, 2));
        const { lse } = crossEntropy(ways.view(rows * states, 3), zeros);
        const reached = add(lse.view(rows, states), contiguous(emitted.select(1, t)));
        const next = filled(device, [rows, states + 2], NEVER);
        copyInto(reached, next.narrow(1, 2, states));
        return [reached, next];
      });
      for (const [row, text] of texts.entries()) {
        if (lengths[row] !== t + 1) continue;
        const last = 2 * text.length;
        const from = Math.max(0, last - 1);
        copyInto(
          reached!.narrow(0, row, 1).narrow(1, from, last - from + 1),
          ends.narrow(0, row, 1).narrow(1, 0, last - from + 1),
        );
      }
      before = next!;
    }
    const { lse } = crossEntropy(ends, Tensor.from(device, new Int32Array(rows), [rows]));
    return scale(sumRows(multiply(lse, Tensor.from(device, shares, [rows])).view(rows, 1)), -1);
  });
}

/** Log-probabilities of each state's letter in each frame, [B,T,states]. */
function emissions(logits: Tensor, spelled: readonly (readonly number[])[], vocab: number, steps: number): Tensor {
  const { device } = logits;
  const states = spelled[0]!.length;
  return scope(() => {
    const all = Tensor.empty(device, [spelled.length, steps, states], "f32", "ctc");
    const zeros = Tensor.from(device, new Int32Array(steps), [steps]);
    for (const [row, letters] of spelled.entries()) {
      scope(() => {
        const frames = contiguous(logits.select(0, row).narrow(0, 0, steps));
        const { lse } = crossEntropy(frames, zeros);
        const picked = new Float32Array(states * vocab);
        for (const [s, letter] of letters.entries()) picked[s * vocab + letter] = 1;
        const residual = scale(contiguous(lse.view(steps, 1).expand(steps, states)), -1);
        const one = linear(frames, Tensor.from(device, picked, [states, vocab]), { residual });
        return copyInto(one, all.select(0, row));
      });
    }
    return all;
  });
}
