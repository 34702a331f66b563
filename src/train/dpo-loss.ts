// The loss of direct preference optimization (Rafailov et al. 2023, equation 7), and its relatives, of batches of preferences.

import { OptionError } from "../core/errors.js";
import { listed } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { causalForward } from "../generate/causal-forward.js";
import { type Ids, readBatch, readMask } from "../generate/inputs.js";
import type { NextLabels } from "../generate/labels.js";
import type { PreTrainedModel } from "../generate/model.js";
import { surprise } from "../generate/task-loss.js";
import { warnOnce } from "../generate/warn.js";
import { activation } from "../ops/activation.js";
import { add } from "../ops/add.js";
import { copyInto } from "../ops/copy.js";
import { IGNORED } from "../ops/cross-entropy.js";
import { filled } from "../ops/fill.js";
import { multiply } from "../ops/gated.js";
import { scale } from "../ops/scale.js";
import { sumRows } from "../ops/sum-rows.js";
import { taping } from "../ops/tape.js";
import type { Logs } from "./callbacks.js";
import type { Batch } from "./data/types.js";
import type { DPOLoss } from "./dpo-options.js";
import type { Mode, Objective } from "./subject.js";

/** The adapter whose state is the reference, if there is one of this name. */
export const REFERENCE = "ref";

export interface DPOLossOptions {
  readonly beta: number;
  readonly loss_type: DPOLoss;
  readonly label_smoothing: number;
  /** Weight of the loss for an even use of experts; default 0. */
  readonly router_aux_loss_coef?: number;
}

/**
 * The mean loss [1] of how much likelier answers have become, [B] each in nats.
 * @param lengths numbers of tokens of the answers, which "ipo" divides by
 */
export function dpoLoss(
  chosen: Tensor,
  rejected: Tensor,
  lengths: { readonly chosen: Float32Array; readonly rejected: Float32Array },
  { beta, loss_type, label_smoothing: e }: DPOLossOptions,
): Tensor {
  return scope(() => {
    const rows = chosen.size;
    const per = (x: Tensor, counts: Float32Array): Tensor =>
      multiply(
        x,
        Tensor.from(
          x.device,
          counts.map((n) => 1 / Math.max(1, n)),
          [rows],
        ),
      );
    const mean = (losses: Tensor): Tensor => scale(sumRows(losses.view(rows, 1)), 1 / rows);
    if (loss_type === "ipo") {
      const apart = add(per(chosen, lengths.chosen), scale(per(rejected, lengths.rejected), -1));
      const off = add(apart, filled(chosen.device, [rows], -1 / (2 * beta)));
      return mean(multiply(off, off));
    }
    const h = scale(add(chosen, scale(rejected, -1)), beta);
    if (loss_type === "hinge") return mean(activation(add(scale(h, -1), filled(h.device, [rows], 1)), "relu"));
    if (e === 0) return mean(surprise(h, 1));
    const [right, wrong] = [scale(surprise(h, 1), 1 - e), scale(surprise(h, 0), e)];
    if (loss_type === "sigmoid") return mean(add(right, wrong));
    return scale(mean(add(right, scale(wrong, -1))), 1 / (1 - 2 * e));
  });
}

/** What a batch of preferences is to a model. */
interface Read {
  readonly batch: ReturnType<typeof readBatch>;
  readonly targets: NextLabels;
  readonly lengths: { readonly chosen: Float32Array; readonly rejected: Float32Array };
}

/** @throws ShapeError, OptionError */
function read(model: PreTrainedModel, given: Batch): Read {
  const { vocab } = model.module.geometry;
  const batch = readBatch(given.input_ids as Ids, given.attention_mask as Ids | undefined, vocab);
  const { rows, steps, ids } = batch;
  if (given.completion_mask === undefined || rows % 2 !== 0) {
    throw new OptionError("DPOTrainer: a batch has chosen rows, as many rejected ones, and a completion_mask", {
      hint: "DataCollatorForPreference makes them",
    });
  }
  const counts = readMask(given.completion_mask as Ids, rows, steps, "completion_mask");
  const targets = Int32Array.from(ids, (_, at) =>
    (at + 1) % steps !== 0 && counts[at + 1] === 1 ? ids[at + 1]! : IGNORED,
  );
  const lengths = Float32Array.from({ length: rows }, (_, r) =>
    counts.subarray(r * steps, (r + 1) * steps).reduce((sum, one) => sum + one, 0),
  );
  const half = rows / 2;
  return {
    batch,
    targets: { targets, count: 1, each: true },
    lengths: { chosen: lengths.slice(0, half), rejected: lengths.slice(half) },
  };
}

/** Log-probabilities of the answers, [2B], and the loss for an even use of experts, [1], if it is wanted. */
function answers(
  model: PreTrainedModel,
  { batch, targets }: Read,
  output_router_logits = false,
): { readonly found: Tensor; readonly uneven: Tensor | undefined } {
  const { loss, aux_loss } = causalForward(model, batch, { skip_logits: true, output_router_logits }, targets);
  return { found: scale(loss!, -1), uneven: aux_loss };
}

/** Checks that the reference can be the model without its adapters. @throws OptionError */
function checkOff({ adapters }: PreTrainedModel): void {
  if (!adapters) {
    throw new OptionError("DPOTrainer: the model has no adapters any more, so there is nothing to compare it to", {
      hint: "get_peft_model(model, config), or pass ref_model",
    });
  }
  const { active, merged } = adapters.choice;
  if (merged.size > 0) {
    throw new OptionError("DPOTrainer: adapters are merged into the weights, which are to be the reference", {
      hint: "unmerge_adapter() first, or pass ref_model",
    });
  }
  const trained = active.filter((name) => adapters.get(name).biases.length > 0);
  if (trained.length === 0) return;
  warnOnce(
    "reference biases",
    `the reference has the trained biases of ${listed(trained)}, as biases stay when adapters are off; a ref_model has its own`,
  );
}

/** What a DPOTrainer trains by. */
export class Preferences implements Objective {
  readonly rows_per_example = 2;
  readonly dropout: boolean;
  readonly #reference: PreTrainedModel | undefined;
  readonly #options: DPOLossOptions;
  /** Log-probabilities of the last batch, [2,2B]: by the model and by the reference. */
  #seen: Tensor | undefined;
  /** Sums over batches of what they noted, apart for training and for evaluations, which happen between two logs of training. */
  readonly #sums: Record<Mode, { batches: number; metrics: Record<string, number> }> = { train: none(), eval: none() };

  constructor(reference: PreTrainedModel | undefined, options: DPOLossOptions, dropout: boolean) {
    this.#reference = reference;
    this.#options = options;
    this.dropout = dropout;
  }

  loss(model: PreTrainedModel, given: Batch): Tensor {
    const now = read(model, given);
    const rows = now.batch.rows;
    return scope(() => {
      const coefficient = this.#options.router_aux_loss_coef ?? 0;
      const wanted = coefficient !== 0 && model.module.even_use !== undefined;
      const { found: policy, uneven } = answers(model, now, wanted);
      const before = taping(undefined, () => scope(() => this.#byReference(model, now)));
      const ratios = add(policy, scale(before, -1));
      this.#seen?.dispose();
      this.#seen = taping(undefined, () => {
        const seen = Tensor.empty(policy.device, [2, rows], "f32", "log-probabilities");
        copyInto(policy, seen.select(0, 0));
        copyInto(before, seen.select(0, 1));
        return seen.keep();
      });
      const half = rows / 2;
      try {
        const loss = dpoLoss(ratios.narrow(0, 0, half), ratios.narrow(0, half, half), now.lengths, this.#options);
        return uneven ? add(loss, scale(uneven, coefficient)) : loss;
      } catch (error) {
        this.forget();
        throw error;
      }
    });
  }

  #byReference(model: PreTrainedModel, now: Read): Tensor {
    if (this.#reference) return answers(this.#reference, now).found;
    const adapters = model.adapters!; // as `begin` has checked
    const { active, enabled } = adapters.choice;
    const own = adapters.names.includes(REFERENCE);
    try {
      if (own) adapters.activate([REFERENCE]);
      adapters.enable(own);
      return answers(model, now).found;
    } finally {
      adapters.activate(active);
      adapters.enable(enabled);
    }
  }

  begin(mode: Mode, model: PreTrainedModel): void {
    this.#sums[mode] = none();
    if (!this.#reference) checkOff(model);
  }

  async noted(mode: Mode): Promise<void> {
    const seen = this.#seen;
    if (!seen) return;
    const values = await seen.readFloats();
    this.forget();
    const rows = values.length / 2;
    const half = rows / 2;
    const { beta } = this.#options;
    const reward = (at: number): number => beta * (values[at]! - values[rows + at]!);
    const mean = (of: (row: number) => number): number =>
      Array.from({ length: half }, (_, row) => of(row)).reduce((sum, one) => sum + one, 0) / half;
    const metrics: Logs = {
      "rewards/chosen": mean((row) => reward(row)),
      "rewards/rejected": mean((row) => reward(half + row)),
      "rewards/accuracies": mean((row) => Number(reward(row) > reward(half + row))),
      "rewards/margins": mean((row) => reward(row) - reward(half + row)),
      "logps/chosen": mean((row) => values[row]!),
      "logps/rejected": mean((row) => values[half + row]!),
    };
    const sums = this.#sums[mode];
    for (const [name, value] of Object.entries(metrics)) sums.metrics[name] = (sums.metrics[name] ?? 0) + value;
    sums.batches++;
  }

  forget(): void {
    this.#seen?.dispose();
    this.#seen = undefined;
  }

  /** The means over the batches of a mode since the last call. */
  take(mode: Mode): Logs {
    const { batches, metrics } = this.#sums[mode];
    this.#sums[mode] = none();
    return Object.fromEntries(Object.entries(metrics).map(([name, sum]) => [name, sum / batches]));
  }
}

function none() {
  return { batches: 0, metrics: {} };
}
